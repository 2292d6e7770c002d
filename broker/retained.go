package broker

import (
	"slices"
	"strings"
	"sync"
	"time"

	"gatewayctl/broker/mqtt"
)

// retained holds the last retained message of each topic (MQTT 5.0 §3.3.1.3).
type retained struct {
	maxN     int
	maxBytes int64

	mu    sync.RWMutex
	m     map[string]kept
	bytes int64
}

type kept struct {
	msg     *mqtt.Message
	expires time.Time // monotonic; zero never
}

func newRetained(maxN int, maxBytes int64) *retained {
	return &retained{maxN: maxN, maxBytes: maxBytes, m: map[string]kept{}}
}

func retainedCost(m *mqtt.Message) int64 { return int64(len(m.Topic) + len(m.Payload) + 256) }

func expiresOf(m *mqtt.Message) time.Time {
	if m.ExpirySeconds == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(m.ExpirySeconds) * time.Second)
}

// set keeps m if it is to be retained; an empty payload removes what was kept [MQTT-3.3.1-6]. It
// returns false if there is no room.
func (r *retained) set(m *mqtt.Message) bool {
	if !m.Retain {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, had := r.m[m.Topic]
	var freed int64
	if had {
		freed = retainedCost(old.msg)
	}
	if len(m.Payload) == 0 {
		delete(r.m, m.Topic)
		r.bytes -= freed
		return true
	}
	bytes := r.bytes - freed + retainedCost(m)
	if !had && len(r.m) >= r.maxN || bytes > r.maxBytes {
		return false
	}
	r.m[m.Topic] = kept{msg: m, expires: expiresOf(m)}
	r.bytes = bytes
	return true
}

// match returns what is kept for the topics that filter matches, in the order of the topics.
func (r *retained) match(filter mqtt.Filter) []kept {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if !filter.HasWildcard() {
		k, ok := r.m[string(filter)]
		if !ok || k.expired(time.Now()) {
			return nil
		}
		return []kept{k}
	}
	var list []kept
	now := time.Now()
	for topic, k := range r.m {
		if filter.Match(topic) && !k.expired(now) {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b kept) int { return strings.Compare(a.msg.Topic, b.msg.Topic) })
	return list
}

func (k kept) expired(now time.Time) bool { return !k.expires.IsZero() && !now.Before(k.expires) }

// sweep forgets what has expired.
func (r *retained) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for topic, k := range r.m {
		if k.expired(now) {
			delete(r.m, topic)
			r.bytes -= retainedCost(k.msg)
		}
	}
}

func (r *retained) size() (n int, bytes int64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.m), r.bytes
}

package broker

import (
	"strings"
	"sync"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// An index finds the subscriptions that match a topic. Filters are a tree by level.
type index struct {
	mu   sync.RWMutex
	root node
	n    int // subscriptions
}

type node struct {
	children map[string]*node
	subs     map[*session]*subscription
	shares   map[string]*share
}

// A subscription belongs to a session and is immutable.
type subscription struct {
	plane.Subscription
	id    uint32 // Subscription Identifier, 0 without
	owner *session
}

// isOwn reports whether m comes from the subscriber itself, which does not want that.
func (s *subscription) isOwn(m *mqtt.Message) bool {
	return s.NoLocal && s.owner.id == m.Publisher.ClientID // [MQTT-3.8.3-3]
}

// A share is the group of a shared subscription (MQTT 5.0 §4.8.2).
type share struct {
	mu      sync.Mutex
	members []*subscription
	next    int
}

// newIndex returns an empty index.
func newIndex() *index { return &index{} }

func (x *index) size() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.n
}

// count returns the number of the session's subscriptions.
func (x *index) count(s *session) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(s.subs)
}

// add puts sub in, in place of one of the same session and filter [MQTT-3.8.4-3]. limit bounds
// the subscriptions of a session. existed says that there was one before.
func (x *index) add(sub *subscription, limit int) (existed, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := sub.owner
	_, existed = s.subs[sub.Filter]
	if !existed && len(s.subs) >= limit {
		return false, false
	}
	if !existed {
		x.n++
	}
	s.subs[sub.Filter] = sub
	name, filter := sub.Filter.Share()
	n := &x.root
	for level := range strings.SplitSeq(string(filter), "/") {
		child := n.children[level]
		if child == nil {
			if n.children == nil {
				n.children = map[string]*node{}
			}
			child = &node{}
			n.children[level] = child
		}
		n = child
	}
	if name == "" {
		if n.subs == nil {
			n.subs = map[*session]*subscription{}
		}
		n.subs[s] = sub
		return existed, true
	}
	if n.shares == nil {
		n.shares = map[string]*share{}
	}
	if n.shares[name] == nil {
		n.shares[name] = &share{}
	}
	n.shares[name].put(s, sub)
	return existed, true
}

// remove takes the session's subscription to filter out, if there is one.
func (x *index) remove(s *session, filter mqtt.Filter) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.removeLocked(s, filter)
}

// removeAll takes all of the session's subscriptions out.
func (x *index) removeAll(s *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for filter := range s.subs {
		x.removeLocked(s, filter)
	}
}

func (x *index) removeLocked(s *session, filter mqtt.Filter) bool {
	if _, ok := s.subs[filter]; !ok {
		return false
	}
	delete(s.subs, filter)
	x.n--
	name, rest := filter.Share()
	x.root.remove(strings.Split(string(rest), "/"), name, s)
	return true
}

// remove reports whether n is empty afterwards.
func (n *node) remove(levels []string, shareName string, s *session) bool {
	if len(levels) > 0 {
		if child := n.children[levels[0]]; child != nil && child.remove(levels[1:], shareName, s) {
			delete(n.children, levels[0])
		}
	} else if shareName == "" {
		delete(n.subs, s)
	} else if g := n.shares[shareName]; g != nil && g.put(s, nil) {
		delete(n.shares, shareName)
	}
	return len(n.children) == 0 && len(n.subs) == 0 && len(n.shares) == 0
}

// put replaces the member of session s, adds it, or with a nil sub removes it. It reports
// whether the group is empty afterwards.
func (g *share) put(s *session, sub *subscription) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, m := range g.members {
		if m.owner != s {
			continue
		}
		// A new slice: deliveries walk over the old one.
		members := append([]*subscription(nil), g.members[:i]...)
		if sub != nil {
			members = append(members, sub)
		}
		g.members = append(members, g.members[i+1:]...)
		return len(g.members) == 0
	}
	if sub != nil {
		g.members = append(append([]*subscription(nil), g.members...), sub)
	}
	return len(g.members) == 0
}

// turn returns the members of the group and whose turn it is.
func (g *share) turn() ([]*subscription, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	turn := g.next
	g.next++
	return g.members, turn
}

// matches collects what matches a topic.
type matches struct {
	subs   []*subscription
	shares []*share
}

// match adds everything that matches topic to m.
func (x *index) match(topic string, m *matches) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	x.root.match(topic, topic[0] == '$', m)
}

// match handles the levels in rest. Wildcards on the first level do not match topics that
// begin with $ [MQTT-4.7.2-1].
func (n *node) match(rest string, dollar bool, m *matches) {
	level, rest, more := strings.Cut(rest, "/")
	if !dollar {
		n.children["#"].collect(m)
	}
	for i, key := range [...]string{level, "+"} {
		child := n.children[key]
		if child == nil || i > 0 && dollar {
			continue
		}
		if more {
			child.match(rest, false, m)
			continue
		}
		child.collect(m)
		child.children["#"].collect(m) // the parent level, §4.7.1.2
	}
}

func (n *node) collect(m *matches) {
	if n == nil {
		return
	}
	for _, sub := range n.subs {
		m.subs = append(m.subs, sub)
	}
	for _, g := range n.shares {
		m.shares = append(m.shares, g)
	}
}

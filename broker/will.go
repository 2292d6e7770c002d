package broker

import (
	"bytes"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// A pendingWill waits for its delay (MQTT 5.0 §3.1.3.2.2).
type pendingWill struct {
	msg   *mqtt.Message
	timer *time.Timer
}

// keepWill copies the will out of the read buffer.
func (c *conn) keepWill() {
	if c.will == nil {
		return
	}
	w := *c.will
	w.Message.Payload, w.Message.CorrelationData = bytes.Clone(w.Message.Payload), bytes.Clone(w.Message.CorrelationData)
	c.will = &w
}

// leaveWill publishes the will of a connection that ended without the client's leave, or keeps
// it for its delay; expiry is that of the session.
func (b *Broker) leaveWill(c *conn, expiry time.Duration) {
	if c.will == nil {
		return
	}
	m := c.will.Message
	m.Publisher = c.publisher()
	w := &pendingWill{msg: &m}
	delay := min(delayOf(c.will), expiry)
	if delay <= 0 { // [MQTT-3.1.2-8]
		b.publishWill(w)
		return
	}
	s := c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	s.will = w
	w.timer = time.AfterFunc(delay, func() {
		s.mu.Lock()
		due := s.will == w
		if due {
			s.will = nil
		}
		s.mu.Unlock()
		if due {
			b.publishWill(w)
		}
	})
}

func delayOf(w *plane.Will) time.Duration { return time.Duration(w.DelaySeconds) * time.Second }

// takeWill takes the pending will out of the session, if there is one.
func (s *session) takeWill() *pendingWill {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.will
	s.will = nil
	if w != nil {
		w.timer.Stop()
	}
	return w
}

// publishWill publishes as any client does; nobody waits for the commit.
func (b *Broker) publishWill(w *pendingWill) {
	m := w.msg
	if !b.retained.set(m) {
		b.n.refused.add(refusedRetained, 1)
		return
	}
	if ids := b.consumersOf(m); len(ids) > 0 {
		b.appendLazily(m, ids)
	}
	b.distribute(m)
}

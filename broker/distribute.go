package broker

import (
	"time"

	"gatewayctl/broker/mqtt"
)

func secondsOf(s uint32) time.Duration { return time.Duration(s) * time.Second }

// distribute gives m to everybody who is here for it: sessions, then handlers. It reports whether
// there is anybody. It never blocks.
func (b *Broker) distribute(m *mqtt.Message) (taken bool) {
	var found matches
	b.index.match(m.Topic, &found)
	expires := expiresOf(m)
	b.deliverAll(m, found.subs, expires)
	for _, g := range found.shares {
		b.deliverShared(m, g, expires)
	}
	for _, h := range *b.handlers.Load() {
		if h.filter.Match(m.Topic) {
			live := *m
			live.Retain = false
			h.handle(live)
			taken = true
		}
	}
	return taken || len(found.subs) > 0 || len(found.shares) > 0
}

// deliverAll delivers m once to every session that subs belong to, with the highest QoS of its
// subscriptions and all of their identifiers [MQTT-3.3.4-2] [MQTT-3.3.4-3].
func (b *Broker) deliverAll(m *mqtt.Message, subs []*subscription, expires time.Time) {
	if len(subs) == 1 {
		d := delivery{msg: m, expires: expires}
		if d.add(subs[0]) {
			subs[0].owner.deliver(d)
		}
		return
	}
	merged := make(map[*session]*delivery, len(subs))
	for _, sub := range subs {
		d := merged[sub.owner]
		if d == nil {
			d = &delivery{msg: m, expires: expires}
		}
		if d.add(sub) {
			merged[sub.owner] = d
		}
	}
	for s, d := range merged {
		s.deliver(*d)
	}
}

// add lets the subscription count. It returns false if it does not match after all.
func (d *delivery) add(sub *subscription) bool {
	if sub.isOwn(d.msg) {
		return false
	}
	d.qos = max(d.qos, sub.QoS.Min(d.msg.QoS))
	d.retain = d.retain || d.msg.Retain && sub.RetainAsPublished // [MQTT-3.3.1-12] [MQTT-3.3.1-13]
	if sub.id > 0 {
		d.subIDs = append(d.subIDs, sub.id)
	}
	return true
}

// deliverShared delivers m to one member of the group: to the next in turn that keeps up, else
// to one that is connected, else to one whose session waits for it.
func (b *Broker) deliverShared(m *mqtt.Message, g *share, expires time.Time) {
	members, turn := g.turn()
	var best *subscription
	bestRank := 0
	for i := range members {
		sub := members[(turn+i)%len(members)]
		if rank := sub.owner.rank(m, sub.QoS.Min(m.QoS)); rank > bestRank {
			best, bestRank = sub, rank
		}
	}
	if best == nil {
		return
	}
	d := delivery{msg: m, share: g, expires: expires}
	if d.add(best) {
		best.owner.deliver(d)
	}
}

// rank says how well a delivery would do in s; 0 is not at all.
func (s *session) rank(m *mqtt.Message, qos mqtt.QoS) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended || s.access == nil || !s.access.Receive(m.Topic).Allowed():
		return 0
	case s.conn != nil && s.head == len(s.queue) && len(s.resend) == 0 && s.flying < s.window:
		return 3
	case s.conn != nil:
		return 2
	case s.keep && qos > mqtt.QoS0:
		return 1
	}
	return 0
}

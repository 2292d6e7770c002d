package broker

import (
	"slices"

	"gatewayctl/broker/mqtt"
)

// What a member of a shared subscription leaves unacknowledged goes to another member: when its
// session ends, and as soon as its connection is lost if others are connected (MQTT 5.0 §4.8.2).
// A QoS 2 delivery that was sent stays with its client [MQTT-4.8.2-4] [MQTT-4.8.2-5], and one
// that the client refused goes nowhere [MQTT-4.8.2-6].

// handOver gives what s, which is offline, holds for its groups to their connected members.
func (b *Broker) handOver(s *session) {
	var groups []*share
	for _, g := range s.groups() {
		if g.connected() {
			groups = append(groups, g)
		}
	}
	if len(groups) > 0 {
		b.deliverAgain(s.takeShared(groups))
	}
}

func (b *Broker) deliverAgain(list []*outgoing) {
	for _, o := range list {
		b.deliverShared(o.msg, o.share, o.expires)
	}
}

// groups returns the groups that s holds deliveries for.
func (s *session) groups() (list []*share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eachShared(func(o *outgoing) bool {
		if !slices.Contains(list, o.share) {
			list = append(list, o.share)
		}
		return false
	})
	return list
}

// takeShared takes the deliveries for the groups out of s, in their order.
func (s *session) takeShared(groups []*share) (list []*outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil { // it is back
		return nil
	}
	s.eachShared(func(o *outgoing) bool {
		take := slices.Contains(groups, o.share)
		if take {
			list = append(list, o)
		}
		return take
	})
	return list
}

// eachShared calls take for the deliveries that another client may get, in their order, and
// removes those for which it returns true.
func (s *session) eachShared(take func(*outgoing) bool) {
	sent := make([]*outgoing, 0, len(s.inflight))
	for _, o := range s.inflight {
		if o.share != nil && o.qos == mqtt.QoS1 {
			sent = append(sent, o)
		}
	}
	slices.SortFunc(sent, bySending)
	for _, o := range sent {
		if take(o) {
			delete(s.inflight, o.id)
		}
	}
	waiting := s.queue[s.head:]
	kept := slices.DeleteFunc(waiting, func(o *outgoing) bool {
		if o.share == nil || !take(o) {
			return false
		}
		s.uncount(o)
		return true
	})
	s.queue = s.queue[:s.head+len(kept)]
	if len(kept) == 0 {
		s.queue, s.head, s.warned = s.queue[:0], 0, false
	}
}

// connected reports whether a member of the group is.
func (g *share) connected() bool {
	g.mu.Lock()
	members := g.members
	g.mu.Unlock()
	return slices.ContainsFunc(members, func(sub *subscription) bool {
		s := sub.owner
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.conn != nil
	})
}

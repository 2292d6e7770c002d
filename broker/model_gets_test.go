package broker

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// answer adds to what the client must see.
func (c *modelConn) answer(p plane.Packet) { c.want = append(c.want, p.Append(nil, c.version)) }

// gets tells the model what the broker gets from a client.
func (m *model) gets(id string, p plane.Packet) {
	m.expire()
	c := m.conns[id]
	switch p := p.(type) {
	case *plane.Publish:
		m.getsPublish(c, p)
	case *plane.Ack:
		m.getsAck(c, p)
	case *plane.Subscribe:
		m.getsSubscribe(c, p)
	case *plane.Unsubscribe:
		codes := make([]mqtt.ReasonCode, len(p.Filters))
		for i, f := range p.Filters {
			if _, ok := c.s.subs[f]; !ok {
				codes[i] = mqtt.NoSubscriptionExisted
			}
			delete(c.s.subs, f)
		}
		c.answer(unsubAck{p.PacketID, codes})
	case *plane.Ping:
		c.want = append(c.want, plane.AppendPingResp(nil))
	case *plane.Disconnect:
		if p.HasSessionExpiry {
			if p.SessionExpirySeconds > 0 && c.hello.SessionExpirySeconds == 0 {
				m.end(c, mqtt.ProtocolError)
				return
			}
			c.expiry = time.Duration(p.SessionExpirySeconds) * time.Second
		}
		if p.Reason == mqtt.NormalDisconnection {
			c.will = nil
		}
		m.end(c, mqtt.Success)
	default: // CONNECT, AUTH
		m.end(c, mqtt.ProtocolError)
	}
}

func (m *model) getsPublish(c *modelConn, p *plane.Publish) {
	msg := p.Message
	m.unknown = m.unknown || msg.ExpirySeconds > 0
	if p.TopicAlias > 0 {
		topic, known := c.aliases[p.TopicAlias]
		switch {
		case p.TopicAlias > maxTopicAliases:
			m.end(c, mqtt.TopicAliasInvalid)
			return
		case msg.Topic != "":
			c.aliases[p.TopicAlias] = msg.Topic
		case !known:
			m.end(c, mqtt.ProtocolError)
			return
		default:
			msg.Topic = topic
		}
	}
	if msg.QoS == mqtt.QoS2 && c.s.received[p.PacketID] {
		c.answer(ackOf(plane.PUBREC, p.PacketID))
		return
	}
	if msg.QoS > 0 && c.version == plane.V5 && len(c.s.received) >= fuzzOptions.ReceiveMaximum {
		m.end(c, mqtt.ReceiveMaximumExceeded)
		return
	}
	reason := mqtt.Success
	switch {
	case mqtt.ValidateTopic(msg.Topic, fuzzOptions.MaxTopicLevels) != nil, mqtt.Filter("$SYS/#").Match(msg.Topic):
		reason = mqtt.TopicNameInvalid
		if c.version != plane.V5 {
			m.end(c, reason)
			return
		}
	case !m.publish(msg, c.s.id) && msg.QoS == mqtt.QoS1:
		reason = mqtt.NoMatchingSubscribers
	}
	switch msg.QoS {
	case mqtt.QoS1:
		c.answer(ackOf(plane.PUBACK, p.PacketID, reason))
	case mqtt.QoS2:
		if !reason.Failed() {
			c.s.received[p.PacketID] = true
		}
		c.answer(ackOf(plane.PUBREC, p.PacketID, reason))
	}
}

// publish gives msg to the sessions that it is for. It reports whether somebody is subscribed.
func (m *model) publish(msg mqtt.Message, from string) (taken bool) {
	m.inStep++
	msg.Payload = bytes.Clone(msg.Payload)
	if msg.Retain && len(msg.Payload) == 0 {
		delete(m.retained, msg.Topic)
	} else if msg.Retain {
		kept := msg
		kept.Publisher.ClientID = from
		m.retained[msg.Topic] = kept
	}
	groups := map[mqtt.Filter]bool{}
	for _, s := range m.sessions {
		d := &modelDelivery{msg: msg}
		d.msg.Retain = false
		matched := false
		best := mqtt.QoS0
		for f, sub := range s.subs {
			if !f.Match(msg.Topic) {
				continue
			}
			taken = true
			if name, _ := f.Share(); name != "" {
				groups[f] = true
				continue
			}
			if sub.NoLocal && s.id == from {
				continue
			}
			matched = true
			best = max(best, sub.QoS.Min(msg.QoS))
			d.msg.Retain = d.msg.Retain || msg.Retain && sub.RetainAsPublished
			if sub.id > 0 {
				d.ids = append(d.ids, sub.id)
			}
		}
		if d.msg.QoS = best; matched {
			s.owe(d)
		}
	}
	for f := range groups {
		m.shared = append(m.shared, &sharedItem{msg: msg, filter: f, must: m.hasRoom(f, msg)})
	}
	m.unknown = m.unknown || len(groups) > 1 // two groups may have the same message for a client
	return taken
}

func (s *modelSession) owe(d *modelDelivery) {
	switch {
	case d.msg.QoS > 0:
		s.queue = append(s.queue, d)
	case s.conn != nil:
		s.now = append(s.now, d)
	}
}

// hasRoom reports whether a member of the group can be sent msg at once.
func (m *model) hasRoom(f mqtt.Filter, msg mqtt.Message) bool {
	for _, s := range m.sessions {
		if _, member := s.subs[f]; member && s.conn != nil && s.flying() < s.conn.window && len(s.queue) == 0 {
			return true
		}
	}
	return false
}

func (s *modelSession) flying() (n int) {
	for _, d := range s.inflight {
		if d.here {
			n++
		}
	}
	return n
}

func (m *model) getsAck(c *modelConn, a *plane.Ack) {
	s := c.s
	if a.Type == plane.PUBREL {
		comp := ackOf(plane.PUBCOMP, a.PacketID)
		if !s.received[a.PacketID] {
			comp.Reason = mqtt.PacketIdentifierNotFound
		}
		delete(s.received, a.PacketID)
		c.answer(comp)
		return
	}
	d := s.inflight[a.PacketID]
	switch {
	case d == nil && a.Type == plane.PUBREC && !a.Reason.Failed():
		c.answer(ackOf(plane.PUBREL, a.PacketID, mqtt.PacketIdentifierNotFound))
	case d == nil:
	case a.Type == plane.PUBACK && d.msg.QoS != 1, a.Type == plane.PUBREC && d.msg.QoS != 2, a.Type == plane.PUBCOMP && !d.released:
		m.end(c, mqtt.ProtocolError)
	case a.Type == plane.PUBREC && !a.Reason.Failed():
		d.released = true
		c.answer(ackOf(plane.PUBREL, a.PacketID))
	default:
		s.forget(a.PacketID)
	}
}

func (m *model) getsSubscribe(c *modelConn, p *plane.Subscribe) {
	codes := make([]mqtt.ReasonCode, len(p.Subscriptions))
	known := make([]bool, len(p.Subscriptions))
	for i, sub := range p.Subscriptions {
		if _, err := mqtt.ParseFilter(string(sub.Filter), fuzzOptions.MaxTopicLevels); err != nil {
			codes[i] = mqtt.TopicFilterInvalid
			continue
		}
		codes[i] = mqtt.ReasonCode(sub.QoS)
		_, known[i] = c.s.subs[sub.Filter]
		c.s.subs[sub.Filter], c.s.ever[sub.Filter] = modelSub{sub, p.ID}, true
	}
	c.answer(subAck{p.PacketID, codes})
	for i, sub := range p.Subscriptions {
		name, _ := sub.Filter.Share()
		if codes[i].Failed() || name != "" || sub.RetainHandling == 2 || sub.RetainHandling == 1 && known[i] {
			continue
		}
		for _, topic := range slices.Sorted(maps.Keys(m.retained)) {
			msg := m.retained[topic]
			if !sub.Filter.Match(topic) || sub.NoLocal && msg.Publisher.ClientID == c.s.id {
				continue
			}
			d := &modelDelivery{msg: msg}
			d.msg.QoS = sub.QoS.Min(msg.QoS)
			if p.ID > 0 {
				d.ids = []uint32{p.ID}
			}
			c.s.owe(d)
		}
	}
}

// nextAck returns the acknowledgment that a client owes, or nil.
func (m *model) nextAck(id string) *plane.Ack {
	if m.over(id) {
		return nil
	}
	for _, d := range m.conns[id].s.order {
		switch {
		case !d.here:
		case d.msg.QoS == mqtt.QoS1:
			return ackOf(plane.PUBACK, d.id)
		case !d.released:
			return ackOf(plane.PUBREC, d.id)
		case d.relSeen:
			return ackOf(plane.PUBCOMP, d.id)
		}
	}
	return nil
}

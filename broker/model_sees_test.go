package broker

import (
	"bytes"
	"encoding/binary"
	"slices"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// sees tells the model what a client gets from the broker.
func (m *model) sees(id string, version byte, frame []byte) {
	c := m.conns[id]
	_, used := binary.Uvarint(frame[1:])
	flags, body := frame[0]&15, frame[1+used:]
	switch plane.Type(frame[0] >> 4) {
	case plane.PUBLISH:
		m.seesPublish(c, flags, body)
		return
	case plane.CONNACK:
		frame = body[:1]
		if body[1] != 0 {
			m.fail("%s was refused: %x", id, body)
		}
	case plane.PUBREL:
		if d := c.s.inflight[binary.BigEndian.Uint16(body)]; d != nil && d.released {
			d.relSeen = true
			if len(c.want) == 0 || !bytes.Equal(c.want[0], frame) { // again, on a new connection
				if d.here {
					m.fail("%s: PUBREL again", id)
				}
				d.here = true
				return
			}
		}
	case plane.DISCONNECT:
		if len(c.want) > 0 || !bytes.Equal(frame, c.bye) {
			m.fail("%s was told %x, want %x after %x", id, frame, c.bye, c.want)
		}
		c.bye = nil
		return
	}
	if len(c.want) == 0 || !bytes.Equal(c.want[0], frame) {
		m.fail("%s was answered %x, want %x", id, frame, c.want)
	}
	c.want = c.want[1:]
}

func (m *model) seesPublish(c *modelConn, flags byte, body []byte) {
	p, ids := m.parsePublish(c, flags, body)
	s := c.s
	if p.Dup {
		m.seesAgain(s, p)
		return
	}
	d := &modelDelivery{msg: p.Message, ids: ids}
	due := &s.queue
	if p.Message.QoS == mqtt.QoS0 {
		due = &s.now
	}
	if len(*due) > 0 && d.equal((*due)[0], c.version) {
		*due = (*due)[1:]
	} else if d.item = m.itemFor(s, p.Message); d.item != nil {
		d.item.taken = true
	} else {
		m.fail("%s got %+v %v, which is not for it, or not now: due is %+v", s.id, p.Message, ids, *due)
	}
	if p.Message.QoS == mqtt.QoS0 {
		return
	}
	if p.PacketID == 0 || s.inflight[p.PacketID] != nil {
		m.fail("%s got the identifier %d, which is in use", s.id, p.PacketID)
	}
	for _, before := range s.order {
		if !before.here {
			m.fail("%s got %+v before %+v was sent again", s.id, p.Message, before.msg)
		}
	}
	d.id, d.here = p.PacketID, true
	s.inflight[d.id] = d
	s.order = append(s.order, d)
	if s.flying() > c.window {
		m.fail("%s has %d deliveries in flight, %d are allowed", s.id, s.flying(), c.window)
	}
}

// seesAgain takes a delivery with DUP: it is the next of those in flight.
func (m *model) seesAgain(s *modelSession, p *plane.Publish) {
	for _, d := range s.order {
		if d.here {
			continue
		}
		if d.id != p.PacketID || d.released || !equalMessage(d.msg, p.Message, s.conn.version) {
			m.fail("%s got %d %+v again, want %d %+v", s.id, p.PacketID, p.Message, d.id, d.msg)
		}
		d.here = true
		return
	}
	m.fail("%s got %+v again, which is not in flight", s.id, p.Message)
}

func (d *modelDelivery) equal(other *modelDelivery, version byte) bool {
	slices.Sort(d.ids)
	slices.Sort(other.ids)
	return equalMessage(d.msg, other.msg, version) && (version == plane.V311 || slices.Equal(d.ids, other.ids))
}

// equalMessage compares what a client of the version is told of messages.
func equalMessage(a, b mqtt.Message, version byte) bool {
	return a.Topic == b.Topic && a.QoS == b.QoS && a.Retain == b.Retain && bytes.Equal(a.Payload, b.Payload) &&
		(version == plane.V311 || a.PayloadIsUTF8 == b.PayloadIsUTF8 && a.PayloadIsBytes == b.PayloadIsBytes &&
			a.ContentType == b.ContentType && a.ResponseTopic == b.ResponseTopic &&
			bytes.Equal(a.CorrelationData, b.CorrelationData) && slices.Equal(a.UserProperties, b.UserProperties))
}

// itemFor returns the message of a group that s may get now.
func (m *model) itemFor(s *modelSession, msg mqtt.Message) *sharedItem {
	for _, item := range m.shared {
		if !item.taken && s.ever[item.filter] && msg.Topic == item.msg.Topic && msg.QoS <= item.msg.QoS && bytes.Equal(msg.Payload, item.msg.Payload) {
			return item
		}
	}
	return nil
}

// parsePublish reads a PUBLISH of the broker and takes apart what only a broker sends.
func (m *model) parsePublish(c *modelConn, flags byte, body []byte) (p *plane.Publish, ids []uint32) {
	p = &plane.Publish{}
	alias := uint16(0)
	if c.version == plane.V5 {
		at := 2 + int(binary.BigEndian.Uint16(body))
		if flags&6 != 0 {
			at += 2
		}
		size, used := binary.Uvarint(body[at:])
		props, rest := body[at+used:at+used+int(size)], body[at+used+int(size):]
		if len(props) > 0 && props[0] == 0x23 {
			alias, props = binary.BigEndian.Uint16(props[1:]), props[3:]
		}
		for len(props) > 0 && props[0] == 0x0b {
			id, n := binary.Uvarint(props[1:])
			ids, props = append(ids, uint32(id)), props[1+n:]
		}
		topic := string(body[2:][:binary.BigEndian.Uint16(body)])
		if alias > c.hello.TopicAliasMaximum || topic == "" && c.ourAliases[alias] == "" {
			m.fail("%s got the alias %d", c.s.id, alias)
		}
		if topic == "" {
			topic = c.ourAliases[alias]
		} else if alias > 0 {
			c.ourAliases[alias] = topic
		}
		head := append(binary.BigEndian.AppendUint16(nil, uint16(len(topic))), topic...)
		head = append(head, body[2+int(binary.BigEndian.Uint16(body)):at]...)
		head = binary.AppendUvarint(head, uint64(len(props)))
		body = append(append(head, props...), rest...)
	}
	if err := plane.ParsePublish(c.version, flags, body, p); err != nil {
		m.fail("%s got a PUBLISH that is invalid: %v", c.s.id, err)
	}
	return p, ids
}

// settled is told when the broker has done all it can do for now.
func (m *model) settled() {
	for id, c := range m.conns {
		if len(c.want) > 0 || c.bye != nil {
			m.fail("%s got no answer, want %x %x", id, c.want, c.bye)
		}
		s := c.s
		if len(s.now) > 0 {
			m.fail("%s did not get %+v", id, s.now[0])
		}
		if c.ended || s.flying() >= c.window {
			continue
		}
		if len(s.queue) > 0 || slices.ContainsFunc(s.order, func(d *modelDelivery) bool { return !d.here }) {
			m.fail("%s has room, and waits for %+v %+v", id, s.queue, s.order)
		}
	}
	for _, item := range m.shared {
		if item.must && m.inStep == 1 && !item.taken {
			m.fail("no member of %s got %+v", item.filter, item.msg)
		}
		item.must = false
	}
	m.inStep = 0
}

// finished is told when every client has acknowledged all it got.
func (m *model) finished() {
	for id, s := range m.sessions {
		if s.conn != nil && len(s.queue)+len(s.inflight) > 0 {
			m.fail("%s never got %+v, or still has %+v in flight", id, s.queue, s.inflight)
		}
	}
}

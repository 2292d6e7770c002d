package plane

import (
	"encoding/binary"

	"gatewayctl/broker/mqtt"
)

// A Publish is a PUBLISH packet (MQTT 5.0 §3.3). Message.Publisher has no meaning here.
type Publish struct {
	Message  mqtt.Message // an empty Topic stands for the one behind TopicAlias
	Dup      bool
	PacketID uint16 // 0 at QoS 0

	TopicAlias      uint16   // 0 without; a client's 0 is refused
	SubscriptionIDs []uint32 // only from server to client
}

const publishProps = propSet(1<<propPayloadFormat | 1<<propMessageExpiry | 1<<propContentType | 1<<propResponseTopic |
	1<<propCorrelationData | 1<<propTopicAlias | 1<<propUser | 1<<propSubscriptionID)

// ParsePublish reads the body of a client's PUBLISH whose fixed header has flags into p, which
// it overwrites. The payload and the correlation data are parts of body.
func ParsePublish(version, flags byte, body []byte, p *Publish) error {
	r := reader{b: body}
	*p = Publish{Dup: flags&(1<<3) != 0}
	m := &p.Message
	m.QoS, m.Retain = mqtt.QoS(flags>>1&3), flags&1 != 0
	if !m.QoS.Valid() {
		return malformed("publish with QoS 3")
	}
	m.Topic = r.name("topic name") // [MQTT-3.3.2-1]
	if m.QoS > 0 {
		p.PacketID = r.packetID()
	}
	if version == V5 {
		p.parseProps(&r)
	}
	if r.err != nil {
		return r.err
	}
	switch {
	case m.Topic == "" && version == V5 && p.TopicAlias > 0:
	case m.Topic == "" && version == V5: // §3.3.2.1
		return protocolError("neither a topic name nor a topic alias")
	case mqtt.ValidateTopic(m.Topic, 0) != nil: // [MQTT-3.3.2-2]
		return malformed("topic name")
	}
	m.Payload = r.b
	return nil
}

func (p *Publish) parseProps(r *reader) {
	m := &p.Message
	ps := r.props(publishProps)
	for id, ok := ps.next(); ok; id, ok = ps.next() {
		switch id {
		case propPayloadFormat:
			ps.payloadFormat(m)
		case propMessageExpiry:
			m.ExpirySeconds = ps.expiry()
		case propContentType:
			m.ContentType = ps.text("content type")
		case propResponseTopic:
			m.ResponseTopic = ps.topic("response topic")
		case propCorrelationData:
			m.CorrelationData = ps.data("correlation data")
		case propTopicAlias:
			if p.TopicAlias = ps.uint16("topic alias"); ps.err == nil && p.TopicAlias == 0 { // [MQTT-3.3.2-8]
				ps.fail(&Error{mqtt.TopicAliasInvalid, "topic alias 0"})
			}
		case propSubscriptionID: // [MQTT-3.3.4-6]
			ps.varint("subscription identifier")
			ps.fail(protocolError("subscription identifier in a client's publish"))
		case propUser:
			m.UserProperties = append(m.UserProperties, ps.user())
		}
	}
	ps.end(r)
}

// Append implements [Packet]. Versions below 5.0 lose the properties.
func (p *Publish) Append(b []byte, version byte) []byte {
	m := &p.Message
	first := byte(PUBLISH)<<4 | bit(p.Dup, 3) | byte(m.QoS)<<1 | bit(m.Retain, 0)
	return frame(b, first, func(b []byte) []byte {
		b = appendText(b, m.Topic)
		if m.QoS > 0 {
			b = binary.BigEndian.AppendUint16(b, p.PacketID)
		}
		if version == V5 {
			b = appendProps(b, p.appendProps)
		}
		return append(b, m.Payload...)
	})
}

func (p *Publish) appendProps(b []byte) []byte {
	if p.TopicAlias > 0 {
		b = binary.BigEndian.AppendUint16(append(b, propTopicAlias), p.TopicAlias)
	}
	for _, id := range p.SubscriptionIDs {
		b = appendVarint(append(b, propSubscriptionID), int(id))
	}
	return appendMessageProps(b, &p.Message)
}

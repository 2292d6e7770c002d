package plane

import (
	"encoding/binary"
	"strings"

	"gatewayctl/broker/mqtt"
)

// A Subscribe is a SUBSCRIBE (MQTT 5.0 §3.8).
type Subscribe struct {
	PacketID       uint16
	ID             uint32 // Subscription Identifier; 0 without
	UserProperties []mqtt.UserProperty
	Subscriptions  []Subscription // at least one
}

// A Subscription is one filter of a SUBSCRIBE with its options (MQTT 5.0 §3.8.3.1).
type Subscription struct {
	Filter            mqtt.Filter // valid but for the number of its levels
	QoS               mqtt.QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send retained messages, 1 only for a new subscription, 2 never
}

const (
	subscribeProps   = propSet(1<<propSubscriptionID | 1<<propUser)
	unsubscribeProps = propSet(1 << propUser)
)

func parseSubscribe(version byte, body []byte) (*Subscribe, error) {
	r := &reader{b: body}
	s := &Subscribe{PacketID: r.packetID()}
	if version == V5 {
		p := r.props(subscribeProps)
		for id, ok := p.next(); ok; id, ok = p.next() {
			switch id {
			case propSubscriptionID:
				if s.ID = uint32(p.varint("subscription identifier")); p.err == nil && s.ID == 0 {
					p.fail(protocolError("subscription identifier 0"))
				}
			case propUser:
				s.UserProperties = append(s.UserProperties, p.user())
			}
		}
		p.end(r)
	}
	if r.err == nil && len(r.b) == 0 { // [MQTT-3.8.3-2]
		return nil, protocolError("no topic filter")
	}
	for r.err == nil && len(r.b) > 0 {
		s.Subscriptions = append(s.Subscriptions, parseSubscription(version, r))
	}
	return s, r.done()
}

func parseSubscription(version byte, r *reader) Subscription {
	sub := Subscription{Filter: parseFilter(r)}
	options := r.byte("subscription options")
	sub.QoS = mqtt.QoS(options & 3)
	reserved := byte(0b1100_0000) // [MQTT-3.8.3-5]
	if version != V5 {
		reserved = 0b1111_1100 // MQTT 3.1.1 [MQTT-3.8.3-4]
	}
	sub.NoLocal, sub.RetainAsPublished, sub.RetainHandling = options&(1<<2) != 0, options&(1<<3) != 0, options>>4&3
	share, _ := sub.Filter.Share()
	switch {
	case r.err != nil:
	case options&reserved != 0:
		r.fail(malformed("reserved subscription options"))
	case !sub.QoS.Valid():
		r.fail(protocolError("subscription with QoS 3"))
	case sub.RetainHandling == 3:
		r.fail(protocolError("retain handling 3"))
	case sub.NoLocal && share != "": // [MQTT-3.8.3-4]
		r.fail(protocolError("no local on a shared subscription"))
	}
	return sub
}

// parseFilter checks everything but the number of levels, which is the server's own limit and
// no malformation.
func parseFilter(r *reader) mqtt.Filter {
	s := r.name("topic filter") // [MQTT-3.8.3-1]
	if r.err != nil {
		return ""
	}
	f, err := mqtt.ParseFilter(s, 0)
	if err != nil && badShare(s) {
		r.fail(protocolError("shared subscription"))
	} else if err != nil {
		r.fail(malformed("topic filter"))
	}
	return f
}

// badShare reports whether the share name of the filter s is wrong, or nothing follows it
// [MQTT-4.8.2-1] [MQTT-4.8.2-2]. The standard calls neither malformed.
func badShare(s string) bool {
	after, shared := strings.CutPrefix(s, "$share/")
	name, filter, _ := strings.Cut(after, "/")
	return shared && (name == "" || strings.ContainsAny(name, "+#") || filter == "")
}

// Append implements [Packet].
func (s *Subscribe) Append(b []byte, version byte) []byte {
	return frame(b, byte(SUBSCRIBE)<<4|0b0010, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, s.PacketID)
		if version == V5 {
			b = appendProps(b, func(b []byte) []byte {
				if s.ID > 0 {
					b = appendVarint(append(b, propSubscriptionID), int(s.ID))
				}
				return appendUser(b, s.UserProperties)
			})
		}
		for _, sub := range s.Subscriptions {
			options := byte(sub.QoS)
			if version == V5 {
				options |= bit(sub.NoLocal, 2) | bit(sub.RetainAsPublished, 3) | sub.RetainHandling<<4
			}
			b = append(appendText(b, string(sub.Filter)), options)
		}
		return b
	})
}

// An Unsubscribe is an UNSUBSCRIBE (MQTT 5.0 §3.10).
type Unsubscribe struct {
	PacketID       uint16
	UserProperties []mqtt.UserProperty
	Filters        []mqtt.Filter // at least one, valid
}

func parseUnsubscribe(version byte, body []byte) (*Unsubscribe, error) {
	r := &reader{b: body}
	u := &Unsubscribe{PacketID: r.packetID()}
	if version == V5 {
		p := r.props(unsubscribeProps)
		for _, ok := p.next(); ok; _, ok = p.next() {
			u.UserProperties = append(u.UserProperties, p.user())
		}
		p.end(r)
	}
	if r.err == nil && len(r.b) == 0 { // [MQTT-3.10.3-2]
		return nil, protocolError("no topic filter")
	}
	for r.err == nil && len(r.b) > 0 {
		u.Filters = append(u.Filters, parseFilter(r))
	}
	return u, r.done()
}

// Append implements [Packet].
func (u *Unsubscribe) Append(b []byte, version byte) []byte {
	return frame(b, byte(UNSUBSCRIBE)<<4|0b0010, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, u.PacketID)
		if version == V5 {
			b = appendProps(b, func(b []byte) []byte { return appendUser(b, u.UserProperties) })
		}
		for _, f := range u.Filters {
			b = appendText(b, string(f))
		}
		return b
	})
}

// AppendSubAck adds a SUBACK (MQTT 5.0 §3.9) with one reason per filter, in MQTT 3.1.1 as
// return codes.
func AppendSubAck(b []byte, version byte, id uint16, reasons []mqtt.ReasonCode) []byte {
	return frame(b, byte(SUBACK)<<4, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, id)
		if version == V5 {
			b = append(b, 0)
		}
		for _, reason := range reasons {
			if version == V5 {
				b = append(b, byte(reason))
			} else {
				b = append(b, reason.SubscribeReturnCode())
			}
		}
		return b
	})
}

// AppendUnsubAck adds an UNSUBACK (MQTT 5.0 §3.11); MQTT 3.1.1 does not say the reasons.
func AppendUnsubAck(b []byte, version byte, id uint16, reasons []mqtt.ReasonCode) []byte {
	return frame(b, byte(UNSUBACK)<<4, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, id)
		if version != V5 {
			return b
		}
		b = append(b, 0)
		for _, reason := range reasons {
			b = append(b, byte(reason))
		}
		return b
	})
}

// AppendConnAckRefusal adds the CONNACK that refuses a connection for reason (MQTT 5.0 §3.2).
// It adds nothing where MQTT 3.1.1 has no return code for it: the connection is just closed.
func AppendConnAckRefusal(b []byte, version byte, reason mqtt.ReasonCode) []byte {
	if version == V5 {
		return append(b, byte(CONNACK)<<4, 3, 0, byte(reason), 0)
	}
	if code, ok := reason.ConnectReturnCode(); ok {
		return append(b, byte(CONNACK)<<4, 2, 0, byte(code))
	}
	return b
}

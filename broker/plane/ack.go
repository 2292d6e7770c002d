package plane

import (
	"encoding/binary"

	"gatewayctl/broker/mqtt"
)

// An Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP (MQTT 5.0 §3.4 to §3.7).
type Ack struct {
	Type           Type
	PacketID       uint16
	Reason         mqtt.ReasonCode // always Success in MQTT 3.1.1
	ReasonString   string
	UserProperties []mqtt.UserProperty
}

const ackProps = propSet(1<<propReasonString | 1<<propUser)

func parseAck(version byte, t Type, body []byte) (*Ack, error) {
	r := &reader{b: body}
	a := &Ack{Type: t, PacketID: r.packetID()}
	if version == V5 && r.err == nil && len(r.b) > 0 {
		a.Reason = mqtt.ReasonCode(r.byte("reason code"))
		if !validAck(t, a.Reason) { // [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
			r.fail(protocolError("reason code of an acknowledgment"))
		}
		if len(r.b) > 0 {
			a.ReasonString, a.UserProperties = parseReasonProps(r, ackProps)
		}
	}
	return a, r.done()
}

func validAck(t Type, reason mqtt.ReasonCode) bool {
	if t == PUBREL || t == PUBCOMP {
		return reason == mqtt.Success || reason == mqtt.PacketIdentifierNotFound
	}
	switch reason {
	case mqtt.Success, mqtt.NoMatchingSubscribers, mqtt.UnspecifiedError, mqtt.ImplementationSpecificError,
		mqtt.NotAuthorized, mqtt.TopicNameInvalid, mqtt.PacketIdentifierInUse, mqtt.QuotaExceeded, mqtt.PayloadFormatInvalid:
		return true
	}
	return false
}

func parseReasonProps(r *reader, allowed propSet) (text string, users []mqtt.UserProperty) {
	p := r.props(allowed)
	for id, ok := p.next(); ok; id, ok = p.next() {
		switch id {
		case propReasonString:
			text = p.text("reason string")
		case propUser:
			users = append(users, p.user())
		}
	}
	p.end(r)
	return text, users
}

// Append implements [Packet].
func (a *Ack) Append(b []byte, version byte) []byte {
	first := byte(a.Type) << 4
	if a.Type == PUBREL {
		first |= 0b0010
	}
	return frame(b, first, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, a.PacketID)
		bare := a.ReasonString == "" && len(a.UserProperties) == 0
		if version != V5 || a.Reason == mqtt.Success && bare {
			return b
		}
		b = append(b, byte(a.Reason))
		if bare {
			return b
		}
		return appendReasonProps(b, a.ReasonString, a.UserProperties)
	})
}

func appendReasonProps(b []byte, text string, users []mqtt.UserProperty) []byte {
	return appendProps(b, func(b []byte) []byte {
		if text != "" {
			b = appendText(append(b, propReasonString), text)
		}
		return appendUser(b, users)
	})
}

// A Disconnect is a DISCONNECT (MQTT 5.0 §3.14).
type Disconnect struct {
	Reason               mqtt.ReasonCode
	HasSessionExpiry     bool
	SessionExpirySeconds uint32
	ReasonString         string
	UserProperties       []mqtt.UserProperty
}

const disconnectProps = propSet(1<<propSessionExpiry | 1<<propReasonString | 1<<propUser)

func parseDisconnect(version byte, body []byte) (*Disconnect, error) {
	r := &reader{b: body}
	d := &Disconnect{}
	if version == V5 && len(body) > 0 {
		d.Reason = mqtt.ReasonCode(r.byte("reason code"))
		if !validDisconnect(d.Reason) { // [MQTT-3.14.2-1]
			r.fail(protocolError("reason code of a disconnect"))
		}
		if len(r.b) > 0 {
			d.parseProps(r)
		}
	}
	return d, r.done()
}

func (d *Disconnect) parseProps(r *reader) {
	p := r.props(disconnectProps)
	for id, ok := p.next(); ok; id, ok = p.next() {
		switch id {
		case propSessionExpiry:
			d.HasSessionExpiry, d.SessionExpirySeconds = true, p.uint32("session expiry interval")
		case propReasonString:
			d.ReasonString = p.text("reason string")
		case propUser:
			d.UserProperties = append(d.UserProperties, p.user())
		}
	}
	p.end(r)
}

// validDisconnect reports whether a client may give reason (MQTT 5.0 table 3-10).
func validDisconnect(reason mqtt.ReasonCode) bool {
	switch reason {
	case mqtt.NormalDisconnection, mqtt.DisconnectWithWillMessage, mqtt.UnspecifiedError, mqtt.MalformedPacket,
		mqtt.ProtocolError, mqtt.ImplementationSpecificError, mqtt.TopicNameInvalid, mqtt.ReceiveMaximumExceeded,
		mqtt.TopicAliasInvalid, mqtt.PacketTooLarge, mqtt.MessageRateTooHigh, mqtt.QuotaExceeded,
		mqtt.AdministrativeAction, mqtt.PayloadFormatInvalid:
		return true
	}
	return false
}

// Append implements [Packet].
func (d *Disconnect) Append(b []byte, version byte) []byte {
	return frame(b, byte(DISCONNECT)<<4, func(b []byte) []byte {
		bare := d.ReasonString == "" && len(d.UserProperties) == 0 && !d.HasSessionExpiry
		if version != V5 || d.Reason == mqtt.NormalDisconnection && bare {
			return b
		}
		b = append(b, byte(d.Reason))
		if bare {
			return b
		}
		return appendProps(b, func(b []byte) []byte {
			if d.HasSessionExpiry {
				b = binary.BigEndian.AppendUint32(append(b, propSessionExpiry), d.SessionExpirySeconds)
			}
			if d.ReasonString != "" {
				b = appendText(append(b, propReasonString), d.ReasonString)
			}
			return appendUser(b, d.UserProperties)
		})
	})
}

// An Auth is an AUTH (MQTT 5.0 §3.15).
type Auth struct {
	Reason         mqtt.ReasonCode
	AuthMethod     string
	AuthData       Secret
	ReasonString   string
	UserProperties []mqtt.UserProperty
}

const authProps = propSet(1<<propAuthMethod | 1<<propAuthData | 1<<propReasonString | 1<<propUser)

func parseAuth(version byte, body []byte) (*Auth, error) {
	if version != V5 {
		return nil, protocolError("AUTH before MQTT 5.0")
	}
	r := &reader{b: body}
	a := &Auth{}
	if len(body) == 0 { // §3.15.2.1
		return a, nil
	}
	a.Reason = mqtt.ReasonCode(r.byte("reason code"))
	switch a.Reason { // [MQTT-3.15.2-1]
	case mqtt.Success, mqtt.ContinueAuthentication, mqtt.ReAuthenticate:
	default:
		r.fail(protocolError("reason code of an AUTH"))
	}
	if len(r.b) > 0 {
		p := r.props(authProps)
		for id, ok := p.next(); ok; id, ok = p.next() {
			switch id {
			case propAuthMethod:
				a.AuthMethod = p.text("authentication method")
			case propAuthData:
				a.AuthData = p.data("authentication data")
			case propReasonString:
				a.ReasonString = p.text("reason string")
			case propUser:
				a.UserProperties = append(a.UserProperties, p.user())
			}
		}
		p.end(r)
	}
	return a, r.done()
}

// Append implements [Packet].
func (a *Auth) Append(b []byte, _ byte) []byte {
	return frame(b, byte(AUTH)<<4, func(b []byte) []byte {
		return appendProps(append(b, byte(a.Reason)), func(b []byte) []byte {
			if a.AuthMethod != "" {
				b = appendText(append(b, propAuthMethod), a.AuthMethod)
			}
			if a.AuthData != nil {
				b = appendData(append(b, propAuthData), a.AuthData)
			}
			if a.ReasonString != "" {
				b = appendText(append(b, propReasonString), a.ReasonString)
			}
			return appendUser(b, a.UserProperties)
		})
	})
}

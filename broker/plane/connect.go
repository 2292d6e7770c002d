package plane

import (
	"encoding/binary"
	"log/slog"
	"strings"

	"gatewayctl/broker/mqtt"
)

// A Secret is a password. It prints and logs as "redacted".
type Secret []byte

// String implements [fmt.Stringer].
func (Secret) String() string { return "redacted" }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return "redacted" }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue("redacted") }

// A Connect is a CONNECT packet (MQTT 5.0 §3.1). Zero properties are absent ones.
type Connect struct {
	Version     byte // V311 or V5
	CleanStart  bool // Clean Session in MQTT 3.1.1
	KeepAlive   uint16
	ClientID    string // "" asks the server to assign one
	Will        *Will  // nil without
	HasUserName bool
	UserName    string
	HasPassword bool
	Password    Secret

	SessionExpirySeconds uint32 // 0xFFFFFFFF never expires
	ReceiveMaximum       uint16
	MaximumPacketSize    uint32
	TopicAliasMaximum    uint16
	RequestResponseInfo  bool
	NoProblemInfo        bool // Request Problem Information is 0
	HasAuthMethod        bool
	AuthMethod           string
	AuthData             Secret
	UserProperties       []mqtt.UserProperty
}

// A Will is the message that a CONNECT leaves with the server (MQTT 5.0 §3.1.2.5).
type Will struct {
	DelaySeconds uint32
	Message      mqtt.Message // Topic is a valid topic name
}

const (
	connectProps = propSet(1<<propSessionExpiry | 1<<propReceiveMaximum | 1<<propMaximumPacketSize |
		1<<propTopicAliasMaximum | 1<<propRequestResponseInfo | 1<<propRequestProblemInfo |
		1<<propUser | 1<<propAuthMethod | 1<<propAuthData)
	willProps = propSet(1<<propWillDelay | 1<<propPayloadFormat | 1<<propMessageExpiry |
		1<<propContentType | 1<<propResponseTopic | 1<<propCorrelationData | 1<<propUser)
)

// ParseConnect reads the body of a CONNECT. After an error the Connect still says the protocol
// version to answer in, as far as it was read; 0 is before MQTT 5.0. A version that is not spoken
// is [mqtt.UnsupportedProtocolVersion].
func ParseConnect(body []byte) (*Connect, error) {
	r := &reader{b: body}
	c := &Connect{}
	name := r.text("protocol name")
	version := r.byte("protocol version")
	switch {
	case r.err != nil:
		return c, r.err
	case name == "MQIsdp", name == "MQTT" && version != V311 && version != V5: // [MQTT-3.1.2-2]
		if version != v31 && version&bridgeBit == 0 { // of the future, or of nobody
			c.Version = V5
		}
		return c, &Error{mqtt.UnsupportedProtocolVersion, "protocol version"}
	case name != "MQTT": // [MQTT-3.1.2-1]
		return c, malformed("protocol name")
	}
	c.Version = version

	flags := r.byte("connect flags")
	willQoS := mqtt.QoS(flags >> 3 & 3)
	hasWill, willRetain := flags&(1<<2) != 0, flags&(1<<5) != 0
	c.CleanStart = flags&(1<<1) != 0
	c.HasPassword, c.HasUserName = flags&(1<<6) != 0, flags&(1<<7) != 0
	switch {
	case r.err != nil:
	case flags&1 != 0: // [MQTT-3.1.2-3]
		r.fail(malformed("reserved connect flag"))
	case !hasWill && (willQoS != 0 || willRetain): // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		r.fail(malformed("will flags without a will"))
	case !willQoS.Valid(): // [MQTT-3.1.2-12]
		r.fail(malformed("will with QoS 3"))
	case version == V311 && c.HasPassword && !c.HasUserName: // MQTT 3.1.1 [MQTT-3.1.2-22]
		r.fail(malformed("password without a user name"))
	}
	c.KeepAlive = r.uint16("keep alive")
	if version == V5 {
		c.parseProps(r)
	}
	c.ClientID = r.text("client identifier") // [MQTT-3.1.3-3] [MQTT-3.1.3-4]
	if strings.ContainsFunc(c.ClientID, disallowed) {
		r.fail(disallowedClientID(version))
	}
	if hasWill {
		c.Will = &Will{Message: mqtt.Message{QoS: willQoS, Retain: willRetain}}
		c.Will.parse(version, r)
	}
	if c.HasUserName {
		c.UserName = r.name("user name")
	}
	if c.HasPassword {
		c.Password = r.data("password")
	}
	return c, r.done()
}

// Protocol versions that are not spoken but known, so that they get an answer they understand:
// MQTT 3.1, and the bit that mosquitto's bridges used to set.
const (
	v31       = 3
	bridgeBit = 0x80
)

// disallowedClientID refuses a client identifier for its code points. MQTT 5.0 has a reason for
// an identifier that is a valid string (§3.2.2.2); in MQTT 3.1.1 the connection is closed (§1.5.3).
func disallowedClientID(version byte) *Error {
	e := malformed("client identifier with a control character or a non-character")
	if version == V5 {
		e.Reason = mqtt.ClientIdentifierNotValid
	}
	return e
}

func (c *Connect) parseProps(r *reader) {
	p := r.props(connectProps)
	for id, ok := p.next(); ok; id, ok = p.next() {
		switch id {
		case propSessionExpiry:
			c.SessionExpirySeconds = p.uint32("session expiry interval")
		case propReceiveMaximum:
			c.ReceiveMaximum = p.positive16("receive maximum")
		case propMaximumPacketSize:
			if c.MaximumPacketSize = p.uint32("maximum packet size"); p.err == nil && c.MaximumPacketSize == 0 {
				p.fail(protocolError("maximum packet size 0"))
			}
		case propTopicAliasMaximum:
			c.TopicAliasMaximum = p.uint16("topic alias maximum")
		case propRequestResponseInfo:
			c.RequestResponseInfo = p.flag("request response information")
		case propRequestProblemInfo:
			c.NoProblemInfo = !p.flag("request problem information")
		case propAuthMethod:
			c.HasAuthMethod, c.AuthMethod = true, p.text("authentication method")
		case propAuthData:
			c.AuthData = p.data("authentication data")
		case propUser:
			c.UserProperties = append(c.UserProperties, p.user())
		}
	}
	p.end(r)
	if r.err == nil && p.has(propAuthData) && !p.has(propAuthMethod) {
		r.fail(protocolError("authentication data without a method"))
	}
}

func (w *Will) parse(version byte, r *reader) {
	m := &w.Message
	if version == V5 {
		p := r.props(willProps)
		for id, ok := p.next(); ok; id, ok = p.next() {
			switch id {
			case propWillDelay:
				w.DelaySeconds = p.uint32("will delay interval")
			case propPayloadFormat:
				p.payloadFormat(m)
			case propMessageExpiry:
				m.ExpirySeconds = p.expiry()
			case propContentType:
				m.ContentType = p.text("content type")
			case propResponseTopic:
				m.ResponseTopic = p.topic("response topic")
			case propCorrelationData:
				m.CorrelationData = p.data("correlation data")
			case propUser:
				m.UserProperties = append(m.UserProperties, p.user())
			}
		}
		p.end(r)
	}
	m.Topic = r.name("will topic")
	switch {
	case r.err != nil:
	case m.Topic == "": // as in a PUBLISH, §3.3.2.1
		r.fail(protocolError("will without a topic"))
	case mqtt.ValidateTopic(m.Topic, 0) != nil:
		r.fail(malformed("will topic"))
	}
	m.Payload = r.data("will payload")
}

// Append implements [Packet]; the packet's own version counts.
func (c *Connect) Append(b []byte, _ byte) []byte {
	return frame(b, byte(CONNECT)<<4, func(b []byte) []byte {
		flags := bit(c.CleanStart, 1) | bit(c.HasPassword, 6) | bit(c.HasUserName, 7)
		if w := c.Will; w != nil {
			flags |= 1<<2 | byte(w.Message.QoS)<<3 | bit(w.Message.Retain, 5)
		}
		b = append(appendText(b, "MQTT"), c.Version, flags)
		b = binary.BigEndian.AppendUint16(b, c.KeepAlive)
		if c.Version == V5 {
			b = appendProps(b, c.appendProps)
		}
		b = appendText(b, c.ClientID)
		if c.Will != nil {
			if c.Version == V5 {
				b = appendProps(b, c.Will.appendProps)
			}
			b = appendData(appendText(b, c.Will.Message.Topic), c.Will.Message.Payload)
		}
		if c.HasUserName {
			b = appendText(b, c.UserName)
		}
		if c.HasPassword {
			b = appendData(b, c.Password)
		}
		return b
	})
}

func (c *Connect) appendProps(b []byte) []byte {
	if c.SessionExpirySeconds > 0 {
		b = binary.BigEndian.AppendUint32(append(b, propSessionExpiry), c.SessionExpirySeconds)
	}
	if c.ReceiveMaximum > 0 {
		b = binary.BigEndian.AppendUint16(append(b, propReceiveMaximum), c.ReceiveMaximum)
	}
	if c.MaximumPacketSize > 0 {
		b = binary.BigEndian.AppendUint32(append(b, propMaximumPacketSize), c.MaximumPacketSize)
	}
	if c.TopicAliasMaximum > 0 {
		b = binary.BigEndian.AppendUint16(append(b, propTopicAliasMaximum), c.TopicAliasMaximum)
	}
	if c.RequestResponseInfo {
		b = append(b, propRequestResponseInfo, 1)
	}
	if c.NoProblemInfo {
		b = append(b, propRequestProblemInfo, 0)
	}
	if c.HasAuthMethod {
		b = appendText(append(b, propAuthMethod), c.AuthMethod)
	}
	if c.AuthData != nil {
		b = appendData(append(b, propAuthData), c.AuthData)
	}
	return appendUser(b, c.UserProperties)
}

func (w *Will) appendProps(b []byte) []byte {
	if w.DelaySeconds > 0 {
		b = binary.BigEndian.AppendUint32(append(b, propWillDelay), w.DelaySeconds)
	}
	return appendMessageProps(b, &w.Message)
}

// appendMessageProps adds the properties that a PUBLISH and a will share, but for the topic alias.
func appendMessageProps(b []byte, m *mqtt.Message) []byte {
	switch { // unaltered, also when it says nothing [MQTT-3.3.2-4]
	case m.PayloadIsUTF8:
		b = append(b, propPayloadFormat, 1)
	case m.PayloadIsBytes:
		b = append(b, propPayloadFormat, 0)
	}
	if m.ExpirySeconds > 0 {
		b = binary.BigEndian.AppendUint32(append(b, propMessageExpiry), m.ExpirySeconds)
	}
	if m.ContentType != "" {
		b = appendText(append(b, propContentType), m.ContentType)
	}
	if m.ResponseTopic != "" {
		b = appendText(append(b, propResponseTopic), m.ResponseTopic)
	}
	if m.CorrelationData != nil {
		b = appendData(append(b, propCorrelationData), m.CorrelationData)
	}
	return appendUser(b, m.UserProperties)
}

package plane

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"gatewayctl/broker/mqtt"
)

// reader reads the fields of one body. The first one that does not fit sets err; what is read
// afterwards is zero.
type reader struct {
	b   []byte
	err *Error
}

func (r *reader) fail(e *Error) {
	if r.err == nil {
		r.err = e
	}
	r.b = nil
}

func (r *reader) take(n int, what string) []byte {
	if r.err != nil || len(r.b) < n {
		r.fail(malformed(what))
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte(what string) byte {
	if v := r.take(1, what); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint16(what string) uint16 {
	if v := r.take(2, what); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) uint32(what string) uint32 {
	if v := r.take(4, what); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) varint(what string) int {
	v, n := varint(r.b)
	if r.err != nil || n <= 0 {
		r.fail(malformed(what))
		return 0
	}
	r.b = r.b[n:]
	return v
}

// data reads Binary Data (MQTT 5.0 §1.5.6); it is nil only after an error.
func (r *reader) data(what string) []byte {
	n := int(r.uint16(what))
	if r.err != nil {
		return nil
	}
	if n == 0 {
		return []byte{}
	}
	return r.take(n, what)
}

// text reads a UTF-8 Encoded String [MQTT-1.5.4-1] [MQTT-1.5.4-2].
func (r *reader) text(what string) string {
	v := r.data(what)
	if !utf8.Valid(v) || bytes.IndexByte(v, 0) >= 0 {
		r.fail(malformed(what))
		return ""
	}
	return string(v)
}

// name reads a UTF-8 Encoded String that people and programs know something by: a topic, a
// filter, an identifier. The code points that nobody should use are refused, as §1.5.4 allows:
// control characters and non-characters.
func (r *reader) name(what string) string {
	v := r.data(what)
	if printableASCII(v) {
		return string(v)
	}
	if !utf8.Valid(v) {
		r.fail(malformed(what))
		return ""
	}
	s := string(v)
	if strings.ContainsFunc(s, disallowed) {
		r.fail(malformed(what + " with a control character or a non-character"))
		return ""
	}
	return s
}

// disallowed reports whether r is one of the code points of MQTT 5.0 §1.5.4.
func disallowed(r rune) bool {
	return r < 0x20 || r >= 0x7F && r < 0xA0 || r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE
}

// printableASCII reports whether all of b is from 0x20 to 0x7E, eight bytes at a time; nearly
// every topic is.
func printableASCII(b []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		if (x|(x-0x20*ones)|(x+ones))&tops != 0 {
			return false
		}
	}
	for _, c := range b {
		if c < 0x20 || c > 0x7E {
			return false
		}
	}
	return true
}

func (r *reader) packetID() uint16 {
	id := r.uint16("packet identifier")
	if r.err == nil && id == 0 { // [MQTT-2.2.1-3] [MQTT-2.2.1-4]
		r.fail(protocolError("packet identifier 0"))
	}
	return id
}

// done returns the first error, or one if anything is left over.
func (r *reader) done() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail(malformed("bytes after the end of the packet"))
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

// The properties (MQTT 5.0 §2.2.2.2).
const (
	propPayloadFormat               = 0x01
	propMessageExpiry               = 0x02
	propContentType                 = 0x03
	propResponseTopic               = 0x08
	propCorrelationData             = 0x09
	propSubscriptionID              = 0x0B
	propSessionExpiry               = 0x11
	propAssignedClientID            = 0x12
	propServerKeepAlive             = 0x13
	propAuthMethod                  = 0x15
	propAuthData                    = 0x16
	propRequestProblemInfo          = 0x17
	propWillDelay                   = 0x18
	propRequestResponseInfo         = 0x19
	propReasonString                = 0x1F
	propReceiveMaximum              = 0x21
	propTopicAliasMaximum           = 0x22
	propTopicAlias                  = 0x23
	propUser                        = 0x26
	propMaximumPacketSize           = 0x27
	maxProperty                     = 0x2A
	propsRepeat             propSet = 1 << propUser // the only one that may stand more than once in what a client sends
)

// A propSet is a set of property identifiers.
type propSet uint64

// props walks over a property list. Each property must be one of allowed, or the packet is
// malformed, and stand there once, or it is a protocol error (MQTT 5.0 §2.2.2.2).
type props struct {
	reader
	allowed propSet
	seen    propSet
}

func (r *reader) props(allowed propSet) props {
	n := r.varint("length of the properties")
	p := props{allowed: allowed}
	p.b = r.take(n, "properties longer than the packet")
	p.err = r.err
	return p
}

// next returns the next property identifier. It returns false at the end and after an error;
// [props.end] then tells the reader that p came from.
func (p *props) next() (id byte, ok bool) {
	if p.err == nil && len(p.b) > 0 {
		v := p.varint("property identifier")
		switch {
		case p.err != nil:
		case v > maxProperty || p.allowed&(1<<v) == 0:
			p.fail(malformed("property that does not belong to this packet"))
		case p.seen&(1<<v) != 0 && propsRepeat&(1<<v) == 0:
			p.fail(protocolError("property given twice"))
		default:
			p.seen |= 1 << v
			return byte(v), true
		}
	}
	return 0, false
}

func (p *props) end(r *reader) {
	if p.err != nil {
		r.fail(p.err)
	}
}

func (p *props) has(id byte) bool { return p.seen&(1<<id) != 0 }

// flag reads a byte that may be 0 or 1.
func (p *props) flag(what string) bool {
	v := p.byte(what)
	if v > 1 {
		p.fail(protocolError(what))
	}
	return v == 1
}

// payloadFormat reads a Payload Format Indicator into m.
func (p *props) payloadFormat(m *mqtt.Message) {
	m.PayloadIsUTF8 = p.flag("payload format indicator")
	m.PayloadIsBytes = !m.PayloadIsUTF8
}

// positive reads a number that must not be 0.
func (p *props) positive16(what string) uint16 {
	v := p.uint16(what)
	if p.err == nil && v == 0 {
		p.fail(protocolError(what))
	}
	return v
}

func (p *props) user() mqtt.UserProperty {
	return mqtt.UserProperty{Key: p.text("name of a user property"), Value: p.text("value of a user property")}
}

// topic reads a topic name that a property carries [MQTT-3.3.2-14].
func (p *props) topic(what string) string {
	s := p.name(what)
	if p.err == nil && mqtt.ValidateTopic(s, 0) != nil {
		p.fail(protocolError(what))
	}
	return s
}

// expiry reads a Message Expiry Interval. An interval of 0 has passed as soon as anybody
// counts; the 1 that stands for it is the least that [mqtt.Message] can say.
func (p *props) expiry() uint32 { return max(p.uint32("message expiry interval"), 1) }

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendData(b []byte, d []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(d))), d...)
}

func appendUser(b []byte, users []mqtt.UserProperty) []byte {
	for _, u := range users {
		b = appendText(appendText(append(b, propUser), u.Key), u.Value)
	}
	return b
}

// appendProps adds the property list that fill appends, with its length before it.
func appendProps(b []byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = fill(append(b, 0))
	size := len(b) - at - 1
	if n := varintLen(size); n > 1 {
		b = append(b, make([]byte, n-1)...)
		copy(b[at+n:], b[at+1:at+1+size])
	}
	appendVarint(b[at:at], size)
	return b
}

func bit(set bool, n uint) byte {
	if set {
		return 1 << n
	}
	return 0
}

// Package plane reads and writes MQTT frames: control packets of MQTT 3.1.1 and 5.0, byte by
// byte, without I/O.
//
// What it reads comes from strangers. A parser accepts exactly what the standard allows a client
// to send, every property included, and answers anything else with an [*Error] that carries the
// reason code for the peer. No input makes it panic, and no input makes it allocate more than a
// small multiple of its own length.
//
// # Design
//
// The frame parser stands before everything that acts on a frame, mochi's decoder included, so
// strictness lives in one place. PUBLISH has a parser that reuses its result and slices the
// frame instead of copying it; the other packets are rare. Both directions are here, because
// what can be written can be checked against what is read.
package plane

import (
	"gatewayctl/broker/mqtt"
)

// A Type is a control packet type (MQTT 5.0 §2.1.2).
type Type byte

// The control packet types.
const (
	CONNECT     Type = 1
	CONNACK     Type = 2
	PUBLISH     Type = 3
	PUBACK      Type = 4
	PUBREC      Type = 5
	PUBREL      Type = 6
	PUBCOMP     Type = 7
	SUBSCRIBE   Type = 8
	SUBACK      Type = 9
	UNSUBSCRIBE Type = 10
	UNSUBACK    Type = 11
	PINGREQ     Type = 12
	PINGRESP    Type = 13
	DISCONNECT  Type = 14
	AUTH        Type = 15
)

// The protocol versions that are spoken (MQTT 5.0 §3.1.2.2).
const (
	V311 byte = 4
	V5   byte = 5
)

// MaxRemaining is the largest remaining length that a fixed header can say (MQTT 5.0 §2.1.4).
const MaxRemaining = 268_435_455

// An Error says why a frame was refused. Reason is what an MQTT 5.0 peer is told.
type Error struct {
	Reason mqtt.ReasonCode
	What   string // lower case, without any of the peer's bytes
}

func (e *Error) Error() string { return e.Reason.String() + ": " + e.What }

func malformed(what string) *Error { return &Error{mqtt.MalformedPacket, what} }

func protocolError(what string) *Error { return &Error{mqtt.ProtocolError, what} }

// A Header is a fixed header (MQTT 5.0 §2.1.1).
type Header struct {
	Type  Type
	Flags byte // the low four bits of the first byte
	Start int  // where the variable header starts
	Size  int  // of the whole frame
}

// ParseHeader reads the fixed header at the start of b. ok is false while b is too short to
// tell. maxBytes bounds the whole frame, 0 does not; a longer one is refused as soon as its
// length is known ([mqtt.PacketTooLarge]).
//
// Only what a client may send is accepted: wrong reserved flags are malformed [MQTT-2.1.3-1], a
// type that only servers send, or nobody, is a protocol error.
func ParseHeader(b []byte, maxBytes int) (h Header, ok bool, err error) {
	if len(b) == 0 {
		return Header{}, false, nil
	}
	h.Type, h.Flags = Type(b[0]>>4), b[0]&0x0F
	switch h.Type {
	case PUBLISH:
		if h.Flags&0b0110 == 0b0110 { // [MQTT-3.3.1-4]
			return Header{}, false, malformed("publish with QoS 3")
		}
		if h.Flags&0b1110 == 0b1000 { // [MQTT-3.3.1-2]
			return Header{}, false, malformed("publish with DUP and QoS 0")
		}
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE: // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1]
		if h.Flags != 0b0010 {
			return Header{}, false, malformed("reserved flags of the fixed header")
		}
	case 0: // §2.1.2: forbidden
		return Header{}, false, protocolError("packet type 0")
	default:
		if h.Flags != 0 {
			return Header{}, false, malformed("reserved flags of the fixed header")
		}
		switch h.Type {
		case CONNACK, SUBACK, UNSUBACK, PINGRESP:
			return Header{}, false, protocolError("packet type that only a server sends")
		}
	}
	remaining, n := varint(b[1:])
	if n < 0 {
		return Header{}, false, malformed("remaining length")
	}
	if n == 0 {
		return Header{}, false, nil
	}
	h.Start = 1 + n
	h.Size = h.Start + remaining
	if maxBytes > 0 && h.Size > maxBytes {
		return Header{}, false, &Error{mqtt.PacketTooLarge, "packet larger than the server accepts"}
	}
	return h, true, nil
}

// varint reads a Variable Byte Integer (MQTT 5.0 §1.5.5). n is its length, 0 while b is too
// short to tell, negative if it is none, or longer than it must be [MQTT-1.5.5-1].
func varint(b []byte) (v, n int) {
	for i := 0; i < 4; i++ {
		if i >= len(b) {
			return 0, 0
		}
		v |= int(b[i]&0x7F) << (7 * i)
		if b[i]&0x80 == 0 {
			if i > 0 && b[i] == 0 {
				return 0, -1
			}
			return v, i + 1
		}
	}
	return 0, -1
}

func appendVarint(b []byte, v int) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func varintLen(v int) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// A Packet is what [Parse] returns: one of [*Connect], [*Publish], [*Ack], [*Subscribe],
// [*Unsubscribe], [*Ping], [*Disconnect], [*Auth].
type Packet interface {
	// Append adds the packet's frame to b as protocol version says, and returns the longer slice.
	Append(b []byte, version byte) []byte
}

// Parse reads the body of a frame, the bytes from h.Start to h.Size, as protocol version says;
// CONNECT says its own. Strings are copied, byte slices are parts of body.
func Parse(version byte, h Header, body []byte) (Packet, error) {
	switch h.Type {
	case CONNECT:
		return packet(ParseConnect(body))
	case PUBLISH:
		p := new(Publish)
		return packet(p, ParsePublish(version, h.Flags, body, p))
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return packet(parseAck(version, h.Type, body))
	case SUBSCRIBE:
		return packet(parseSubscribe(version, body))
	case UNSUBSCRIBE:
		return packet(parseUnsubscribe(version, body))
	case PINGREQ:
		if len(body) != 0 {
			return nil, malformed("ping request with a body")
		}
		return &Ping{}, nil
	case DISCONNECT:
		return packet(parseDisconnect(version, body))
	case AUTH:
		return packet(parseAuth(version, body))
	}
	return nil, protocolError("packet type that only a server sends")
}

// packet keeps typed nil pointers out of the interface values.
func packet[P Packet](p P, err error) (Packet, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// A Ping is a PINGREQ (MQTT 5.0 §3.12).
type Ping struct{}

// Append implements [Packet].
func (*Ping) Append(b []byte, _ byte) []byte { return append(b, byte(PINGREQ)<<4, 0) }

// AppendPingResp adds a PINGRESP (MQTT 5.0 §3.13).
func AppendPingResp(b []byte) []byte { return append(b, byte(PINGRESP)<<4, 0) }

// frame adds a fixed header and the body that fill appends, whose length it finds out first by
// filling scratch space behind b.
func frame(b []byte, first byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = fill(append(b, first, 0))
	remaining := len(b) - at - 2
	if n := varintLen(remaining); n > 1 { // make room for the longer length
		b = append(b, make([]byte, n-1)...)
		copy(b[at+1+n:], b[at+2:at+2+remaining])
	}
	appendVarint(b[at+1:at+1], remaining)
	return b
}

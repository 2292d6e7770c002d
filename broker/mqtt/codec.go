package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gatewayctl/pki/identity"
)

// The record format, version 1. A record is the body of one entry of the message log; what
// bounds it and what guards it against damage (length, checksum) is the log's business.
//
//	offset  bytes  meaning
//	0       1      version: 1
//	1       1      bits 0-1  QoS: 0, 1 or 2
//	               bit 2     Retain
//	               bit 3     Payload Format Indicator is 1
//	               bit 4     Message Expiry Interval present
//	               bit 5     Content Type present
//	               bit 6     Response Topic present
//	               bit 7     Correlation Data present
//	2       1      bit 0     User Properties present
//	               bit 1     publisher's client identifier present
//	               bit 2     publisher's device present
//	               bit 3     publisher's origin present
//	               bit 4     Payload Format Indicator is 0; it is absent without this bit and the other
//	               bits 5-7  zero
//	3              topic: text
//	               then what is present, in the order of the bits above:
//	               Message Expiry Interval, 4 bytes, seconds, big-endian, not 0
//	               Content Type: text, not empty
//	               Response Topic: text, not empty
//	               Correlation Data: data
//	               User Properties: count (a varint, not 0), then name and value of each: text, text
//	               client identifier, device, origin: text each, not empty
//	               the rest of the record is the payload
//
// Text and data are a varint length and that many bytes. A varint is an unsigned LEB128 number
// in its shortest form, below 2³². Every message has exactly one encoding, and a record that is
// not such an encoding is refused.
const (
	recordVersion = 1

	flagQoS             = 0b11
	flagRetain          = 1 << 2
	flagUTF8            = 1 << 3
	flagExpiry          = 1 << 4
	flagContentType     = 1 << 5
	flagResponseTopic   = 1 << 6
	flagCorrelationData = 1 << 7

	flagUserProperties = 1 << 0
	flagClientID       = 1 << 1
	flagDevice         = 1 << 2
	flagOrigin         = 1 << 3
	flagBytes          = 1 << 4
	flagsReserved      = 0xE0
)

// ErrRecord says that bytes are no message record of a version that this program reads.
var ErrRecord = errors.New("not a message record")

// AppendMessage appends the record of m to b and returns the longer slice; [ParseMessage] reads
// it. Every property is kept, user properties in their order, Correlation Data of length zero
// apart from none. m must have a QoS of 0 to 2.
func AppendMessage(b []byte, m Message) []byte {
	b = append(b, recordVersion,
		byte(m.QoS)&flagQoS|
			bit(m.Retain, flagRetain)|
			bit(m.PayloadIsUTF8, flagUTF8)|
			bit(m.ExpirySeconds != 0, flagExpiry)|
			bit(m.ContentType != "", flagContentType)|
			bit(m.ResponseTopic != "", flagResponseTopic)|
			bit(m.CorrelationData != nil, flagCorrelationData),
		bit(len(m.UserProperties) > 0, flagUserProperties)|
			bit(m.Publisher.ClientID != "", flagClientID)|
			bit(!m.Publisher.Device.IsZero(), flagDevice)|
			bit(m.Publisher.Origin != "", flagOrigin)|
			bit(m.PayloadIsBytes && !m.PayloadIsUTF8, flagBytes))
	b = appendText(b, m.Topic)
	if m.ExpirySeconds != 0 {
		b = binary.BigEndian.AppendUint32(b, m.ExpirySeconds)
	}
	if m.ContentType != "" {
		b = appendText(b, m.ContentType)
	}
	if m.ResponseTopic != "" {
		b = appendText(b, m.ResponseTopic)
	}
	if m.CorrelationData != nil {
		b = binary.AppendUvarint(b, uint64(len(m.CorrelationData)))
		b = append(b, m.CorrelationData...)
	}
	if len(m.UserProperties) > 0 {
		b = binary.AppendUvarint(b, uint64(len(m.UserProperties)))
		for _, p := range m.UserProperties {
			b = appendText(appendText(b, p.Key), p.Value)
		}
	}
	for _, s := range [...]string{m.Publisher.ClientID, m.Publisher.Device.String(), m.Publisher.Origin} {
		if s != "" {
			b = appendText(b, s)
		}
	}
	return append(b, m.Payload...)
}

// ParseMessage reads a record that [AppendMessage] wrote. The payload and the correlation data
// are parts of b, which must not change as long as the message is used; an empty payload is nil.
// It returns an error that wraps [ErrRecord] for anything else. Topic names are not judged.
func ParseMessage(b []byte) (Message, error) {
	if len(b) < 3 {
		return Message{}, fmt.Errorf("%w: %d bytes", ErrRecord, len(b))
	}
	if b[0] != recordVersion {
		return Message{}, fmt.Errorf("%w: version %d, this program reads version %d", ErrRecord, b[0], recordVersion)
	}
	flags, more := b[1], b[2]
	m := Message{
		QoS:            QoS(flags & flagQoS),
		Retain:         flags&flagRetain != 0,
		PayloadIsUTF8:  flags&flagUTF8 != 0,
		PayloadIsBytes: more&flagBytes != 0,
	}
	if !m.QoS.Valid() || more&flagsReserved != 0 || m.PayloadIsUTF8 && m.PayloadIsBytes {
		return Message{}, fmt.Errorf("%w: flags %02x %02x", ErrRecord, flags, more)
	}

	r := recordReader{b: b, at: 3}
	m.Topic = string(r.data())
	if flags&flagExpiry != 0 {
		m.ExpirySeconds = r.expiry()
	}
	if flags&flagContentType != 0 {
		m.ContentType = r.text()
	}
	if flags&flagResponseTopic != 0 {
		m.ResponseTopic = r.text()
	}
	if flags&flagCorrelationData != 0 {
		m.CorrelationData = r.data()
	}
	if more&flagUserProperties != 0 {
		m.UserProperties = r.userProperties()
	}
	if more&flagClientID != 0 {
		m.Publisher.ClientID = r.text()
	}
	if more&flagDevice != 0 {
		m.Publisher.Device = r.device()
	}
	if more&flagOrigin != 0 {
		m.Publisher.Origin = r.text()
	}
	if r.bad {
		return Message{}, fmt.Errorf("%w: damaged at byte %d of %d", ErrRecord, r.at, len(b))
	}
	if r.at < len(b) {
		m.Payload = b[r.at:]
	}
	return m, nil
}

func bit(set bool, mask byte) byte {
	if set {
		return mask
	}
	return 0
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// recordReader reads fields from at on. The first one that does not fit sets bad; at stays
// there and what is read afterwards is empty.
type recordReader struct {
	b   []byte
	at  int
	bad bool
}

func (r *recordReader) fail() { r.bad = true }

func (r *recordReader) varint() int {
	if r.bad {
		return 0
	}
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 || n > 1 && v>>(7*(n-1)) == 0 || v > 1<<32-1 {
		r.fail()
		return 0
	}
	if v > uint64(len(r.b)-r.at-n) { // a length or a count: each takes at least one byte
		r.fail()
		return 0
	}
	r.at += n
	return int(v)
}

// data returns the field as a part of b whose capacity ends with it; it is never nil.
func (r *recordReader) data() []byte {
	n := r.varint()
	if r.bad {
		return []byte{}
	}
	d := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return d
}

func (r *recordReader) text() string {
	s := string(r.data())
	if s == "" {
		r.fail()
	}
	return s
}

func (r *recordReader) expiry() uint32 {
	if r.bad || len(r.b)-r.at < 4 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint32(r.b[r.at:])
	if v == 0 {
		r.fail()
		return 0
	}
	r.at += 4
	return v
}

func (r *recordReader) userProperties() []UserProperty {
	n := r.varint()
	if r.bad || n == 0 || n > (len(r.b)-r.at)/2 {
		r.fail()
		return nil
	}
	props := make([]UserProperty, n)
	for i := range props {
		props[i] = UserProperty{Key: string(r.data()), Value: string(r.data())}
		if r.bad {
			return nil
		}
	}
	return props
}

func (r *recordReader) device() identity.DeviceID {
	id, err := identity.ParseDeviceID(r.text())
	if err != nil {
		r.fail()
	}
	return id
}

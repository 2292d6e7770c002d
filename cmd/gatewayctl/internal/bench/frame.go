package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// Every payload starts with its publisher's number, the message's own, and the time when it was
// to be sent.
const (
	publisherAt = 0
	numberAt    = 4
	timeAt      = 8
	headerBytes = 16

	// MinPayload is the smallest payload of a message, in bytes.
	MinPayload = headerBytes
)

// A batch is a buffer of equal PUBLISH frames, of which only numbers differ.
type batch struct {
	buf    []byte
	stride int // bytes of one frame
	id     int // where the packet identifier is in a frame; 0 at QoS 0
	body   int // where the payload is
}

func newBatch(frames int, publisher uint32, topic string, qos byte, payload int) batch {
	p := plane.Publish{PacketID: 1, Message: mqtt.Message{Topic: topic, QoS: mqtt.QoS(qos), Payload: make([]byte, payload)}}
	binary.BigEndian.PutUint32(p.Message.Payload[publisherAt:], publisher)
	for i := headerBytes; i < payload; i++ {
		p.Message.Payload[i] = 'a' + byte(i%26)
	}
	frame := p.Append(nil, plane.V311)
	b := batch{stride: len(frame), body: len(frame) - payload}
	if qos > 0 {
		b.id = b.body - 2
	}
	for range frames {
		b.buf = append(b.buf, frame...)
	}
	return b
}

// number prepares the first n frames for the messages from first on, and returns their bytes.
func (b *batch) number(first uint64, n int, at int64) []byte {
	for i := range n {
		frame := b.buf[i*b.stride : (i+1)*b.stride]
		seq := first + uint64(i)
		if b.id > 0 {
			binary.BigEndian.PutUint16(frame[b.id:], uint16(seq%65535)+1)
		}
		binary.BigEndian.PutUint32(frame[b.body+numberAt:], uint32(seq))
		binary.BigEndian.PutUint64(frame[b.body+timeAt:], uint64(at))
	}
	return b.buf[:n*b.stride]
}

var errFrame = errors.New("the broker sent what is not MQTT")

// A scanner cuts a stream into frames without copying them.
type scanner struct {
	from io.Reader
	buf  []byte
	r, w int // what is in buf and not cut yet
}

const readBytes = 64 << 10

func newScanner(from io.Reader, size int) *scanner {
	return &scanner{from: from, buf: make([]byte, size)}
}

// fill reads once. It overwrites the frames that were returned before.
func (s *scanner) fill() error {
	if s.r > 0 {
		copy(s.buf, s.buf[s.r:s.w])
		s.r, s.w = 0, s.w-s.r
	}
	if s.w == len(s.buf) {
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	n, err := s.from.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil
	}
	return err
}

// next returns the next frame and where its body starts; a nil frame when more must be read.
func (s *scanner) next() (frame []byte, body int, err error) {
	b := s.buf[s.r:s.w]
	size, shift := 0, 0
	for i := 1; i < len(b); i++ {
		size |= int(b[i]&0x7F) << shift
		if b[i] < 0x80 {
			end := i + 1 + size
			if end > len(b) {
				return nil, 0, nil
			}
			s.r += end
			return b[:end:end], i + 1, nil
		}
		if shift += 7; shift > 21 {
			return nil, 0, errFrame
		}
	}
	return nil, 0, nil
}

// await returns the next frame, reading as often as it must.
func (s *scanner) await() (frame []byte, body int, err error) {
	for {
		if frame, body, err = s.next(); frame != nil || err != nil {
			return frame, body, err
		}
		if err := s.fill(); err != nil {
			return nil, 0, err
		}
	}
}

func typeOf(frame []byte) plane.Type { return plane.Type(frame[0] >> 4) }

// An arrival is a PUBLISH that came, as parts of its frame.
type arrival struct {
	qos       byte
	id        []byte // packet identifier; nil at QoS 0
	publisher uint32
	number    uint32
	at        int64
}

func parseArrival(frame []byte, body int) (a arrival, err error) {
	a.qos = frame[0] >> 1 & 3
	b := frame[body:]
	if len(b) < 2 {
		return a, errFrame
	}
	b = b[2:][min(len(b)-2, int(binary.BigEndian.Uint16(b))):]
	if a.qos > 0 {
		if len(b) < 2 {
			return a, errFrame
		}
		a.id, b = b[:2], b[2:]
	}
	if len(b) < headerBytes {
		return a, fmt.Errorf("a message of %d bytes came that is not ours", len(b))
	}
	a.publisher = binary.BigEndian.Uint32(b[publisherAt:])
	a.number = binary.BigEndian.Uint32(b[numberAt:])
	a.at = int64(binary.BigEndian.Uint64(b[timeAt:]))
	return a, nil
}

// appendPubAck answers a PUBLISH with QoS 1.
func appendPubAck(b []byte, id []byte) []byte {
	return append(b, byte(plane.PUBACK)<<4, 2, id[0], id[1])
}

package bench

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// parse reads the frame at the start of b as a broker would.
func parse(t *testing.T, b []byte) (plane.Packet, []byte) {
	t.Helper()
	h, ok, err := plane.ParseHeader(b, 0)
	if err != nil || !ok || h.Size > len(b) {
		t.Fatalf("ParseHeader(%x) = %+v, %v, %v", b[:min(len(b), 16)], h, ok, err)
	}
	p, err := plane.Parse(plane.V311, h, b[h.Start:h.Size])
	if err != nil {
		t.Fatalf("Parse(%x): %v", b[:min(len(b), 16)], err)
	}
	return p, b[h.Size:]
}

func TestBatchIsMQTT(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		qos     byte
		payload int
		first   uint64
		ids     []uint16
	}{
		{"QoS 0", 0, MinPayload, 0, []uint16{0, 0, 0}},
		{"QoS 1, a payload of more than 127 bytes", 1, 200, 0, []uint16{1, 2, 3}},
		{"identifiers wrap around and leave 0 out, §2.3.1", 1, 20_000, 65_533, []uint16{65_534, 65_535, 1}},
		{"numbers beyond 32 bits", 1, 64, 1 << 32, []uint16{2, 3, 4}}, // 2^32 mod 65535 = 1
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBatch(4, 7, "bench/t", tc.qos, tc.payload)
			rest := b.number(tc.first, 3, 12345)
			s := newScanner(iotest.OneByteReader(bytes.NewReader(rest)), 16)
			for i := range 3 {
				var p plane.Packet
				p, rest = parse(t, rest)
				got := p.(*plane.Publish)
				if got.Message.Topic != "bench/t" || got.Message.QoS != mqtt.QoS(tc.qos) || got.PacketID != tc.ids[i] || len(got.Message.Payload) != tc.payload {
					t.Errorf("frame %d is %+v", i, got)
				}
				frame, body, err := s.await()
				if err != nil {
					t.Fatal(err)
				}
				a, err := parseArrival(frame, body)
				if err != nil {
					t.Fatal(err)
				}
				if a.publisher != 7 || a.number != uint32(tc.first)+uint32(i) || a.at != 12345 || a.qos != tc.qos {
					t.Errorf("frame %d arrives as %+v", i, a)
				}
				if tc.qos == 0 {
					continue
				}
				ack, _ := parse(t, appendPubAck(nil, a.id))
				if got := ack.(*plane.Ack); got.Type != plane.PUBACK || got.PacketID != tc.ids[i] {
					t.Errorf("frame %d is acknowledged by %+v", i, got)
				}
			}
			if len(rest) != 0 {
				t.Errorf("%d bytes are left", len(rest))
			}
			if _, _, err := s.await(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last frame: %v", err)
			}
		})
	}
}

func TestScannerRefusesEndlessLength(t *testing.T) {
	t.Parallel()
	s := newScanner(bytes.NewReader([]byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}), 16)
	if _, _, err := s.await(); !errors.Is(err, errFrame) {
		t.Errorf("a length of five bytes: %v", err)
	}
}

func TestBatchAllocatesNothing(t *testing.T) {
	b := newBatch(256, 0, "bench/t", 1, 128)
	frames := b.number(0, 256, 0)
	r := bytes.NewReader(frames)
	s := newScanner(r, readBytes)
	sub := newSubscriber(&client{in: s}, 1)
	seq := uint64(0)
	if n := testing.AllocsPerRun(10, func() {
		r.Reset(b.number(seq, 256, 0))
		seq += 256
		sub.acks = sub.acks[:0]
		for range 256 {
			frame, body, err := s.await()
			if err != nil {
				t.Fatal(err)
			}
			if err := sub.take(frame, body, 0); err != nil {
				t.Fatal(err)
			}
		}
	}); n > 1 { // the first growth of acks
		t.Errorf("256 messages cost %v allocations", n)
	}
}

func FuzzArrival(f *testing.F) {
	for _, qos := range []byte{0, 1} {
		b := newBatch(2, 3, "bench/t", qos, 40)
		f.Add(b.number(9, 2, 77))
	}
	f.Add([]byte{0x90, 3, 0, 1, 0})
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newScanner(bytes.NewReader(in), 16)
		seen := 0
		for {
			frame, body, err := s.await()
			if err != nil {
				break
			}
			seen += len(frame)
			if body < 2 || body > len(frame) {
				t.Fatalf("the body of %x starts at %d", frame, body)
			}
			if typeOf(frame) == plane.PUBLISH {
				_, _ = parseArrival(frame, body)
			}
		}
		if seen > len(in) {
			t.Fatalf("%d bytes of frames in %d", seen, len(in))
		}
	})
}

func TestSubscriberNotices(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		numbers        []uint64
		lost, repeated uint64
		received       uint64
	}{
		{"all is well", []uint64{0, 1, 2, 3}, 0, 0, 4},
		{"a gap", []uint64{0, 1, 4, 5}, 2, 0, 4},
		{"the first is missing", []uint64{1, 2}, 1, 0, 2},
		{"a repetition", []uint64{0, 1, 1, 2}, 0, 1, 3},
		{"a wrong order", []uint64{0, 2, 1, 3}, 0, 1, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBatch(1, 0, "t", 0, 16)
			var in bytes.Buffer
			for _, n := range tc.numbers {
				in.Write(b.number(n, 1, 0))
			}
			s := newSubscriber(&client{in: newScanner(&in, 1024)}, 1)
			if err := s.run(); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if s.missing() != tc.lost || s.late.Load() != tc.repeated || s.received() != tc.received {
				t.Errorf("%v: %d lost, %d repeated, %d received; want %d, %d, %d", tc.numbers,
					s.missing(), s.late.Load(), s.received(), tc.lost, tc.repeated, tc.received)
			}
		})
	}
}

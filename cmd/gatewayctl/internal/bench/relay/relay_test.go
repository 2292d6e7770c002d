package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 10 * time.Second

func startRelay(t *testing.T, cfg *tls.Config) (*Relay, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := new(Relay)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.Serve(ctx, l, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r, l.Addr().String()
}

// A peer is a client of the relay, frame by frame.
type peer struct {
	t *testing.T
	net.Conn
}

func connect(t *testing.T, address string, cfg *tls.Config) *peer {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		c = tls.Client(c, cfg)
	}
	p := &peer{t, c}
	t.Cleanup(func() { _ = p.Close() })
	_ = p.SetDeadline(time.Now().Add(testTimeout))
	p.send((&plane.Connect{Version: plane.V311, CleanStart: true, ClientID: "c"}).Append(nil, plane.V311))
	p.expect([]byte{0x20, 2, 0, 0})
	return p
}

func (p *peer) send(frames ...[]byte) {
	p.t.Helper()
	if _, err := p.Write(bytes.Join(frames, nil)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) expect(want ...[]byte) {
	p.t.Helper()
	all := bytes.Join(want, nil)
	got := make([]byte, len(all))
	if _, err := io.ReadFull(p, got); err != nil || !bytes.Equal(got, all) {
		p.t.Fatalf("got %q, %v, want %q", got, err, all)
	}
}

// expectEnd reads until the relay closes the connection.
func (p *peer) expectEnd() {
	p.t.Helper()
	if b, err := io.ReadAll(p); errors.Is(err, os.ErrDeadlineExceeded) || len(b) > 0 {
		p.t.Fatalf("got %q, %v, want the end", b, err)
	}
}

func (p *peer) subscribe(qos mqtt.QoS, filters ...mqtt.Filter) {
	p.t.Helper()
	s := &plane.Subscribe{PacketID: 5}
	var granted []byte
	for _, f := range filters {
		s.Subscriptions = append(s.Subscriptions, plane.Subscription{Filter: f, QoS: qos})
		granted = append(granted, byte(min(qos, 1)))
	}
	p.send(s.Append(nil, plane.V311))
	p.expect([]byte{0x90, byte(2 + len(filters)), 0, 5}, granted)
}

func publish(topic string, qos mqtt.QoS, id uint16, payload string) []byte {
	return (&plane.Publish{PacketID: id, Message: mqtt.Message{Topic: topic, QoS: qos, Payload: []byte(payload)}}).Append(nil, plane.V311)
}

// sync waits until the relay has handled what p sent.
func (p *peer) sync() {
	p.t.Helper()
	p.send([]byte{0xC0, 0})
	p.expect([]byte{0xD0, 0})
}

func TestRelayPassesOn(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10) // longer than a read
	for _, tc := range []struct {
		name    string
		filters []mqtt.Filter
		granted mqtt.QoS
		send    []byte
		want    []byte
		answer  []byte
	}{
		{"QoS 0", []mqtt.Filter{"a/b"}, 0, publish("a/b", 0, 0, "x"), publish("a/b", 0, 0, "x"), nil},
		{"QoS 1 with an identifier of its own", []mqtt.Filter{"a/b"}, 1, publish("a/b", 1, 777, "x"), publish("a/b", 1, 1, "x"), []byte{0x40, 2, 3, 9}},
		{"QoS 1 to a subscription with QoS 0", []mqtt.Filter{"a/b"}, 0, publish("a/b", 1, 777, "x"), publish("a/b", 0, 0, "x"), []byte{0x40, 2, 3, 9}},
		{"QoS 0 to a subscription with QoS 1", []mqtt.Filter{"a/b"}, 1, publish("a/b", 0, 0, "x"), publish("a/b", 0, 0, "x"), nil},
		{"wildcards", []mqtt.Filter{"+/b"}, 0, publish("a/b", 0, 0, "x"), publish("a/b", 0, 0, "x"), nil},
		{"overlapping filters deliver once", []mqtt.Filter{"a/b", "a/#", "+/+"}, 0, publish("a/b", 0, 0, "x"), publish("a/b", 0, 0, "x"), nil},
		{"a length of three bytes", []mqtt.Filter{"a/b"}, 0, publish("a/b", 1, 1, long), publish("a/b", 0, 0, long), []byte{0x40, 2, 0, 1}},
		{"RETAIN and DUP are cleared", []mqtt.Filter{"a/b"}, 1, append([]byte{0x3B}, publish("a/b", 1, 9, "x")[1:]...), publish("a/b", 1, 1, "x"), []byte{0x40, 2, 0, 9}},
		{"many in one read", []mqtt.Filter{"a/b"}, 0, bytes.Repeat(publish("a/b", 0, 0, "x"), 5000), bytes.Repeat(publish("a/b", 0, 0, "x"), 5000), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, address := startRelay(t, nil)
			sub, pub := connect(t, address, nil), connect(t, address, nil)
			sub.subscribe(tc.granted, tc.filters...)
			pub.send(publish("other", 0, 0, "not for us"), tc.send)
			sub.expect(tc.want)
			pub.expect(tc.answer)
			sub.sync() // nothing came but what was expected
		})
	}
}

func TestSubscriptionsEnd(t *testing.T) {
	t.Parallel()
	r, address := startRelay(t, nil)
	sub, other, pub := connect(t, address, nil), connect(t, address, nil), connect(t, address, nil)
	sub.subscribe(0, "a", "b")
	other.subscribe(0, "a")
	pub.send(publish("a", 0, 0, "1"))
	sub.expect(publish("a", 0, 0, "1"))
	other.expect(publish("a", 0, 0, "1"))
	sub.send((&plane.Unsubscribe{PacketID: 6, Filters: []mqtt.Filter{"a"}}).Append(nil, plane.V311))
	sub.expect([]byte{0xB0, 2, 0, 6})
	pub.send(publish("a", 0, 0, "2"), publish("b", 0, 0, "3"))
	sub.expect(publish("b", 0, 0, "3"))
	other.expect(publish("a", 0, 0, "2"))
	other.send([]byte{0xE0, 0})
	other.expectEnd()
	if got := r.match("a"); len(got) != 0 {
		t.Errorf("%d still get what nobody is subscribed to", len(got))
	}
}

// What came in the same read before a frame that ends the connection is passed on.
func TestLastWordsArePassedOn(t *testing.T) {
	t.Parallel()
	for name, end := range map[string][]byte{
		"DISCONNECT": {0xE0, 0}, "not MQTT": {0xFF, 0xFF}, "QoS 2": publish("a", 2, 1, ""), "a second CONNECT": (&plane.Connect{Version: plane.V311, ClientID: "c"}).Append(nil, plane.V311),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, address := startRelay(t, nil)
			sub, pub := connect(t, address, nil), connect(t, address, nil)
			sub.subscribe(0, "a")
			pub.send(publish("a", 0, 0, "1"), end)
			pub.expectEnd()
			sub.expect(publish("a", 0, 0, "1"))
		})
	}
}

func TestNothingBeforeConnect(t *testing.T) {
	t.Parallel()
	_, address := startRelay(t, nil)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t, c}
	defer p.Close() //nolint:errcheck // the relay has
	_ = p.SetDeadline(time.Now().Add(testTimeout))
	p.send(publish("a", 0, 0, "x"))
	p.expectEnd()
}

// A client that does not read slows nobody, and loses what is beyond its bound.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var server, client *tls.Config
			if secure {
				server, client = tlsPair(t)
			}
			r, address := startRelay(t, server)
			slow, fast, pub := connect(t, address, client), connect(t, address, client), connect(t, address, client)
			slow.subscribe(1, "t")
			fast.subscribe(1, "t")
			big := strings.Repeat("x", 60_000)
			id := uint16(0)
			for r.Dropped() == 0 { // far more than the sockets hold
				id++
				pub.send(publish("t", 1, id, big))
				fast.expect(publish("t", 1, id, big))
				pub.expect([]byte{0x40, 2, byte(id >> 8), byte(id)})
				if int(id)*len(big) > 100<<20 {
					t.Fatal("100 MB wait for a client that does not read")
				}
			}
			for i := uint16(1); i < id; i++ { // what was taken comes whole and in order
				slow.expect(publish("t", 1, i, big))
			}
			slow.sync()
		})
	}
}

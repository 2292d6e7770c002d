package broker

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// What waits for an offline client arrives in order, also across the wrap-around of packet
// identifiers, and respects the window.
func TestOfflineQueueInOrder(t *testing.T) {
	t.Parallel()
	const n = 2_000
	b := start(t, Options{})
	versions(t, func(t *testing.T, version byte) {
		id := fmt.Sprint("away", version)
		c := dialPlain(t, b.plain, version).connected(id, staying).subscribe("q", mqtt.QoS1)
		_ = c.nc.Close()
		b.gone(t, id)
		b.mu.Lock()
		b.sessions[id].lastID = 65_000 // wraps on the way
		b.mu.Unlock()
		for i := range n {
			m := mqtt.Message{Topic: "q", Payload: binary.BigEndian.AppendUint32(nil, uint32(i)), QoS: mqtt.QoS1}
			if err := b.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		c = dialPlain(t, b.plain, version).connected(id, staying)
		var acks []byte
		for i := range n {
			p, err := c.tryRead()
			if err != nil {
				t.Fatal(err)
			}
			if got := binary.BigEndian.Uint32([]byte(p.text)); got != uint32(i) || p.dup {
				t.Fatalf("message %d (dup %v), want %d", got, p.dup, i)
			}
			acks = (&plane.Ack{Type: plane.PUBACK, PacketID: p.id}).Append(acks, version)
			if i%10 == 9 {
				c.write(acks)
				acks = acks[:0]
			}
		}
		c.send(&plane.Unsubscribe{PacketID: 1, Filters: []mqtt.Filter{"q"}})
		c.read(plane.UNSUBACK)
	})
	if s := b.Stats(); s.Queued != 0 || s.QueuedBytes != 0 || len(s.Dropped) != 0 {
		t.Errorf("stats %+v", s)
	}
}

// What was sent and not acknowledged comes first after reconnecting, in its order, with DUP and
// the same identifiers; what was acknowledged does not come again.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	versions(t, func(t *testing.T, version byte) {
		id := fmt.Sprint("sub", version)
		topic := mqtt.Filter("t" + id)
		c := dialPlain(t, b.plain, version).connected(id, staying, func(c *plane.Connect) {
			if version == plane.V5 {
				c.ReceiveMaximum = 20 // what 3.1.1 gets by default
			}
		})
		c.send(&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: topic, QoS: mqtt.QoS2}}})
		c.read(plane.SUBACK)
		for i := range 30 {
			m := mqtt.Message{Topic: string(topic), Payload: []byte(fmt.Sprint(i)), QoS: mqtt.QoS(1 + i%2)}
			if err := b.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		ids := []uint16{}
		for i := range 20 {
			p := c.read(plane.PUBLISH)
			if p.text != fmt.Sprint(i) || p.dup {
				t.Fatalf("received %+v, want %d", p, i)
			}
			ids = append(ids, p.id)
		}
		c.flush() // the window is closed
		// 0 is acknowledged, 1 received, 3 received and released but not complete.
		c.send(&plane.Ack{Type: plane.PUBACK, PacketID: ids[0]})
		if p := c.read(plane.PUBLISH); p.text != "20" {
			t.Errorf("after an acknowledgment %q came, want 20", p.text)
		} else {
			ids = append(ids, p.id)
		}
		for _, i := range []int{1, 3} {
			c.send(&plane.Ack{Type: plane.PUBREC, PacketID: ids[i]})
			if p := c.read(plane.PUBREL); p.id != ids[i] {
				t.Errorf("PUBREL for %d, want %d", p.id, ids[i])
			}
		}
		_ = c.nc.Close()
		b.gone(t, id)

		c = dialPlain(t, b.plain, version)
		if p := c.connect(id, staying); p.codes[0] != 1 {
			t.Errorf("CONNACK %x: no session present", p.codes)
		}
		var redelivered []reply
		for i := 1; i <= 20; i++ {
			p, err := c.tryRead()
			if err != nil {
				t.Fatal(err)
			}
			if i == 1 || i == 3 {
				if p.typ != plane.PUBREL || p.id != ids[i] {
					t.Errorf("%d: %+v, want the PUBREL of %d", i, p, ids[i])
				}
				c.send(&plane.Ack{Type: plane.PUBCOMP, PacketID: p.id})
				continue
			}
			if p.text != fmt.Sprint(i) || !p.dup || p.id != ids[i] {
				t.Errorf("%d came again as %+v, want identifier %d", i, p, ids[i])
			}
			redelivered = append(redelivered, p)
		}
		for _, p := range redelivered {
			if p.qos == mqtt.QoS1 {
				c.send(&plane.Ack{Type: plane.PUBACK, PacketID: p.id})
			} else {
				c.send(&plane.Ack{Type: plane.PUBREC, PacketID: p.id})
			}
		}
		want := 21
		for want < 30 {
			p, err := c.tryRead()
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case p.typ == plane.PUBREL:
				c.send(&plane.Ack{Type: plane.PUBCOMP, PacketID: p.id})
			case p.text != fmt.Sprint(want) || p.dup:
				t.Fatalf("received %+v, want %d", p, want)
			default:
				want++
			}
		}
	})
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	present := func(version byte, id string, with ...func(*plane.Connect)) bool {
		c := dialPlain(t, b.plain, version)
		p := c.connect(id, with...)
		c.send(&plane.Disconnect{})
		c.closed()
		b.gone(t, id)
		return p.codes[0] == 1
	}
	expiry := func(s uint32) func(*plane.Connect) {
		return func(c *plane.Connect) { c.CleanStart, c.SessionExpirySeconds = false, s }
	}
	present(plane.V311, "clean")
	if present(plane.V311, "clean", staying) {
		t.Error("a clean session of 3.1.1 stayed")
	}
	if !present(plane.V311, "clean", staying) {
		t.Error("a session of 3.1.1 was lost")
	}
	if present(plane.V311, "clean") {
		t.Error("clean session found a session")
	}
	present(plane.V5, "zero", expiry(0))
	if present(plane.V5, "zero", expiry(0)) {
		t.Error("a session with expiry 0 stayed")
	}
	// DISCONNECT may shorten it.
	c := dialPlain(t, b.plain, plane.V5).connected("short", expiry(3600))
	c.send(&plane.Disconnect{HasSessionExpiry: true})
	c.closed()
	b.gone(t, "short")
	if present(plane.V5, "short", expiry(0)) {
		t.Error("a session stayed whose client ended it")
	}
	// And time ends it, with what waits in it.
	c = dialPlain(t, b.plain, plane.V5).connected("second", expiry(1)).subscribe("x", mqtt.QoS1)
	_ = c.nc.Close()
	b.gone(t, "second")
	if err := b.Publish(t.Context(), mqtt.Message{Topic: "x", QoS: mqtt.QoS1}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	b.mu.Lock()
	s := b.sessions["second"]
	b.mu.Unlock()
	go func() {
		defer close(ended)
		for { // the session is taken out of the index when it ends
			if b.index.count(s) == 0 {
				return
			}
			select {
			case <-t.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	<-ended
	if present(plane.V5, "second", expiry(1)) {
		t.Error("a session outlived its expiry")
	}
	if n := b.Stats().Dropped["session-end"]; n != 1 {
		t.Errorf("%d messages dropped with their session", n)
	}
}

func TestQueueFull(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts Options
		want string
	}{
		{"drop oldest by number", Options{MaxQueuedMessages: 3}, "5 6 7"},
		{"drop newest by number", Options{MaxQueuedMessages: 3, WhenFull: DropNewest}, "0 1 2"},
		{"drop oldest by bytes", Options{MaxQueuedBytes: 2 * 258}, "6 7"},
		{"drop oldest by bytes in all", Options{MaxQueuedBytesTotal: 2 * 258}, "6 7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, tc.opts)
			c := dialPlain(t, b.plain, plane.V5).connected("away", staying).subscribe("q", mqtt.QoS1)
			_ = c.nc.Close()
			b.gone(t, "away")
			for i := range 8 {
				if err := b.Publish(t.Context(), mqtt.Message{Topic: "q", Payload: []byte(fmt.Sprint(i)), QoS: mqtt.QoS1}); err != nil {
					t.Fatal(err)
				}
			}
			if n := b.events.count(kind(Limit)); n != 1 {
				t.Errorf("%d events of the full queue, want 1", n)
			}
			c = dialPlain(t, b.plain, plane.V5).connected("away", staying)
			var got []string
			for range strings.Fields(tc.want) {
				got = append(got, c.settle().text)
			}
			if list := strings.Join(got, " "); list != tc.want {
				t.Errorf("received %s, want %s", list, tc.want)
			}
			if s := b.Stats(); s.Dropped["queue-full"] != 8-uint64(len(got)) {
				t.Errorf("dropped %v", s.Dropped)
			}
		})
	}
}

func TestMessageExpiry(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dialPlain(t, b.plain, plane.V5).connected("away", staying).subscribe("q", mqtt.QoS1)
	_ = c.nc.Close()
	b.gone(t, "away")
	for i, s := range []uint32{1, 1000, 0} {
		m := mqtt.Message{Topic: "q", Payload: []byte(fmt.Sprint(i)), QoS: mqtt.QoS1, ExpirySeconds: s}
		if err := b.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(1100 * time.Millisecond)
	c = dialPlain(t, b.plain, plane.V5).connected("away", staying)
	p := c.settle()
	if p.text != "1" || len(p.props) != 5 || p.props[0] != 2 {
		t.Fatalf("received %+v", p)
	}
	if left := binary.BigEndian.Uint32(p.props[1:]); left >= 1000 || left < 990 { // [MQTT-3.3.2-6]
		t.Errorf("%d seconds are left", left)
	}
	if p := c.settle(); p.text != "2" || len(p.props) != 0 {
		t.Errorf("received %+v", p)
	}
}

// smallBuffers keeps the kernel from hiding a stalled client.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		err = nc.(*net.TCPConn).SetWriteBuffer(4096)
	}
	return nc, err
}

func (tb *testBroker) listenSmall(t *testing.T) string {
	t.Helper()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := tb.Serve(Listener{Name: "small", Net: smallBuffers{nl}}); err != nil {
		t.Fatal(err)
	}
	return nl.Addr().String()
}

// A subscriber that does not read slows nobody, costs no more than its buffer, and is cut off.
func TestStalledSubscriber(t *testing.T) {
	t.Parallel()
	b := start(t, Options{StallTimeout: time.Second, MaxOutboundBytes: 64 << 10, MaxQueuedMessages: 100})
	address := b.listenSmall(t)
	for qos := range mqtt.QoS(2) {
		dialPlain(t, address, plane.V5).connected(fmt.Sprint("stalled", qos), staying).subscribe("flood", qos)
	}
	healthy := dialPlain(t, b.plain, plane.V5).connected("healthy").subscribe("other", mqtt.QoS1)
	pub := dialPlain(t, b.plain, plane.V5).connected("pub")
	payload := strings.Repeat("x", 30_000)
	went := 0
	stalled := func(e Event) bool { return e.Kind == Limit && strings.Contains(e.Reason, "takes nothing") }
	for b.events.count(stalled) < 2 && went < 100_000 {
		for range 50 {
			pub.publish("flood", payload, mqtt.QoS1, 1)
			pub.read(plane.PUBACK)
			went++
		}
		pub.publish("other", "x", mqtt.QoS1, 2)
		healthy.settle()
		pub.read(plane.PUBACK)
	}
	for qos := range mqtt.QoS(2) {
		id := fmt.Sprint("stalled", qos)
		e := b.events.await(t, "cut off", func(e Event) bool { return e.Kind == Disconnected && e.ClientID == id })
		if e.Code != mqtt.QuotaExceeded {
			t.Errorf("event %+v", e)
		}
	}
	if s := b.Stats(); s.Dropped["slow"] == 0 || s.Dropped["queue-full"] == 0 || s.Refused["stalled"] != 2 {
		t.Errorf("after %d messages: stats %+v", went, s)
	}
}

// Responses that a client does not read are bounded, too.
func TestUnreadResponses(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxOutboundBytes: 1 << 10})
	c := dialPlain(t, b.listenSmall(t), plane.V5)
	if err := c.nc.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	c.connected("c")
	pings := []byte(strings.Repeat("\xc0\x00", 1000))
	for b.events.count(kind(Limit)) == 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(2 * patience)) // longer than the default StallTimeout, which bounds it too
		if _, err := c.nc.Write(pings); err != nil {
			break
		}
	}
	e := b.events.await(t, "limit", kind(Limit))
	if e.ClientID != "c" || e.Code != mqtt.QuotaExceeded {
		t.Errorf("event %+v", e)
	}
}

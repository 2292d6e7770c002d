package broker

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

func versions(t *testing.T, test func(t *testing.T, version byte)) {
	t.Helper()
	for _, v := range []struct {
		name    string
		version byte
	}{{"3.1.1", plane.V311}, {"5.0", plane.V5}} {
		t.Run(v.name, func(t *testing.T) { test(t, v.version) })
	}
}

// Bytes that nobody should send end the connection with the reason that the standard gives, and
// cost nobody else anything.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxPacketBytes: 4096, MaxTopicLevels: 10})
	well := dialPlain(t, b.plain, plane.V5).connected("well")
	for _, tc := range []struct {
		name  string
		frame []byte
		want  mqtt.ReasonCode
	}{
		{"SUBSCRIBE that ends before its options, which panics mochi 2.7.9", []byte{0x82, 0x06, 0, 1, 0, 0, 1, 'a'}, mqtt.MalformedPacket},
		{"second CONNECT", (&plane.Connect{Version: plane.V5, ClientID: "twice"}).Append(nil, plane.V5), mqtt.ProtocolError},
		{"larger than the limit", []byte{0x30, 0xff, 0xff, 0x03}, mqtt.PacketTooLarge},
		{"length of five bytes", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0x01}, mqtt.MalformedPacket},
		{"packet of a server", []byte{0x20, 2, 0, 0}, mqtt.ProtocolError},
		{"AUTH without a method", []byte{0xf0, 0}, mqtt.ProtocolError},
		{"alias that was never set", []byte{0x30, 6, 0, 0, 3, 0x23, 0, 1}, mqtt.ProtocolError},
		{"alias above the maximum", []byte{0x30, 7, 0, 1, 'a', 3, 0x23, 0x7f, 0xff}, mqtt.TopicAliasInvalid},
		{"session expiry that was 0", []byte{0xe0, 7, 0, 5, 0x11, 0, 0, 0, 9}, mqtt.ProtocolError},
		{"PUBLISH to a filter", []byte{0x30, 4, 0, 1, '#', 0}, mqtt.MalformedPacket},
	} {
		for _, version := range []byte{plane.V311, plane.V5} {
			c := dialPlain(t, b.plain, version).connected("bad")
			frame := tc.frame
			if version == plane.V311 && frame[0]>>4 == byte(plane.PUBLISH) && tc.want != mqtt.PacketTooLarge && tc.want != mqtt.MalformedPacket {
				continue // the properties would be payload
			}
			c.write(frame)
			c.disconnected(tc.want)
		}
	}
	well.flush()
}

func TestFirstPacketMustBeConnect(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dialPlain(t, b.plain, plane.V5)
	c.send(&plane.Ping{})
	c.closed()
	b.events.await(t, "refused", func(e Event) bool { return e.Kind == ConnectRefused && e.Code == mqtt.ProtocolError })
}

func TestBadConnects(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, tc := range []struct {
		name    string
		frame   string
		version byte
		want    []byte // CONNACK, nil for none
	}{
		{"MQTT 3.1", "\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00", plane.V311, []byte{0, 1}},
		{"MQTT 6, told in the newest form", "\x10\x0c\x00\x04MQTT\x06\x02\x00\x3c\x00\x00", plane.V5, []byte{0, 0x84}},
		{"another protocol", "\x10\x0c\x00\x04COAP\x04\x02\x00\x3c\x00\x00", plane.V311, nil},
		{"malformed 3.1.1", "\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00", plane.V311, nil},
		{"malformed 5.0", "\x10\x0d\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x00", plane.V5, []byte{0, 0x81}},
		{"protocol error 5.0", "\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x00\x00\x00", plane.V5, []byte{0, 0x82}},
		{"authentication method", "\x10\x11\x00\x04MQTT\x05\x02\x00\x3c\x04\x15\x00\x01m\x00\x00", plane.V5, []byte{0, 0x8c}},
		{"no identifier for a session that stays, MQTT 3.1.1 §3.1.3.1", "\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00", plane.V311, []byte{0, 2}},
	} {
		c := dialPlain(t, b.plain, tc.version)
		c.write([]byte(tc.frame))
		if tc.want != nil {
			if p := c.read(plane.CONNACK); !bytes.Equal(p.codes, tc.want) {
				t.Errorf("%s: CONNACK %x, want %x", tc.name, p.codes, tc.want)
			}
		}
		c.closed()
	}
}

func TestRandomBytes(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		for _, address := range []string{b.plain, b.tls} {
			nc, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			noise := make([]byte, random.IntN(300))
			for i := range noise {
				noise[i] = byte(random.Uint32())
			}
			_, _ = nc.Write(noise)
			_ = nc.Close()
		}
	}
	// After a CONNECT as well: a valid type and length with noise behind it.
	for i := range 300 {
		version := []byte{plane.V311, plane.V5}[i%2]
		c := dialPlain(t, b.plain, version).connected("noise")
		frame := []byte{byte(random.Uint32()), byte(random.IntN(60))}
		for range frame[1] {
			frame = append(frame, byte(random.Uint32()>>(random.IntN(8))))
		}
		_, _ = c.nc.Write(append(frame, 0xff, 0xff, 0xff, 0xff, 0xff))
		for {
			if _, err := c.tryRead(); err != nil {
				break
			}
		}
	}
	dialTLS(t, b.tls, "lamp", plane.V5).connected("lamp").flush()
	if s := b.Stats(); s.Panics != 0 {
		t.Errorf("%d panics", s.Panics)
	}
}

// A client that says nothing, or says it too slowly, is gone after the handshake timeout.
func TestSlowConnects(t *testing.T) {
	t.Parallel()
	b := start(t, Options{HandshakeTimeout: 300 * time.Millisecond})
	for name, dial := range map[string]func() net.Conn{
		"silent": func() net.Conn { return dialPlain(t, b.plain, 4).nc },
		"half a CONNECT": func() net.Conn {
			c := dialPlain(t, b.plain, 4)
			c.write([]byte{0x10, 0x20, 0, 4})
			return c.nc
		},
		"silent before TLS": func() net.Conn { return dialPlain(t, b.tls, 4).nc },
		"half a client hello": func() net.Conn {
			c := dialPlain(t, b.tls, 4)
			c.write([]byte{22, 3, 1, 1, 0})
			return c.nc
		},
		"silent after TLS": func() net.Conn { return dialTLS(t, b.tls, "lamp", 4).nc },
	} {
		nc := dial()
		began := time.Now()
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := nc.Read(make([]byte, 1)); isTimeout(err) {
			t.Errorf("%s: still open after %v", name, time.Since(began))
		}
	}
	// One byte at a time: the time is for all of it.
	c := dialPlain(t, b.plain, 4)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 200 {
			if _, err := c.nc.Write([]byte{0x10}); err != nil {
				return
			}
			<-tick.C
		}
	}()
	c.closed()
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	versions(t, func(t *testing.T, version byte) {
		id := "silent-" + string('0'+rune(version))
		c := dialPlain(t, b.plain, version).connected(id, func(c *plane.Connect) { c.KeepAlive = 1 })
		// A packet that never ends does not count as one.
		c.write([]byte{0x30})
		began := time.Now()
		c.disconnected(mqtt.KeepAliveTimeout)
		if d := time.Since(began); d < 1300*time.Millisecond || d > 5*time.Second {
			t.Errorf("closed after %v, want 1.5 s", d)
		}
		b.events.await(t, "keep alive", func(e Event) bool {
			return e.Kind == Disconnected && e.ClientID == id && e.Code == mqtt.KeepAliveTimeout
		})
	})
	// What overflows mochi's 16 bits: 65,535 s must not be closed at once.
	dialPlain(t, b.plain, plane.V5).connected("long", func(c *plane.Connect) { c.KeepAlive = 65_535 }).flush()
}

// What comes with the CONNECT is handled after the CONNACK, in order, and not at all after a refusal.
func TestPipelinedConnect(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	var frames []byte
	hello := &plane.Connect{Version: plane.V5, ClientID: "eager", CleanStart: true}
	for _, p := range []plane.Packet{
		hello,
		&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: "a", QoS: mqtt.QoS1}}},
		&plane.Publish{Message: mqtt.Message{Topic: "a", Payload: []byte("x"), QoS: mqtt.QoS1}, PacketID: 2},
		&plane.Ping{},
	} {
		frames = p.Append(frames, plane.V5)
	}
	c := dialPlain(t, b.plain, plane.V5)
	c.write(frames)
	c.read(plane.CONNACK)
	c.read(plane.SUBACK)
	c.read(plane.PUBLISH)
	c.read(plane.PUBACK)
	c.read(plane.PINGRESP)

	watcher := dialPlain(t, b.plain, plane.V5).connected("watcher").subscribe("a", mqtt.QoS1)
	b.auth.set(func(a *testAuthority) {
		a.ask = func(c ConnInfo) error {
			if c.ClientID == "refused" {
				return &Refusal{Reason: mqtt.Banned}
			}
			return nil
		}
	})
	hello.ClientID = "refused"
	c = dialPlain(t, b.plain, plane.V5)
	c.write(append(hello.Append(nil, plane.V5), frames[len((&plane.Connect{Version: plane.V5, ClientID: "eager", CleanStart: true}).Append(nil, 5)):]...))
	if p := c.read(plane.CONNACK); mqtt.ReasonCode(p.codes[1]) != mqtt.Banned {
		t.Errorf("CONNACK %x", p.codes)
	}
	c.closed()
	watcher.publish("a", "mine", mqtt.QoS0, 0)
	if p := watcher.read(plane.PUBLISH); p.text != "mine" {
		t.Errorf("a publish of a refused client was delivered: %q", p.text)
	}
}

package broker

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// mochi holds nothing but the connections: whatever else it held would be lost or wrong.
func TestControlPlaneHoldsNothing(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dialPlain(t, b.plain, plane.V5).connected("c", staying, func(c *plane.Connect) {
		c.Will = &plane.Will{DelaySeconds: 60, Message: mqtt.Message{Topic: "will"}}
		c.HasPassword, c.Password = true, plane.Secret("hunter2")
	}).subscribe("#", mqtt.QoS2)
	for qos := range mqtt.QoS(3) {
		c.send(&plane.Publish{Message: mqtt.Message{Topic: "a", Payload: []byte("x"), QoS: qos, Retain: true}, PacketID: 1})
	}
	c.flushAll()
	if cl, ok := b.ctl.Clients.Get("c"); !ok {
		t.Error("mochi does not know the connection")
	} else if cl.State.Inflight.Len() != 0 || cl.State.Subscriptions.Len() != 0 || cl.Properties.Will.Flag != 0 || len(cl.Properties.Username) != 0 {
		t.Errorf("mochi holds %+v", cl.Properties)
	}
	if b.ctl.Topics.Retained.Len() != 0 {
		t.Error("mochi holds retained messages")
	}
	_ = c.nc.Close()
	b.gone(t, "c")
	if n := b.ctl.Clients.Len(); n != 0 {
		t.Errorf("mochi holds %d clients that have left", n)
	}
}

// flushAll is flush with whatever else comes.
func (c *client) flushAll() {
	c.t.Helper()
	c.send(&plane.Ping{})
	for {
		p, err := c.tryRead()
		if err != nil {
			c.t.Fatal(err)
		}
		if p.typ == plane.PINGRESP {
			return
		}
	}
}

// Nothing secret reaches the log, whatever happens and however much is logged.
func TestLogIsClean(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return text.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	b := start(t, Options{Log: log})
	b.auth.ask = func(c ConnInfo) error {
		if c.ClientID == "bad" {
			return fmt.Errorf("cannot ask about %+v", c)
		}
		return nil
	}
	for _, id := range []string{"good", "bad"} {
		c := dialPlain(t, b.plain, plane.V311)
		c.connect(id, user("lamp"), func(c *plane.Connect) {
			c.HasPassword, c.Password = true, plane.Secret("hunter2")
			c.Will = &plane.Will{Message: mqtt.Message{Topic: "w", Payload: []byte("payload")}}
		})
		if id == "good" {
			c.publish("a", "payload", mqtt.QoS2, 1)
			c.flushAll()
			c.write([]byte{0x36, 1, 2})
			c.closed()
		}
	}
	b.stop()
	mu.Lock()
	defer mu.Unlock()
	if s := text.String(); strings.Contains(s, "hunter2") || strings.Contains(s, "payload") || !strings.Contains(s, "cannot ask") {
		t.Errorf("log: %s", s)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A client that asks for short TLS records gets them (RFC 6066 §4).
func TestSmallRecords(t *testing.T) {
	t.Parallel()
	next := 0
	config := noteSmallRecords(func(*tls.ClientHelloInfo) (*tls.Config, error) {
		next++
		return nil, nil
	})
	for _, extensions := range [][]uint16{{0, 10, 1}, {0, 10}} {
		s := &socket{}
		if _, err := config(&tls.ClientHelloInfo{Conn: s, Extensions: extensions}); err != nil {
			t.Fatal(err)
		}
		if got, want := s.small.Load(), len(extensions) == 3; got != want {
			t.Errorf("extensions %v: small records %v", extensions, got)
		}
	}
	if next != 2 {
		t.Error("the listener's own choice was not asked")
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/store/msglog"
)

// Nothing acknowledges a message before the log has it, and the connection goes on meanwhile.
func TestAcknowledgedMeansCommitted(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "up/#", nil)
	b.consume(t, 2, "up/a", nil)
	b.consume(t, 3, "#", func(m *mqtt.Message) bool { return m.Topic != "up/a" })
	versions(t, func(t *testing.T, version byte) {
		before := len(b.log.messages(t))
		b.log.hold()
		c := dialPlain(t, b.plain, version).connected("lamp", user("lamp"))
		c.publish("up/a", "1", mqtt.QoS1, 1)
		c.publish("up/b", "2", mqtt.QoS1, 2)
		c.flush() // read on, nothing acknowledged
		c.publish("up/c", "3", mqtt.QoS0, 0)
		c.publish("up/d", "4", mqtt.QoS2, 4)
		b.log.await(t, before+4)
		go b.log.release()
		for _, want := range []plane.Type{plane.PUBACK, plane.PUBACK, plane.PUBREC} { // in order
			if p := c.read(want); p.codes[0] != 0 {
				t.Errorf("acknowledged with %x", p.codes)
			}
		}
		entries := b.log.entries[before:]
		for i, want := range []string{"[1 2]", "[1 3]", "[1 3]", "[1 3]"} { // once, for all who need it
			if got := fmt.Sprint(entries[i].Consumers); got != want {
				t.Errorf("message %d is for %s, want %s", i, got, want)
			}
			if want := i != 2; entries[i].Sync != want {
				t.Errorf("message %d: Sync is %v", i, entries[i].Sync)
			}
		}
		m := b.log.messages(t)[before]
		if m.Topic != "up/a" || string(m.Payload) != "1" || m.QoS != mqtt.QoS1 || m.Publisher.ClientID != "lamp" || m.Publisher.Device.String() != "lamp" {
			t.Errorf("kept %+v", m)
		}
		_ = c.nc.Close()
		b.gone(t, "lamp")
	})
}

func TestUnmatchedIsNotKept(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "up/#", func(m *mqtt.Message) bool { return m.Publisher.Origin != "bridge:cloud" })
	c := dialPlain(t, b.plain, plane.V5).connected("c")
	c.publish("down/a", "1", mqtt.QoS1, 1)
	c.read(plane.PUBACK)
	from := mqtt.Publisher{Origin: "bridge:cloud", ClientID: "ignored"}
	if err := b.Publish(t.Context(), mqtt.Message{Topic: "up/a", QoS: mqtt.QoS1, Publisher: from}); err != nil {
		t.Fatal(err)
	}
	if n := len(b.log.messages(t)); n != 0 {
		t.Errorf("%d messages kept", n)
	}
}

func TestLogFails(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "up/#", nil)
	b.log.failWith(fmt.Errorf("%w: disk", msglog.ErrFull))
	c := dialPlain(t, b.plain, plane.V5).connected("five")
	c.publish("up/a", "1", mqtt.QoS1, 1)
	if p := c.read(plane.PUBACK); mqtt.ReasonCode(p.codes[0]) != mqtt.QuotaExceeded {
		t.Errorf("PUBACK %x", p.codes)
	}
	c.publish("up/a", "1", mqtt.QoS2, 2)
	if p := c.read(plane.PUBREC); mqtt.ReasonCode(p.codes[0]) != mqtt.QuotaExceeded {
		t.Errorf("PUBREC %x", p.codes)
	}
	for _, qos := range []mqtt.QoS{mqtt.QoS1, mqtt.QoS2} {
		old := dialPlain(t, b.plain, plane.V311).connected("three")
		old.publish("up/a", "1", qos, 1)
		old.closed() // without an acknowledgment
	}
	if err := b.Publish(t.Context(), mqtt.Message{Topic: "up/a", QoS: mqtt.QoS1}); !errors.Is(err, msglog.ErrFull) {
		t.Errorf("Publish: %v", err)
	}
	b.log.failWith(errDisk)
	c.publish("up/a", "1", mqtt.QoS1, 1)
	if p := c.read(plane.PUBACK); mqtt.ReasonCode(p.codes[0]) != mqtt.ImplementationSpecificError {
		t.Errorf("PUBACK %x", p.codes)
	}
	b.log.failWith(nil)
	c.publish("up/a", "1", mqtt.QoS1, 1)
	if p := c.read(plane.PUBACK); p.codes[0] != 0 {
		t.Errorf("PUBACK after the disk has room again: %x", p.codes)
	}
}

// A QoS 2 publish that is sent again is kept and delivered once, also over another connection.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "#", nil)
	watcher := dialPlain(t, b.plain, plane.V5).connected("watcher").subscribe("#", mqtt.QoS2)
	versions(t, func(t *testing.T, version byte) {
		id := "twice" + string('0'+rune(version))
		c := dialPlain(t, b.plain, version).connected(id, staying)
		again := &plane.Publish{Message: mqtt.Message{Topic: id, Payload: []byte("x"), QoS: mqtt.QoS2}, Dup: true, PacketID: 9}
		c.publish(id, "x", mqtt.QoS2, 9)
		c.read(plane.PUBREC)
		c.send(again)
		if p := c.read(plane.PUBREC); p.codes[0] != 0 {
			t.Errorf("repeated publish was answered %x", p.codes)
		}
		_ = c.nc.Close()
		b.gone(t, id)
		c = dialPlain(t, b.plain, version).connected(id, staying)
		c.send(again)
		if p := c.read(plane.PUBREC); p.codes[0] != 0 {
			t.Errorf("repeated publish after reconnecting was answered %x", p.codes)
		}
		c.send(&plane.Ack{Type: plane.PUBREL, PacketID: 9})
		c.read(plane.PUBCOMP)
		c.send(&plane.Ack{Type: plane.PUBREL, PacketID: 9})
		if p := c.read(plane.PUBCOMP); version == plane.V5 && mqtt.ReasonCode(p.codes[0]) != mqtt.PacketIdentifierNotFound {
			t.Errorf("second PUBREL was answered %x", p.codes)
		}
		c.publish(id, "new", mqtt.QoS2, 9) // the identifier is free again
		c.read(plane.PUBREC)
		for _, want := range []string{"x", "new"} {
			if p := watcher.settle(); p.topic != id || p.text != want {
				t.Errorf("delivered %s %s, want %s", p.topic, p.text, want)
			}
		}
	})
	if n := len(b.log.messages(t)); n != 4 {
		t.Errorf("%d messages in the log, want 4", n)
	}
}

func TestReceiveMaximum(t *testing.T) {
	t.Parallel()
	b := start(t, Options{ReceiveMaximum: 3})
	b.consume(t, 1, "#", nil)
	b.log.hold()
	c := dialPlain(t, b.plain, plane.V5).connected("five")
	old := dialPlain(t, b.plain, plane.V311).connected("three")
	for id := range uint16(3) {
		c.publish("a", "x", mqtt.QoS1, id+1)
		old.publish("a", "x", mqtt.QoS1, id+1)
	}
	b.log.await(t, 6)
	old.publish("a", "x", mqtt.QoS1, 4) // waits: it has not promised anything
	c.publish("a", "x", mqtt.QoS1, 4)
	c.disconnected(mqtt.ReceiveMaximumExceeded)
	if n := len(b.log.messages(t)); n != 6 {
		t.Errorf("%d messages in the log, want 6", n)
	}
	b.log.release()
	for range 4 {
		old.read(plane.PUBACK)
	}

	c = dialPlain(t, b.plain, plane.V5).connected("five")
	for id := range uint16(3) { // QoS 2 counts until it is released
		c.publish("a", "x", mqtt.QoS2, id+1)
		c.read(plane.PUBREC)
	}
	c.publish("a", "x", mqtt.QoS0, 0) // QoS 0 does not count
	c.flush()
	c.publish("a", "x", mqtt.QoS1, 4)
	c.disconnected(mqtt.ReceiveMaximumExceeded)
}

// Stopping waits for the commits that acknowledgments wait for.
func TestShutdownReleasesAcknowledgments(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "#", nil)
	b.log.hold()
	c := dialPlain(t, b.plain, plane.V5).connected("c")
	c.publish("a", "x", mqtt.QoS1, 1)
	b.log.await(t, 1)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.stop()
	}()
	// The listener closes before the connections are told.
	for {
		nc, err := dialQuick(b.plain)
		if err != nil {
			break
		}
		_ = nc.Close()
	}
	b.log.release()
	c.read(plane.PUBACK)
	c.disconnected(mqtt.ServerShuttingDown)
	<-stopped
}

func TestLocalPublishWaitsForTheLog(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "#", nil)
	b.log.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Publish(ctx, mqtt.Message{Topic: "a", QoS: mqtt.QoS1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish before the commit: %v", err)
	}
	if err := b.Publish(t.Context(), mqtt.Message{Topic: "a"}); err != nil {
		t.Errorf("QoS 0 waits: %v", err)
	}
	b.log.release()
	if err := b.Publish(t.Context(), mqtt.Message{Topic: "a", QoS: mqtt.QoS2}); err != nil {
		t.Error(err)
	}
}

func TestLocalPublishRefused(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxPacketBytes: 100, MaxRetained: 1})
	for name, m := range map[string]mqtt.Message{
		"no topic":       {},
		"wildcard":       {Topic: "a/#"},
		"QoS 3":          {Topic: "a", QoS: 3},
		"too large":      {Topic: "a", Payload: make([]byte, 101)},
		"retained call":  {Topic: "lamp/rpc", Payload: []byte("x"), Retain: true},
		"broker's topic": {Topic: "$SYS/x"},
	} {
		want := ErrNotPublishable
		if name == "too large" {
			want = ErrTooLarge
		}
		if err := b.Publish(t.Context(), m); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	for i, want := range []error{nil, ErrNoRoom} {
		if err := b.Publish(t.Context(), mqtt.Message{Topic: fmt.Sprint(i), Payload: []byte("x"), Retain: true}); !errors.Is(err, want) {
			t.Errorf("retained message %d: %v", i, err)
		}
	}
	c := dialPlain(t, b.plain, plane.V5).connected("c")
	c.send(&plane.Publish{Message: mqtt.Message{Topic: "more", Payload: []byte("x"), QoS: mqtt.QoS1, Retain: true}, PacketID: 1})
	if p := c.read(plane.PUBACK); mqtt.ReasonCode(p.codes[0]) != mqtt.QuotaExceeded {
		t.Errorf("PUBACK %x", p.codes)
	}
}

// The real log, from the publisher's acknowledgment to what a reopened log gives its consumer.
func TestRealLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() (*msglog.Log, *msglog.Consumer) {
		l, err := msglog.Open(dir, msglog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Consumer("rule", msglog.ConsumerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l, c
	}
	l, consumer := open()
	auth := &testAuthority{}
	b := &testBroker{Broker: New(auth, l, Options{}), auth: auth, events: newRecorder()}
	if _, err := b.AddConsumer(DurableConsumer{Name: "rule", Filter: "up/#", Log: consumer}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddConsumer(DurableConsumer{Name: "again", Filter: "#", Log: consumer}); err == nil {
		t.Error("two consumers read as one")
	}
	if _, err := b.AddConsumer(DurableConsumer{Name: "shared", Filter: "$share/g/#"}); err == nil {
		t.Error("a consumer without a reader and with a shared filter was added")
	}
	address := b.listen(t, Listener{Name: "plain"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	c := dialPlain(t, address, plane.V5).connected("lamp", user("lamp"))
	const n = 50
	for i := range uint16(n) {
		c.publish("up/x", fmt.Sprint(i), mqtt.QoS1, i+1)
	}
	for i := range uint16(n) {
		if p := c.read(plane.PUBACK); p.id != i+1 || p.codes[0] != 0 {
			t.Fatalf("PUBACK %d %x, want %d", p.id, p.codes, i+1)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l, consumer = open()
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i := 0; i < n; {
		records, err := consumer.Read(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			m, err := mqtt.ParseMessage(r.Body)
			if err != nil || string(m.Payload) != fmt.Sprint(i) || m.Publisher.Device.String() != "lamp" {
				t.Fatalf("record %d: %+v, %v", i, m, err)
			}
			i++
		}
	}
}

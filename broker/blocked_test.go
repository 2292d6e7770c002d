package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/store/msglog"
)

func (l *fakeLog) block(blocked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocked, l.tried = blocked, 0
}

// awaitTry waits until somebody has found the log blocked.
func (l *fakeLog) awaitTry(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		l.mu.Lock()
		n := l.tried
		l.mu.Unlock()
		if n > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody asks the log")
		}
	}
}

// A consumer whose policy is to block makes its publishers wait, and only them: nothing is
// acknowledged, and nothing is lost when there is room again.
func TestBlockedConsumer(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "up/#", nil)
	other := dialPlain(t, b.plain, plane.V5).connected("other").subscribe("down", mqtt.QoS1)
	for _, qos := range []mqtt.QoS{mqtt.QoS1, mqtt.QoS2} {
		before := len(b.log.messages(t))
		b.log.block(true)
		c := dialPlain(t, b.plain, plane.V311).connected("c")
		c.publish("up/a", "x", qos, 1)
		b.log.awaitTry(t)
		other.publish("down", "y", mqtt.QoS0, 0)
		other.settle()
		b.log.block(false)
		c.read(map[mqtt.QoS]plane.Type{mqtt.QoS1: plane.PUBACK, mqtt.QoS2: plane.PUBREC}[qos])
		if n := len(b.log.messages(t)); n != before+1 {
			t.Errorf("QoS %v: %d messages kept", qos, n-before)
		}
	}

	b.log.block(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := b.Publish(ctx, mqtt.Message{Topic: "up/a", QoS: mqtt.QoS1})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, msglog.ErrBlocked) {
		t.Errorf("Publish to a consumer that blocks: %v", err)
	}
	if err := b.Publish(t.Context(), mqtt.Message{Topic: "up/a"}); err != nil { // dropped for the consumer
		t.Error(err)
	}
	if n := b.Stats().Refused["log"]; n != 1 {
		t.Errorf("refused %v", b.Stats().Refused)
	}
}

func TestBlockedForTooLong(t *testing.T) {
	t.Parallel()
	b := start(t, Options{StallTimeout: 50 * time.Millisecond})
	b.consume(t, 1, "up/#", nil)
	b.log.block(true)
	c := dialPlain(t, b.plain, plane.V5).connected("five")
	c.publish("up/a", "x", mqtt.QoS1, 1)
	if p := c.read(plane.PUBACK); mqtt.ReasonCode(p.codes[0]) != mqtt.QuotaExceeded {
		t.Errorf("PUBACK %x", p.codes)
	}
	old := dialPlain(t, b.plain, plane.V311).connected("three")
	old.publish("up/a", "x", mqtt.QoS2, 1)
	old.closed()
}

// A connection that ends while its QoS 2 publish is being committed does not make it twice.
func TestQoS2CommitOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "#", nil)
	b.log.hold()
	c := dialPlain(t, b.plain, plane.V5).connected("c", staying)
	c.publish("a", "x", mqtt.QoS2, 7)
	b.log.await(t, 1)
	_ = c.nc.Close()
	b.log.release()
	b.gone(t, "c")
	c = dialPlain(t, b.plain, plane.V5).connected("c", staying)
	c.send(&plane.Publish{Message: mqtt.Message{Topic: "a", Payload: []byte("x"), QoS: mqtt.QoS2}, Dup: true, PacketID: 7})
	c.read(plane.PUBREC)
	if n := len(b.log.messages(t)); n != 1 {
		t.Errorf("%d messages kept, want 1", n)
	}
}

// A will is not what later packets left of it in the read buffer.
func TestWillIsKeptAsSent(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	got := make(chan mqtt.Message, 1)
	if _, err := b.Subscribe("will", func(m mqtt.Message) { got <- m }); err != nil {
		t.Fatal(err)
	}
	c := dialPlain(t, b.plain, plane.V5).connected("c", func(c *plane.Connect) {
		c.Will = &plane.Will{Message: mqtt.Message{Topic: "will", Payload: []byte("my last words"), CorrelationData: []byte("correlation")}}
	})
	for range 10 {
		c.publish("other", "something that is longer than the CONNECT was, and overwrites it in the buffer", mqtt.QoS0, 0)
		c.flush()
	}
	_ = c.nc.Close()
	if m := <-got; string(m.Payload) != "my last words" || string(m.CorrelationData) != "correlation" {
		t.Errorf("will %q %q", m.Payload, m.CorrelationData)
	}
}

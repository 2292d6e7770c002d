package upstreamtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

func testEndsWhenAsked(t *testing.T, u bridge.Upstream, _ Far) {
	d := u.Describe()
	if d.Address == "" || d.Broker == "" || d != u.Describe() {
		t.Errorf("Describe = %+v, then %+v: want an address and a broker, always the same", d, u.Describe())
	}
	for range 3 {
		if err := connect(t, u).ready().end(); err != nil {
			t.Errorf("Run = %v after it was asked to end, want nil", err)
		}
	}
	s := connect(t, u)
	if err := s.end(); err != nil {
		t.Errorf("Run = %v when asked to end at once, want nil", err)
	}
	select {
	case <-s.link: // it may have been connected by then
	default:
	}
}

func testPublishesInOrder(t *testing.T, u bridge.Upstream, far Far) {
	const n = 2000
	s := connect(t, u).ready()
	var r results
	for i := range n {
		s.up.Publish(numbered("order/up", i), r.done(i))
	}
	Until(t, "all acknowledged", func() bool { return r.acknowledged() == n })
	Until(t, "all received", func() bool { return len(far.Received()) >= n })
	r.check(t, n)
	if diff := cmp.Diff(numbers(0, n), payloads(far.Received(), "order/up")); diff != "" {
		t.Errorf("not received in order:\n%s", diff)
	}
}

func testKeepsOrderPerCaller(t *testing.T, u bridge.Upstream, far Far) {
	const n, callers = 300, 8
	s := connect(t, u).ready()
	var r results
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range n {
				s.up.Publish(numbered(fmt.Sprint("caller/", c), i), r.done(c*n+i))
			}
		})
	}
	wg.Wait()
	Until(t, "all acknowledged", func() bool { return r.acknowledged() == n*callers })
	Until(t, "all received", func() bool { return len(far.Received()) >= n*callers })
	r.check(t, n*callers)
	for c := range callers {
		if diff := cmp.Diff(numbers(0, n), payloads(far.Received(), fmt.Sprint("caller/", c))); diff != "" {
			t.Errorf("caller %d: not received in order:\n%s", c, diff)
		}
	}
}

func testQoS0AndRetain(t *testing.T, u bridge.Upstream, far Far) {
	s := connect(t, u).ready()
	var r results
	s.up.Publish(mqtt.Message{Topic: "q/0"}, r.done(0))
	s.up.Publish(mqtt.Message{Topic: "q/retained", Payload: []byte("x"), QoS: mqtt.QoS1, Retain: true}, r.done(1))
	Until(t, "both taken", func() bool { return r.acknowledged() == 2 })
	Until(t, "both received", func() bool { return len(far.Received()) == 2 })
	r.check(t, 2)
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	s = connectAcking(t, u, bridge.Subscription{Filter: "q/+", QoS: mqtt.QoS1}).ready()
	Until(t, "the retained message comes", func() bool { return len(s.received()) == 1 })
	want := mqtt.Message{Topic: "q/retained", Payload: []byte("x"), QoS: mqtt.QoS1, Retain: true}
	if diff := cmp.Diff(want, s.received()[0]); diff != "" {
		t.Errorf("the retained message (-want +got):\n%s", diff)
	}
}

func testRefusesForGood(t *testing.T, u bridge.Upstream, far Far) {
	s := connect(t, u).ready()
	for _, topic := range []string{"", "a/+", "a\x00", strings.Repeat("x", mqtt.MaxStringBytes+1)} {
		got := make(chan error, 1)
		s.up.Publish(mqtt.Message{Topic: topic, QoS: mqtt.QoS1}, func(err error) { got <- err })
		var refused *bridge.RefusedError
		if err := <-got; !errors.As(err, &refused) {
			t.Errorf("done(%v) for the topic %.20q, want a refusal for good", err, topic)
		}
	}
	var r results
	s.up.Publish(numbered("fine", 0), r.done(0))
	Until(t, "the connection still works", func() bool { return r.acknowledged() == 1 && len(far.Received()) == 1 })
}

func testReportsEverythingLost(t *testing.T, u bridge.Upstream, far Far) {
	const n = 5000
	s := connect(t, u).ready()
	var r results
	for i := range n {
		if i == n/2 {
			far.Stop()
		}
		s.up.Publish(numbered("lost", i), r.done(i))
	}
	err := s.wait()
	if !errors.Is(err, bridge.ErrClosed) {
		t.Errorf("Run = %v after the other side stopped, want %v", err, bridge.ErrClosed)
	}
	r.check(t, n) // all of them by the time that Run has returned
	var refused *bridge.RefusedError
	if slices.ContainsFunc(r.errs, func(e error) bool { return errors.As(e, &refused) }) {
		t.Errorf("a lost message is reported as refused: %v", refused)
	}
	late := make(chan error, 1)
	s.up.Publish(numbered("lost", n), func(err error) { late <- err })
	if err := <-late; err == nil {
		t.Error("a message was acknowledged after the connection had ended")
	}
	far.Start()
	Until(t, "connected again", func() bool {
		again := connect(t, u)
		select {
		case <-again.link:
			return again.end() == nil
		case err := <-again.err:
			again.err <- err
			return false
		}
	})
}

func testFailsWhileStopped(t *testing.T, u bridge.Upstream, far Far) {
	far.Stop()
	if err := connect(t, u).wait(); err == nil || errors.Is(err, bridge.ErrClosed) {
		t.Errorf("Run = %v while the other side is stopped, want an error that is not %v", err, bridge.ErrClosed)
	}
}

func testBringsDownInOrder(t *testing.T, u bridge.Upstream, far Far) {
	const n = 500
	subs := []bridge.Subscription{{Filter: "down/#", QoS: mqtt.QoS1}}
	for i := range 20 { // more than fit into one SUBSCRIBE of some brokers
		subs = append(subs, bridge.Subscription{Filter: mqtt.Filter(fmt.Sprint("other/", i)), QoS: mqtt.QoS0})
	}
	s := connectAcking(t, u, subs...).ready()
	if len(s.grants) != len(subs) || s.grants[0].Filter != "down/#" || s.grants[0].QoS != mqtt.QoS1 || s.grants[0].Refused {
		t.Errorf("granted %+v", s.grants)
	}
	for i := range n {
		if err := far.Publish(numbered("down/x", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := far.Publish(numbered("other/19", 0)); err != nil {
		t.Fatal(err)
	}
	Until(t, "all came down", func() bool { return len(s.received()) == n+1 })
	if diff := cmp.Diff(numbers(0, n), payloads(s.received(), "down/x")); diff != "" {
		t.Errorf("not in order:\n%s", diff)
	}
}

func testBringsUnacknowledgedAgain(t *testing.T, u bridge.Upstream, far Far) {
	sub := bridge.Subscription{Filter: "again/#", QoS: mqtt.QoS1}
	s := connect(t, u, sub).ready()
	for i := range 6 {
		if err := far.Publish(numbered("again/x", i)); err != nil {
			t.Fatal(err)
		}
	}
	Until(t, "all came down", func() bool { return len(s.received()) == 6 })
	for _, i := range []int{1, 2, 0} { // the others stay
		s.acks[i]()
	}
	if err := s.end(); err != nil { // what was acknowledged leaves first
		t.Fatal(err)
	}
	for _, ack := range s.acks {
		ack() // too late, and harmless
	}
	s = connectAcking(t, u, sub).ready()
	Until(t, "the rest comes again", func() bool { return len(s.received()) >= 3 })
	if err := far.Publish(numbered("again/x", 6)); err != nil {
		t.Fatal(err)
	}
	Until(t, "a new one comes", func() bool { return len(s.received()) >= 4 })
	if diff := cmp.Diff(numbers(3, 7), payloads(s.received(), "")); diff != "" {
		t.Errorf("on the second connection (-want +got):\n%s", diff)
	}
}

func testKeepsWhileAway(t *testing.T, u bridge.Upstream, far Far) {
	sub := bridge.Subscription{Filter: "away/#", QoS: mqtt.QoS1}
	if err := connect(t, u, sub).ready().end(); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := far.Publish(numbered("away/x", i)); err != nil {
			t.Fatal(err)
		}
	}
	s := connectAcking(t, u, sub).ready()
	Until(t, "all came down", func() bool { return len(s.received()) >= 50 })
	if diff := cmp.Diff(numbers(0, 50), payloads(s.received(), "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// testSlowReceiverEnds: a Message that waits does not keep Run from ending.
func testSlowReceiverEnds(t *testing.T, u bridge.Upstream, far Far) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	connected, blocked, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- u.Run(ctx, bridge.Session{
			Subscriptions: []bridge.Subscription{{Filter: "slow", QoS: mqtt.QoS1}},
			Connected:     func(bridge.Link, []bridge.Grant) { close(connected) },
			Message: func(ctx context.Context, _ mqtt.Message, _ func()) {
				once.Do(func() { close(blocked) })
				<-ctx.Done()
			},
		})
	}()
	<-connected
	if err := far.Publish(numbered("slow", 0)); err != nil {
		t.Fatal(err)
	}
	<-blocked
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not return while Message waits for the end of its context")
	}
}

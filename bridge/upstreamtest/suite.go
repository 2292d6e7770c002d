package upstreamtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

// Far is the other side of an upstream that is tested: a broker with somebody else connected to it
// who notes everything and publishes.
type Far interface {
	Received() []mqtt.Message     // in order of arrival, with repetitions
	Publish(m mqtt.Message) error // returns once the broker has it
	Stop()                        // breaks connections and refuses new ones
	Start()                       // undoes Stop; sessions were kept
}

// Run tests that the upstream that start returns is one. start is called for every test, with a
// broker that nobody else uses.
func Run(t *testing.T, start func(t *testing.T) (bridge.Upstream, Far)) {
	for name, test := range map[string]func(*testing.T, bridge.Upstream, Far){
		"EndsWhenAsked":             testEndsWhenAsked,
		"PublishesInOrder":          testPublishesInOrder,
		"KeepsOrderPerCaller":       testKeepsOrderPerCaller,
		"QoS0AndRetain":             testQoS0AndRetain,
		"RefusesForGood":            testRefusesForGood,
		"ReportsEverythingLost":     testReportsEverythingLost,
		"FailsWhileStopped":         testFailsWhileStopped,
		"BringsDownInOrder":         testBringsDownInOrder,
		"BringsUnacknowledgedAgain": testBringsUnacknowledgedAgain,
		"KeepsWhileAway":            testKeepsWhileAway,
		"SlowReceiverEnds":          testSlowReceiverEnds,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, far := start(t)
			test(t, u, far)
		})
	}
}

// Until waits until ok returns true, and fails the test if that takes longer than 20 seconds.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not after 20 seconds: %s", what)
		}
	}
}

// A session runs an upstream's connection and notes what it does.
type session struct {
	t      *testing.T
	cancel context.CancelFunc
	link   chan bridge.Link
	err    chan error // of Run
	up     bridge.Link

	mu       sync.Mutex
	messages []mqtt.Message
	acks     []func()
	autoAck  bool
	ended    bool
	late     bool // a callback came after Run had returned
	grants   []bridge.Grant
}

// connect runs a connection that acknowledges nothing; connectAcking one that acknowledges everything.
func connect(t *testing.T, u bridge.Upstream, subs ...bridge.Subscription) *session {
	t.Helper()
	return run(t, u, false, subs)
}

func connectAcking(t *testing.T, u bridge.Upstream, subs ...bridge.Subscription) *session {
	t.Helper()
	return run(t, u, true, subs)
}

func run(t *testing.T, u bridge.Upstream, autoAck bool, subs []bridge.Subscription) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{t: t, cancel: cancel, autoAck: autoAck, link: make(chan bridge.Link, 2), err: make(chan error, 1)}
	go func() {
		err := u.Run(ctx, bridge.Session{
			Subscriptions: subs,
			Connected: func(l bridge.Link, g []bridge.Grant) {
				s.note(func() { s.grants = g })
				s.link <- l
			},
			Message: func(_ context.Context, m mqtt.Message, ack func()) {
				s.note(func() {
					s.messages, s.acks = append(s.messages, m), append(s.acks, ack)
					if s.autoAck {
						ack()
					}
				})
			},
			TooLarge: func(string, int) { s.note(func() {}) },
		})
		s.note(func() { s.ended = true })
		s.err <- err
	}()
	t.Cleanup(func() {
		s.end()
		if s.late {
			t.Error("a callback came after Run had returned")
		}
		if len(s.link) > 0 {
			t.Error("Connected was called again")
		}
	})
	return s
}

func (s *session) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = s.late || s.ended
	f()
}

// ready waits until the connection is up.
func (s *session) ready() *session {
	s.t.Helper()
	select {
	case s.up = <-s.link:
	case err := <-s.err:
		s.t.Fatalf("Run = %v before it was connected", err)
	case <-time.After(20 * time.Second):
		s.t.Fatal("not connected after 20 seconds")
	}
	return s
}

// wait returns what Run returned.
func (s *session) wait() error {
	s.t.Helper()
	select {
	case err := <-s.err:
		s.err <- err
		return err
	case <-time.After(20 * time.Second):
		s.t.Fatal("Run does not return within 20 seconds")
	}
	return nil
}

func (s *session) end() error {
	s.t.Helper()
	s.cancel()
	return s.wait()
}

func (s *session) received() []mqtt.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// results collects what done was called with.
type results struct {
	mu   sync.Mutex
	n    map[int]int
	errs []error
	ok   int
}

func (r *results) done(i int) func(error) {
	return func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.n == nil {
			r.n = make(map[int]int)
		}
		r.n[i]++
		if err != nil {
			r.errs = append(r.errs, err)
		} else {
			r.ok++
		}
	}
}

// check fails unless done was called once for each of n messages.
func (r *results) check(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		if r.n[i] != 1 {
			t.Fatalf("done of message %d of %d was called %d times", i, n, r.n[i])
		}
	}
}

func (r *results) acknowledged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ok
}

func numbered(topic string, i int) mqtt.Message {
	return mqtt.Message{Topic: topic, Payload: fmt.Append(nil, i), QoS: mqtt.QoS1}
}

// payloads returns the payloads of the messages of one topic, "" for all.
func payloads(msgs []mqtt.Message, topic string) (p []string) {
	for _, m := range msgs {
		if topic == "" || m.Topic == topic {
			p = append(p, string(m.Payload))
		}
	}
	return p
}

func numbers(from, to int) (p []string) {
	for i := from; i < to; i++ {
		p = append(p, fmt.Sprint(i))
	}
	return p
}

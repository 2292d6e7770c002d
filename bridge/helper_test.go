package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatewayctl/bridge"
	"gatewayctl/bridge/rules"
	"gatewayctl/bridge/upstreamtest"
	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// localBroker is the least that the bridge needs of a broker: it stores what consumers want in the
// log before it returns, and notes everything.
type localBroker struct {
	log *msglog.Log

	mu        sync.Mutex
	consumers map[string]localConsumer
	got       []mqtt.Message
	refuse    func(m mqtt.Message) error
}

type localConsumer struct {
	filter mqtt.Filter
	id     msglog.ConsumerID
	accept func(*mqtt.Message) bool
}

func (b *localBroker) AddConsumer(name string, f mqtt.Filter, c *msglog.Consumer, accept func(*mqtt.Message) bool) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.consumers[name] = localConsumer{f, c.ID(), accept}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.consumers, name)
	}, nil
}

func (b *localBroker) Publish(ctx context.Context, m mqtt.Message) error {
	e, err := b.note(m)
	if err != nil || len(e.Consumers) == 0 {
		return err
	}
	_, err = b.log.Append(ctx, e)
	return err
}

func (b *localBroker) note(m mqtt.Message) (msglog.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		if err := b.refuse(m); err != nil {
			return msglog.Entry{}, err
		}
	}
	b.got = append(b.got, m)
	e := msglog.Entry{Body: mqtt.AppendMessage(nil, m), Sync: true}
	for _, c := range b.consumers {
		if c.filter.Match(m.Topic) && c.accept(&m) {
			e.Consumers = append(e.Consumers, c.id)
		}
	}
	return e, nil
}

// received returns what was published locally on topic, "" for everything.
func (b *localBroker) received(topic string) (msgs []mqtt.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.got {
		if topic == "" || m.Topic == topic {
			msgs = append(msgs, m)
		}
	}
	return msgs
}

// site is a gateway as far as the bridge sees it.
type site struct {
	*localBroker
	t      testing.TB
	dir    string
	now    func() time.Time // of the log
	bridge *bridge.Bridge
	cancel context.CancelFunc
	ended  chan error

	eventMu sync.Mutex
	events  []bridge.Event
}

// quick are options for tests: nothing waits longer than it has to.
func quick() bridge.Options {
	return bridge.Options{MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, Tries: 3}
}

func newSite(t testing.TB) *site { return &site{t: t, dir: t.TempDir()} }

// start opens the log and runs the bridge; the end of the test stops both.
func (s *site) start(cfg bridge.Config, opts bridge.Options) *site {
	s.t.Helper()
	s.make(cfg, opts)
	s.run()
	return s
}

// make opens the log and makes the bridge.
func (s *site) make(cfg bridge.Config, opts bridge.Options) {
	s.t.Helper()
	var log *msglog.Log
	s.until("the log opens", func() bool {
		var err error
		log, err = msglog.Open(s.dir, msglog.Options{Durability: msglog.Never, Now: s.now})
		if err != nil && !errors.Is(err, msglog.ErrLocked) {
			s.t.Fatal(err)
		}
		return err == nil // a process that another test just forks has the lock for a moment
	})
	s.localBroker = &localBroker{log: log, consumers: make(map[string]localConsumer)}
	opts.Observe = func(e bridge.Event) {
		s.eventMu.Lock()
		defer s.eventMu.Unlock()
		s.events = append(s.events, e)
	}
	var err error
	s.bridge, err = bridge.New(log, s.localBroker, cfg, opts)
	if err != nil {
		_ = log.Close()
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.stop)
}

func (s *site) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan error, 1)
	go func() { s.ended <- s.bridge.Run(ctx) }()
}

// stop ends the bridge and closes the log.
func (s *site) stop() {
	s.t.Helper()
	if s.cancel != nil {
		s.cancel()
		if err := <-s.ended; err != nil {
			s.t.Errorf("Run = %v, want nil", err)
		}
		s.cancel = nil
	}
	if s.log == nil {
		return
	}
	s.bridge.Close()
	if err := s.log.Close(); err != nil {
		s.t.Errorf("close the log: %v", err)
	}
	s.log = nil
}

// publish publishes numbered messages on a topic; each returns acknowledged.
func (s *site) publish(topic string, from, to int) {
	s.t.Helper()
	for i := from; i < to; i++ {
		if err := s.Publish(context.Background(), mqtt.Message{Topic: topic, Payload: []byte(strconv.Itoa(i)), QoS: mqtt.QoS1}); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) status() bridge.Status { return s.bridge.Status()[0] }

func (s *site) happened(kind bridge.EventKind) (events []bridge.Event) {
	s.eventMu.Lock()
	defer s.eventMu.Unlock()
	for _, e := range s.events {
		if e.Kind == kind {
			events = append(events, e)
		}
	}
	return events
}

// until waits for a condition.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	upstreamtest.Until(s.t, what, ok)
}

// drained waits until no rule of the first upstream has anything in its queue.
func (s *site) drained() {
	s.t.Helper()
	s.until("everything is sent", func() bool {
		return !slices.ContainsFunc(s.status().Rules, func(r bridge.RuleStatus) bool { return r.DepthMessages > 0 })
	})
}

func oneUpstream(u bridge.Upstream, list ...rules.Rule) bridge.Config {
	uc := bridge.UpstreamConfig{Name: "cloud", Upstream: u}
	for _, r := range list {
		uc.Rules = append(uc.Rules, bridge.RuleConfig{Rule: r})
	}
	return bridge.Config{Upstreams: []bridge.UpstreamConfig{uc}}
}

func up(filter mqtt.Filter, prefix string) rules.Rule {
	return rules.Rule{Local: filter, Direction: rules.Up, RemotePrefix: prefix, QoS: mqtt.QoS1}
}

func down(filter mqtt.Filter, prefix string) rules.Rule {
	return rules.Rule{Local: filter, Direction: rules.Down, RemotePrefix: prefix, QoS: mqtt.QoS1}
}

// inOrder fails unless msgs has the numbers from 0 to n-1 of a topic in order. Repetitions are
// allowed, as long as each is a step back to somewhere before and on from there without a gap.
func inOrder(t testing.TB, msgs []mqtt.Message, topic string, n int) {
	t.Helper()
	next, most := 0, 0
	for _, m := range msgs {
		if m.Topic != topic {
			continue
		}
		i, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			t.Fatalf("%s: payload %q", topic, m.Payload)
		}
		if i > next {
			t.Fatalf("%s: %d comes after %d", topic, i, next-1)
		}
		next = i + 1
		most = max(most, next)
	}
	if most != n || next != n {
		t.Fatalf("%s: ends with %d, has up to %d, want %d", topic, next-1, most-1, n-1)
	}
}

// exactly fails unless msgs has the numbers from 0 to n-1 of a topic in order, once each.
func exactly(t testing.TB, msgs []mqtt.Message, topic string, n int) {
	t.Helper()
	inOrder(t, msgs, topic, n)
	if got := count(msgs, topic); got != n {
		t.Errorf("%s: %d messages, want %d without repetition", topic, got, n)
	}
}

func count(msgs []mqtt.Message, topic string) (n int) {
	for _, m := range msgs {
		if m.Topic == topic {
			n++
		}
	}
	return n
}

func numberedTopic(i int) string { return fmt.Sprintf("dev-%d/data", i) }

func cmpNumber(i int) []byte { return []byte(strconv.Itoa(i)) }

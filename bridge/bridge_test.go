package bridge_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/bridge"
	"gatewayctl/bridge/rules"
	"gatewayctl/bridge/upstreamtest"
	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

func TestForwardsUpAndDown(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	s := newSite(t).start(oneUpstream(fake, up("+/data", "site-1/"), down("commands/#", "site-1/")), quick())
	s.publish("lamp/data", 0, 100)
	s.publish("lamp/other", 0, 3)
	s.drained()
	exactly(t, fake.Received(), "site-1/lamp/data", 100)
	if n := len(fake.Received()); n != 100 {
		t.Errorf("%d messages went up, want 100", n)
	}
	s.until("subscribed", func() bool { return s.status().State == bridge.Connected })
	if err := fake.Publish(mqtt.Message{Topic: "site-1/commands/on", Payload: []byte("1"), QoS: mqtt.QoS1}); err != nil {
		t.Fatal(err)
	}
	s.until("the command comes down and the upstream forgets it", func() bool {
		return len(s.received("commands/on")) == 1 && fake.Waiting() == 0
	})
	want := mqtt.Message{Topic: "commands/on", Payload: []byte("1"), QoS: mqtt.QoS1, Publisher: mqtt.Publisher{Origin: "bridge:cloud"}}
	if diff := cmp.Diff(want, s.received("commands/on")[0]); diff != "" {
		t.Errorf("what came down (-want +got):\n%s", diff)
	}
	st := s.status()
	if st.Connections != 1 || st.LastError != "" || st.Rules[0].Sent != 100 || st.Rules[1].Received != 1 || st.InFlight != 0 {
		t.Errorf("status %+v", st)
	}
}

// TestQoS0IsStored: a message is stored whatever its quality of service and goes up with the rule's.
func TestQoS0IsStored(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Stop()
	best := up("best/#", "")
	best.QoS = mqtt.QoS0
	s := newSite(t).start(oneUpstream(fake, up("a/#", ""), best), quick())
	for _, m := range []mqtt.Message{
		{Topic: "a/0", Retain: true, ExpirySeconds: 60, ContentType: "text", UserProperties: []mqtt.UserProperty{{Key: "k", Value: "v"}}},
		{Topic: "best/1", QoS: mqtt.QoS1},
	} {
		if err := s.Publish(context.Background(), m); err != nil {
			t.Fatal(err)
		}
	}
	s.until("both are queued", func() bool {
		r := s.status().Rules
		return r[0].DepthMessages == 1 && r[1].DepthMessages == 1 && !r[0].Oldest.IsZero() && r[0].DepthBytes > 0
	})
	fake.Start()
	s.drained()
	got := fake.Received()
	if got[0].Topic != "a/0" {
		got[0], got[1] = got[1], got[0]
	}
	want := []mqtt.Message{
		{Topic: "a/0", QoS: mqtt.QoS1, Retain: true, ExpirySeconds: 60, ContentType: "text",
			UserProperties: []mqtt.UserProperty{{Key: "k", Value: "v"}, {Key: "gatewayctl-hops", Value: "1"}}},
		{Topic: "best/1", QoS: mqtt.QoS0, UserProperties: []mqtt.UserProperty{{Key: "gatewayctl-hops", Value: "1"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what went up (-want +got):\n%s", diff)
	}
}

// TestAwkwardUpstreams: whatever the upstream does, everything arrives, in order per topic.
func TestAwkwardUpstreams(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		habits upstreamtest.Habits
		calm   bool // no repetition expected
	}{
		{"good", upstreamtest.Habits{}, true},
		{"acknowledges late and out of order", upstreamtest.Habits{Shuffle: true}, true},
		{"loses every 37th acknowledgment with the connection", upstreamtest.Habits{Lose: 37}, false},
		{"both", upstreamtest.Habits{Lose: 101, Shuffle: true}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			const topics, n = 5, 100
			fake := new(upstreamtest.Fake)
			fake.Misbehave(tc.habits)
			s := newSite(t).start(oneUpstream(fake, up("+/data", "s/"), up("other/#", "s/")), quick())
			for i := range n {
				for topic := range topics {
					s.publish(numberedTopic(topic), i, i+1)
				}
				s.publish("other/x", i, i+1)
			}
			s.drained()
			check := inOrder
			if tc.calm {
				check = exactly
			}
			for topic := range topics {
				check(t, fake.Received(), "s/"+numberedTopic(topic), n)
			}
			check(t, fake.Received(), "s/other/x", n)
		})
	}
}

func TestNeverAcknowledges(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Misbehave(upstreamtest.Habits{Silent: true})
	opts := quick()
	opts.AckTimeout = 30 * time.Millisecond
	s := newSite(t).start(oneUpstream(fake, up("a", "")), opts)
	s.publish("a", 0, 50)
	s.until("many connections", func() bool { return fake.Runs() > 12 })
	st := s.status()
	if !strings.Contains(st.LastError, "does not acknowledge") {
		t.Errorf("last error %q", st.LastError)
	}
	if st.Rules[0].DepthMessages != 50 || st.Rules[0].Dropped != nil || st.Rules[0].Sent != 0 {
		t.Errorf("an upstream that takes nothing loses nothing: %+v", st.Rules[0])
	}
	fake.Misbehave(upstreamtest.Habits{})
	s.drained()
	inOrder(t, fake.Received(), "a", 50)
	if st := s.status().Rules[0]; st.Dropped != nil {
		t.Errorf("dropped %v", st.Dropped)
	}
}

// TestNothingGoesBack: what came from an upstream goes up to others, but not to where it came from,
// nor to another connection to the same broker.
func TestNothingGoesBack(t *testing.T) {
	t.Parallel()
	one, two, three := &upstreamtest.Fake{Name: "one"}, &upstreamtest.Fake{Name: "two"}, &upstreamtest.Fake{Name: "one"}
	var cfg bridge.Config
	for _, u := range []struct {
		name string
		fake *upstreamtest.Fake
	}{{"first", one}, {"second", two}, {"again", three}} {
		c := oneUpstream(u.fake, up("x/#", "up-"+u.name+"/"), down("x/#", "down-"+u.name+"/")).Upstreams[0]
		c.Name = u.name
		cfg.Upstreams = append(cfg.Upstreams, c)
	}
	s := newSite(t).start(cfg, quick())
	s.until("all connected", func() bool {
		for _, st := range s.bridge.Status() {
			if st.State != bridge.Connected {
				return false
			}
		}
		return true
	})
	if err := one.Publish(mqtt.Message{Topic: "down-first/x/1", QoS: mqtt.QoS1}); err != nil {
		t.Fatal(err)
	}
	s.publish("x/local", 0, 1)
	s.until("everything arrives", func() bool {
		return len(two.Received()) == 2 && len(one.Received()) == 1 && len(three.Received()) == 1
	})
	topics := func(f *upstreamtest.Fake) (list []string) {
		for _, m := range f.Received() {
			list = append(list, m.Topic)
		}
		return list
	}
	if diff := cmp.Diff([]string{"up-first/x/local"}, topics(one)); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"up-again/x/local"}, topics(three)); diff != "" {
		t.Errorf("again (-want +got):\n%s", diff)
	}
}

func TestHops(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	s := newSite(t).start(oneUpstream(fake, up("a", "")), quick())
	for _, hops := range []string{"7", "8", "900", "-1", "many"} {
		err := s.Publish(context.Background(), mqtt.Message{Topic: "a", Payload: []byte(hops), QoS: mqtt.QoS1,
			UserProperties: []mqtt.UserProperty{{Key: "gatewayctl-hops", Value: hops}, {Key: "k", Value: "v"}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.until("three arrive", func() bool { return len(fake.Received()) == 3 })
	got := make(map[string]string)
	for _, m := range fake.Received() {
		for _, p := range m.UserProperties {
			got[string(m.Payload)] += p.Key + "=" + p.Value + " "
		}
	}
	want := map[string]string{"7": "k=v gatewayctl-hops=8 ", "-1": "k=v gatewayctl-hops=1 ", "many": "k=v gatewayctl-hops=1 "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("user properties (-want +got):\n%s", diff)
	}
	if d := s.status().Rules[0].Dropped; d["hops"] != 2 {
		t.Errorf("dropped %v, want 2 for hops", d)
	}
}

func TestBadRecordsDoNotBlock(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	s := newSite(t)
	s.make(oneUpstream(fake, up("a/#", "")), quick())
	id := s.consumers["bridge/cloud/a/# up"].id
	for _, e := range []msglog.Entry{
		{Body: []byte("what is this?")},
		{Body: mqtt.AppendMessage(nil, mqtt.Message{Topic: "b"})},
		{Body: mqtt.AppendMessage(nil, mqtt.Message{Topic: "a/1"})},
	} {
		e.Consumers, e.Sync = []msglog.ConsumerID{id}, true
		if _, err := s.log.Append(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
	s.run()
	s.drained()
	if got := fake.Received(); len(got) != 1 || got[0].Topic != "a/1" {
		t.Errorf("received %+v", got)
	}
	if diff := cmp.Diff(map[string]uint64{"damaged": 1, "unmatched": 1}, s.status().Rules[0].Dropped); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
}

// TestExpiry: what has expired does not go up, and what has not says how long it still lasts.
func TestExpiry(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	clock := func() time.Time { return time.Unix(1_800_000_000, now.Load()) }
	fake := new(upstreamtest.Fake)
	fake.Stop()
	s := newSite(t)
	s.now = clock
	opts := quick()
	opts.Now = clock
	s.start(oneUpstream(fake, up("a/#", "")), opts)
	id := s.consumers["bridge/cloud/a/# up"].id
	for topic, seconds := range map[string]uint32{"a/short": 10, "a/long": 100} {
		_, err := s.log.Append(t.Context(), msglog.Entry{
			Body:    mqtt.AppendMessage(nil, mqtt.Message{Topic: topic, QoS: mqtt.QoS1, ExpirySeconds: seconds}),
			Expires: clock().Add(time.Duration(seconds) * time.Second), Consumers: []msglog.ConsumerID{id}, Sync: true,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	now.Store(int64(30 * time.Second))
	fake.Start()
	s.drained()
	if got := fake.Received(); len(got) != 1 || got[0].Topic != "a/long" || got[0].ExpirySeconds != 70 {
		t.Errorf("received %+v, want the long one with 70 seconds left", got)
	}
	if d := s.status().Rules[0].Dropped; d["expired"] != 1 {
		t.Errorf("dropped %v, want 1 expired", d)
	}
}

func TestRunWithoutUpstreams(t *testing.T) {
	t.Parallel()
	s := newSite(t).start(bridge.Config{}, quick())
	select {
	case err := <-s.ended:
		t.Errorf("Run = %v before it was asked to end", err)
		s.cancel = nil
	case <-time.After(20 * time.Millisecond):
	}
	if st := s.bridge.Status(); len(st) != 0 {
		t.Errorf("Status = %+v", st)
	}
}

func TestDownRefusals(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Misbehave(upstreamtest.Habits{Deny: func(f mqtt.Filter) bool { return f == "d/secret" }})
	s := newSite(t)
	s.make(oneUpstream(fake, down("#", "d/x/"), down("secret", "d/")), quick())
	var full atomic.Int32
	s.refuse = func(m mqtt.Message) error {
		switch {
		case m.Topic == "bad":
			return errors.New("not this one")
		case m.Topic == "full" && full.Add(1) < 3:
			return msglog.ErrFull
		}
		return nil
	}
	s.run()
	s.until("connected", func() bool { return s.status().State == bridge.Connected })
	for _, topic := range []string{"d/x/bad", "d/x/full", "d/x/fine", "d/x/$SYS/no"} {
		if err := fake.Publish(mqtt.Message{Topic: topic, QoS: mqtt.QoS1}); err != nil {
			t.Fatal(err)
		}
	}
	s.until("all are dealt with", func() bool { return fake.Waiting() == 0 })
	if len(s.received("full")) != 1 || len(s.received("fine")) != 1 || len(s.received("")) != 2 {
		t.Errorf("published locally: %+v", s.received(""))
	}
	st := s.status()
	if st.Rules[0].Dropped["refused-locally"] != 1 || st.Rules[0].Received != 2 || st.Unmatched != 1 {
		t.Errorf("status %+v", st)
	}
	if !strings.Contains(st.Rules[1].LastError, `refuses the subscription to "d/secret"`) {
		t.Errorf("last error of the refused rule: %q", st.Rules[1].LastError)
	}
}

// TestDownKeepsOrderPerTopic: topics are published side by side, each in its order.
func TestDownKeepsOrderPerTopic(t *testing.T) {
	t.Parallel()
	const topics, n = 20, 50
	fake := new(upstreamtest.Fake)
	s := newSite(t).start(oneUpstream(fake, down("+/data", "d/")), quick())
	s.until("connected", func() bool { return s.status().State == bridge.Connected })
	for i := range n {
		for topic := range topics {
			m := mqtt.Message{Topic: "d/" + numberedTopic(topic), Payload: cmpNumber(i), QoS: mqtt.QoS1}
			if err := fake.Publish(m); err != nil {
				t.Fatal(err)
			}
		}
		if i == n/2 {
			fake.Disconnect()
		}
	}
	s.until("all came down", func() bool { return fake.Waiting() == 0 })
	for topic := range topics {
		inOrder(t, s.received(""), numberedTopic(topic), n)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Stop()
	s := newSite(t).start(oneUpstream(fake, up("a", "")), quick())
	s.until("unreachable", func() bool { return s.status().State == bridge.Waiting && !s.status().NextAttempt.IsZero() })
	fake.Start()
	s.until("connected", func() bool { return s.status().State == bridge.Connected })
	fake.Disconnect()
	s.until("connected again", func() bool { return s.status().Connections == 2 })
	s.stop()
	if st := s.status(); st.State != bridge.Stopped || !strings.Contains(st.LastError, "told to") || st.LastErrorAt.IsZero() {
		t.Errorf("status at the end %+v", st)
	}
	var kinds []bridge.EventKind
	for _, e := range s.events {
		kinds = append(kinds, e.Kind)
	}
	want := []bridge.EventKind{bridge.EventUnreachable, bridge.EventConnected, bridge.EventDisconnected, bridge.EventConnected, bridge.EventDisconnected}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	both := rules.Rule{Local: "a", Direction: rules.Both, QoS: mqtt.QoS1}
	window := oneUpstream(fake, up("a", "no-slash"))
	window.Upstreams[0].MaxInFlight = 1 << 20
	for _, tc := range []struct {
		name string
		cfg  bridge.Config
		want []string
	}{
		{"no connection", oneUpstream(nil, up("a", "")), []string{`upstream "cloud" has no connection`}},
		{"everything at once", window, []string{"max_in_flight 1048576", `write "no-slash/"`}},
		{"a loop", oneUpstream(fake, both), []string{"direction both", "remote_prefix_down"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			log, err := msglog.Open(t.TempDir(), msglog.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = log.Close() }()
			_, err = bridge.New(log, &localBroker{log: log, consumers: make(map[string]localConsumer)}, tc.cfg, bridge.Options{})
			for _, w := range tc.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("New = %v, want %q in it", err, w)
				}
			}
			if n := log.Consumers(); len(n) > 0 {
				t.Errorf("consumers %q were left behind", n)
			}
		})
	}
}

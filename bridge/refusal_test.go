package bridge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/bridge"
	"gatewayctl/bridge/upstreamtest"
	"gatewayctl/broker/mqtt"
)

// TestPoison: messages on which the upstream breaks the connection are given up after some tries;
// nothing else is lost, of this rule or of another, and order is kept.
func TestPoison(t *testing.T) {
	t.Parallel()
	const n = 120
	for _, shuffle := range []bool{false, true} {
		t.Run(fmt.Sprint("shuffle ", shuffle), func(t *testing.T) {
			t.Parallel()
			fake := new(upstreamtest.Fake)
			fake.Stop()
			fake.Misbehave(upstreamtest.Habits{Shuffle: shuffle, Poison: func(m mqtt.Message) bool {
				p := string(m.Payload)
				return m.Topic == "a" && (p == "30" || p == "31" || p == "90")
			}})
			s := newSite(t).start(oneUpstream(fake, up("a", ""), up("b", "")), quick())
			s.publish("a", 0, n)
			s.publish("b", 0, n)
			fake.Start()
			s.drained()
			inOrder(t, fake.Received(), "b", n)
			seen := make(map[string]bool)
			for _, m := range fake.Received() {
				if m.Topic == "a" {
					seen[string(m.Payload)] = true
				}
			}
			if len(seen) != n-3 {
				t.Errorf("%d different messages arrived on a, want %d", len(seen), n-3)
			}
			r := s.status().Rules
			if diff := cmp.Diff(map[string]uint64{"refused": 3}, r[0].Dropped); diff != "" || r[1].Dropped != nil {
				t.Errorf("dropped %v and %v, want 3 refused", r[0].Dropped, r[1].Dropped)
			}
			if events := s.happened(bridge.EventRefused); len(events) != 3 || events[0].Rule != "a up" || events[0].Upstream != "cloud" {
				t.Errorf("events %+v", events)
			}
		})
	}
}

// TestTakesNothingForAWhile: an upstream that closes the connection on every message, because
// something is wrong with it, and is well again later, has got everything then.
func TestTakesNothingForAWhile(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Misbehave(upstreamtest.Habits{Poison: func(mqtt.Message) bool { return true }})
	s := newSite(t).start(oneUpstream(fake, up("+/data", ""), down("down/#", "")), quick())
	for topic := range 30 {
		s.publish(numberedTopic(topic), 0, 2)
	}
	sent := 0
	s.until("many tries", func() bool {
		if err := fake.Publish(mqtt.Message{Topic: "down/x", QoS: mqtt.QoS1}); err == nil {
			sent++ // that this way works proves nothing
		}
		return fake.Runs() > 40
	})
	s.until("all came down meanwhile", func() bool { return len(s.received("down/x")) >= sent })
	fake.Misbehave(upstreamtest.Habits{})
	s.drained()
	for topic := range 30 {
		if got := count(fake.Received(), numberedTopic(topic)); got != 2 {
			t.Errorf("topic %d: %d messages, want 2", topic, got)
		}
	}
	if d := s.status().Rules[0].Dropped; d != nil {
		t.Errorf("dropped %v", d)
	}
}

// TestIgnoredMessage: one message that is never acknowledged holds nothing up and is not given up.
func TestIgnoredMessage(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Misbehave(upstreamtest.Habits{Ignore: func(m mqtt.Message) bool { return string(m.Payload) == "30" }})
	opts := quick()
	opts.AckTimeout = 50 * time.Millisecond
	s := newSite(t).start(oneUpstream(fake, up("a", "")), opts)
	s.publish("a", 0, 100)
	s.until("all others are sent", func() bool { return s.status().Rules[0].DepthMessages == 1 })
	s.until("it is tried again", func() bool { return fake.Runs() > 8 })
	fake.Misbehave(upstreamtest.Habits{})
	s.drained()
	if n := count(fake.Received(), "a"); n != 100 || s.status().Rules[0].Dropped != nil {
		t.Errorf("%d messages arrived, dropped %v, want 100 and none", n, s.status().Rules[0].Dropped)
	}
}

// TestPoisonAlone: without proof that the upstream takes anything, nothing is given up, and the
// connection is left in peace.
func TestPoisonAlone(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Misbehave(upstreamtest.Habits{Poison: func(m mqtt.Message) bool { return string(m.Payload) == "0" }})
	s := newSite(t).start(oneUpstream(fake, up("a", "")), quick())
	s.publish("a", 0, 1)
	s.until("the message is stepped over", func() bool {
		st := s.status()
		return st.State == bridge.Connected && st.Rules[0].Suspects == 1 && st.InFlight == 0
	})
	if st := s.status().Rules[0]; st.DepthMessages != 1 || st.Dropped != nil {
		t.Errorf("%+v, want the message kept", st)
	}
	s.publish("a", 1, 3)
	s.drained()
	if got := s.status().Rules[0].Dropped; got["refused"] != 1 {
		t.Errorf("dropped %v, want one refused", got)
	}
}

func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Misbehave(upstreamtest.Habits{Refuse: func(m mqtt.Message) string {
		if string(m.Payload) == "3" {
			return "too large for me"
		}
		return ""
	}})
	s := newSite(t).start(oneUpstream(fake, up("a", "x/")), quick())
	s.publish("a", 0, 10)
	s.drained()
	if got := len(fake.Received()); got != 9 {
		t.Errorf("%d messages arrived, want 9", got)
	}
	want := []bridge.Event{{Kind: bridge.EventRefused, Upstream: "cloud", Rule: "a up", Topic: "a", Text: "too large for me"}}
	if diff := cmp.Diff(want, s.happened(bridge.EventRefused)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if st := s.status(); st.Rules[0].Dropped["refused"] != 1 || st.Connections != 1 {
		t.Errorf("status %+v", st)
	}
}

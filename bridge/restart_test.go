package bridge_test

import (
	"testing"

	"gatewayctl/bridge"
	"gatewayctl/bridge/rules"
	"gatewayctl/bridge/upstreamtest"
	"gatewayctl/broker/mqtt"
)

// TestRestartInTheMiddle: the bridge and the log are closed and opened again while the queue is
// being sent, several times.
func TestRestartInTheMiddle(t *testing.T) {
	t.Parallel()
	const topics, n = 4, 250
	fake := new(upstreamtest.Fake)
	fake.Stop()
	s := newSite(t)
	cfg := oneUpstream(fake, up("+/data", ""))
	s.start(cfg, quick())
	for i := range n {
		for topic := range topics {
			s.publish(numberedTopic(topic), i, i+1)
		}
	}
	fake.Misbehave(upstreamtest.Habits{Lose: 150})
	fake.Start()
	for part := 1; part < 5; part++ {
		s.until("a part is sent", func() bool { return len(fake.Received()) > part*topics*n/6 })
		s.stop()
		s.start(cfg, quick())
	}
	s.drained()
	for topic := range topics {
		inOrder(t, fake.Received(), numberedTopic(topic), n)
	}
}

// TestGracefulEndRepeatsNothing: what was acknowledged while the bridge ended is not sent again.
func TestGracefulEndRepeatsNothing(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	s := newSite(t)
	cfg := oneUpstream(fake, up("a", ""))
	for round := range 5 {
		s.start(cfg, quick())
		s.publish("a", round*40, (round+1)*40)
		s.stop()
	}
	s.start(cfg, quick())
	s.drained()
	exactly(t, fake.Received(), "a", 200)
}

func TestAbandonedQueues(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	fake.Stop()
	s := newSite(t)
	kept, empty, stays := up("kept", ""), up("empty", ""), up("stays", "")
	s.start(oneUpstream(fake, kept, empty, stays), quick())
	s.publish("kept", 0, 3)
	s.publish("stays", 0, 3)
	s.stop()

	stays.RemotePrefix, stays.Name = "new/", "stays up" // another rule by the same name has the same queue
	s.start(oneUpstream(fake, stays), quick())
	got := s.bridge.Abandoned()
	if len(got) != 1 || got[0].Name != "bridge/cloud/kept up" || got[0].DepthMessages != 3 || got[0].Oldest.IsZero() {
		t.Fatalf("Abandoned = %+v, want the queue with 3 messages", got)
	}
	if err := s.bridge.Discard("bridge/cloud/stays up"); err == nil {
		t.Error("Discard removes the queue of a rule")
	}
	if err := s.bridge.Discard("session/x"); err == nil {
		t.Error("Discard removes what is not the bridge's")
	}
	fake.Start()
	s.drained()
	exactly(t, fake.Received(), "new/stays", 3)
	s.stop()

	s.start(oneUpstream(fake, kept, stays), quick()) // the rule is back
	s.drained()
	exactly(t, fake.Received(), "kept", 3)
	s.stop()

	s.start(bridge.Config{}, quick())
	if got := s.bridge.Abandoned(); len(got) != 0 {
		t.Errorf("Abandoned = %+v: empty queues are removed", got)
	}
}

// TestBothWays: a rule for both ways with prefixes of its own neither loops nor echoes.
func TestBothWays(t *testing.T) {
	t.Parallel()
	fake := new(upstreamtest.Fake)
	both := rules.Rule{Local: "x/#", Direction: rules.Both, RemotePrefix: "up/", RemotePrefixDown: "down/", QoS: mqtt.QoS1}
	s := newSite(t).start(oneUpstream(fake, both), quick())
	s.until("connected", func() bool { return s.status().State == bridge.Connected })
	s.publish("x/1", 0, 5)
	for i := range 5 {
		if err := fake.Publish(mqtt.Message{Topic: "down/x/2", Payload: cmpNumber(i), QoS: mqtt.QoS1}); err != nil {
			t.Fatal(err)
		}
	}
	s.until("all arrive", func() bool { return len(fake.Received()) >= 5 && len(s.received("x/2")) >= 5 && fake.Waiting() == 0 })
	s.drained()
	exactly(t, fake.Received(), "up/x/1", 5)
	exactly(t, s.received(""), "x/1", 5)
	exactly(t, s.received(""), "x/2", 5)
	if n, m := len(fake.Received()), len(s.received("")); n != 5 || m != 10 {
		t.Errorf("%d messages upstream and %d here, want 5 and 10", n, m)
	}
}

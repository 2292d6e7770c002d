package appliance_test

import (
	"fmt"
	"strconv"
	"sync"
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
)

// What was acknowledged to a publisher reaches the upstream in order, although the gateway was
// killed in the middle of it, twice, while the upstream was away.
func TestAcknowledgedMeansKept(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) {
		s.Process = true
		s.Rules = []config.Rule{{Local: "+/data", Direction: "up", RemotePrefix: "site/"}}
	})
	devices := []*publisher{{version: plane.V311}, {version: plane.V5}, {version: plane.V5, qos2: true}}
	for i, p := range devices {
		p.Device = gw.Enroll(t, fmt.Sprintf("pump-%d", i), api.CredentialsRequest{})
		p.Connect(t, plane.Connect{Version: p.version})
	}
	gw.Upstream.Disconnect()
	for range 2 {
		var enough, ended sync.WaitGroup
		enough.Add(len(devices))
		for _, p := range devices {
			ended.Go(func() { p.publishUntilCut(60, enough.Done) })
		}
		enough.Wait() // and they go on
		gw.Kill(t)
		ended.Wait()
		for _, p := range devices {
			p.Connect(t, plane.Connect{Version: p.version})
		}
	}
	for _, p := range devices {
		p.MustPublish(t, p.Name+"/data", strconv.Itoa(p.sent), mqtt.QoS1)
		p.sent++
	}
	gw.Upstream.Connect()
	for _, p := range devices {
		gw.Upstream.Expect(t, "site/"+p.Name+"/data", strconv.Itoa(p.sent-1))
	}
	arrived := map[string][]int{}
	for _, m := range gw.Upstream.Received() {
		n, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			t.Fatal(err)
		}
		arrived[m.Topic] = append(arrived[m.Topic], n)
	}
	for _, p := range devices {
		p.check(t, arrived["site/"+p.Name+"/data"])
	}
}

// A publisher publishes numbers to its topic.
type publisher struct {
	*appliancetest.Device
	version byte
	qos2    bool
	sent    int          // numbers below it were sent
	lost    map[int]bool // those of them that were not acknowledged
}

// publishUntilCut publishes one number after the other until its connection is gone. It tells
// when n were acknowledged.
func (p *publisher) publishUntilCut(n int, enough func()) {
	tell := sync.OnceFunc(enough)
	defer tell()
	qos := mqtt.QoS1
	if p.qos2 {
		qos = mqtt.QoS2
	}
	for i := 0; ; i++ {
		if i == n {
			tell()
		}
		number := p.sent
		p.sent++
		reason, err := p.Publish(mqtt.Message{Topic: p.Name + "/data", Payload: []byte(strconv.Itoa(number)), QoS: qos})
		if err != nil || reason.Failed() {
			if p.lost == nil {
				p.lost = map[int]bool{}
			}
			p.lost[number] = true
			return
		}
	}
}

// check looks at what arrived: each number for the first time after those before it, and every
// one that was acknowledged.
func (p *publisher) check(t *testing.T, arrived []int) {
	t.Helper()
	next := 0
	for _, n := range arrived {
		for next < n && p.lost[next] {
			next++
		}
		switch {
		case n == next:
			next++
		case n > next:
			t.Errorf("%s: %d came before %d", p.Name, n, next)
			return
		}
	}
	if next != p.sent {
		t.Errorf("%s: %d of %d numbers arrived", p.Name, next, p.sent)
	}
}

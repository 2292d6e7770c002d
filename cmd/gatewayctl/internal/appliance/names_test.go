package appliance_test

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/gateway/events"
)

// New names and addresses of the machine get into the certificate that the listeners present,
// without a restart, and nobody is cut off.
func TestNamesOfTheMachineChange(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	names, ips := []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) {
		s.NamesInterval = 10 * time.Millisecond
		s.Names = func() ([]string, []net.IP, error) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(names), slices.Clone(ips), nil
		}
	})
	lamp := gw.Device(t, "lamp")
	before := presented(t, gw, "https")[0]
	if before.VerifyHostname("hub.local") == nil {
		t.Fatal("the certificate names hub.local already")
	}
	https := gw.HTTPS(t)
	appliancetest.Get(t, https, "https://gateway/healthz") // keeps its connection

	mu.Lock()
	names, ips = append(names, "hub.local"), append(ips, net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7"))
	mu.Unlock()
	appliancetest.Eventually(t, "the listeners present another certificate", func() bool {
		return !presented(t, gw, "https")[0].Equal(before)
	})
	after := presented(t, gw, "https")[0]
	for _, name := range []string{"localhost", "hub.local", "127.0.0.1", "192.0.2.7", "2001:db8::7"} {
		if err := after.VerifyHostname(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	gw.Event(t, func(e events.Event) bool {
		return e.Kind == "certificate.renewed" && strings.Contains(e.Text, after.SerialNumber.Text(16))
	})

	lamp.MustPublish(t, "lamp/data", "still here", mqtt.QoS1)
	if code, _ := appliancetest.Get(t, https, "https://gateway/healthz"); code != 200 {
		t.Errorf("the HTTPS connection of before: %d", code)
	}
	cfg := gw.TLS(lamp.Cert)
	cfg.ServerName = "hub.local"
	c, err := appliancetest.Dial(gw.Address(t, "mqtt"), cfg)
	if err != nil {
		t.Fatalf("connect by the new name: %v", err)
	}
	defer c.Close()
	if ack, err := c.Hello(plane.Connect{ClientID: "lamp#2"}); err != nil || ack.Reason() != 0 {
		t.Errorf("CONNACK %v, %v", ack.Reason(), err)
	}

	gw.Restart(t)
	if again := presented(t, gw, "https")[0]; !again.Equal(after) {
		t.Error("a restart made another certificate")
	}
}

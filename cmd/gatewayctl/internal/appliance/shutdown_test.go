package appliance_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/store/msglog"
)

// A clean end: clients are told, the store passes its check, nothing has to be recovered. That no
// goroutine is left is checked by TestMain, and here by the process itself.
func TestShutdown(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) {
		s.Process = true
		s.Rules = []config.Rule{{Local: "+/data", Direction: "both", RemotePrefix: "up/", RemotePrefixDown: "down/"}}
	})
	ctx := appliancetest.Context(t)
	lamp := gw.Device(t, "lamp")
	lamp.MustSubscribe(t, "lamp/#", mqtt.QoS1)
	old := gw.Enroll(t, "old", api.CredentialsRequest{})
	old.Connect(t, plane.Connect{Version: plane.V311})
	shaken, err := appliancetest.Dial(gw.Address(t, "mqtt"), gw.TLS(lamp.Cert))
	if err != nil {
		t.Fatal(err)
	}
	defer shaken.Close()
	follow, err := gw.API.Subscribe(ctx, "#")
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Close()
	var call sync.WaitGroup
	call.Go(func() {
		_, err := gw.API.Call(ctx, "lamp", "Sys.Wait", nil, appliancetest.Patience)
		refusedAs(t, err, api.CodeStopping, "")
	})
	if m := lamp.MustReceive(t); m.Topic != "lamp/rpc/Sys.Wait" {
		t.Fatalf("the lamp got %s", m.Topic)
	}
	lamp.MustPublish(t, "lamp/data", "1", mqtt.QoS1)
	gw.Upstream.Expect(t, "up/lamp/data", "1")

	gw.Stop(t) // checks how the process ended, and the store
	call.Wait()
	lamp.MustEnd(t, mqtt.ServerShuttingDown)
	old.MustEnd(t, mqtt.ServerShuttingDown)
	if _, err := shaken.End(); err != nil {
		t.Error(err)
	}
	report, err := msglog.Check(gw.Dir() + "/log")
	if err != nil || !report.OK() || report.Tail != nil {
		t.Errorf("message log after a clean end: %+v, %v", report, err)
	}
}

// Stopping while clients come and go in all phases ends as well as at any other time.
func TestShutdownWhileClientsConnect(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	var devices []*appliancetest.Device
	for i := range 6 {
		devices = append(devices, gw.Enroll(t, fmt.Sprintf("lamp-%d", i), api.CredentialsRequest{}))
	}
	address := gw.Address(t, "mqtt")
	var connected atomic.Int64
	var clients sync.WaitGroup
	for i, d := range devices {
		cfg := gw.TLS(d.Cert)
		clients.Go(func() {
			for {
				c, err := appliancetest.Dial(address, cfg)
				if err != nil {
					return
				}
				c.Version = []byte{plane.V311, plane.V5}[i%2]
				ack, err := c.Hello(plane.Connect{ClientID: d.Name})
				if err == nil && ack.Reason() == 0 {
					_, err = c.Publish(mqtt.Message{Topic: d.Name + "/data", QoS: mqtt.QoS1})
				}
				connected.Add(1)
				c.Close()
				if err != nil {
					return
				}
			}
		})
	}
	appliancetest.Eventually(t, "clients connect", func() bool { return connected.Load() > 10 })
	gw.Stop(t)
	clients.Wait()
}

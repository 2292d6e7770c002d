package appliance_test

import (
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/gateway/api"
)

// staying asks for a session that outlives its connection.
func staying(version byte) plane.Connect {
	hello := plane.Connect{Version: version}
	if version == plane.V5 {
		hello.SessionExpirySeconds = 3600
	}
	return hello
}

// What an operator does about a device acts on its open connections at once, and on nobody else's.
func TestCutsOpenConnections(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	ctx := appliancetest.Context(t)
	bystander := gw.Device(t, "bystander")
	for _, tc := range []struct {
		name string
		do   func(d *appliancetest.Device) error
		back bool // the device may connect again
	}{
		{"disable", func(d *appliancetest.Device) error { _, err := gw.API.DisableDevice(ctx, d.Name); return err }, false},
		{"remove", func(d *appliancetest.Device) error { _, err := gw.API.RemoveDevice(ctx, d.Name); return err }, false},
		{"revoke", func(d *appliancetest.Device) error {
			_, err := gw.API.Revoke(ctx, api.RevokeRequest{Target: d.Issued.Serial, Reason: "keyCompromise"})
			return err
		}, false},
		{"replace", func(d *appliancetest.Device) error {
			c, err := gw.API.Provision(ctx, d.Name, api.CredentialsRequest{Existing: api.ExistingReplace})
			if err == nil {
				d.Cert = appliancetest.Pair(t, c)
			}
			return err
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dev := gw.Enroll(t, tc.name, api.CredentialsRequest{})
			dev.Connect(t, plane.Connect{Version: plane.V311, ClientID: tc.name + "#old"})
			old := dev.Client
			dev.Connect(t, plane.Connect{})
			dev.MustSubscribe(t, tc.name+"/#", mqtt.QoS1)
			if err := tc.do(dev); err != nil {
				t.Fatal(err)
			}
			dev.MustEnd(t, mqtt.NotAuthorized)
			old.MustEnd(t, mqtt.NotAuthorized)
			appliancetest.Eventually(t, "the device is offline", func() bool {
				d, err := gw.API.Device(ctx, tc.name)
				return err != nil || !d.Presence.Online
			})
			ack, err := dev.TryConnect(t, plane.Connect{})
			if connected := err == nil && ack.Reason() == 0; connected != tc.back {
				t.Errorf("connected again: %v (%v, %v), want %v", connected, ack.Reason(), err, tc.back)
			}
		})
	}
	bystander.MustPing(t)
}

// Of several certificates of a device, revoking one cuts only the connections that use it.
func TestRevokedCertificateOfSeveral(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	first := gw.Device(t, "lamp")
	second := gw.Enroll(t, "lamp", api.CredentialsRequest{Existing: api.ExistingAdditional})
	second.Connect(t, plane.Connect{ClientID: "lamp#2"})
	if _, err := gw.API.Revoke(appliancetest.Context(t), api.RevokeRequest{Target: first.Issued.Serial}); err != nil {
		t.Fatal(err)
	}
	first.MustEnd(t, mqtt.NotAuthorized)
	second.MustPing(t)
}

// An enabled device finds its session; one that was removed and provisioned again does not
// inherit that of its predecessor, whether it was connected or not.
func TestSessionsOfThoseCutOff(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	ctx := appliancetest.Context(t)
	for _, version := range []byte{plane.V311, plane.V5} {
		for _, online := range []bool{true, false} {
			dev := gw.Enroll(t, "lamp", api.CredentialsRequest{})
			dev.Connect(t, staying(version))
			dev.MustSubscribe(t, "lamp/secret", mqtt.QoS1)
			if _, err := gw.API.DisableDevice(ctx, "lamp"); err != nil {
				t.Fatal(err)
			}
			dev.MustEnd(t, mqtt.NotAuthorized)
			if _, err := gw.API.EnableDevice(ctx, "lamp"); err != nil {
				t.Fatal(err)
			}
			if ack := dev.Connect(t, staying(version)); !ack.SessionPresent {
				t.Error("the session of a device that was disabled for a while is gone")
			}
			if !online {
				dev.Close()
				appliancetest.Eventually(t, "the device is offline", func() bool { return gw.Status(t).Devices.Online == 0 })
				if err := gw.API.Publish(ctx, api.Message{Topic: "lamp/secret", Payload: []byte("not yours"), QoS: 1}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := gw.API.RemoveDevice(ctx, "lamp"); err != nil {
				t.Fatal(err)
			}
			heir := gw.Enroll(t, "lamp", api.CredentialsRequest{})
			if ack := heir.Connect(t, staying(version)); ack.SessionPresent {
				t.Errorf("version %d, online %v: the session of a device that was removed is handed to its successor", version, online)
			}
			if err := gw.API.Publish(ctx, api.Message{Topic: "lamp/secret", Payload: []byte("new"), QoS: 1}); err != nil {
				t.Fatal(err)
			}
			heir.MustSubscribe(t, "lamp/other", mqtt.QoS1)
			if err := gw.API.Publish(ctx, api.Message{Topic: "lamp/other", Payload: []byte("mine"), QoS: 1}); err != nil {
				t.Fatal(err)
			}
			if m := heir.MustReceive(t); string(m.Payload) != "mine" {
				t.Errorf("version %d, online %v: the successor got %q", version, online, m.Payload)
			}
			if _, err := gw.API.RemoveDevice(ctx, "lamp"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

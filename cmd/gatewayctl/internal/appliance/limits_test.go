package appliance_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
)

// refusals is the counter of what was turned away for reason.
func refusals(t *testing.T, gw *appliancetest.Gateway, reason string) float64 {
	t.Helper()
	return gw.Metrics(t)[`gatewayctl_mqtt_refused_total{reason="`+reason+`"}`]
}

func withPlain(s *appliancetest.Setup) {
	s.Config.Listeners["plain"] = config.Listener{Type: "mqtt", Address: "127.0.0.1:0"}
}

func withRule(s *appliancetest.Setup) {
	s.Rules = []config.Rule{{Local: "+/data", Direction: "up", RemotePrefix: "site/"}}
}

// Who does not finish the handshake and the CONNECT in time is gone, and shows.
func TestSlowConnects(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, withPlain, func(s *appliancetest.Setup) { s.Config.Limits.Handshake = 500 * time.Millisecond })
	lamp := gw.Device(t, "lamp")
	slow := gw.Enroll(t, "slow", api.CredentialsRequest{})
	open := func(listener string, says string) net.Conn {
		nc, err := net.Dial("tcp", gw.Address(t, listener))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, says); err != nil {
			t.Fatal(err)
		}
		return nc
	}
	conns := map[string]net.Conn{
		"nothing at all":         open("mqtt", ""),
		"half a TLS handshake":   open("mqtt", "\x16\x03\x01\x01\x00"),
		"nothing, without TLS":   open("plain", ""),
		"half a CONNECT, no TLS": open("plain", "\x10\x20\x00\x04"),
	}
	c, err := appliancetest.Dial(gw.Address(t, "mqtt"), gw.TLS(slow.Cert))
	if err != nil {
		t.Fatal(err)
	}
	conns["a TLS handshake and nothing more"] = c.Conn
	for name, nc := range conns {
		if err := nc.SetReadDeadline(time.Now().Add(appliancetest.Patience)); err != nil {
			t.Fatal(err)
		}
		var late net.Error
		if _, err := io.Copy(io.Discard, nc); errors.As(err, &late) && late.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
		_ = nc.Close()
	}
	if n := refusals(t, gw, "timeout"); n != float64(len(conns)) {
		t.Errorf("%v refusals are counted, want %d", n, len(conns))
	}
	gw.Event(t, func(e events.Event) bool {
		return e.Kind == "connect.refused" && strings.Contains(e.Text, "TLS handshake")
	})
	gw.Event(t, func(e events.Event) bool {
		return e.Kind == "connect.refused" && strings.Contains(e.Text, "no CONNECT in time")
	})
	lamp.MustPing(t)
}

// A packet above the limit ends its connection; the gateway goes on.
func TestPacketsThatAreTooLarge(t *testing.T) {
	t.Parallel()
	const limit = 4096
	gw := appliancetest.Start(t, withPlain, func(s *appliancetest.Setup) { s.Config.Limits.MaxPacket = limit })
	lamp := gw.Device(t, "lamp")
	pump := gw.Enroll(t, "pump", api.CredentialsRequest{})
	large := mqtt.Message{Topic: "pump/data", Payload: make([]byte, limit), QoS: mqtt.QoS1}
	fits := large
	fits.Payload = make([]byte, limit-100)
	for i, version := range []byte{plane.V311, plane.V5} {
		pump.Connect(t, plane.Connect{Version: version})
		if reason, err := pump.Publish(fits); err != nil || reason.Failed() {
			t.Errorf("version %d: a packet that fits: %v, %v", version, reason, err)
		}
		if err := pump.Send(&plane.Publish{Message: large, PacketID: 9}); err != nil {
			t.Fatal(err)
		}
		pump.MustEnd(t, mqtt.PacketTooLarge)
		// before the connection is established
		c, err := appliancetest.Dial(gw.Address(t, "plain"), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Version = version
		if ack, err := c.Hello(plane.Connect{ClientID: strings.Repeat("x", limit)}); err == nil && ack.Reason() == 0 {
			t.Errorf("version %d: a CONNECT that is too large was accepted", version)
		}
		c.Close()
		if n := refusals(t, gw, "malformed"); n != float64(2*(i+1)) {
			t.Errorf("%v refusals are counted, want %d", n, 2*(i+1))
		}
	}
	gw.Event(t, func(e events.Event) bool {
		return e.Kind == "client.disconnected" && e.Device == "pump" && strings.Contains(e.Text, "packet larger")
	})
	refusedAs(t, gw.API.Publish(appliancetest.Context(t), api.Message{Topic: "a", Payload: make([]byte, limit+1)}), api.CodeTooLarge, "4096")
	lamp.MustPing(t)
}

// Connections beyond the limits are told so, counted and shown; a place that is given back is free.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		limit  func(*config.Limits)
		from   []string // three connections that are let in, and one that is not
		count  string
		reason mqtt.ReasonCode
	}{
		{"of one address", func(l *config.Limits) { l.MaxPerAddress = 2 }, []string{"127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.2"}, "per-address", mqtt.QuotaExceeded},
		{"in all", func(l *config.Limits) { l.MaxClients = 3 }, []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"}, "clients", mqtt.ServerBusy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			gw := appliancetest.Start(t, func(s *appliancetest.Setup) { tc.limit(&s.Config.Limits) })
			lamp := gw.Enroll(t, "lamp", api.CredentialsRequest{})
			connect := func(i int, version byte) (*appliancetest.Client, mqtt.ReasonCode) {
				c, err := appliancetest.DialFrom(tc.from[i], gw.Address(t, "mqtt"), gw.TLS(lamp.Cert))
				if err != nil {
					t.Fatal(err)
				}
				c.Version = version
				ack, err := c.Hello(plane.Connect{ClientID: "lamp#" + string(rune('0'+i))})
				if err != nil {
					t.Fatal(err)
				}
				return c, ack.Reason()
			}
			var in []*appliancetest.Client
			for i := range 3 {
				c, reason := connect(i, plane.V5)
				if reason != mqtt.Success {
					t.Fatalf("connection %d: %v", i, reason)
				}
				in = append(in, c)
			}
			for i, version := range []byte{plane.V311, plane.V5} {
				c, got := connect(3, version)
				want := tc.reason
				if version == plane.V311 {
					want = 3 // server unavailable, MQTT 3.1.1 §3.2.2.3
				}
				if got != want {
					t.Errorf("version %d: CONNACK %v, want %v", version, got, want)
				}
				c.Close()
				if n := refusals(t, gw, tc.count); n != float64(i+1) {
					t.Errorf("%v refusals are counted, want %d", n, i+1)
				}
			}
			gw.Event(t, func(e events.Event) bool {
				return e.Kind == "limit.reached" && strings.Contains(e.Text, "are the limit")
			})
			for _, c := range in {
				c.MustPing(t)
			}
			in[2].Close()
			appliancetest.Eventually(t, "the place is free", func() bool {
				c, reason := connect(3, plane.V5)
				defer c.Close()
				return reason == mqtt.Success
			})
			for _, c := range in {
				c.Close()
			}
		})
	}
}

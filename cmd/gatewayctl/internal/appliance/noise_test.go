package appliance_test

import (
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
)

// Random bytes on every port, before and after the handshakes, cost nobody else anything.
func TestRandomBytesOnEveryPort(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "gw-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) {
		s.Process = true // its goroutines are its own
		s.Config.Listeners["plain"] = config.Listener{Type: "mqtt", Address: "127.0.0.1:0"}
		s.Config.Listeners["socket"] = config.Listener{Type: "unix", Address: filepath.Join(dir, "mqtt.sock")}
		s.Config.Limits.Handshake = time.Second
	})
	lamp := gw.Device(t, "lamp")
	lamp.Connect(t, plane.Connect{})
	noisy := gw.Enroll(t, "noisy", api.CredentialsRequest{})

	over := func(network, address string, cfg *tls.Config) func() (net.Conn, error) {
		return func() (net.Conn, error) {
			c, err := net.Dial(network, address)
			if err != nil || cfg == nil {
				return c, err
			}
			s := tls.Client(c, cfg)
			if err := s.Handshake(); err != nil {
				_ = c.Close()
				return nil, err
			}
			return s, nil
		}
	}
	const goroutines = "gatewayctl_go_goroutines"
	before := gw.Metrics(t)[goroutines]
	var wg sync.WaitGroup
	for name, dial := range map[string]func() (net.Conn, error){
		"mqtt":            over("tcp", gw.Address(t, "mqtt"), nil),
		"mqtt under TLS":  over("tcp", gw.Address(t, "mqtt"), gw.TLS(noisy.Cert)),
		"https":           over("tcp", gw.Address(t, "https"), nil),
		"https under TLS": over("tcp", gw.Address(t, "https"), gw.TLS(noisy.Cert)),
		"plain":           over("tcp", gw.Address(t, "plain"), nil),
		"socket":          over("unix", filepath.Join(dir, "mqtt.sock"), nil),
		"admin socket":    over("unix", gw.Status(t).Socket, nil),
	} {
		wg.Go(func() {
			for seed := range uint64(40) {
				c, err := dial()
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				random := rand.New(rand.NewPCG(seed, uint64(len(name))))
				noise := make([]byte, 1+random.IntN(4096))
				for i := range noise {
					noise[i] = byte(random.Uint32())
				}
				if seed%4 == 1 { // what begins like MQTT gets further
					hello := (&plane.Connect{Version: plane.V5, ClientID: "noisy", CleanStart: true}).Append(nil, plane.V5)
					noise = append(hello, noise...)
				}
				_, _ = c.Write(noise) // it may be cut off meanwhile
				if w, ok := c.(interface{ CloseWrite() error }); ok {
					_ = w.CloseWrite()
				}
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	lamp.MustPublish(t, "lamp/data", "still here", 1)
	if s := gw.Status(t); s.Devices.Online != 1 || !s.Ready {
		t.Errorf("after the noise: ready %v, %d devices online, want 1", s.Ready, s.Devices.Online)
	}
	appliancetest.Eventually(t, "the noisy connections are gone", func() bool {
		for _, l := range gw.Status(t).Listeners {
			if l.Name == "mqtt" && l.Connections != 1 || l.Name != "mqtt" && l.Kind != "https" && l.Connections != 0 {
				return false
			}
		}
		return true
	})
	appliancetest.Eventually(t, "the goroutines are as many as before", func() bool {
		now := gw.Metrics(t)[goroutines]
		return now > 0 && now <= before
	})
	if n := gw.Metrics(t)["gatewayctl_mqtt_panics_total"]; n != 0 {
		t.Errorf("%v panics", n)
	}
}

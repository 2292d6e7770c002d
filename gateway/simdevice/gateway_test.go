package simdevice_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"gatewayctl/firmware/repository"
	"gatewayctl/gateway"
	"gatewayctl/gateway/jobs"
	"gatewayctl/gateway/rpc"
	"gatewayctl/gateway/rpc/mqttrpc"
	"gatewayctl/gateway/simdevice"
	"gatewayctl/pki/identity"
	"gatewayctl/store/storetest"
)

// site is the gateway's side of a test: router, repository and installer over mosquitto.
type site struct {
	t         *testing.T
	ca        *authority
	broker    *mosquitto
	router    *rpc.Router
	images    *repository.Repository
	installer *jobs.Installer

	mu    sync.Mutex
	since map[string]time.Time // of the devices' latest connections
	ready chan string
}

func (s *site) Has(name string) bool             { return s.Online(mustID(s.t, name)) }
func (s *site) Online(id identity.DeviceID) bool { return s.Presence(id).Online }

func (s *site) Presence(id identity.DeviceID) gateway.Presence {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.since[id.String()]
	return gateway.Presence{Online: ok, Since: since}
}

func mustID(t testing.TB, name string) identity.DeviceID {
	t.Helper()
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, ca: newAuthority(t), since: map[string]time.Time{}, ready: make(chan string, 100)}
	s.broker = startMosquitto(t, s.ca)
	transport := mqttrpc.New(dialBus(t, s.broker, s.ca.client("gateway")), mqttrpc.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- transport.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.router = rpc.NewRouter(s, transport, rpc.Options{})

	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	if s.images, err = repository.Open(root, storetest.Open(t, repository.Schema()), repository.Options{}); err != nil {
		t.Fatal(err)
	}
	base := ""
	downloads := jobs.NewDownloadHandler(s.images, func(identity.DeviceID) (string, error) { return base, nil }, jobs.DownloadOptions{
		Peer: func(r *http.Request) (identity.DeviceID, bool) {
			return mustID(t, r.TLS.PeerCertificates[0].Subject.CommonName), true
		},
	})
	server := httptest.NewUnstartedServer(downloads)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.ca.server()}, ClientCAs: s.ca.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	base = server.URL
	s.installer = jobs.NewInstaller(s.router, downloads, s, jobs.Options{Poll: 5 * time.Millisecond, RestartTimeout: patience, InstallTimeout: patience, CallTimeout: 2 * time.Second})
	return s
}

// device switches one on and waits until it is there.
func (s *site) device(name string, cfg simdevice.Config) *simdevice.Device {
	s.t.Helper()
	cfg.ID, cfg.Address, cfg.TLS = name, s.broker.address, s.ca.client(name)
	cfg.OnReady = func() {
		s.mu.Lock()
		s.since[name] = time.Now()
		s.mu.Unlock()
		s.ready <- name
	}
	quicken(&cfg)
	dev := simdevice.New(cfg)
	s.t.Cleanup(runDevice(s.t, dev))
	s.await(name)
	return dev
}

func (s *site) await(names ...string) {
	s.t.Helper()
	timeout := time.After(patience)
	for len(names) > 0 {
		select {
		case name := <-s.ready:
			names = slices.DeleteFunc(names, func(n string) bool { return n == name })
		case <-timeout:
			s.t.Fatalf("%v are not connected", names)
		}
	}
}

func (s *site) call(device, method, params string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	result, err := s.router.Call(ctx, device, method, json.RawMessage(params))
	return string(result), err
}

// TestThroughMosquitto calls devices over mTLS with a broker that nobody here wrote, kills it, and calls again.
func TestThroughMosquitto(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.device("sim-1", simdevice.Config{})
	s.device("sim-2", simdevice.Config{})
	for i := range 4 {
		want := fmt.Sprintf(`{"value":%d}`, (i+1)%2)
		if got, err := s.call("sim-1", "GPIO.Toggle", `{"pin":2}`); err != nil || got != want {
			t.Errorf("GPIO.Toggle = %s, %v; want %s", got, err, want)
		}
	}
	if got, err := s.call("sim-2", "GPIO.Read", `{"pin":2}`); err != nil || got != `{"value":0}` {
		t.Errorf("the neighbour's pin: %s, %v", got, err)
	}
	if _, err := s.call("sim-1", "No.Such", ``); err == nil {
		t.Error("an unknown method has an answer")
	} else if remote, ok := errors.AsType[*rpc.RemoteError](err); !ok || remote.Code != 404 {
		t.Errorf("an unknown method gives %v", err)
	}
}

func TestReconnectsToMosquitto(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.device("sim-1", simdevice.Config{})
	s.broker.stop()
	if !s.broker.start() {
		t.Fatal("mosquitto does not start again")
	}
	s.await("sim-1")
}

func TestUpdateOverTheAir(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		faults simdevice.Faults
		err    error
	}{
		{"firmware of today", simdevice.Faults{}, nil},
		{"old firmware", simdevice.Faults{UpdateAnswer: simdevice.AnswerErrorZero}, nil},
		{"the answer is lost", simdevice.Faults{UpdateAnswer: simdevice.AnswerNone}, nil},
		{"crashes", simdevice.Faults{BootFails: true}, jobs.ErrFailed},
		{"lies", simdevice.Faults{FalseVersion: "1.5.0"}, jobs.ErrFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			dev := s.device("sim-1", simdevice.Config{})
			dev.SetFaults(tc.faults)
			image, err := s.images.Add(t.Context(), "demo.zip", bytes.NewReader(bundle(t, "esp32")))
			if err != nil {
				t.Fatal(err)
			}
			var stages []jobs.Stage
			err = s.installer.Install(t.Context(), mustID(t, "sim-1"), image, func(step jobs.Step) { stages = append(stages, step.Stage) })
			if !errors.Is(err, tc.err) {
				t.Fatalf("Install: %v, want %v", err, tc.err)
			}
			dev.SetFaults(simdevice.Faults{})
			var info struct {
				Version string `json:"fw_version"`
			}
			var status struct {
				Committed bool `json:"is_committed"`
			}
			for method, into := range map[string]any{"Sys.GetInfo": &info, "OTA.Status": &status} {
				result, err := s.call("sim-1", method, ``)
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(result), into); err != nil {
					t.Fatal(err)
				}
			}
			if kept := info.Version == image2 && status.Committed; kept != (tc.err == nil) {
				t.Errorf("after %v the device runs %s, committed %v", stages, info.Version, status.Committed)
			}
			if tc.err == nil && stages[len(stages)-1] != jobs.StageDone {
				t.Errorf("stages %v", stages)
			}
		})
	}
}

// image2 is the version of [bundle].
const image2 = "2.0.0"

// Package demo shows the whole gateway in one process: devices over mutual TLS, calls, an uplink
// that fails and comes back, and a firmware update.
package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gatewayctl/cmd/gatewayctl/internal/appliance"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/simdevice"
)

// Options configures [Run].
type Options struct {
	Version string
	Build   time.Time
	Out     io.Writer
	Screen  bool          // redraw one screen; otherwise print a line for each thing that happens
	JSON    bool          // these lines are JSON
	Once    bool          // end when everything was shown once; otherwise stay until ctx ends
	Pace    time.Duration // between two things that are shown; 0 means 3 s

	// Enrol makes a key for a device and gets it certified.
	Enrol func(ctx context.Context, c *client.Client, name, address string) (*tls.Config, error)
	// Bundle makes firmware of a version for the devices.
	Bundle func(version string) ([]byte, error)
}

const devices = 3

// A show is the running demo.
type show struct {
	opts   Options
	cloud  *cloud
	gw     *appliance.Gateway
	client *client.Client
	start  time.Time

	mu    sync.Mutex
	lines []string // what happened, newest last
}

// Run shows everything. It works in a temporary directory, which it removes, on loopback only.
func Run(ctx context.Context, opts Options) error {
	if opts.Pace == 0 {
		opts.Pace = 3 * time.Second
	}
	dir, err := os.MkdirTemp("", "gatewayctl-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)
	s := &show{opts: opts, start: time.Now()}
	if s.cloud, err = newCloud(log); err != nil {
		return err
	}
	defer s.cloud.leave() //nolint:errcheck // its listener may be closed already
	if s.gw, err = appliance.Open(ctx, appliance.Options{
		Data: filepath.Join(dir, "data"), Config: s.config(), Version: opts.Version, Build: opts.Build, Log: log,
	}); err != nil {
		return fmt.Errorf("demo: start the gateway: %w", err)
	}
	if s.client, err = client.New(client.Options{Socket: s.gw.Socket()}); err != nil {
		return err
	}
	defer s.client.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.gw.Run(ctx) })
	if opts.Screen {
		group.Go(func() error { return s.draw(ctx) })
	}
	group.Go(func() error {
		select {
		case <-s.gw.Ready():
		case <-ctx.Done():
			return nil
		}
		if err := s.devices(ctx, group); err != nil {
			return end(ctx, err)
		}
		if err := s.script(ctx, dir); err != nil {
			return end(ctx, err)
		}
		if opts.Once {
			cancel()
			return nil
		}
		s.say("that was all; the devices go on. Ctrl-C ends the demo")
		return nil
	})
	return group.Wait()
}

// end hides errors that come from being asked to stop.
func end(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *show) config() config.Config {
	cfg := config.Default()
	cfg.Listeners["mqtt"] = config.Listener{Type: "mqtts", Address: "127.0.0.1:0"}
	cfg.Listeners["https"] = config.Listener{Type: "https", Address: "127.0.0.1:0"}
	cfg.MDNS.Announce = false
	cfg.Bridge.Upstreams = []config.Upstream{{
		Name: "cloud", URL: "mqtt://" + s.cloud.address,
		Rules: []config.Rule{{Name: "data", Local: "+/data", Direction: "up", RemotePrefix: "demo/"}},
	}}
	return cfg
}

// devices switches the simulated devices on.
func (s *show) devices(ctx context.Context, group *errgroup.Group) error {
	address := ""
	for _, l := range s.gw.Listeners() {
		if l.Name == "mqtt" {
			_, port, err := net.SplitHostPort(l.Address)
			if err != nil {
				return err
			}
			address = net.JoinHostPort("localhost", port)
		}
	}
	s.say("the gateway serves: MQTT over mutual TLS at %s, with a certificate authority of its own", address)
	ready := make(chan string, devices*8)
	for i := range devices {
		name := fmt.Sprintf("sim-%d", i+1)
		tlsConfig, err := s.opts.Enrol(ctx, s.client, name, address)
		if err != nil {
			return fmt.Errorf("enrol %s: %w", name, err)
		}
		dev := simdevice.New(simdevice.Config{
			ID: name, Address: address, TLS: tlsConfig, Telemetry: 500 * time.Millisecond, BootTime: 500 * time.Millisecond, ReconnectMin: time.Second,
			OnReady: func() {
				select {
				case ready <- name:
				default:
				}
			},
		})
		group.Go(func() error { return dev.Run(ctx) })
	}
	for range devices {
		select {
		case name := <-ready:
			s.say("%s is connected with a certificate of its own, and publishes on %s/data", name, name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// script shows one thing after the other.
func (s *show) script(ctx context.Context, dir string) error {
	for _, step := range []func(context.Context) error{
		s.call,
		s.outage,
		func(ctx context.Context) error { return s.update(ctx) },
		s.disable,
	} {
		if err := s.pause(ctx, 1); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return s.pause(ctx, 1)
}

func (s *show) pause(ctx context.Context, times int) error {
	t := time.NewTimer(time.Duration(times) * s.opts.Pace)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *show) call(ctx context.Context) error {
	began := time.Now()
	result, err := s.client.Call(ctx, "sim-1", "GPIO.Toggle", []byte(`{"pin":2}`), 10*time.Second)
	if err != nil {
		return err
	}
	s.say("gatewayctl call sim-1 GPIO.Toggle '{\"pin\":2}'  →  %s, in %v", bytes.TrimSpace(result), time.Since(began).Round(100*time.Microsecond))
	return nil
}

// outage takes the uplink away for a while; nothing that was acknowledged gets lost.
func (s *show) outage(ctx context.Context) error {
	if err := s.cloud.leave(); err != nil {
		return err
	}
	s.say("the uplink is cut: what the bridge rule +/data matches waits on disk")
	if err := s.pause(ctx, 2); err != nil {
		return err
	}
	waiting, err := s.waiting(ctx)
	if err != nil {
		return err
	}
	if err := s.cloud.start(); err != nil {
		return err
	}
	s.say("the uplink is back, with %d messages waiting", waiting)
	for {
		n, err := s.waiting(ctx)
		if err != nil {
			return err
		}
		if n < devices*2 {
			break
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	s.say("the cloud has received %d messages: all that the devices were told is kept", s.cloud.received.Load())
	return nil
}

func (s *show) waiting(ctx context.Context) (n int64, err error) {
	ups, err := s.client.Bridge(ctx)
	if err != nil {
		return 0, err
	}
	for _, u := range ups {
		for _, r := range u.Rules {
			n += r.DepthMessages
		}
	}
	return n, nil
}

// update puts new firmware on a device over the air.
func (s *show) update(ctx context.Context) error {
	image, err := s.opts.Bundle("2.0.0")
	if err != nil {
		return err
	}
	img, err := s.client.AddImage(ctx, "demo.zip", bytes.NewReader(image), int64(len(image)))
	if err != nil {
		return err
	}
	s.say("gatewayctl firmware add demo.zip; firmware update sim-2 demo.zip")
	res, err := s.client.Update(ctx, "sim-2", api.UpdateRequest{Image: img.SHA256}, func(p api.UpdateProgress) {
		if p.Text != "" {
			s.say("  sim-2: %s", p.Text)
		}
	})
	if err != nil {
		return err
	}
	s.say("sim-2 has restarted into %s and was told to keep it", res.To)
	return nil
}

func (s *show) disable(ctx context.Context) error {
	if _, err := s.client.DisableDevice(ctx, "sim-3"); err != nil {
		return err
	}
	s.say("gatewayctl device disable sim-3: its connection is cut at once")
	if err := s.pause(ctx, 1); err != nil {
		return err
	}
	if _, err := s.client.EnableDevice(ctx, "sim-3"); err != nil {
		return err
	}
	s.say("gatewayctl device enable sim-3: it may come back")
	return nil
}

// say tells what happens.
func (s *show) say(format string, args ...any) {
	elapsed, text := time.Since(s.start).Seconds(), fmt.Sprintf(format, args...)
	if s.opts.JSON {
		line, err := json.Marshal(map[string]any{"elapsed_s": elapsed, "text": strings.TrimSpace(text)})
		if err == nil {
			fmt.Fprintf(s.opts.Out, "%s\n", line)
		}
		return
	}
	line := fmt.Sprintf("%5.1fs  %s", elapsed, text)
	s.mu.Lock()
	s.lines = append(s.lines, line)
	s.mu.Unlock()
	if !s.opts.Screen {
		fmt.Fprintln(s.opts.Out, line)
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// draw shows the gateway on one screen until ctx ends.
func (s *show) draw(ctx context.Context) error {
	for {
		if err := s.frame(ctx); err != nil {
			return end(ctx, err)
		}
		if wait(ctx, 250*time.Millisecond) != nil {
			return nil
		}
	}
}

func (s *show) frame(ctx context.Context) error {
	select {
	case <-s.gw.Ready():
	default:
		return nil
	}
	list, err := s.client.Devices(ctx, api.DeviceQuery{})
	if err != nil {
		return err
	}
	ups, err := s.client.Bridge(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("\x1b[H\x1b[2J") // home, clear
	fmt.Fprintf(&b, "gatewayctl %s demo\n\n%-8s %-9s %-10s %s\n", s.opts.Version, "DEVICE", "STATE", "FIRMWARE", "ADDRESS")
	for _, d := range list {
		state := "offline"
		switch {
		case d.Disabled:
			state = "disabled"
		case d.Presence.Online:
			state = "online"
		}
		fmt.Fprintf(&b, "%-8s %-9s %-10s %s\n", d.Name, state, d.Info.FirmwareVersion, d.Presence.Address)
	}
	cloud := "away"
	if s.cloud.there() {
		cloud = "there"
	}
	fmt.Fprintf(&b, "\ncloud    %s, has received %d messages\n", cloud, s.cloud.received.Load())
	for _, u := range ups {
		for _, r := range u.Rules {
			fmt.Fprintf(&b, "bridge   %s, %d messages on disk, %d delivered\n", u.State, r.DepthMessages, r.Sent)
		}
	}
	b.WriteString("\n")
	s.mu.Lock()
	lines := s.lines[max(0, len(s.lines)-12):]
	s.mu.Unlock()
	b.WriteString(strings.Join(lines, "\n") + "\n\nCtrl-C ends the demo.\n")
	_, err = io.WriteString(s.opts.Out, b.String())
	return err
}

// Package appliancetest starts whole gateways for tests: real store, real certificate authority,
// real broker, on free ports of the loopback interface, quiet on the network.
//
// A gateway runs in the test's process, or in one of its own ([Setup.Process]), which can be
// killed as a crash would. Tests talk to both in the same way: over the admin socket
// ([Gateway.API]) and as devices over mutual TLS ([Gateway.Device]). When a test ends, its gateway
// is stopped, which must succeed, and the store that it leaves must pass its check.
package appliancetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gatewayctl/cmd/gatewayctl/internal/appliance"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/events"
	"gatewayctl/store"
)

// Patience is how long a test waits for what must happen.
const Patience = 20 * time.Second

// A Setup says how a gateway is started.
type Setup struct {
	appliance.Options
	Rules   []config.Rule // bridge rules; with any, [Gateway.Upstream] is the broker that they lead to
	Process bool          // run in a process of its own; Now, Names and Log of the Options have no effect then
}

// A Gateway is a running gateway.
type Gateway struct {
	API      *client.Client // over the admin socket
	Upstream *Upstream      // nil without Setup.Rules

	setup   Setup
	running running
	status  api.Status
	roots   *x509.CertPool
}

// running is how the gateway runs.
type running interface {
	failed() <-chan struct{} // closed when it has ended
	stop() error             // returns how it ended
	kill() error             // without a clean end
}

// Start starts a gateway in an empty data directory; each change is applied to what it is started
// with.
func Start(tb testing.TB, change ...func(*Setup)) *Gateway {
	tb.Helper()
	g, err := Try(tb, change...)
	if err != nil {
		tb.Fatalf("start the gateway: %v", err)
	}
	return g
}

// Try is Start for a test that expects the gateway's error.
func Try(tb testing.TB, change ...func(*Setup)) (*Gateway, error) {
	tb.Helper()
	g := &Gateway{setup: Setup{Options: appliance.Options{
		Data: Data(tb), Config: config.Default(), Version: "0.0.0-test",
		Log: slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}}}
	cfg := &g.setup.Config
	cfg.Listeners["mqtt"] = config.Listener{Type: "mqtts", Address: "127.0.0.1:0"}
	cfg.Listeners["https"] = config.Listener{Type: "https", Address: "127.0.0.1:0"}
	cfg.MDNS.Announce = false
	for _, c := range change {
		c(&g.setup)
	}
	if len(g.setup.Rules) > 0 {
		g.Upstream = newUpstream(tb)
		cfg.Bridge.Upstreams = append(cfg.Bridge.Upstreams, config.Upstream{
			Name: "cloud", URL: g.Upstream.broker.URL(), Rules: g.setup.Rules,
		})
	}
	tb.Cleanup(func() { g.Stop(tb) })
	if err := g.open(tb); err != nil {
		return nil, err
	}
	return g, nil
}

// Data makes a data directory with a path that is short enough for sockets.
func Data(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "gw-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return filepath.Join(dir, "data")
}

// open starts the gateway and waits until it is ready.
func (g *Gateway) open(tb testing.TB) error {
	tb.Helper()
	var err error
	if g.setup.Process {
		g.running, err = startProcess(tb, g.setup)
	} else {
		g.running, err = startInside(g.setup.Options)
	}
	if err != nil {
		return err
	}
	if g.API, err = client.New(client.Options{Data: g.setup.Data}); err != nil {
		tb.Fatal(err)
	}
	ctx := Context(tb)
	Eventually(tb, "the gateway is ready", func() bool {
		select {
		case <-g.running.failed():
			err = errors.Join(errors.New("the gateway has ended"), g.running.stop())
			return true
		default:
			return g.API.Ready(ctx) == nil
		}
	})
	if err != nil {
		g.running = nil
		return err
	}
	if g.status, err = g.API.Status(ctx); err != nil {
		tb.Fatal(err)
	}
	pem, err := g.API.CA(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	g.roots = x509.NewCertPool()
	if !g.roots.AppendCertsFromPEM(pem) {
		tb.Fatal("the CA's certificate is not PEM")
	}
	return nil
}

// Stop stops the gateway cleanly and checks the store that it leaves. It does nothing to a
// gateway that has been stopped.
func (g *Gateway) Stop(tb testing.TB) {
	tb.Helper()
	if g.running == nil {
		return
	}
	r := g.running
	g.running = nil
	g.API.Close()
	if err := r.stop(); err != nil {
		tb.Errorf("the gateway did not end well: %v", err)
	}
	g.check(tb)
}

// Kill ends the gateway's process with SIGKILL, checks what it leaves on disk, and starts it
// again in the same directory. Its ports are others afterwards. It needs Setup.Process.
func (g *Gateway) Kill(tb testing.TB) {
	tb.Helper()
	g.API.Close()
	if err := g.running.kill(); err != nil {
		tb.Fatal(err)
	}
	g.running = nil
	g.check(tb)
	g.restart(tb)
}

// Restart stops the gateway cleanly, if it runs, and starts it again in the same directory, after
// each change. Its ports are others afterwards.
func (g *Gateway) Restart(tb testing.TB, change ...func(*Setup)) {
	tb.Helper()
	g.Stop(tb)
	for _, c := range change {
		c(&g.setup)
	}
	g.restart(tb)
}

func (g *Gateway) restart(tb testing.TB) {
	tb.Helper()
	if err := g.open(tb); err != nil {
		tb.Fatalf("start the gateway again: %v", err)
	}
}

// check is the store's own of its file.
func (g *Gateway) check(tb testing.TB) {
	tb.Helper()
	db, err := store.Open(filepath.Join(g.setup.Data, "gatewayctl.db"), nil, store.Options{})
	if err != nil {
		tb.Error(err)
		return
	}
	if err := errors.Join(db.Check(), db.Close()); err != nil {
		tb.Error(err)
	}
}

// Dir is the data directory.
func (g *Gateway) Dir() string { return g.setup.Data }

// Address is where the listener of that name is: host:port, or a path.
func (g *Gateway) Address(tb testing.TB, listener string) string {
	tb.Helper()
	for _, l := range g.status.Listeners {
		if l.Name == listener {
			return l.Address
		}
	}
	tb.Fatalf("no listener is called %s", listener)
	return ""
}

// TLS is what a client needs that trusts the gateway and presents certs.
func (g *Gateway) TLS(certs ...tls.Certificate) *tls.Config {
	cfg := &tls.Config{RootCAs: g.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12, Time: g.setup.Now}
	if len(certs) > 0 { // sent whatever authorities the gateway names
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	return cfg
}

// Status asks the gateway how it is.
func (g *Gateway) Status(tb testing.TB) api.Status {
	tb.Helper()
	s, err := g.API.Status(Context(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Event waits for an event that matches and returns it.
func (g *Gateway) Event(tb testing.TB, match func(events.Event) bool) (found events.Event) {
	tb.Helper()
	Eventually(tb, "the event is there", func() bool {
		list, err := g.API.Events(Context(tb), api.EventQuery{Limit: 1000})
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range list {
			if match(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// Context ends when the test does, or when it has lasted too long for anything.
func Context(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 2*Patience)
	tb.Cleanup(cancel)
	return ctx
}

// Eventually asks until the answer is yes.
func Eventually(tb testing.TB, what string, yes func() bool) {
	tb.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// inside is a gateway in this process.
type inside struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // set before ended is closed
}

func startInside(opts appliance.Options) (running, error) {
	ctx, cancel := context.WithCancel(context.Background())
	gw, err := appliance.Open(ctx, opts)
	if err != nil {
		cancel()
		return nil, err
	}
	in := &inside{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(in.ended)
		in.err = gw.Run(ctx)
	}()
	return in, nil
}

func (in *inside) failed() <-chan struct{} { return in.ended }
func (in *inside) kill() error {
	return errors.New("only a gateway in a process of its own can be killed")
}

func (in *inside) stop() error {
	in.cancel()
	select {
	case <-in.ended:
		return in.err
	case <-time.After(2 * Patience):
		return errors.New("it does not end")
	}
}

// dial connects to a listener.
func dial(address string) (net.Conn, error) {
	network := "tcp"
	if filepath.IsAbs(address) {
		network = "unix"
	}
	return net.DialTimeout(network, address, Patience)
}

// Package appliance composes the gateway: a [config.Config] and a data directory become a running
// one. It is the only place that knows all packages.
//
// # Design
//
// [Open] takes what must be had before anything may be promised: the data directory, the locks,
// the store, the certificate authority, the message log, every listening socket. What is wrong
// with any of these is an error of the start, and nothing has been served yet. [Gateway.Run]
// starts the parts in the order of what they need and stops them in reverse.
package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gatewayctl/bridge"
	"gatewayctl/broker"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/firmware/repository"
	"gatewayctl/gateway"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/discovery"
	"gatewayctl/gateway/events"
	"gatewayctl/gateway/jobs"
	"gatewayctl/gateway/provision"
	"gatewayctl/gateway/rpc"
	"gatewayctl/gateway/rpc/mqttrpc"
	"gatewayctl/pki"
	"gatewayctl/pki/keystore"
	"gatewayctl/store"
	"gatewayctl/store/msglog"
)

// Options configures a [Gateway].
type Options struct {
	Data    string        // data directory, made if it is not there
	Socket  string        // path of the admin socket; "" means the one of the data directory
	Config  config.Config // config.Default() is a complete one
	Base    string        // directory that relative paths of Config start from; "" means Data
	Version string
	Build   time.Time // no clock before it is trusted; zero: any is

	Now   func() time.Time                   // nil means time.Now
	Names func() ([]string, []net.IP, error) // of this machine, for its certificate; nil means all of them
	Log   *slog.Logger                       // nil discards

	// NamesInterval is how soon a new address of the machine gets into the server's certificate;
	// 0 means 5s.
	NamesInterval time.Duration
}

// A Gateway is a whole gateway in this process.
type Gateway struct {
	opts    Options
	log     *slog.Logger
	started time.Time

	db        *store.DB
	clock     *pki.Clock
	authority *pki.Authority
	server    *pki.Server
	msglog    *msglog.Log
	events    *events.Log
	registry  *gateway.Registry
	enrolment *provision.Service
	policies  *policies
	access    *access
	broker    *broker.Broker
	transport *mqttrpc.Transport
	router    *rpc.Router
	images    *repository.Repository
	downloads *jobs.DownloadHandler
	installer *jobs.Installer
	bridge    *bridge.Bridge
	announcer *discovery.Announcer
	api       *api.API
	metrics   *metrics

	dir       *os.Root
	socket    net.Listener
	path      string // of the socket
	listeners []listener
	closers   []func() error
	ready     chan struct{}
}

// A listener is one bound way in.
type listener struct {
	name, kind string
	net        net.Listener
}

// Open takes everything that a gateway needs. The caller must Run or Close what it returns.
func Open(ctx context.Context, opts Options) (_ *Gateway, err error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{opts: opts, log: opts.Log, ready: make(chan struct{}), started: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	for _, step := range []func(context.Context) error{
		g.openData, g.openIdentity, g.openServices, g.openBroker, g.openRPC, g.openFirmware, g.openBridge, g.openAPI, g.openDiscovery,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Fresh reports whether no device has been registered yet.
func (g *Gateway) Fresh() bool {
	devices, _ := g.registry.Count()
	return devices == 0
}

// Ready is closed once every part has been started.
func (g *Gateway) Ready() <-chan struct{} { return g.ready }

// Socket returns the path of the admin socket.
func (g *Gateway) Socket() string { return g.path }

// Close releases what Open took. Run calls it.
func (g *Gateway) Close() error {
	var errs []error
	for i := len(g.closers) - 1; i >= 0; i-- {
		errs = append(errs, g.closers[i]())
	}
	g.closers = nil
	return errors.Join(errs...)
}

func (g *Gateway) onClose(f func() error) { g.closers = append(g.closers, f) }

// Run serves until ctx ends, then stops cleanly and returns nil.
func (g *Gateway) Run(ctx context.Context) error {
	parts := []part{
		{"clock", g.clock.Run},
		{"server certificate", g.server.Run},
		{"registry", g.registry.Run},
		{"broker", g.broker.Run},
		{"calls", g.transport.Run},
	}
	if len(g.opts.Config.Bridge.Upstreams) > 0 {
		parts = append(parts, part{"bridge", g.bridge.Run})
	}
	parts = append(parts, part{"admin API", g.serveAPI})
	if g.announcer != nil {
		parts = append(parts, part{"mDNS", g.announcer.Run})
	}
	err := runParts(ctx, parts, func() {
		g.event(events.Info, "gateway.started", "", "gateway %s serves", g.opts.Version)
		close(g.ready)
	})
	return errors.Join(err, g.Close())
}

// openData takes the data directory and the store in it.
func (g *Gateway) openData(context.Context) error {
	data, err := filepath.Abs(g.opts.Data)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", g.opts.Data, err)
	}
	g.opts.Data = data
	if g.opts.Base == "" {
		g.opts.Base = data
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return dataError(data, err)
	}
	if g.dir, err = os.OpenRoot(data); err != nil {
		return dataError(data, err)
	}
	g.onClose(g.dir.Close)
	path := filepath.Join(data, "gatewayctl.db")
	g.db, err = store.Open(path, []store.Schema{pki.Schema(), gateway.Schema(), repository.Schema()}, store.Options{Now: g.opts.Now, Log: g.log})
	if err != nil {
		return err
	}
	g.onClose(g.db.Close)
	for _, name := range []string{"keys", "log", "firmware", "policies"} {
		if err := g.dir.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return dataError(filepath.Join(data, name), err)
		}
	}
	return nil
}

// dataError says what to do about a data directory that cannot be used.
func dataError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	remedy := "choose another one with --data"
	switch {
	case errors.Is(err, fs.ErrPermission):
		remedy = "give this user the right to write there, or choose another one with --data"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		remedy = "it is not a directory: move it away, or choose another one with --data"
	case errors.Is(err, syscall.ENOSPC):
		remedy = "the disk is full: make room"
	}
	return &StartError{What: fmt.Sprintf("data directory %s: %v", path, err), Remedy: remedy}
}

// A StartError is why a gateway cannot start, and what to do about it.
type StartError struct {
	What, Remedy string
	Err          error // what caused it; may be nil
}

func (e *StartError) Error() string { return e.What }
func (e *StartError) Unwrap() error { return e.Err }

// openIdentity takes the clock, the certificate authority and the server's certificate.
func (g *Gateway) openIdentity(ctx context.Context) error {
	var err error
	if g.clock, err = pki.NewClock(g.db, pki.ClockOptions{BuildTime: g.opts.Build, Now: g.opts.Now, Log: g.log}); err != nil {
		return err
	}
	keys, err := g.dir.OpenRoot("keys")
	if err != nil {
		return dataError(filepath.Join(g.opts.Data, "keys"), err)
	}
	g.onClose(keys.Close)
	ring, err := keystore.Open(keys)
	if err != nil {
		return err
	}
	g.authority, err = pki.Open(ctx, g.db, ring, g.clock, pki.Options{OnRevoke: g.onRevoke, Log: g.log})
	if err != nil {
		return err
	}
	g.server, err = g.authority.NewServer(ctx, pki.ServerOptions{Names: g.names, Interval: cmp.Or(g.opts.NamesInterval, 5*time.Second), Lifetime: g.opts.Config.PKI.ServerLifetime, OnRenew: g.onRenew})
	return err
}

// names are those of the machine and those that the configuration adds.
func (g *Gateway) names() ([]string, []net.IP, error) {
	local := g.opts.Names
	if local == nil {
		local = pki.LocalNames
	}
	names, ips, err := local()
	if err != nil {
		return nil, nil, err
	}
	for _, n := range g.opts.Config.PKI.ServerNames {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, n)
		}
	}
	return names, ips, nil
}

// openServices takes what keeps state about devices, and the message log.
func (g *Gateway) openServices(context.Context) error {
	var err error
	g.events = events.New(events.Options{Now: g.clock.Now})
	g.registry, err = gateway.NewRegistry(g.db, gateway.RegistryOptions{
		Now: g.clock.Now, Log: g.log, OnDisable: g.onDisable, OnRemove: g.onRemove,
	})
	if err != nil {
		return err
	}
	g.policies = newPolicies(filepath.Join(g.opts.Data, "policies"))
	g.enrolment = provision.New(g.db, g.authority, g.registry, provision.Options{
		Lifetime: g.opts.Config.PKI.DeviceLifetime, DefaultPolicies: []string{policyDevice}, Log: g.log,
	})
	durability := map[config.Choice]msglog.Durability{"always": msglog.Always, "second": msglog.Second, "never": msglog.Never}
	g.msglog, err = msglog.Open(filepath.Join(g.opts.Data, "log"), msglog.Options{
		Durability: durability[g.opts.Config.Durability], MaxBytes: int64(g.opts.Config.Store.MaxLog), Now: g.clock.Now, Log: g.log,
	})
	if err != nil {
		return err
	}
	g.onClose(g.msglog.Close)
	return nil
}

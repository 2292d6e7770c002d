package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"gatewayctl/broker"
	"gatewayctl/broker/acl"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
)

// openBroker binds every MQTT listener and makes the broker; it serves nobody yet.
func (g *Gateway) openBroker(context.Context) error {
	cfg := g.opts.Config
	arn := fmt.Sprintf("arn:aws:iot:%s:%s:", cfg.AWS.Region, cfg.AWS.Account)
	if err := acl.ValidatePrefix(arn); err != nil {
		return &StartError{What: fmt.Sprintf("aws.region and aws.account: %v", err), Remedy: "Mend them in the configuration.", Err: err}
	}
	access := &access{registry: g.registry, policies: g.policies, passwords: map[string]*passwords{}, arn: arn, log: g.log, verify: g.authority.Verify}
	g.access = access
	g.broker = broker.New(access, g.msglog, broker.Options{
		MaxPacketBytes: int(cfg.Limits.MaxPacket), MaxClients: cfg.Limits.MaxClients, MaxPerAddress: cfg.Limits.MaxPerAddress,
		HandshakeTimeout:  cfg.Limits.Handshake,
		MaxQueuedMessages: cfg.Sessions.MaxMessages, MaxQueuedBytes: int64(cfg.Sessions.MaxBytes),
		WhenFull: map[config.Choice]broker.Policy{"drop-oldest": broker.DropOldest, "drop-newest": broker.DropNewest}[cfg.Sessions.WhenFull],
		Observe:  g.onBroker, Now: g.clock.Now, Log: g.log,
	})
	for _, name := range []string{policyDevice, policyLocal} {
		if _, err := g.policies.set([]string{name}); err != nil {
			return &StartError{What: err.Error(), Remedy: "Mend the policy document, or remove it to get the one that came with gatewayctl.", Err: err}
		}
	}
	names := make([]string, 0, len(cfg.Listeners))
	for name := range cfg.Listeners {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l := cfg.Listeners[name]
		if l.Type == "unix" {
			l.Address = g.file(l.Address)
		}
		if l.PasswordFile != "" {
			users, err := loadPasswords(g.file(l.PasswordFile))
			if err != nil {
				return &StartError{What: fmt.Sprintf("listener %s: %v", name, err), Remedy: "Mend the file; `htpasswd -B -c FILE USER` makes one.", Err: err}
			}
			access.passwords[name] = users
		}
		bound, err := g.bind(name, l)
		if err != nil {
			return err
		}
		if l.Type == "https" {
			continue // the API's
		}
		in := broker.Listener{Name: name, Net: bound}
		if l.Type == "mqtts" {
			in.TLS, in.Peer = g.mqttTLS(), g.authority.Verify
		}
		if err := g.broker.Serve(in); err != nil {
			return err
		}
	}
	return nil
}

// mqttTLS asks for a client certificate always.
func (g *Gateway) mqttTLS() *tls.Config { return g.authority.ServerTLS(g.server, true) }

// bind opens a listening socket and remembers it.
func (g *Gateway) bind(name string, l config.Listener) (net.Listener, error) {
	network, address := "tcp", l.Address
	if l.Type == "unix" {
		network = "unix"
		if err := removeStale(address); err != nil {
			return nil, &StartError{What: fmt.Sprintf("listener %s: %v", name, err), Remedy: "Stop what uses it, or choose another path.", Err: err}
		}
	}
	in, err := net.Listen(network, address)
	if err != nil {
		return nil, listenError(name, l, err)
	}
	if l.Type == "unix" {
		if err := os.Chmod(address, 0o660); err != nil {
			return nil, errors.Join(listenError(name, l, err), in.Close())
		}
	}
	if l.Type == "https" {
		limits := g.opts.Config.Limits
		in = newLimitedListener(in, limits.MaxClients, limits.MaxPerAddress, func(address string) {
			g.event(events.Warn, "limit.reached", "", "a client at %s: %d HTTPS connections of one address are the limit", address, limits.MaxPerAddress)
		})
	}
	g.listeners = append(g.listeners, listener{name, string(l.Type), in})
	g.onClose(func() error {
		if err := in.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return in, nil
}

// listenError says why an address cannot be had, and what to do.
func listenError(name string, l config.Listener, err error) error {
	key := fmt.Sprintf("listeners.%s.address", name)
	switch name {
	case "mqtt", "https", "plain":
		key += " or --" + name + "-addr"
	}
	remedy := "Choose another address (" + key + ")."
	what := fmt.Sprintf("listener %s at %s: %v", name, l.Address, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		what = fmt.Sprintf("listener %s: the address %s is in use by another process", name, l.Address)
		remedy = "Stop that process (`ss -ltnp` shows it), or choose another address (" + key + "; port 0 takes a free one)."
	case errors.Is(err, syscall.EACCES):
		what = fmt.Sprintf("listener %s: this user may not listen on %s", name, l.Address)
		remedy = "Ports below 1024 need the capability CAP_NET_BIND_SERVICE; or choose another address (" + key + ")."
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		what = fmt.Sprintf("listener %s: this machine does not have the address %s", name, l.Address)
	}
	return &StartError{What: what, Remedy: remedy, Err: err}
}

// removeStale removes a Unix socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return fmt.Errorf("another process listens on %s", path)
	}
	return os.Remove(path)
}

// Listeners are the ways in, as bound.
func (g *Gateway) Listeners() []api.Listener {
	stats := g.broker.Stats()
	out := make([]api.Listener, 0, len(g.listeners)+1)
	for _, l := range g.listeners {
		address := l.net.Addr().String()
		if l.kind == "unix" {
			if abs, err := filepath.Abs(address); err == nil {
				address = abs
			}
		}
		// A wildcard address shows as the family it was bound for; people know it as :port.
		address = strings.TrimPrefix(address, "[::]")
		connections := stats.Connections[l.name]
		if https, ok := l.net.(*limitedListener); ok {
			connections, _ = https.connections()
		}
		out = append(out, api.Listener{Name: l.name, Kind: l.kind, Address: address, Connections: connections})
	}
	return out
}

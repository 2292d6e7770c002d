package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
	"gatewayctl/gateway/jobs"
	"gatewayctl/store"
)

// openAPI binds the admin socket and prepares the HTTP servers.
func (g *Gateway) openAPI(context.Context) error {
	sock, path, err := api.ListenSocket(g.opts.Data, g.opts.Socket)
	if err != nil {
		return &StartError{What: err.Error(), Remedy: "Choose another path with --socket.", Err: err}
	}
	g.socket, g.path = sock, path
	g.onClose(func() error {
		if err := sock.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	g.metrics = newMetrics(g)
	g.api = api.New(g.services(), api.Options{
		Version: g.opts.Version, Audit: g.audit, MaxImageBytes: int64(g.opts.Config.Store.MaxFirmware), Log: g.log,
	})
	return nil
}

// serveAPI serves the admin socket and every HTTPS listener until ctx ends.
func (g *Gateway) serveAPI(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle(jobs.DownloadPath, g.downloads)
	mux.Handle("/", api.WithCertificates(g.authority.Verify, g.api))

	group, ctx := errgroup.WithContext(ctx)
	run := func(h http.Handler, l net.Listener) {
		server := api.NewServer(h, api.ServerOptions{OnShutdown: g.api.Stop, Log: g.log})
		group.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := server.Shutdown(grace); err != nil {
				return server.Close() // who has not finished by now is cut off
			}
			return nil
		})
	}
	run(g.api, g.socket)
	for _, l := range g.listeners {
		if l.kind != "https" {
			continue
		}
		cfg := g.authority.ServerTLS(g.server, false)
		cfg.NextProtos = []string{"h2", "http/1.1"}
		run(mux, tls.NewListener(l.net, cfg))
	}
	return group.Wait()
}

// audit records who changed what; it shows among the events and in the log.
func (g *Gateway) audit(c api.Caller, action, target string, outcome error) {
	sev, how := events.Info, "done"
	if outcome != nil {
		sev, how = events.Warn, "not done: "+outcome.Error()
	}
	g.events.Add(events.Event{
		Severity: sev, Kind: "audit." + action, Text: fmt.Sprintf("%s by %s: %s %s", how, c.Name, action, target),
		Data: map[string]string{"caller": c.Name, "via": c.Via, "target": target},
	})
	log := g.log.With("component", "api", "caller", c.Name, "action", action, "target", target)
	if outcome != nil {
		log = log.With("err", outcome)
	}
	log.Info("audit")
}

// Healthy reports whether the gateway can do its work: the watchdog asks.
func (g *Gateway) Healthy() bool {
	return g.db.View(func(*store.Tx) error { return nil }) == nil
}

// status is the gateway on one screen.
func (g *Gateway) status(context.Context) (api.Status, error) {
	clock := g.clock.Status()
	devices, online := g.registry.Count()
	log := g.msglog.Stats()
	s := api.Status{
		Health: "ok", Ready: g.isReady() == nil, Version: g.opts.Version, PID: os.Getpid(), Started: g.started,
		UptimeSeconds: time.Since(g.started).Seconds(), DataDir: g.opts.Data, Socket: g.path,
		Clock:     api.Clock{Now: clock.Now, Trusted: clock.Trusted, Reason: clock.Reason, Recorded: clock.Recorded},
		Listeners: g.Listeners(), Devices: api.DeviceCounts{Total: devices, Online: online},
		Bridges: []api.BridgeSummary{}, Warnings: []string{},
		Store:      api.StoreStatus{Path: filepath.Join(g.opts.Data, "gatewayctl.db"), SizeBytes: g.db.Size(), FreeBytes: free(g.opts.Data)},
		MessageLog: api.MessageLogStatus{SizeBytes: log.Bytes, MaxBytes: int64(g.opts.Config.Store.MaxLog), Segments: log.Segments, Consumers: len(g.msglog.Consumers()), Durability: string(g.opts.Config.Durability)},
		CA:         api.CertificateTimes{Subject: g.authority.Root().Subject.CommonName, Fingerprint: g.authority.RootFingerprint(), NotAfter: g.authority.Root().NotAfter},
	}
	server := g.server.Certificate().Leaf
	s.Server = api.CertificateTimes{Subject: server.Subject.CommonName, Fingerprint: fingerprint(server), NotAfter: server.NotAfter}
	ups, err := g.upstreams(context.Background())
	if err != nil {
		return s, err
	}
	for _, u := range ups {
		s.Bridges = append(s.Bridges, summary(u))
	}
	g.warn(&s)
	return s, nil
}

// summary is one upstream in a line.
func summary(u api.Upstream) api.BridgeSummary {
	b := api.BridgeSummary{Name: u.Name, State: u.State, Since: u.Since, LastError: u.LastError}
	for _, r := range u.Rules {
		b.DepthMessages += r.DepthMessages
		b.DepthBytes += r.DepthBytes
		if !r.Oldest.IsZero() && (b.Oldest.IsZero() || r.Oldest.Before(b.Oldest)) {
			b.Oldest = r.Oldest
		}
	}
	return b
}

// warn adds what an operator ought to see to.
func (g *Gateway) warn(s *api.Status) {
	add := func(format string, args ...any) { s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...)) }
	if !s.Clock.Trusted {
		add("the clock is not trusted (%s): nothing is issued or judged expired until it is right; set the time", s.Clock.Reason)
	}
	if r := g.msglog.Recovery(); r.Degraded() {
		lost := fmt.Sprintf("%d damaged ranges set aside, %d segments missing", len(r.SetAside), len(r.Missing))
		s.MessageLog.Degraded = lost
		add("the message log was damaged, messages are lost: %s; remove the files of %s that end in .damaged and .missing once you have seen to it", lost, filepath.Join(g.opts.Data, "log"))
	}
	if g.msglog.Stats().Full {
		add("messages that must be kept are refused: the disk of the data directory or the budget of the message log (store.max_log) is full")
	}
	if s.Store.FreeBytes >= 0 && s.Store.FreeBytes < scarce {
		add("only %d MiB are left on the disk of the data directory: make room", s.Store.FreeBytes>>20)
	}
	if s.MessageLog.MaxBytes > 0 && s.MessageLog.SizeBytes > s.MessageLog.MaxBytes*8/10 {
		add("the message log has used %d %% of its budget: see `gatewayctl bridge status`, or raise store.max_log", s.MessageLog.SizeBytes*100/s.MessageLog.MaxBytes)
	}
	if now := s.Clock.Now; s.Clock.Trusted {
		if left := s.CA.NotAfter.Sub(now); left < 365*24*time.Hour {
			add("the CA ends on %s", s.CA.NotAfter.Format("2006-01-02"))
		}
		if left := s.Server.NotAfter.Sub(now); left < 7*24*time.Hour {
			add("the gateway's own certificate ends on %s and could not be renewed: see `gatewayctl events`", s.Server.NotAfter.Format("2006-01-02"))
		}
	}
	for _, err := range g.access.unusable() {
		add("%v; whoever needs it is turned away", err)
	}
	for _, a := range g.bridge.Abandoned() {
		add("%d messages wait for the bridge rule %s, which is no longer configured", a.DepthMessages, a.Name)
	}
	if len(s.Warnings) > 0 {
		s.Health = "degraded"
	}
}

// isReady says why devices cannot connect yet.
func (g *Gateway) isReady() error {
	select {
	case <-g.ready:
		return nil
	default:
		return errors.New("the gateway is starting")
	}
}

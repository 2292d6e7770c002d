package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"gatewayctl/cmd/gatewayctl/internal/appliance"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
)

// serveFlags are the flags of serve that change the configuration.
type serveFlags struct {
	config, mqtt, https, plain string
}

func (a *app) serveCmd() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway; the first run makes CA, certificate and store",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), flags) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.config, "config", "", "configuration file (default: gatewayctl.yaml in the data directory, if it is there)")
	f.StringVar(&flags.mqtt, "mqtt-addr", "", "address of MQTT over mutual TLS, host:port (default :8883)")
	f.StringVar(&flags.https, "https-addr", "", "address of HTTPS, host:port (default :8443)")
	f.StringVar(&flags.plain, "plain-addr", "", "loopback address for MQTT without TLS, such as 127.0.0.1:1883 (default: none)")
	return cmd
}

func (a *app) serve(ctx context.Context, flags serveFlags) error {
	cfg, err := a.loadConfig(flags)
	if err != nil {
		return err
	}
	base := ""
	if flags.config != "" {
		base = filepath.Dir(flags.config)
	}
	log := newLogger(a.stderr, cfg.Log)
	g, err := appliance.Open(ctx, appliance.Options{
		Data: a.data, Socket: a.socket, Config: cfg, Base: base, Version: version, Build: buildTime(), Log: log,
	})
	if err != nil {
		var start *appliance.StartError
		if errors.As(err, &start) {
			return fail(exitFailed, start.Remedy, "start the gateway: %v", err)
		}
		return fmt.Errorf("start the gateway: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.Run(ctx) })
	group.Go(func() error { return watchdog(ctx, g.Healthy) })
	group.Go(func() error {
		select {
		case <-g.Ready():
			notifyReady(log)
			return a.greet(g)
		case <-ctx.Done():
		}
		return nil
	})
	stop := context.AfterFunc(ctx, notifyStopping)
	defer stop()
	return group.Wait()
}

// greet says where the gateway listens and, while there is no device, what to do next.
func (a *app) greet(g *appliance.Gateway) error {
	if a.json {
		return a.printLine(struct {
			PID       int            `json:"pid"`
			Socket    string         `json:"socket"`
			Listeners []api.Listener `json:"listeners"`
		}{os.Getpid(), g.Socket(), g.Listeners()})
	}
	for _, l := range g.Listeners() {
		fmt.Fprintf(a.stdout, "%-6s %s at %s\n", l.Name, l.Kind, l.Address)
	}
	if !g.Fresh() {
		return nil
	}
	data := ""
	if a.data != "./data" {
		data = " --data " + a.data
	}
	if a.socket != "" {
		data = " --socket " + a.socket
	}
	_, err := fmt.Fprintf(a.stdout, `
The gateway has its own certificate authority and no devices yet. Next, in another terminal:
  gatewayctl provision lamp --out certs%[1]s     credentials for a device called lamp
  gatewayctl sim --count 3%[1]s                  three simulated devices; then: gatewayctl call sim-1 Sys.GetInfo%[1]s
  gatewayctl status%[1]s                         the gateway on one screen
`, data)
	return err
}

// loadConfig reads the configuration file and applies the flags over it.
func (a *app) loadConfig(flags serveFlags) (config.Config, error) {
	path := flags.config
	if path == "" {
		path = filepath.Join(a.data, "gatewayctl.yaml")
	}
	cfg, err := config.Load(path)
	var problems *config.Problems
	switch {
	case err == nil:
	case errors.As(err, &problems):
		return cfg, fail(exitUsage, "Mend the file and start again; every key is explained in gatewayctl.example.yaml.",
			"the configuration is wrong:\n%v", problems)
	case flags.config == "" && errors.Is(err, fs.ErrNotExist), flags.config == "" && errors.Is(err, fs.ErrInvalid):
		cfg = config.Default()
	case flags.config == "" && isNotDir(a.data):
		cfg = config.Default() // the data directory is what is wrong; that is told when it is opened
	default:
		return cfg, fail(exitFailed, "Name another file with --config.", "%v", err)
	}
	for _, over := range []struct{ flag, name, kind, address string }{
		{"--mqtt-addr", "mqtt", "mqtts", flags.mqtt},
		{"--https-addr", "https", "https", flags.https},
		{"--plain-addr", "plain", "mqtt", flags.plain},
	} {
		if over.address == "" {
			continue
		}
		l := cfg.Listeners[over.name]
		l.Type, l.Address = config.Choice(over.kind), over.address
		if why := l.Check(over.name); why != "" {
			return cfg, fail(exitUsage, "", "%s: %s", over.flag, why)
		}
		cfg.Listeners[over.name] = l
	}
	return cfg, nil
}

// isNotDir reports whether path is something other than a directory.
func isNotDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// newLogger writes to w as the configuration says. Under systemd the journal adds the time.
func newLogger(w io.Writer, cfg config.Log) *slog.Logger {
	level := map[config.Choice]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[cfg.Level]
	opts := &slog.HandlerOptions{Level: level}
	if os.Getenv("JOURNAL_STREAM") != "" {
		opts.ReplaceAttr = func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		}
	}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

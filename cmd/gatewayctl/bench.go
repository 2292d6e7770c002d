package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/cmd/gatewayctl/internal/bench"
	"gatewayctl/cmd/gatewayctl/internal/bench/compare"
)

// benchFlags are what the kinds of load share.
type benchFlags struct {
	pid  int
	load bench.Load
}

func (a *app) benchCmd() *cobra.Command {
	var f benchFlags
	cmd := group("bench", "Load an MQTT broker and measure it",
		a.benchMode(&f, "pairs", "Publishers, each with a subscriber of its own", 8, bench.Pairs),
		a.benchMode(&f, "fanout", "One publisher, many subscribers", 100, bench.FanOut),
		a.benchMode(&f, "fanin", "Many publishers, one subscriber", 50, bench.FanIn),
		a.benchRateCmd(&f), a.benchChurnCmd(&f), a.benchIdleCmd(&f), a.benchConnectsCmd(&f), a.benchOfflineCmd(&f),
		a.benchCompareCmd(), a.benchBrokerCmd(),
	)
	cmd.Use = "bench --url mqtt[s]://HOST:PORT MODE"
	cmd.Long = "Load any MQTT broker and measure it: `gatewayctl bench --url mqtts://localhost:8883 --cert C --key K --ca CA pairs`.\n\n" +
		"Clients are called bench-…, topics bench/…; the broker must allow both. With --pid of a broker on this machine its\n" +
		"CPU time, memory and writes are told too. `gatewayctl bench compare` starts several brokers itself and compares them."
	cmd.PersistentFlags().IntVar(&f.pid, "pid", 0, "the broker's process, to tell what it costs")
	return cmd
}

// loadFlags adds the flags of a load to cmd.
func (f *benchFlags) loadFlags(cmd *cobra.Command, timed bool) {
	fl := cmd.Flags()
	fl.IntVar(&f.load.Payload, "payload", 128, "bytes of a message")
	fl.IntVar(&f.load.Window, "window", 512, "messages that a publisher may be ahead of its slowest subscriber")
	if !timed {
		return
	}
	fl.Uint8VarP(&f.load.QoS, "qos", "q", 0, "quality of service: 0 or 1")
	fl.DurationVar(&f.load.Duration, "duration", 2*time.Second, "measured time")
	fl.DurationVar(&f.load.WarmUp, "warm-up", 300*time.Millisecond, "time before it")
	fl.BoolVar(&f.load.Persistent, "persistent", false, "subscribers have a persistent session")
	fl.IntVar(&f.load.Filters, "filters", 0, "subscriptions that other clients have, which match nothing")
	fl.BoolVar(&f.load.Wildcards, "wildcards", false, "these have wildcards")
}

// benchRun is a command that runs one load against the broker that the flags name.
func (a *app) benchRun(f *benchFlags, use, short string, run func(ctx context.Context, t bench.Target) (bench.Result, error)) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		t, err := a.benchTarget(cmd, f.pid)
		if err != nil {
			return err
		}
		r, err := run(cmd.Context(), t)
		if errors.Is(err, bench.ErrOptions) {
			return usage(cmd, err)
		}
		if err != nil {
			return err
		}
		if a.json {
			err = a.printJSON(r)
		} else {
			err = a.table(func(w io.Writer) { writeResult(w, r) })
		}
		return errors.Join(err, r.Check())
	}}
}

func (a *app) benchMode(f *benchFlags, use, short string, n int, mode func(context.Context, bench.Target, int, bench.Load) (bench.Result, error)) *cobra.Command {
	var count, messages int
	cmd := a.benchRun(f, use, short, func(ctx context.Context, t bench.Target) (bench.Result, error) {
		l := f.load
		l.Messages = messages
		return mode(ctx, t, count, l)
	})
	f.loadFlags(cmd, true)
	cmd.Flags().IntVarP(&count, "count", "n", n, "how many")
	cmd.Flags().IntVar(&messages, "messages", 0, "of each publisher, instead of a measured time")
	return cmd
}

func (a *app) benchRateCmd(f *benchFlags) *cobra.Command {
	var count, rate int
	cmd := a.benchRun(f, "rate", "Pairs at a fixed rate: latency, from when a message was due", func(ctx context.Context, t bench.Target) (bench.Result, error) {
		return bench.Rate(ctx, t, count, rate, f.load)
	})
	f.loadFlags(cmd, true)
	cmd.Flags().IntVarP(&count, "count", "n", 50, "how many pairs")
	cmd.Flags().IntVar(&rate, "rate", 2_000, "messages per second, of all together")
	return cmd
}

func (a *app) benchChurnCmd(f *benchFlags) *cobra.Command {
	var count, rate int
	cmd := a.benchRun(f, "churn", "Pairs while subscriptions come and go", func(ctx context.Context, t bench.Target) (bench.Result, error) {
		return bench.Churn(ctx, t, count, rate, f.load)
	})
	f.loadFlags(cmd, true)
	cmd.Flags().IntVarP(&count, "count", "n", 8, "how many pairs")
	cmd.Flags().IntVar(&rate, "rate", 100, "subscriptions per second")
	return cmd
}

func (a *app) benchIdleCmd(f *benchFlags) *cobra.Command {
	var count int
	cmd := a.benchRun(f, "idle", "Connections that do nothing: the broker's memory (needs --pid)", func(ctx context.Context, t bench.Target) (bench.Result, error) {
		return bench.Idle(ctx, t, count, 0)
	})
	cmd.Flags().IntVarP(&count, "count", "n", 1_000, "how many connections")
	return cmd
}

func (a *app) benchConnectsCmd(f *benchFlags) *cobra.Command {
	var workers, count int
	var d time.Duration
	cmd := a.benchRun(f, "connects", "Connections per second, with full TLS handshakes", func(ctx context.Context, t bench.Target) (bench.Result, error) {
		return bench.Connects(ctx, t, workers, count, d)
	})
	cmd.Flags().IntVar(&workers, "workers", 16, "connections that are being made at the same time")
	cmd.Flags().IntVarP(&count, "count", "n", 0, "end after so many connections")
	cmd.Flags().DurationVar(&d, "duration", 2*time.Second, "measured time")
	return cmd
}

func (a *app) benchOfflineCmd(f *benchFlags) *cobra.Command {
	var messages int
	cmd := a.benchRun(f, "offline", "QoS 1 to a persistent session whose client is away, and its return", func(ctx context.Context, t bench.Target) (bench.Result, error) {
		l := f.load
		l.Messages = messages
		return bench.Offline(ctx, t, l)
	})
	f.loadFlags(cmd, false)
	cmd.Flags().IntVar(&messages, "messages", 20_000, "how many")
	return cmd
}

// benchTarget is the broker that --url names.
func (a *app) benchTarget(cmd *cobra.Command, pid int) (t bench.Target, err error) {
	u, err := url.Parse(a.url)
	if err != nil || u.Host == "" || u.Scheme != "mqtt" && u.Scheme != "mqtts" {
		return t, usage(cmd, fmt.Errorf("--url %q: the broker's address is mqtt://HOST:PORT or mqtts://HOST:PORT", a.url))
	}
	t.PID, t.Address = pid, u.Host
	port := map[string]string{"mqtt": "1883", "mqtts": "8883"}[u.Scheme]
	if u.Port() == "" {
		t.Address = net.JoinHostPort(u.Hostname(), port)
	}
	if u.Scheme == "mqtts" {
		cfg, err := compare.ClientTLS(a.cert, a.key, a.ca)
		if err != nil {
			return t, err
		}
		t.TLS = []*tls.Config{cfg}
	}
	return t, nil
}

func (a *app) benchCompareCmd() *cobra.Command {
	var opts compare.Options
	var out string
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Compare this gateway with mosquitto, plain mochi and a bare relay",
		Long: "Start this gateway, Debian's mosquitto (if it is installed), plain mochi and a bare relay, each on loopback and\n" +
			"free ports, do the same work with each of them in turn, and print a table.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Binary, err = os.Executable(); err != nil {
				return err
			}
			opts.Version = version
			opts.Progress = func(line string) { a.note("%s", line) }
			rep, err := compare.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if out != "" {
				if err := writeReport(out, rep); err != nil {
					return err
				}
			}
			if a.json {
				return a.printJSON(rep)
			}
			return a.table(func(w io.Writer) {
				line := func(cells []string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }
				rep.Table(line)
				line(nil)
				rep.BarTable(line)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "write the report to this file too, in Markdown")
	f.BoolVar(&opts.Quick, "quick", false, "measure briefly and once")
	f.IntVar(&opts.Rounds, "rounds", 0, "rounds of each measurement, of which the median is taken (default 3, quick 1)")
	f.StringVar(&opts.Only, "only", "", "only the work whose name contains this")
	f.StringVar(&opts.Profile, "cpuprofile", "", "write a CPU profile of the gateway to this file")
	_ = f.MarkHidden("cpuprofile")
	return cmd
}

func writeReport(path string, rep *compare.Report) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(rep.Markdown(f), f.Close())
}

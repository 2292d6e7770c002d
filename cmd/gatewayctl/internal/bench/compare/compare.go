// Package compare runs the load generator against several brokers in turn, in one run on one
// machine: Debian's mosquitto, plain mochi-mqtt, the bare relay, and the gateway itself. Ratios
// between them mean something on any machine; the figures only on the one they are from.
//
// It starts all brokers itself, on loopback and free ports, with data in a temporary directory,
// and ends them by their process identifiers.
package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"gatewayctl/cmd/gatewayctl/internal/bench"
)

// Options configures [Run].
type Options struct {
	Binary   string // of gatewayctl, which is started as the gateway and as other brokers
	Version  string // of it
	Rounds   int    // of each measurement, of which the median is taken; 0 means 3, and 1 if Quick
	Quick    bool   // short, for a first impression
	Only     string // part of the names of the rows to run; "" means all
	Profile  string // file for a CPU profile of the gateway; "" makes none
	Progress func(string)
	Now      func() time.Time // nil means time.Now
}

// A Report is what was measured.
type Report struct {
	Date    time.Time `json:"date"`
	Machine string    `json:"machine"`
	Go      string    `json:"go"`
	Rounds  int       `json:"rounds"`
	Brokers []Broker  `json:"brokers"`
	Rows    []Row     `json:"rows"`
}

// A Broker is one that took part.
type Broker struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// A Row is one kind of work.
type Row struct {
	Name    string                  `json:"name"`
	Command string                  `json:"command"` // of `gatewayctl bench`, that does the same
	Secure  bool                    `json:"mtls"`
	Results map[string]bench.Result `json:"results"` // by broker: medians
	Failed  map[string]string       `json:"failed,omitempty"`
	Bars    []Bar                   `json:"bars,omitempty"`

	show func(bench.Result) string
}

// A Bar is a demand on the gateway and how it is met.
type Bar struct {
	What    string  `json:"what"`
	Value   float64 `json:"value"`
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least"`
	Met     bool    `json:"met"`
}

// Run compares. A row that a broker fails is noted; Run itself fails when a broker cannot be
// started or ctx ends.
func Run(ctx context.Context, opts Options) (rep *Report, err error) {
	if opts.Rounds == 0 {
		if opts.Rounds = 3; opts.Quick {
			opts.Rounds = 1
		}
	}
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	dir, err := os.MkdirTemp("", "gatewayctl-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	brokers, err := assemble(dir, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, b := range brokers {
			err = errors.Join(err, b.stop())
		}
	}()
	for _, b := range brokers {
		if err := b.start(ctx); err != nil {
			return nil, fmt.Errorf("start %w", err)
		}
	}
	rep = &Report{Date: opts.Now().UTC().Truncate(time.Second), Machine: machine(), Go: runtime.Version(), Rounds: opts.Rounds}
	for _, b := range brokers {
		rep.Brokers = append(rep.Brokers, Broker{b.name, b.version})
	}
	s := fullSize
	if opts.Quick {
		s = quickSize
	}
	for _, w := range rows(s) {
		if !matches(w.name, opts.Only) {
			continue
		}
		r, err := w.measure(ctx, brokers, opts)
		if err != nil {
			return nil, err
		}
		rep.Rows = append(rep.Rows, r)
	}
	return rep, nil
}

// assemble prepares all brokers; mosquitto only if it is there.
func assemble(dir string, opts Options) ([]*broker, error) {
	a, err := newAuthority(dir)
	if err != nil {
		return nil, err
	}
	server, clients, err := a.others()
	if err != nil {
		return nil, err
	}
	var brokers []*broker
	m, err := mosquitto(dir, server, clients)
	if err != nil {
		return nil, err
	}
	if m != nil {
		brokers = append(brokers, m)
	}
	g, err := gateway(opts.Version, filepath.Join(dir, "gateway"), opts.Binary, opts.Profile)
	if err != nil {
		return nil, err
	}
	return append(brokers,
		own(Mochi, moduleVersion("github.com/mochi-mqtt/server/v2"), dir, opts.Binary, server, clients),
		own(Relay, opts.Version, dir, opts.Binary, server, clients), g), nil
}

// measure runs the row on each broker in turn, round by round.
func (w row) measure(ctx context.Context, brokers []*broker, opts Options) (Row, error) {
	out := Row{Name: w.name, Command: w.command, Secure: w.secure, Results: map[string]bench.Result{}, Failed: map[string]string{}, show: w.show}
	all := map[string][]bench.Result{}
	for round := range opts.Rounds {
		for i := range brokers {
			b := brokers[(i+round)%len(brokers)] // nobody is always the first
			if w.only != nil && !slices.Contains(w.only, b.name) || out.Failed[b.name] != "" {
				continue
			}
			if w.fresh {
				if err := errors.Join(b.stop(), b.start(ctx)); err != nil {
					return out, err
				}
			}
			r, err := w.run(ctx, b.target(w.secure))
			if err == nil {
				err = r.Check()
			}
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			if err != nil {
				out.Failed[b.name] = err.Error()
				opts.Progress(fmt.Sprintf("%s: %s: %v", w.name, b.name, err))
				if err := errors.Join(b.stop(), b.start(ctx)); err != nil { // what it is left in is of no use
					return out, err
				}
				continue
			}
			all[b.name] = append(all[b.name], r)
			opts.Progress(fmt.Sprintf("%s: %s: %s", w.name, b.name, w.show(r)))
		}
	}
	for name, rs := range all {
		if out.Failed[name] == "" {
			out.Results[name] = bench.Median(rs)
		}
	}
	out.judge(w.bars)
	return out, nil
}

// judge holds our results against what is demanded.
func (r *Row) judge(bars []bar) {
	mine, ok := r.Results[ours]
	for _, b := range bars {
		v := Bar{What: b.what, Limit: b.limit, AtLeast: b.atLeast}
		other, known := r.Results[b.against]
		switch {
		case !ok:
		case b.against == "":
			v.Value, v.Met = b.figure(mine), true
		case known && b.figure(other) > 0:
			v.Value, v.Met = b.figure(mine)/b.figure(other), true
		default:
			continue // nothing to compare with
		}
		v.Met = v.Met && (v.Value >= v.Limit) == v.AtLeast || v.Met && v.Value == v.Limit
		r.Bars = append(r.Bars, v)
	}
}

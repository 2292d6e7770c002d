package compare

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/cmd/gatewayctl/internal/bench"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// startAll starts every broker as `bench compare` does, until the test ends.
func startAll(t *testing.T) []*broker {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	brokers, err := assemble(t.TempDir(), Options{Binary: binary})
	if err != nil {
		t.Fatal(err)
	}
	if len(brokers) != 4 {
		t.Fatal("this test needs Debian's mosquitto, which `make test` installs")
	}
	for _, b := range brokers {
		if err := b.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.stop(); err != nil {
				t.Error(err)
			}
		})
	}
	return brokers
}

// Every broker carries every load, plain and with mutual TLS, without loss.
func TestEveryBroker(t *testing.T) {
	t.Parallel()
	for _, b := range startAll(t) {
		t.Run(b.name, func(t *testing.T) {
			for name, secure := range map[string]bool{"plain": false, "mTLS": true} {
				ctx, to := t.Context(), b.target(secure)
				check := func(what string, want uint64, r bench.Result, err error) {
					t.Helper()
					if err = errors.Join(err, r.Check()); err != nil {
						t.Errorf("%s, %s: %v", name, what, err)
					} else if r.Messages != want || r.BrokerCPU <= 0 {
						t.Errorf("%s, %s: %d messages at %v µs, want %d", name, what, r.Messages, r.BrokerCPU, want)
					}
				}
				r, err := bench.Pairs(ctx, to, 2, bench.Load{Messages: 300})
				check("QoS 0", 600, r, err)
				r, err = bench.Pairs(ctx, to, 2, bench.Load{Messages: 300, QoS: 1, Filters: 100})
				check("QoS 1", 600, r, err)
				r, err = bench.FanOut(ctx, to, 5, bench.Load{Messages: 100, QoS: 1})
				check("fan-out", 500, r, err)
				r, err = bench.FanIn(ctx, to, 5, bench.Load{Messages: 100, QoS: 1})
				check("fan-in", 500, r, err)
				r, err = bench.Connects(ctx, to, 2, 10, time.Minute)
				check("connects", 10, r, err)
				if b.name == floor {
					continue
				}
				r, err = bench.Pairs(ctx, to, 2, bench.Load{Messages: 100, QoS: 1, Persistent: true})
				check("persistent sessions", 200, r, err)
				if b.name == plain {
					continue // it redelivers in any order
				}
				r, err = bench.Offline(ctx, to, bench.Load{Messages: 500})
				if check("offline", 500, r, err); err == nil && r.DrainRate <= 0 {
					t.Errorf("%s: nothing was drained: %+v", name, r)
				}
			}
		})
	}
}

// The whole comparison leaves no process and no file behind.
func TestRun(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var lines []string
	rep, err := Run(t.Context(), Options{
		Binary: binary, Version: "1.2.3", Quick: true, Only: "Full mTLS", Progress: func(l string) { lines = append(lines, l) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Rows) != 1 || len(rep.Rows[0].Results) != 4 || len(lines) != 4 || len(rep.Rows[0].Bars) != 1 {
		t.Errorf("got %+v, said %q", rep, lines)
	}
	if left, err := filepath.Glob(filepath.Join(tmp, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Run(ctx, Options{Binary: binary, Quick: true, Only: "QoS 0", Progress: func(string) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

// A broker that does not come up is told with what it says.
func TestStartTellsWhy(t *testing.T) {
	t.Parallel()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := own("nonsense", "", t.TempDir(), binary, files{}, nil)
	if err := b.start(t.Context()); err == nil || !strings.Contains(err.Error(), "server certificate") {
		t.Errorf("got %v", err)
	}
	if b.process != nil {
		t.Error("a process is left")
	}
}

// A broker ends when whoever started it is gone: its standard input ends.
func TestOwnBrokerEndsWithItsParent(t *testing.T) {
	t.Parallel()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a, err := newAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	server, clients, err := a.others()
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []Kind{Relay, Mochi} {
		b := own(kind, "", dir, binary, server, clients)
		if err := b.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = b.process.in.Close()
		<-b.process.exited
		if state := b.process.cmd.ProcessState; !state.Success() {
			t.Errorf("%s: %v", kind, state)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	}
}

// Stop works on a process that is gone already.
func TestStopTwice(t *testing.T) {
	t.Parallel()
	p, err := start(filepath.Join(t.TempDir(), "log"), false, "sleep", "100")
	if err != nil {
		t.Fatal(err)
	}
	if p.gone() {
		t.Error("it is gone before it was stopped")
	}
	for range 2 {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGTERM {
		t.Errorf("ended by %v", p.cmd.ProcessState)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	r := Row{Results: map[string]bench.Result{
		ours: {Rate: 600, BrokerCPU: 2}, theirs: {Rate: 100, BrokerCPU: 10}, floor: {Rate: 900, BrokerCPU: 1},
	}}
	r.judge([]bar{
		{"rate", theirs, rate, 6, true}, {"more", theirs, rate, 7, true}, {"CPU", theirs, cpu, .25, false},
		{"floor", floor, cpu, 1.5, false}, {"absolute", "", cpu, 2, false}, {"unknown", "nobody", cpu, 1, true},
	})
	want := []Bar{
		{"rate", 6, 6, true, true}, {"more", 6, 7, true, false}, {"CPU", .2, .25, false, true},
		{"floor", 2, 1.5, false, false}, {"absolute", 2, 2, false, true},
	}
	if diff := cmp.Diff(want, r.Bars); diff != "" {
		t.Error(diff)
	}
	none := Row{Results: map[string]bench.Result{theirs: {Rate: 100}}}
	if none.judge([]bar{{"rate", theirs, rate, 6, true}}); len(none.Bars) != 1 || none.Bars[0].Met {
		t.Errorf("what we fail counts as %+v", none.Bars)
	}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	rep := &Report{
		Date: time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC), Machine: "a machine", Go: "go1.26", Rounds: 3,
		Brokers: []Broker{{theirs, "2.0.11"}, {plain, "2.7.9"}, {floor, "dev"}, {ours, "dev"}},
	}
	res := func(rate, cpu float64) bench.Result { return bench.Result{Rate: rate, BrokerCPU: cpu} }
	for _, w := range rows(quickSize) {
		r := Row{Name: w.name, Command: w.command, Secure: w.secure, show: w.show, Failed: map[string]string{}, Results: map[string]bench.Result{}}
		if strings.HasPrefix(w.command, "offline") {
			r.Failed[plain] = "it lost messages"
		}
		for i, name := range []string{theirs, floor, ours} {
			v := res(1000*float64(i+1), 100/float64(i+1))
			v.WriteAmplification = 1.25
			switch strings.Fields(w.command)[0] {
			case "churn":
				v.Base = 2 * v.Rate
			case "idle":
				v = bench.Result{Resident: 1 << 20, PerClient: 20_000}
			case "rate":
				v.Latency = &bench.Latency{P50: 100, P99: 1000, Late: 50}
			}
			r.Results[name] = v
		}
		r.judge(w.bars)
		rep.Rows = append(rep.Rows, r)
	}
	var b strings.Builder
	if err := rep.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.md")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}
}

package bench_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gatewayctl/cmd/gatewayctl/internal/bench"
	"gatewayctl/cmd/gatewayctl/internal/bench/relay"
)

// startRelay runs a relay in this process until the test ends.
func startRelay(t *testing.T) bench.Target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- new(relay.Relay).Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("relay: %v", err)
		}
	})
	return bench.Target{Address: l.Addr().String(), PID: os.Getpid()}
}

func TestLoadsCountEveryMessage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		run  func(context.Context, bench.Target) (bench.Result, error)
		want uint64
	}{
		{"pairs, QoS 0", func(ctx context.Context, b bench.Target) (bench.Result, error) {
			return bench.Pairs(ctx, b, 4, bench.Load{Messages: 2000})
		}, 8000},
		{"pairs, QoS 1, a window smaller than the number", func(ctx context.Context, b bench.Target) (bench.Result, error) {
			return bench.Pairs(ctx, b, 4, bench.Load{QoS: 1, Messages: 1001, Window: 10})
		}, 4004},
		{"pairs beside other filters", func(ctx context.Context, b bench.Target) (bench.Result, error) {
			return bench.Pairs(ctx, b, 1, bench.Load{Messages: 100, Filters: 777, Wildcards: true})
		}, 100},
		{"fan-out", func(ctx context.Context, b bench.Target) (bench.Result, error) {
			return bench.FanOut(ctx, b, 20, bench.Load{QoS: 1, Messages: 200, Payload: 1000})
		}, 4000},
		{"fan-in", func(ctx context.Context, b bench.Target) (bench.Result, error) {
			return bench.FanIn(ctx, b, 20, bench.Load{QoS: 1, Messages: 200})
		}, 4000},
		{"connects", func(ctx context.Context, b bench.Target) (bench.Result, error) {
			return bench.Connects(ctx, b, 3, 50, time.Minute)
		}, 50},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := tc.run(t.Context(), startRelay(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Check(); err != nil {
				t.Error(err)
			}
			if r.Messages != tc.want || r.Rate <= 0 || r.BrokerCPU <= 0 || r.DriverCPU <= 0 {
				t.Errorf("got %+v, want %d messages and their cost", r, tc.want)
			}
		})
	}
}

func TestLoadsByTime(t *testing.T) {
	t.Parallel()
	brief := bench.Load{QoS: 1, Duration: 100 * time.Millisecond, WarmUp: 20 * time.Millisecond}
	t.Run("pairs", func(t *testing.T) {
		t.Parallel()
		r, err := bench.Pairs(t.Context(), startRelay(t), 2, brief)
		if err != nil || r.Check() != nil || r.Messages == 0 || r.Seconds < .1 {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("churn", func(t *testing.T) {
		t.Parallel()
		r, err := bench.Churn(t.Context(), startRelay(t), 2, 200, brief)
		if err != nil || r.Check() != nil || r.Base <= 0 || r.Rate <= 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("rate", func(t *testing.T) {
		t.Parallel()
		r, err := bench.Rate(t.Context(), startRelay(t), 5, 1000, brief)
		if err != nil || r.Check() != nil || r.Latency == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		if l := r.Latency; l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.Max {
			t.Errorf("latencies are not in order: %+v", l)
		}
	})
}

func TestIdle(t *testing.T) {
	t.Parallel()
	r, err := bench.Idle(t.Context(), startRelay(t), 20, 10*time.Millisecond)
	if err != nil || r.Messages != 20 || r.Resident == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestLoadsRefuseNonsense(t *testing.T) {
	t.Parallel()
	ctx, none := t.Context(), bench.Target{Address: "127.0.0.1:1"}
	for want, err := range map[string]error{
		"QoS 2":          second(bench.Pairs(ctx, none, 1, bench.Load{QoS: 2})),
		"payload":        second(bench.Pairs(ctx, none, 1, bench.Load{Payload: 3})),
		"window":         second(bench.FanIn(ctx, none, 1, bench.Load{Window: 1})),
		"negative":       second(bench.FanOut(ctx, none, 1, bench.Load{Messages: -1})),
		"0 publishers":   second(bench.Pairs(ctx, none, 0, bench.Load{})),
		"0 connections":  second(bench.Idle(ctx, none, 0, 0)),
		"process":        second(bench.Idle(ctx, none, 1, 0)),
		"0 workers":      second(bench.Connects(ctx, none, 0, 1, time.Second)),
		"by time":        second(bench.Churn(ctx, none, 1, 1, bench.Load{Messages: 1})),
		"-1 messages":    second(bench.Rate(ctx, none, 1, -1, bench.Load{})),
		"connection ref": second(bench.Pairs(ctx, none, 1, bench.Load{})),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error about %q, got %v", want, err)
		}
	}
}

func second(_ bench.Result, err error) error { return err }

// A load that is called off ends at once and leaves nothing behind.
func TestLoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := startRelay(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := bench.Pairs(ctx, b, 2, bench.Load{Duration: time.Hour})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

// A broker that refuses, or breaks off, is told with its reason.
func TestLoadTellsWhatTheBrokerDoes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, answer, want string }{
		{"refuses", "\x20\x02\x00\x05", "return code 5"},
		{"says something else", "\xd0\x00", "packet type 13"},
		{"breaks off", "", "EOF"},
		{"does not grant", "\x20\x02\x00\x00\x90\x03\x00\x01\x80", "grants 0x80"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var group sync.WaitGroup
			group.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					group.Go(func() {
						buf := make([]byte, 512)
						_, _ = c.Read(buf)
						_, _ = io.WriteString(c, tc.answer)
						if strings.Contains(tc.answer, "\x90") {
							_, _ = c.Read(buf)
						}
						_ = c.Close()
					})
				}
			})
			_, err = bench.Pairs(t.Context(), bench.Target{Address: l.Addr().String()}, 1, bench.Load{Messages: 1})
			_ = l.Close()
			group.Wait()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error about %q, got %v", tc.want, err)
			}
		})
	}
}

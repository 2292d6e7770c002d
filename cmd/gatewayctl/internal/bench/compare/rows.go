package compare

import (
	"context"
	"fmt"
	"time"

	"gatewayctl/cmd/gatewayctl/internal/bench"
)

// The brokers by name.
const (
	ours   = "gatewayctl"
	theirs = "mosquitto"
	floor  = string(Relay)
	plain  = string(Mochi)
)

// A row is one kind of work, done by several brokers.
type row struct {
	name    string
	command string // the mode and flags that do the same to any broker
	secure  bool
	fresh   bool     // the broker must be one that did nothing before
	only    []string // nil: all of them
	run     func(ctx context.Context, t bench.Target) (bench.Result, error)
	show    func(bench.Result) string
	bars    []bar
}

// A bar is what the design demands of ours.
type bar struct {
	what    string
	against string // broker that is compared with; "": the figure itself
	figure  func(bench.Result) float64
	limit   float64
	atLeast bool // else at most
}

// size is how long and how much is measured.
type size struct {
	duration time.Duration
	rate     time.Duration // of the fixed rate, whose cost per second is small
	offline  int           // messages
	idle     int           // connections
}

var (
	fullSize  = size{duration: 2 * time.Second, rate: 4 * time.Second, offline: 20_000, idle: 1_000}
	quickSize = size{duration: 600 * time.Millisecond, rate: time.Second, offline: 5_000, idle: 200}
)

func rate(r bench.Result) float64   { return r.Rate }
func cpu(r bench.Result) float64    { return r.BrokerCPU }
func p99(r bench.Result) float64    { return r.Latency.P99 }
func kept(r bench.Result) float64   { return r.Rate / r.Base }
func writes(r bench.Result) float64 { return r.WriteAmplification }

func rows(s size) []row {
	pairs := func(n int, l bench.Load) func(context.Context, bench.Target) (bench.Result, error) {
		l.Duration = s.duration
		return func(ctx context.Context, t bench.Target) (bench.Result, error) { return bench.Pairs(ctx, t, n, l) }
	}
	// What was not written was not kept: without this the others would be easy.
	keptBar := bar{"given to write(2), as it must be kept", "", writes, 1, true}
	relayBar := bar{"CPU per message, × relay", floor, cpu, 2, false}
	return []row{
		{
			name: "QoS 0, 8 pairs, 128 B", command: "pairs", run: pairs(8, bench.Load{}), show: throughput,
			bars: []bar{{"rate, × mosquitto", theirs, rate, 6, true}, {"CPU per message, × mosquitto", theirs, cpu, 1. / 6, false}, relayBar},
		},
		{name: "QoS 0, 8 pairs, 128 B, mTLS", command: "pairs", secure: true, run: pairs(8, bench.Load{}), show: throughput, bars: []bar{relayBar}},
		{name: "QoS 1 without loss, 8 pairs, 128 B", command: "pairs --qos 1", run: pairs(8, bench.Load{QoS: 1}), show: throughput, bars: []bar{relayBar}},
		{
			name: "QoS 1 without loss, 8 pairs, 128 B, mTLS", command: "pairs --qos 1", secure: true, run: pairs(8, bench.Load{QoS: 1}), show: throughput,
			bars: []bar{{"rate, × mosquitto", theirs, rate, 10, true}, {"CPU per message, × mosquitto", theirs, cpu, 1. / 8, false}, relayBar},
		},
		{
			name: "fan-out 1 to 100, QoS 1, 128 B", command: "fanout --count 100 --qos 1", show: throughput,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.FanOut(ctx, t, 100, bench.Load{QoS: 1, Duration: s.duration})
			},
			bars: []bar{{"rate, × mosquitto", theirs, rate, 2.5, true}},
		},
		{
			name: "fan-in 50 to 1, QoS 1, 128 B", command: "fanin --count 50 --qos 1", show: throughput,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.FanIn(ctx, t, 50, bench.Load{QoS: 1, Window: 64, Duration: s.duration})
			},
		},
		{
			name: "50 pairs at 2,000 msg/s, QoS 1, mTLS", command: "rate --count 50 --rate 2000 --qos 1", secure: true, show: latency,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.Rate(ctx, t, 50, 2_000, bench.Load{QoS: 1, Duration: s.rate})
			},
			bars: []bar{{"p99 latency, × mosquitto", theirs, p99, 1, false}, {"CPU per message, × relay", floor, cpu, 1.3, false}},
		},
		{
			name: "full mTLS handshakes, ECDSA P-256", command: "connects --workers 16", secure: true, show: throughput,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.Connects(ctx, t, 16, 0, s.duration)
			},
			bars: []bar{{"CPU per handshake, × mosquitto", theirs, cpu, .5, false}},
		},
		{
			name: fmt.Sprintf("memory of %d idle mTLS connections, one subscription each", s.idle), command: fmt.Sprintf("idle --count %d", s.idle),
			secure: true, fresh: true, show: memory,
			run:  func(ctx context.Context, t bench.Target) (bench.Result, error) { return bench.Idle(ctx, t, s.idle, 0) },
			bars: []bar{{"kB per connection", "", func(r bench.Result) float64 { return float64(r.PerClient) / 1e3 }, 36, false}},
		},
		{
			name: "resident memory, 100 devices, idle", command: "idle --count 100", secure: true, fresh: true, show: memory,
			run:  func(ctx context.Context, t bench.Target) (bench.Result, error) { return bench.Idle(ctx, t, 100, 0) },
			bars: []bar{{"MB resident", "", func(r bench.Result) float64 { return float64(r.Resident) / 1e6 }, 40, false}},
		},
		{
			name: "QoS 1 to an offline persistent session, 128 B", command: fmt.Sprintf("offline --messages %d", s.offline),
			only: []string{theirs, plain, ours}, show: throughput,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.Offline(ctx, t, bench.Load{Messages: s.offline})
			},
			bars: []bar{{"rate, × mosquitto without durability", theirs, rate, 1, true}, keptBar},
		},
		{
			name: "QoS 1 to an offline persistent session, 1 KiB: bytes written per byte of payload", command: fmt.Sprintf("offline --payload 1024 --messages %d", s.offline),
			only: []string{ours}, show: storage,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.Offline(ctx, t, bench.Load{Payload: 1 << 10, Messages: s.offline})
			},
			bars: []bar{{"given to write(2)", "", writes, 1.3, false}, keptBar},
		},
		{
			name: "QoS 1 to connected persistent sessions, 8 pairs, 128 B", command: "pairs --qos 1 --persistent",
			only: []string{theirs, plain, ours}, run: pairs(8, bench.Load{QoS: 1, Persistent: true}), show: throughput,
		},
		{
			name: "QoS 1 to connected persistent sessions, 8 pairs, 1 KiB: bytes written per byte of payload", command: "pairs --qos 1 --persistent --payload 1024 --window 64",
			only: []string{ours}, run: pairs(8, bench.Load{QoS: 1, Persistent: true, Payload: 1 << 10, Window: 64}), show: storage,
			bars: []bar{{"given to write(2)", "", writes, .05, false}},
		},
		{
			name: "QoS 0, 8 pairs, 128 B, while 100 subscriptions per second come and go", command: "churn", show: churn,
			run: func(ctx context.Context, t bench.Target) (bench.Result, error) {
				return bench.Churn(ctx, t, 8, 100, bench.Load{Duration: s.duration})
			},
			bars: []bar{{"share of the rate without", "", kept, .8, true}},
		},
		{
			name: "QoS 0, 8 pairs, 128 B, beside 10,000 other filters with wildcards", command: "pairs --filters 10000 --wildcards",
			run: pairs(8, bench.Load{Filters: 10_000, Wildcards: true}), show: throughput,
		},
	}
}

// How a figure is shown.

func throughput(r bench.Result) string {
	return fmt.Sprintf("%s/s, %s", short(r.Rate), micro(r.BrokerCPU))
}

func latency(r bench.Result) string {
	return fmt.Sprintf("p50 %s, p99 %s (sent late: %s), %s CPU", micro(r.Latency.P50), micro(r.Latency.P99), micro(r.Latency.Late), micro(r.BrokerCPU))
}

func memory(r bench.Result) string {
	return fmt.Sprintf("%.1f kB each, %.1f MB", float64(r.PerClient)/1e3, float64(r.Resident)/1e6)
}

func storage(r bench.Result) string {
	return fmt.Sprintf("%.2f (%.2f to storage), %s/s", r.WriteAmplification, r.DiskAmplification, short(r.Rate))
}

func churn(r bench.Result) string {
	return fmt.Sprintf("%.0f %% of %s/s", 100*kept(r), short(r.Base))
}

// short writes a number with three digits or so.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e5:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

func micro(us float64) string {
	switch {
	case us >= 1e4:
		return fmt.Sprintf("%.1f ms", us/1e3)
	case us >= 100:
		return fmt.Sprintf("%.0f µs", us)
	}
	return fmt.Sprintf("%.2f µs", us)
}

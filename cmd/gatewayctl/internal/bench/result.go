package bench

import (
	"errors"
	"fmt"
	"time"
)

// A Result is what a load measured. What a load does not measure is absent.
type Result struct {
	Mode     string  `json:"mode"`
	Messages uint64  `json:"messages,omitempty"` // delivered in the measured time, or connections made
	Seconds  float64 `json:"seconds,omitempty"`  // the measured time
	Rate     float64 `json:"per_second,omitempty"`

	BrokerCPU float64 `json:"broker_cpu_us,omitempty"` // microseconds per delivered message or connection
	DriverCPU float64 `json:"driver_cpu_us,omitempty"` // the same of the load generator itself

	Latency *Latency `json:"latency,omitempty"`

	Base float64 `json:"base_per_second,omitempty"` // churn: the rate without it

	DrainRate float64 `json:"drain_per_second,omitempty"`    // offline: after the subscriber's return
	DrainCPU  float64 `json:"drain_broker_cpu_us,omitempty"` // offline: broker, per message

	// Per byte of payload, without what went to sockets: what the broker gave to write(2), and
	// what reached storage.
	WriteAmplification float64 `json:"write_per_payload_byte,omitempty"`
	DiskAmplification  float64 `json:"disk_per_payload_byte,omitempty"`

	Resident  int64 `json:"resident_bytes,omitempty"` // of the broker, at the end
	PerClient int64 `json:"resident_bytes_per_connection,omitempty"`

	Lost     uint64 `json:"lost,omitempty"`     // messages that never came
	Repeated uint64 `json:"repeated,omitempty"` // that came twice or out of order
}

// A Latency is how long after they were due messages arrived, in microseconds.
type Latency struct {
	P50  float64 `json:"p50_us"`
	P90  float64 `json:"p90_us"`
	P99  float64 `json:"p99_us"`
	Max  float64 `json:"max_us"`
	Late float64 `json:"generator_late_p99_us"` // how late the generator itself was
}

func latencyOf(h, late *Histogram) *Latency {
	us := func(d time.Duration) float64 { return float64(d) / 1e3 }
	return &Latency{P50: us(h.Quantile(.5)), P90: us(h.Quantile(.9)), P99: us(h.Quantile(.99)), Max: us(h.Max()), Late: us(late.Quantile(.99))}
}

// ErrLossy is returned by [Result.Check].
var ErrLossy = errors.New("messages are missing, repeated or out of order")

// Check returns an error unless every message came once and in order.
func (r Result) Check() error {
	if r.Lost > 0 || r.Repeated > 0 {
		return fmt.Errorf("%w: %d lost, %d repeated or out of order", ErrLossy, r.Lost, r.Repeated)
	}
	return nil
}

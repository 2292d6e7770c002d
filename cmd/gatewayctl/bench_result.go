package main

import (
	"fmt"
	"io"

	"gatewayctl/cmd/gatewayctl/internal/bench"
)

// writeResult shows what a load measured, one figure to a line.
func writeResult(w io.Writer, r bench.Result) {
	line := func(show bool, name, format string, args ...any) {
		if show {
			fmt.Fprintf(w, "%s\t"+format+"\n", append([]any{name}, args...)...)
		}
	}
	unit := "message"
	switch r.Mode {
	case "idle", "connects":
		unit = "connection"
	}
	line(true, "mode", "%s", r.Mode)
	line(r.Seconds > 0, unit+"s", "%d in %.2f s", r.Messages, r.Seconds)
	line(r.Seconds == 0, unit+"s", "%d", r.Messages)
	line(r.Rate > 0, "rate", "%.0f/s", r.Rate)
	line(r.Base > 0, "without churn", "%.0f/s: %.1f %% of it remain", r.Base, 100*r.Rate/max(r.Base, 1))
	line(r.BrokerCPU > 0, "broker", "%.2f µs CPU per %s", r.BrokerCPU, unit)
	line(r.DriverCPU > 0, "load generator", "%.2f µs CPU per %s", r.DriverCPU, unit)
	if l := r.Latency; l != nil {
		line(true, "latency", "p50 %.0f µs, p90 %.0f µs, p99 %.0f µs, max %.0f µs", l.P50, l.P90, l.P99, l.Max)
		line(true, "sent late", "p99 %.0f µs (part of the latency)", l.Late)
	}
	line(r.DrainRate > 0, "drained", "%.0f/s", r.DrainRate)
	line(r.DrainCPU > 0, "broker", "%.2f µs CPU per drained message", r.DrainCPU)
	line(r.WriteAmplification > 0 || r.DiskAmplification > 0, "written", "%.3f bytes per byte of payload, %.3f to storage", r.WriteAmplification, r.DiskAmplification)
	line(r.Resident > 0, "resident", "%.1f MB, %.1f kB per connection", float64(r.Resident)/1e6, float64(r.PerClient)/1e3)
	line(r.Lost > 0, "LOST", "%d", r.Lost)
	line(r.Repeated > 0, "REPEATED", "%d, or out of order", r.Repeated)
}

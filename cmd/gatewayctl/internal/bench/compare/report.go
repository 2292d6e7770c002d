package compare

import (
	"fmt"
	"io"
	"strings"
)

// matches reports whether a row's name is asked for.
func matches(name, part string) bool {
	return strings.Contains(strings.ToLower(name), strings.ToLower(part))
}

// cells are a row of the table.
func (rep *Report) cells(r Row) []string {
	out := []string{r.Name}
	for _, b := range rep.Brokers {
		switch res, ok := r.Results[b.Name]; {
		case ok:
			out = append(out, r.show(res))
		case r.Failed[b.Name] != "":
			out = append(out, "fails")
		default:
			out = append(out, "–")
		}
	}
	return append(out, r.ratio(theirs), r.ratio(floor))
}

// ratio is ours to another broker's: rate and CPU, where there is such.
func (r Row) ratio(other string) string {
	mine, ok := r.Results[ours]
	their, known := r.Results[other]
	if !ok || !known {
		return "–"
	}
	var parts []string
	if their.Rate > 0 && mine.Latency == nil {
		parts = append(parts, fmt.Sprintf("rate %.2f", mine.Rate/their.Rate))
	}
	if their.BrokerCPU > 0 {
		parts = append(parts, fmt.Sprintf("CPU %.2f", mine.BrokerCPU/their.BrokerCPU))
	}
	if mine.Latency != nil && their.Latency != nil && their.Latency.P99 > 0 {
		parts = append(parts, fmt.Sprintf("p99 %.2f", mine.Latency.P99/their.Latency.P99))
	}
	if their.PerClient > 0 {
		parts = append(parts, fmt.Sprintf("memory %.2f", float64(mine.PerClient)/float64(their.PerClient)))
	}
	return strings.Join(parts, ", ")
}

func (rep *Report) head() []string {
	out := []string{"work"}
	for _, b := range rep.Brokers {
		out = append(out, b.Name)
	}
	return append(out, "ours / mosquitto", "ours / relay")
}

// Table calls line for each line of the table of figures, the first of which is its head.
func (rep *Report) Table(line func(cells []string)) {
	line(rep.head())
	for _, r := range rep.Rows {
		line(rep.cells(r))
	}
}

// BarTable does the same for what is demanded of the gateway.
func (rep *Report) BarTable(line func(cells []string)) {
	line([]string{"work", "bar", "measured", ""})
	for _, r := range rep.Rows {
		for _, b := range r.Bars {
			sign, word := "≤", "met"
			if b.AtLeast {
				sign = "≥"
			}
			if !b.Met {
				word = "missed"
			}
			line([]string{r.Name, fmt.Sprintf("%s %s %.3g", b.What, sign, b.Limit), fmt.Sprintf("%.3g", b.Value), word})
		}
	}
}

// Missed is how many demands are not met.
func (rep *Report) Missed() int {
	n := 0
	for _, r := range rep.Rows {
		for _, b := range r.Bars {
			if !b.Met {
				n++
			}
		}
	}
	return n
}

// Markdown writes the report as a document.
func (rep *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `gatewayctl bench compare` (`make bench`); do not edit.\n\n")
	fmt.Fprintf(&b, "- Date: %s\n- Machine: %s\n- %s\n", rep.Date.Format("2006-01-02 15:04 MST"), rep.Machine, rep.Go)
	for _, k := range rep.Brokers {
		fmt.Fprintf(&b, "- %s %s\n", k.Name, k.Version)
	}
	measured := "measured once"
	if rep.Rounds > 1 {
		measured = fmt.Sprintf("the median of %d rounds, in each of which all brokers took turns", rep.Rounds)
	}
	fmt.Fprintf(&b, `
Every figure is %s. The load generator shares the
machine with the broker. A cell is what was delivered per second and what a message cost the broker's process in CPU
time, user and system. The ratios mean something elsewhere too; the figures belong to this machine. mosquitto runs as
Debian configures it, but with unbounded queues, so that it loses nothing, and without persistence. The relay is what
passing messages on costs at the least; it is no broker. Latency counts from when a message was due; "sent late" is the
99th percentile of what the load generator itself added to that.

`, measured)
	markdown(&b, rep.Table)
	b.WriteString("\n## Bars\n\nWhat the design demands of the gateway.\n\n")
	markdown(&b, func(line func([]string)) {
		rep.BarTable(func(cells []string) {
			if last := len(cells) - 1; cells[last] == "missed" {
				cells[last] = "**missed**"
			}
			line(cells)
		})
	})
	rep.failures(&b)
	b.WriteString("\n## To repeat a row\n\nAgainst any broker; `--pid` is its process, if it runs on the same machine.\n\n")
	for _, r := range rep.Rows {
		url := "mqtt://HOST:PORT"
		if r.Secure {
			url = "mqtts://HOST:PORT --cert CERT --key KEY --ca CA"
		}
		fmt.Fprintf(&b, "- %s: `gatewayctl bench --url %s --pid PID %s`\n", r.Name, url, r.Command)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown writes a table.
func markdown(b *strings.Builder, table func(func([]string))) {
	first := true
	table(func(cells []string) {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		if first {
			b.WriteString(strings.Repeat("| --- ", len(cells)) + "|\n")
			first = false
		}
	})
}

// failures says what the brokers failed at.
func (rep *Report) failures(b *strings.Builder) {
	head := "\n## Failures\n\n"
	for _, r := range rep.Rows {
		for _, k := range rep.Brokers {
			if why := r.Failed[k.Name]; why != "" {
				fmt.Fprintf(b, "%s- %s, %s: %s\n", head, r.Name, k.Name, why)
				head = ""
			}
		}
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the gateway on one screen",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			s, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			return a.table(func(w io.Writer) { writeStatus(w, s, time.Now()) })
		}),
	}
}

func writeStatus(w io.Writer, s api.Status, now time.Time) {
	health := s.Health
	if !s.Ready {
		health += ", not ready"
	}
	fmt.Fprintf(w, "gateway\t%s, version %s, up %s\n", health, s.Version, round(time.Duration(s.UptimeSeconds*float64(time.Second))))
	fmt.Fprintf(w, "data\t%s\n", s.DataDir)
	clock := "trusted"
	if !s.Clock.Trusted {
		clock = "NOT TRUSTED: " + s.Clock.Reason
	}
	fmt.Fprintf(w, "clock\t%s, %s\n", s.Clock.Now.Local().Format("2006-01-02 15:04:05"), clock)
	for i, l := range s.Listeners {
		fmt.Fprintf(w, "%s\t%s %s at %s, %s\n", label("listeners", i), l.Name, l.Kind, l.Address, count(l.Connections, "connection"))
	}
	fmt.Fprintf(w, "devices\t%d, %d online\n", s.Devices.Total, s.Devices.Online)
	for i, b := range s.Bridges {
		line := fmt.Sprintf("%s %s%s", b.Name, b.State, ago(" since ", b.Since, now))
		if b.DepthMessages > 0 {
			line += fmt.Sprintf(", %s (%s) waiting, oldest%s", count(b.DepthMessages, "message"), size(b.DepthBytes), ago(" ", b.Oldest, now))
		}
		if b.LastError != "" && b.State != "connected" {
			line += ": " + b.LastError
		}
		fmt.Fprintf(w, "%s\t%s\n", label("bridge", i), line)
	}
	room := ""
	if s.Store.FreeBytes >= 0 {
		room = ", " + size(s.Store.FreeBytes) + " left on the disk"
	}
	fmt.Fprintf(w, "store\t%s state, %s of %s message log%s\n", size(s.Store.SizeBytes), size(s.MessageLog.SizeBytes), size(s.MessageLog.MaxBytes), room)
	fmt.Fprintf(w, "certificates\tCA until %s, the gateway's own until %s\n", s.CA.NotAfter.Format("2006-01-02"), s.Server.NotAfter.Format("2006-01-02"))
	fmt.Fprintf(w, "CA fingerprint\t%s\n", s.CA.Fingerprint)
	for i, warning := range s.Warnings {
		fmt.Fprintf(w, "%s\t%s\n", label("warnings", i), warning)
	}
}

// label names the first row of several.
func label(name string, row int) string {
	if row == 0 {
		return name
	}
	return ""
}

func count[N int | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// ago writes how long at lies back, after prefix; "" for the zero time.
func ago(prefix string, at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return prefix + round(now.Sub(at)) + " ago"
}

// round writes a duration with the precision that a person wants.
func round(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return strings.TrimSuffix(d.Round(time.Second).String(), "0s")
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

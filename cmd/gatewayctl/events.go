package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/events"
)

func (a *app) eventsCmd() *cobra.Command {
	var q api.EventQuery
	var follow bool
	var severity string
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened lately: connections, refusals, changes",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		switch q.Severity = events.Severity(severity); q.Severity {
		case "", events.Info, events.Warn, events.Error:
		default:
			return usage(cmd, fmt.Errorf("--severity %q is not one of info, warn, error", severity))
		}
		if since > 0 {
			q.Since = time.Now().Add(-since)
		}
		if !follow {
			list, err := c.Events(ctx, q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(api.EventList{Events: list})
			}
			for _, e := range list {
				a.printEvent(e)
			}
			return nil
		}
		s, err := c.FollowEvents(ctx, q)
		if err != nil {
			return err
		}
		for e, err := range s.All() {
			if err != nil {
				return ended(ctx, err)
			}
			if a.json {
				if err := a.printLine(e); err != nil {
					return err
				}
				continue
			}
			a.printEvent(e)
		}
		return nil
	})
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens from now")
	f.StringVar(&q.Kind, "kind", "", "only this kind, such as publish.refused, or all below it, such as publish")
	f.StringVar(&q.Device, "device", "", "only this device")
	f.StringVar(&severity, "severity", "", "at least this: info, warn, error")
	f.DurationVar(&since, "since", 0, "only the last so long, such as 1h")
	f.IntVar(&q.Limit, "limit", 0, "at most the newest so many (0: 100)")
	return cmd
}

func (a *app) printEvent(e events.Event) {
	fmt.Fprintf(a.stdout, "%s  %-5s  %-24s  %s\n", e.Time.Local().Format("2006-01-02 15:04:05"), e.Severity, e.Kind, e.Text)
}

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

func (a *app) bridgeCmd() *cobra.Command {
	return group("bridge", "Show the bridge to other brokers", &cobra.Command{
		Use:   "status",
		Short: "Show each upstream and rule: connected, waiting, sent, dropped",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			upstreams, err := c.Bridge(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(api.UpstreamList{Upstreams: upstreams})
			}
			if len(upstreams) == 0 {
				a.note("No upstream is configured: see bridge in the configuration file.")
				return nil
			}
			return a.table(func(w io.Writer) {
				for _, u := range upstreams {
					writeUpstream(w, u, time.Now())
				}
			})
		}),
	})
}

func writeUpstream(w io.Writer, u api.Upstream, now time.Time) {
	fmt.Fprintf(w, "%s\t%s\t%s%s\n", u.Name, u.URL, u.State, ago(" since ", u.Since, now))
	if u.LastError != "" {
		fmt.Fprintf(w, "\tlast error\t%s\n", u.LastError)
	}
	fmt.Fprintln(w, "\tRULE\tDIRECTION\tWAITING\tOLDEST\tSENT\tRECEIVED\tDROPPED")
	for _, r := range u.Rules {
		dropped := int64(0)
		for _, n := range r.Dropped {
			dropped += n
		}
		fmt.Fprintf(w, "\t%s\t%s\t%d (%s)\t%s\t%d\t%d\t%d\n", r.Name, r.Direction, r.DepthMessages, size(r.DepthBytes),
			dash(ago("", r.Oldest, now)), r.Sent, r.Received, dropped)
	}
}

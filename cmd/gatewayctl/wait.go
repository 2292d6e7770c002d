package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api/client"
)

func (a *app) waitCmd() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the gateway is ready",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			if err := c.Wait(ctx); err != nil || !a.json {
				return err
			}
			return a.printJSON(map[string]bool{"ready": true})
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	return cmd
}

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api/client"
)

// withClient runs do with a client of the gateway that the flags point to.
func (a *app) withClient(do func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if a.url == "" && (a.cert != "" || a.key != "" || a.ca != "") {
			return usage(cmd, errors.New("--cert, --key and --ca go with --url"))
		}
		c, err := client.New(client.Options{Data: a.data, Socket: a.socket, URL: a.url, Cert: a.cert, Key: a.key, CA: a.ca})
		if err != nil {
			return err
		}
		defer c.Close()
		return do(cmd.Context(), c, args)
	}
}

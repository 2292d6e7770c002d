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

func (a *app) discoverCmd() *cobra.Command {
	var watch bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "discover",
		Short: "List what announces itself by mDNS, and whether it is provisioned",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			if watch {
				return a.watchDiscover(ctx, c)
			}
			found, err := c.Discover(ctx, timeout)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(api.FoundList{Found: found})
			}
			if len(found) == 0 {
				a.note("Nothing announced itself within %v.", timeout)
				return nil
			}
			return a.table(func(w io.Writer) {
				fmt.Fprintln(w, "INSTANCE\tKIND\tSERVICE\tADDRESS\tDEVICE\tDETAILS")
				for _, f := range found {
					fmt.Fprintln(w, foundRow(f))
				}
			})
		}),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show what comes and goes")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to listen")
	return cmd
}

func (a *app) watchDiscover(ctx context.Context, c *client.Client) error {
	s, err := c.WatchDiscover(ctx, 0)
	if err != nil {
		return err
	}
	for f, err := range s.All() {
		if err != nil {
			return ended(ctx, err)
		}
		if a.json {
			if err := a.printLine(f); err != nil {
				return err
			}
			continue
		}
		mark := "+"
		if f.Gone {
			mark = "-"
		}
		fmt.Fprintln(a.stdout, mark+" "+strings.ReplaceAll(foundRow(f), "\t", "  "))
	}
	return nil
}

// foundRow shows one instance; the gateway has made its texts safe for a terminal.
func foundRow(f api.Found) string {
	device := "-"
	if f.Provisioned {
		device = f.Device
	}
	addr := f.Host
	if len(f.Addresses) > 0 {
		addr = f.Addresses[0]
	}
	var details []string
	for _, k := range []string{"app", "ver", "fw_version", "version", "arch", "gen", "friendly_name"} {
		if v := f.TXT[k]; v != "" {
			details = append(details, k+"="+v)
		}
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s:%d\t%s\t%s", f.Instance, dash(f.Kind), f.Service, addr, f.Port, device, strings.Join(details, " "))
}

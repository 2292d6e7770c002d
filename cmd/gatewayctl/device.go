package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

func (a *app) deviceCmd() *cobra.Command {
	return group("device", "List, show, remove, disable and enable devices",
		a.deviceListCmd(), a.deviceShowCmd(),
		a.deviceChangeCmd("rm", "Remove a device and revoke its certificates", "removed", (*client.Client).RemoveDevice),
		a.deviceChangeCmd("disable", "Cut a device off, at once, until it is enabled again", "disabled", (*client.Client).DisableDevice),
		a.deviceChangeCmd("enable", "Let a disabled device connect again", "enabled", (*client.Client).EnableDevice),
	)
}

func (a *app) deviceListCmd() *cobra.Command {
	var q api.DeviceQuery
	var online, offline bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the devices",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			switch {
			case online:
				q.Online = "true"
			case offline:
				q.Online = "false"
			}
			devices, err := c.Devices(ctx, q)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(api.DeviceList{Devices: devices})
			}
			if len(devices) == 0 {
				a.note("No devices. `gatewayctl provision NAME --out DIR` makes one.")
				return nil
			}
			return a.table(func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tTYPE\tSTATE\tLAST SEEN\tFIRMWARE\tADDRESS")
				for _, d := range devices {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, dash(d.Type), deviceState(d), dash(seen(d, time.Now())), dash(d.Info.FirmwareVersion), dash(d.Presence.Address))
				}
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&q.Tag, "tag", "", "only devices with this tag")
	f.StringVar(&q.Type, "type", "", "only devices of this type")
	f.StringVar(&q.Prefix, "prefix", "", "only devices whose name begins so")
	f.BoolVar(&online, "online", false, "only devices that are connected")
	f.BoolVar(&offline, "offline", false, "only devices that are not connected")
	cmd.MarkFlagsMutuallyExclusive("online", "offline")
	return cmd
}

func (a *app) deviceShowCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show one device",
		Args:  cobra.ExactArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.Device(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(d)
			}
			return a.table(func(w io.Writer) { writeDevice(w, d, time.Now()) })
		}),
	}
}

func writeDevice(w io.Writer, d api.Device, now time.Time) {
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	row("name", d.Name)
	row("type", d.Type)
	row("state", deviceState(d)+ago(" since ", d.Presence.Since, now))
	if d.Presence.Online {
		row("connected", fmt.Sprintf("as %q from %s on %s", d.Presence.ClientID, d.Presence.Address, d.Presence.Listener))
	} else {
		row("last seen", seen(d, now))
		row("why offline", d.Presence.Reason)
	}
	row("policies", strings.Join(d.Policies, ", "))
	row("tags", strings.Join(d.Tags, ", "))
	names := make([]string, 0, len(d.Attributes))
	for k := range d.Attributes {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		row("attribute "+k, d.Attributes[k])
	}
	row("app", d.Info.App)
	row("architecture", d.Info.Arch)
	row("firmware", strings.TrimSpace(d.Info.FirmwareVersion+" "+d.Info.FirmwareID))
	row("MAC", d.Info.MAC)
	for i, id := range d.Certificates {
		fmt.Fprintf(w, "%s\t%s\n", label("certificates", i), id)
	}
	row("created", d.Created.Local().Format("2006-01-02 15:04:05"))
}

// deviceChangeCmd is a command that changes one or more devices and says so.
func (a *app) deviceChangeCmd(name, short, done string, change func(*client.Client, context.Context, string) (api.Device, error)) *cobra.Command {
	return &cobra.Command{
		Use:   name + " NAME...",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			var changed []api.Device
			for _, name := range args {
				d, err := change(c, ctx, name)
				if err != nil {
					return errors.Join(a.printChanged(changed, len(args)), err)
				}
				changed = append(changed, d)
				if !a.json {
					fmt.Fprintf(a.stdout, "%s %s\n", d.Name, done)
				}
			}
			return a.printChanged(changed, len(args))
		}),
	}
}

// printChanged prints what was done as JSON: the device when one was asked for, else a list.
func (a *app) printChanged(devices []api.Device, asked int) error {
	switch {
	case !a.json || len(devices) == 0:
		return nil
	case asked == 1:
		return a.printJSON(devices[0])
	}
	return a.printJSON(api.DeviceList{Devices: devices})
}

func deviceState(d api.Device) string {
	switch {
	case d.Disabled:
		return "disabled"
	case d.Presence.Online:
		return "online"
	}
	return "offline"
}

func seen(d api.Device, now time.Time) string {
	switch {
	case d.Presence.Online:
		return "now"
	case d.LastSeen.IsZero():
		return "never"
	}
	return ago("", d.LastSeen, now)
}

// dash stands for an empty column.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

func (a *app) firmwareCmd() *cobra.Command {
	return group("firmware", "Keep firmware images and put them on devices", a.firmwareAddCmd(), a.firmwareListCmd(), a.firmwareRmCmd(), a.firmwareUpdateCmd())
}

func (a *app) firmwareAddCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Put a firmware image into the repository",
		Args:  cobra.ExactArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read firmware image: %w", err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return fmt.Errorf("read firmware image: %w", err)
			}
			if name == "" {
				name = filepath.Base(args[0])
			}
			img, err := c.AddImage(ctx, name, f, info.Size())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(img)
			}
			fmt.Fprintf(a.stdout, "added %s: version %s for %s, %s, sha256 %s\n", img.File, dash(img.Version), dash(img.Platform), size(img.SizeBytes), img.SHA256)
			return nil
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the image (default: the file's)")
	return cmd
}

func (a *app) firmwareListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the firmware images",
		Args:  cobra.NoArgs,
		RunE: a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
			images, err := c.Images(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(api.ImageList{Images: images})
			}
			if len(images) == 0 {
				a.note("No firmware images. `gatewayctl firmware add FILE` adds one.")
				return nil
			}
			return a.table(func(w io.Writer) {
				fmt.Fprintln(w, "NAME\tVERSION\tPLATFORM\tFILE\tSIZE\tADDED\tSHA256")
				for _, img := range images {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%.12s\n", img.Name, dash(img.Version), dash(img.Platform), dash(img.File), size(img.SizeBytes), img.Added.Local().Format("2006-01-02 15:04"), img.SHA256)
				}
			})
		}),
	}
}

func (a *app) firmwareRmCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE",
		Short: "Take a firmware image out of the repository",
		Args:  cobra.ExactArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			img, err := c.RemoveImage(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(img)
			}
			fmt.Fprintf(a.stdout, "removed %s (sha256 %s)\n", img.Name, img.SHA256)
			return nil
		}),
	}
}

func (a *app) firmwareUpdateCmd() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "update DEVICE IMAGE",
		Short: "Put an image on a device; done when the device runs it",
		Long: "Put an image on a device over the air. IMAGE is a name, name@version, or the start of its SHA-256.\n" +
			"The update counts as done when the device has restarted into the new version, reports it over its\n" +
			"own connection, and has been told to keep it.",
		Args: cobra.ExactArgs(2),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			ctx, cancel := context.WithTimeout(ctx, timeout+10*time.Second)
			defer cancel()
			show := func(p api.UpdateProgress) { fmt.Fprintf(a.stderr, "%s: %s\n", p.Step, p.Text) }
			if a.json || !onTerminal(a.stderr) {
				show = nil
			}
			res, err := c.Update(ctx, args[0], api.UpdateRequest{Image: args[1], Timeout: api.Duration(timeout)}, show)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(res)
			}
			if res.From == res.To {
				fmt.Fprintf(a.stdout, "%s runs %s already\n", res.Device, res.To)
				return nil
			}
			fmt.Fprintf(a.stdout, "%s runs %s now (before: %s), after %s\n", res.Device, res.To, dash(res.From), round(time.Duration(res.ElapsedSec*float64(time.Second))))
			return nil
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "for the whole update")
	return cmd
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api/client"
)

func (a *app) callCmd() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "call DEVICE METHOD [JSON]",
		Short: "Call a method of a device and print its result",
		Long:  "Call a method of a device and print its result as JSON.\n\nThe arguments are one JSON value; - reads it from standard input.",
		Example: "  gatewayctl call lamp Sys.GetInfo\n" +
			"  gatewayctl call lamp GPIO.Toggle '{\"pin\": 2}'",
		Args: cobra.RangeArgs(2, 3),
	}
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
		var params json.RawMessage
		if len(args) == 3 {
			text := []byte(args[2])
			if args[2] == "-" {
				var err error
				if text, err = io.ReadAll(io.LimitReader(a.stdin, 1<<20)); err != nil {
					return fmt.Errorf("read arguments from standard input: %w", err)
				}
			}
			if err := json.Unmarshal(text, &params); err != nil {
				return usage(cmd, fmt.Errorf("arguments of %s are not JSON: %v", args[1], err))
			}
		}
		if timeout <= 0 {
			return usage(cmd, fmt.Errorf("--timeout %v: must be more than nothing", timeout))
		}
		// The gateway keeps the time; a little more lets its own answer arrive.
		ctx, cancel := context.WithTimeout(ctx, timeout+5*time.Second)
		defer cancel()
		result, err := c.Call(ctx, args[0], args[1], params, timeout)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := json.Indent(&out, result, "", "  "); err != nil {
			return fmt.Errorf("answer of %s is not JSON: %w", args[0], err)
		}
		fmt.Fprintln(a.stdout, out.String())
		return nil
	})
	cmd.Flags().DurationVar(&timeout, "timeout", 20*time.Second, "how long the device may take")
	return cmd
}

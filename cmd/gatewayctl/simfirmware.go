package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gatewayctl/firmware"
)

// simFirmwareCmd makes something to update simulated devices to.
func (a *app) simFirmwareCmd() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:   "firmware FILE",
		Short: "Write a firmware bundle that simulated devices can be updated to",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := simBundle(version)
			if err != nil {
				return err
			}
			if err := os.WriteFile(args[0], b, 0o644); err != nil {
				return fmt.Errorf("write firmware bundle: %w", err)
			}
			if a.json {
				return a.printJSON(map[string]string{"file": args[0], "version": version})
			}
			fmt.Fprintf(a.stdout, "%s: version %s for simulated devices\n", args[0], version)
			return nil
		},
	}
	cmd.Flags().StringVar(&version, "version", "2.0.0", "version of the firmware")
	return cmd
}

// simBundle is firmware for the platform that simulated devices say they are.
func simBundle(version string) ([]byte, error) {
	return firmware.BuildBundle(firmware.BundleSpec{
		Name: "demo", Platform: "esp32", Version: version, BuildID: "20260601-000000/" + version,
		Parts: []firmware.BundlePart{{Name: "app", Type: "app", Data: bytes.Repeat([]byte("firmware"), 32<<10)}},
	})
}

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) manCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "man --out DIR",
		Short: "Write the manual pages",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(out, 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			date := buildTime()
			if date.IsZero() {
				date = time.Unix(0, 0)
			}
			header := &doc.GenManHeader{Title: "GATEWAYCTL", Section: "1", Source: "gatewayctl " + version, Date: &date}
			cmd.Root().DisableAutoGenTag = true
			return doc.GenManTree(cmd.Root(), header, out)
		},
	}
	cmd.Flags().StringVar(&out, "out", "man", "directory to write to")
	return cmd
}

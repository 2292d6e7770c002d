package main

import (
	"time"

	"github.com/spf13/cobra"

	"gatewayctl/cmd/gatewayctl/internal/demo"
)

func (a *app) demoCmd() *cobra.Command {
	var once bool
	var pace time.Duration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show everything in one process: gateway, simulated devices, a stand-in cloud",
		Long: "Show everything in one process, on loopback, in a temporary directory: a gateway, simulated devices\n" +
			"and a stand-in cloud that goes away for a while. On a terminal it is a live screen; in a pipe, a line\n" +
			"for each thing that happens, and the end when everything was shown.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			screen := onTerminal(a.stdout) && !a.json
			return demo.Run(cmd.Context(), demo.Options{
				Version: version, Build: buildTime(), Out: a.stdout, Screen: screen, JSON: a.json, Once: once || !screen, Pace: pace, Enrol: enrolSim, Bundle: simBundle,
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end when everything was shown, on a terminal too")
	cmd.Flags().DurationVar(&pace, "pace", 3*time.Second, "between two things that are shown")
	return cmd
}

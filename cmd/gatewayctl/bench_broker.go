package main

import (
	"errors"
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"

	"gatewayctl/cmd/gatewayctl/internal/bench/compare"
)

// benchBrokerCmd is how `bench compare` gets brokers to compare with.
func (a *app) benchBrokerCmd() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use: "broker relay|mochi|gateway", Short: "Be a broker that bench compares with", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return profiled(profile, func() error {
				if args[0] == "gateway" { // as serve, but that it can be profiled
					return a.serve(cmd.Context(), serveFlags{})
				}
				return compare.Serve(cmd.Context(), compare.Kind(args[0]), compare.ServeOptions{
					Cert: a.cert, Key: a.key, CA: a.ca, Out: a.stdout, Alive: a.stdin,
				})
			})
		},
	}
	cmd.Flags().StringVar(&profile, "cpuprofile", "", "write a CPU profile to this file")
	return cmd
}

// profiled calls run and writes what it does to a CPU profile, if a file for it is named.
func profiled(file string, run func() error) (err error) {
	if file == "" {
		return run()
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return run()
}

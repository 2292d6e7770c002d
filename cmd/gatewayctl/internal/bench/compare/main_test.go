package compare

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"gatewayctl/cmd/gatewayctl/internal/appliance"
	"gatewayctl/cmd/gatewayctl/internal/config"
)

// TestMain makes the test's binary the brokers that gatewayctl can be.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && (os.Args[1] == "bench" || os.Args[1] == "serve") {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := beBroker(ctx, os.Args[1:])
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func beBroker(ctx context.Context, args []string) error {
	var opts ServeOptions
	var data string
	fs := flag.NewFlagSet("broker", flag.ContinueOnError)
	fs.StringVar(&opts.Cert, "cert", "", "")
	fs.StringVar(&opts.Key, "key", "", "")
	fs.StringVar(&opts.CA, "ca", "", "")
	fs.StringVar(&data, "data", "", "")
	if args[0] == "bench" {
		if err := fs.Parse(args[3:]); err != nil {
			return err
		}
		opts.Out, opts.Alive = os.Stdout, os.Stdin
		return Serve(ctx, Kind(args[2]), opts)
	}
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	cfg, err := config.Load(filepath.Join(data, "gatewayctl.yaml"))
	if err != nil {
		return err
	}
	g, err := appliance.Open(ctx, appliance.Options{Data: data, Config: cfg})
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

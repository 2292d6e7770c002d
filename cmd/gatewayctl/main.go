// Command gatewayctl turns a Raspberry Pi, or any Linux box, into a device gateway.
//
// `gatewayctl serve` is the gateway; every other command is a client of a running one, over its
// admin socket. See the README for a quick start.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// Set by the linker; see the Makefile.
var (
	version   = "dev"
	buildUnix = "0" // seconds since 1970 of the commit that was built
)

// buildTime is when this binary was made; the zero time when the linker was not told.
func buildTime() time.Time {
	if s, err := strconv.ParseInt(buildUnix, 10, 64); err == nil && s > 0 {
		return time.Unix(s, 0)
	}
	return time.Time{}
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	app := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := app.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	if !app.started {
		err = usage(cmd, err)
	}
	f := classify(err)
	if f.text != "" {
		fmt.Fprintln(stderr, "gatewayctl: "+f.text)
	}
	if f.remedy != "" {
		fmt.Fprintln(stderr, f.remedy)
	}
	return f.code
}

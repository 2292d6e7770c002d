package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api/client"
)

// The exit codes of every command.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitRefused  = 4
	exitTimeout  = 5
)

// failure is how an error leaves the process: one line that says what failed and why, one that
// says what to do about it, and the exit code.
type failure struct {
	code         int
	text, remedy string
}

func (f *failure) Error() string { return f.text }

// fail makes an error with an exit code and a remedy of its own.
func fail(code int, remedy, format string, args ...any) error {
	return &failure{code: code, text: fmt.Sprintf(format, args...), remedy: remedy}
}

// usage makes err a wrong call of cmd.
func usage(cmd *cobra.Command, err error) error {
	return &failure{code: exitUsage, text: err.Error(), remedy: fmt.Sprintf("Usage: %s\nSee %s --help.", cmd.UseLine(), cmd.CommandPath())}
}

// classify finds the exit code and remedy of whatever a command returned.
func classify(err error) failure {
	var f *failure
	if errors.As(err, &f) {
		return *f
	}
	var api *client.Error
	if errors.As(err, &api) {
		return failure{code: api.ExitCode(), text: err.Error(), remedy: api.Remedy}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failure{code: exitTimeout, text: err.Error()}
	case errors.Is(err, context.Canceled):
		return failure{code: exitFailed, text: "interrupted"}
	}
	return failure{code: exitFailed, text: err.Error()}
}

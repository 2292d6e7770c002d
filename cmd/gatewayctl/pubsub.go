package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

func (a *app) pubCmd() *cobra.Command {
	var m api.Message
	cmd := &cobra.Command{
		Use:   "pub TOPIC [MESSAGE]",
		Short: "Publish a message as the local administrator",
		Long: "Publish a message as the local administrator. Without MESSAGE, or with -, the payload is read from\n" +
			"standard input. The command returns once the gateway answers for the message.",
		Args: cobra.RangeArgs(1, 2),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			m.Topic = args[0]
			if len(args) == 2 && args[1] != "-" {
				m.Payload = []byte(args[1])
			} else {
				b, err := io.ReadAll(io.LimitReader(a.stdin, 256<<20))
				if err != nil {
					return fmt.Errorf("read the payload from standard input: %w", err)
				}
				m.Payload = b
			}
			if err := c.Publish(ctx, m); err != nil || !a.json {
				return err
			}
			return a.printJSON(map[string]any{"topic": m.Topic, "qos": m.QoS, "retain": m.Retain, "bytes": len(m.Payload)})
		}),
	}
	f := cmd.Flags()
	f.IntVarP(&m.QoS, "qos", "q", 1, "quality of service: 0, 1 or 2")
	f.BoolVarP(&m.Retain, "retain", "r", false, "keep it as the topic's retained message")
	return cmd
}

func (a *app) subCmd() *cobra.Command {
	var limit int
	var timeout time.Duration
	var verbose bool
	cmd := &cobra.Command{
		Use:   "sub FILTER...",
		Short: "Print the messages that match, as the local administrator",
		Args:  cobra.MinimumNArgs(1),
		RunE: a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			s, err := c.Subscribe(ctx, args...)
			if err != nil {
				return err
			}
			defer s.Close()
			n := 0
			for m, err := range s.All() {
				if err != nil {
					return ended(ctx, err)
				}
				if a.json {
					if err := a.printLine(m); err != nil {
						return err
					}
				} else {
					a.printMessage(m, verbose || strings.ContainsAny(strings.Join(args, ""), "+#") || len(args) > 1)
				}
				if n++; n == limit {
					return nil
				}
			}
			if lost := s.Lost(); lost > 0 {
				a.note("%s left out: they came faster than they could be printed", count(lost, "message"))
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.IntVarP(&limit, "count", "C", 0, "end after so many messages (0: never)")
	f.DurationVar(&timeout, "timeout", 0, "end after this time (0: never)")
	f.BoolVarP(&verbose, "verbose", "v", false, "print the topic too, also for a filter without wildcards")
	return cmd
}

// ended is the error of a command that follows something: Ctrl-C ends it well.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == context.Canceled {
		return nil
	}
	return err
}

// printMessage shows a message on one line; what is not text is shown so that it cannot do
// anything to a terminal.
func (a *app) printMessage(m api.Message, topic bool) {
	payload := bytes.TrimRight(m.Payload, "\n")
	text := string(payload)
	if !utf8.Valid(payload) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' }) {
		text = fmt.Sprintf("%q", payload)
	}
	if topic {
		fmt.Fprintf(a.stdout, "%s %s\n", m.Topic, text)
		return
	}
	fmt.Fprintln(a.stdout, text)
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is what all commands share: where they read and write, and how they reach the gateway.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	data, socket       string // where the gateway is, on this machine
	url, cert, key, ca string // or on another one
	json               bool

	started bool // a command runs: what was wrong with its call has been told by now
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "gatewayctl",
		Short: "Device gateway: MQTT broker with its own CA, RPC, shadows, firmware, bridge",
		Long: "gatewayctl turns this machine into a device gateway.\n\n" +
			"`gatewayctl serve` runs it; the other commands talk to a running one.",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.data, "data", "./data", "data directory of the gateway on this machine")
	f.StringVar(&a.socket, "socket", "", "admin socket (default: the one in the data directory)")
	f.StringVar(&a.url, "url", "", "gateway on another machine, such as https://hub.local:8443")
	f.StringVar(&a.cert, "cert", "", "administrator's certificate, for --url")
	f.StringVar(&a.key, "key", "", "administrator's private key, for --url")
	f.StringVar(&a.ca, "ca", "", "the gateway's CA certificate, for --url")
	f.BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		a.serveCmd(), a.demoCmd(), a.waitCmd(), a.statusCmd(),
		a.provisionCmd(), a.discoverCmd(), a.deviceCmd(), a.callCmd(),
		a.pubCmd(), a.subCmd(), a.eventsCmd(), a.bridgeCmd(),
		a.firmwareCmd(), a.pkiCmd(), a.simCmd(), a.benchCmd(), a.manCmd(),
	)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpCommand(helpCmd())
	root.InitDefaultHelpCmd() // cobra would add both later, out of sight of watch
	root.InitDefaultCompletionCmd()
	a.watch(root)
	return root
}

// watch makes cmd and those below it say when they start. Whatever is wrong before that, be it with
// a flag, with flags that exclude one another or with the arguments, is wrong usage.
func (a *app) watch(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.started = true
			return run(cmd, args)
		}
	}
	if cmd.HasSubCommands() {
		cmd.Args = knownCommand
		if !cmd.Runnable() {
			// Runnable only to say so: its help must not show two ways to call it.
			cmd.SetUsageTemplate(strings.Replace(cmd.UsageTemplate(), "\n  {{.CommandPath}} [command]", "", 1))
			cmd.RunE = func(cmd *cobra.Command, _ []string) error {
				return fmt.Errorf("%s needs a command: %s", cmd.Name(), strings.Join(names(cmd), ", "))
			}
		}
	}
	for _, sub := range cmd.Commands() {
		a.watch(sub)
	}
}

// knownCommand refuses an argument of a command that only has others: it was meant to be one.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance == 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	meant := ""
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		meant = fmt.Sprintf(" (did you mean %s?)", strings.Join(s, " or "))
	}
	return fmt.Errorf("unknown command %q of %s%s", args[0], cmd.CommandPath(), meant)
}

// names are those of the commands below cmd.
func names(cmd *cobra.Command) []string {
	var out []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			out = append(out, sub.Name())
		}
	}
	return out
}

// helpCmd is cobra's, but for what it does with a command that is not there.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err == nil {
				err = knownCommand(about, rest)
			}
			if err != nil {
				return usage(cmd, err)
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// group is a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use + " COMMAND", Short: short, DisableFlagsInUseLine: true}
	cmd.AddCommand(sub...)
	return cmd
}

// printJSON writes v as one indented JSON document.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printLine writes v as one line of JSON, for output that goes on.
func (a *app) printLine(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table aligns tab-separated columns.
func (a *app) table(fill func(w io.Writer)) error {
	w := tabwriter.NewWriter(a.stdout, 0, 4, 2, ' ', 0)
	fill(w)
	return w.Flush()
}

// note tells a person something beside the output proper; scripts that read JSON do not want it.
func (a *app) note(format string, args ...any) {
	if !a.json {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

// onTerminal reports whether w is a terminal, where progress may be drawn.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// commands are all of them, with their names from the root on.
func commands() (out []*cobra.Command) {
	todo := []*cobra.Command{new(app).root()}
	for len(todo) > 0 {
		cmd := todo[0]
		todo = slices.Concat(cmd.Commands(), todo[1:])
		out = append(out, cmd)
	}
	return out
}

// words are what a user types to call cmd, without the program.
func words(cmd *cobra.Command) []string { return strings.Fields(cmd.CommandPath())[1:] }

// call runs a command in this process.
func call(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = run(append([]string{}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// The help of every command, as people see it, is kept in one file: a change of the surface shows.
func TestHelp(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, cmd := range commands() {
		if slices.Contains(words(cmd), "completion") && len(words(cmd)) > 1 {
			continue // cobra's words, a screen for each shell
		}
		out, errs, code := call(append(words(cmd), "--help")...)
		if code != exitDone || errs != "" || out == "" {
			t.Errorf("%s --help: exit code %d, stderr %q", cmd.CommandPath(), code, errs)
		}
		again, _, _ := call(append([]string{"help"}, words(cmd)...)...)
		if diff := cmp.Diff(out, again); diff != "" {
			t.Errorf("help %s differs from --help:\n%s", strings.Join(words(cmd), " "), diff)
		}
		fmt.Fprintf(&got, "==== %s\n%s\n", cmd.CommandPath(), out)
	}
	golden(t, "testdata/help.golden", got.String())
}

// golden compares got with a file, or rewrites it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs; if that is meant, go test -run %s -update:\n%s", file, t.Name(), diff)
	}
}

// Every command tells wrong usage by exit code 2 before it does anything, and shows the right one.
func TestWrongUsage(t *testing.T) {
	t.Parallel()
	many := slices.Repeat([]string{"x"}, 50)
	calls := [][]string{
		{"frobnicate"}, {"devices"}, {"device", "lst"}, {"help", "frobnicate"}, {"help", "device", "frobnicate"},
		{"completion", "tcsh"}, {"device", "list", "--online", "--offline"}, {"provision", "lamp", "--replace", "--additional"},
		{"provision", "lamp/x"}, {"provision", "lamp", "--format", "der"}, {"provision", "lamp", "--format", "p12", "--csr", "x"},
		{"wait", "--timeout", "soon"}, {"call", "lamp", "Sys.GetInfo", "{"}, {"call", "lamp", "Sys.GetInfo", "--timeout", "0s"},
		{"events", "--severity", "loud"}, {"sim", "--count", "0"}, {"sim", "--kind", "toaster"},
		{"status", "--ca", "ca.crt"}, {"status", "--url", "hub.local"}, {"status", "--url", "http://hub.local"},
		{"status", "--url", "https://hub.local", "--ca", "no-such-file"}, {"serve", "--mqtt-addr", "nonsense"},
		{"serve", "--plain-addr", "0.0.0.0:1883"}, {"bench", "pairs", "--url", "ftp://h"},
	}
	for _, cmd := range commands() {
		calls = append(calls, append(words(cmd), "--no-such-flag"))
		if cmd.Args == nil {
			continue
		}
		if cmd.Args(cmd, nil) != nil || !cmd.HasParent() {
			calls = append(calls, append(words(cmd), many[:0]...))
		}
		if cmd.Args(cmd, many) != nil {
			calls = append(calls, append(words(cmd), many...))
		}
		if cmd.HasSubCommands() && cmd.HasParent() && cmd.Name() != "sim" {
			calls = append(calls, words(cmd))
		}
	}
	for _, args := range calls {
		if len(args) == 0 {
			continue // alone, the program shows its help
		}
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			out, errs, code := call(append(args, "--data", t.TempDir())...)
			if code != exitUsage || out != "" || !strings.HasPrefix(errs, "gatewayctl: ") {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, out, errs)
			}
		})
	}
	if _, errs, _ := call("devices"); !strings.Contains(errs, "did you mean device?") || !strings.Contains(errs, "\nUsage: ") {
		t.Errorf("devices: %q", errs)
	}
	if out, errs, code := call(); code != exitDone || errs != "" || !strings.Contains(out, "Available Commands") {
		t.Errorf("without arguments: exit code %d, stderr %q", code, errs)
	}
}

// The manual and the completion of shells are generated from the commands, and real programs read them.
func TestGenerated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, errs, code := call("man", "--out", dir); code != exitDone {
		t.Fatalf("man: exit code %d: %s", code, errs)
	}
	for _, cmd := range commands() {
		if !cmd.IsAvailableCommand() && cmd.HasParent() {
			continue
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.HasPrefix(page, []byte(".")) || !bytes.Contains(page, []byte(".SH SYNOPSIS")) {
			t.Errorf("%s is not a manual page", name)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		out, errs, code := call("completion", shell)
		if code != exitDone || errs != "" || !strings.Contains(out, "gatewayctl") {
			t.Errorf("completion %s: exit code %d, %d bytes, stderr %q", shell, code, len(out), errs)
		}
		if shell == "bash" {
			cmd := exec.Command("bash", "-n")
			cmd.Stdin = strings.NewReader(out)
			if b, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("bash does not read its completion: %v\n%s", err, b)
			}
		}
	}
	out, _, code := call("__complete", "device", "")
	for _, want := range []string{"list", "show", "rm", "disable", "enable"} {
		if code != exitDone || !strings.Contains(out, want+"\t") {
			t.Errorf("device <TAB> does not offer %s: %q", want, out)
		}
	}
}

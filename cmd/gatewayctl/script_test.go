package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gatewayctl/gateway/api"
)

func TestMain(m *testing.M) {
	// A program with the race detector sleeps for a second before it exits; the scripts run hundreds.
	if err := os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"gatewayctl": main})
}

// scriptConfig keeps a gateway of a script on loopback, on free ports, and off the network.
const scriptConfig = `listeners:
  mqtt:  {type: mqtts, address: "127.0.0.1:0"}
  https: {type: https, address: "127.0.0.1:0"}
mdns: {announce: false}
`

// TestScripts runs the real binary, as a process of its own, as people run it. Each script has a
// directory to itself, with a configuration in data/ that binds to loopback on free ports.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", env.Getenv("PATH")+":/usr/sbin:/sbin")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			data := filepath.Join(env.WorkDir, "data")
			if err := os.MkdirAll(data, 0o700); err != nil {
				return err
			}
			cfg := filepath.Join(data, "gatewayctl.yaml")
			if _, err := os.Stat(cfg); err == nil {
				return nil // the script brings its own
			}
			return os.WriteFile(cfg, []byte(scriptConfig), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ready": cmdReady, "online": cmdOnline, "socket": cmdSocket, "sigkill": cmdSigkill, "code": cmdCode,
			"eventually": cmdEventually, "exchange": cmdExchange,
			"freeport": cmdFreePort, "listening": cmdListening, "expand": cmdExpand, "truncate": cmdTruncate,
			"bridged": cmdBridged, "drained": cmdDrained, "numbers": cmdNumbers, "inorder": cmdInOrder,
			"foreigncert": cmdForeignCert, "glob": cmdGlob, "serial": cmdSerial, "interrupt": cmdInterrupt, "bundle": cmdBundle,
			"json": cmdJSON, "jsonlines": cmdJSONLines,
		},
	})
}

// cmdReady waits for the gateway on DATA and sets MQTT_PORT, HTTPS_PORT (and PLAIN_PORT).
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	data := "data"
	if len(args) > 0 {
		data = args[0]
	}
	ts.Check(ts.Exec("gatewayctl", "wait", "--timeout", "60s", "--data", data))
	ts.Check(ts.Exec("gatewayctl", "status", "--json", "--data", data))
	var status struct {
		PID       int
		Listeners []struct{ Name, Address string }
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &status))
	for _, l := range status.Listeners {
		if _, port, err := net.SplitHostPort(l.Address); err == nil {
			ts.Setenv(strings.ToUpper(l.Name)+"_PORT", port)
		}
	}
	ts.Setenv("GATEWAY_PID", strconv.Itoa(status.PID))
}

// cmdSocket sets a variable to the admin socket of the gateway on DATA: socket NAME DATA. Where the
// gateway has put it among the temporary files, its directory goes with the script.
func cmdSocket(ts *testscript.TestScript, neg bool, args []string) {
	path, err := api.FindSocket(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Setenv(args[0], path)
	if dir := filepath.Dir(path); strings.HasPrefix(filepath.Base(dir), "gatewayctl-") {
		ts.Defer(func() { ts.Check(os.RemoveAll(dir)) })
	}
}

// cmdFreePort sets each named variable to a port that nobody listens on.
func cmdFreePort(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		ts.Check(l.Close())
	}
}

// cmdListening waits until a broker listens on the port given.
func cmdListening(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: listening PORT")
	}
	poll(ts, 10*time.Second, func() error {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+args[0], time.Second)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// cmdEventually runs a command until it succeeds and its output holds TEXT: eventually TEXT CMD...
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: eventually TEXT COMMAND [ARG...]")
	}
	poll(ts, 30*time.Second, func() error {
		out, err := quiet(ts, args[1], args[2:]...)
		if err == nil && strings.Contains(out, args[0]) == neg {
			err = fmt.Errorf("%s printed %q; %q in it: %v", strings.Join(args[1:], " "), out, args[0], neg)
		}
		return err
	})
}

// cmdSigkill ends the process of the gateway that `ready` found, as a crash would.
func cmdSigkill(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(ts.Getenv("GATEWAY_PID"))
	ts.Check(err)
	p, err := os.FindProcess(pid)
	ts.Check(err)
	ts.Check(p.Kill())
}

// quiet runs a command without a trace in the script's log, for polling.
func quiet(ts *testscript.TestScript, name string, args ...string) (string, error) {
	cmd := exec.Command(lookPath(ts, name), args...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environment(ts)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

// environment is the script's, for a program that it runs.
func environment(ts *testscript.TestScript) (env []string) {
	for _, name := range []string{"PATH", "HOME", "GORACE"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// lookPath finds a program on the script's path, which is not the test's.
func lookPath(ts *testscript.TestScript, name string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && !info.IsDir() {
			return filepath.Join(dir, name)
		}
	}
	return name
}

func poll(ts *testscript.TestScript, limit time.Duration, try func() error) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			ts.Fatalf("not within %v: %v", limit, err)
		case <-tick.C:
		}
	}
}

package broker

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
)

// A mosquitto runs Debian's mosquitto_pub and mosquitto_sub against the TLS listener.
type mosquitto struct {
	b       *testBroker
	dir     string
	name    string // of certificate and client
	version string
}

func newMosquitto(t *testing.T, b *testBroker, name, version string) *mosquitto {
	t.Helper()
	return &mosquitto{b: b, dir: pki(t).files(t, name), name: name, version: version}
}

func (m *mosquitto) command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%v: install the Debian package mosquitto-clients (make test does)", err)
	}
	host, port, err := net.SplitHostPort(m.b.tls)
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), path, append([]string{
		"-h", host, "-p", port, "-V", m.version, "--cafile", filepath.Join(m.dir, "ca.crt"),
		"--cert", filepath.Join(m.dir, m.name+".crt"), "--key", filepath.Join(m.dir, m.name+".key"),
	}, args...)...)
}

func (m *mosquitto) pub(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := m.command(t, "mosquitto_pub", args...).CombinedOutput()
	return string(out), err
}

// sub starts a subscriber, waits until its subscription is in place, and returns what reads its
// lines and what kills it.
func (m *mosquitto) sub(t *testing.T, args ...string) (line func() string, kill func()) {
	t.Helper()
	cmd := m.command(t, "mosquitto_sub", append([]string{"-W", "20"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	before := m.b.Stats().Subscriptions
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); m.b.Stats().Subscriptions <= before; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("mosquitto_sub %v does not subscribe: %s", args, stderr.String())
		}
	}
	lines := bufio.NewScanner(out)
	return func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("mosquitto_sub %v ended: %s", args, stderr.String())
		}
		return lines.Text()
	}, kill
}

func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"mqttv311", "mqttv5"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			m := newMosquitto(t, b, "lamp", version)
			for qos := range 3 {
				q := fmt.Sprint(qos)
				line, _ := m.sub(t, "-i", "sub"+q, "-t", "+/"+q+"/#", "-q", q, "-F", "%t %q %r %p")
				many := strings.Repeat("message\n", 30)
				cmd := m.command(t, "mosquitto_pub", "-i", "pub"+q, "-t", "site/"+q, "-q", q, "-l")
				cmd.Stdin = strings.NewReader(many)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("mosquitto_pub: %v: %s", err, out)
				}
				for range 30 {
					if got, want := line(), "site/"+q+" "+q+" 0 message"; got != want {
						t.Errorf("received %q, want %q", got, want)
					}
				}
			}

			if out, err := m.pub(t, "-t", "kept/a", "-m", "retained", "-q", "1", "-r"); err != nil {
				t.Fatalf("mosquitto_pub: %v: %s", err, out)
			}
			line, _ := m.sub(t, "-t", "kept/#", "-F", "%t %r %p")
			if got := line(); got != "kept/a 1 retained" {
				t.Errorf("received %q", got)
			}

			line, _ = m.sub(t, "-t", "wills")
			_, kill := m.sub(t, "-t", "nothing", "--will-topic", "wills", "--will-payload", "gone", "--will-qos", "2")
			kill()
			if got := line(); got != "gone" {
				t.Errorf("received %q", got)
			}

			// A session that stays: subscribe, be away, come back.
			session := []string{"-i", "lamp#stay", "-c", "-q", "1", "-t", "queue"}
			if version == "mqttv5" {
				session = append(session, "-x", "3600")
			}
			_, kill = m.sub(t, session...)
			kill()
			b.gone(t, "lamp#stay")
			for i := range 3 {
				if out, err := m.pub(t, "-t", "queue", "-m", fmt.Sprint(i), "-q", "1"); err != nil {
					t.Fatalf("mosquitto_pub: %v: %s", err, out)
				}
			}
			back := m.command(t, "mosquitto_sub", append(session, "-C", "3", "-W", "20")...)
			if out, err := back.CombinedOutput(); err != nil || string(out) != "0\n1\n2\n" {
				t.Errorf("after coming back: %q, %v", out, err)
			}
		})
	}
}

func TestMosquittoClientsRefused(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.auth.registered = []string{"pump"}
	b.auth.policies = map[string]string{"lamp": policy("Publish", "topic/lamp/*", "Subscribe", "topicfilter/lamp/*", "Receive", "topic/lamp/*")}
	for _, tc := range []struct {
		version, want string
		program       string
		args          []string
	}{
		{"mqttv311", "Connection Refused: not authorised", "mosquitto_pub", []string{"-i", "pump", "-t", "lamp/a", "-m", "x"}},
		{"mqttv5", "Not authorized", "mosquitto_pub", []string{"-i", "pump", "-t", "lamp/a", "-m", "x"}},
		{"mqttv5", "Not authorized", "mosquitto_pub", []string{"-i", "lamp", "-q", "1", "-t", "pump/a", "-m", "x"}},
		{"mqttv311", "All subscription requests were denied", "mosquitto_sub", []string{"-i", "lamp", "-t", "#"}},
		{"mqttv5", "All subscription requests were denied", "mosquitto_sub", []string{"-i", "lamp", "-t", "#"}},
	} {
		m := newMosquitto(t, b, "lamp", tc.version)
		out, _ := m.command(t, tc.program, append(tc.args, "-d")...).CombinedOutput()
		if !strings.Contains(string(out), tc.want) {
			t.Errorf("%s %s %v said %q, want %q", tc.program, tc.version, tc.args, out, tc.want)
		}
	}
	b.events.await(t, "publish refused", func(e Event) bool {
		return e.Kind == PublishRefused && e.Topic == "pump/a" && e.Code == mqtt.NotAuthorized
	})
}

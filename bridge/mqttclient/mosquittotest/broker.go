// Package mosquittotest runs Debian's mosquitto as the broker behind an upstream, for tests: a
// process of its own on a free port of the loopback interface, which can be stopped and started
// again on the same port, and an observer on the other side that is an independent MQTT client.
package mosquittotest

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Config says what the broker is like. The zero value takes anybody, without TLS.
type Config struct {
	TLS          *Authority        // nil: plain; else the server certificate is issued by it for Hosts
	Hosts        []string          // names and addresses in the server certificate; nil means localhost and 127.0.0.1
	NeedCert     bool              // clients must have a certificate of TLS
	Users        map[string]string // passwords; nil: anybody may connect
	MaxPacket    int               // largest packet in bytes; 0 means no limit
	MessageLimit int               // largest payload in bytes; 0 means no limit. What is larger is dropped silently
}

// A Broker is a mosquitto process.
type Broker struct {
	t       testing.TB
	port    int
	scheme  string
	host    string
	file    string
	users   map[string]string
	tls     *Authority
	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{}
	log     *os.File
	clients int
}

const settings = `user %s
log_dest stderr
log_type error
log_type warning
log_type information
persistence true
persistence_location %s/
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 0
listener %d 127.0.0.1
`

// Start starts a broker, which the end of the test stops.
func Start(t testing.TB, cfg Config) *Broker {
	t.Helper()
	dir := t.TempDir()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{t: t, scheme: "mqtt", host: "127.0.0.1", file: filepath.Join(dir, "mosquitto.conf"), users: cfg.Users, tls: cfg.TLS}
	b.log, err = os.Create(filepath.Join(dir, "mosquitto.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Stop()
		_ = b.log.Close()
	})

	var more strings.Builder
	if cfg.TLS != nil {
		hosts := cfg.Hosts
		if hosts == nil {
			hosts = []string{"localhost", "127.0.0.1"}
		}
		cert, key := cfg.TLS.Issue(t, hosts...)
		fmt.Fprintf(&more, "cafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate %v\n", cfg.TLS.File, cert, key, cfg.NeedCert)
		b.scheme, b.host = "mqtts", "localhost"
	}
	if cfg.Users == nil {
		more.WriteString("allow_anonymous true\n")
	} else {
		passwords := filepath.Join(dir, "passwords")
		var lines strings.Builder
		for name, password := range cfg.Users {
			fmt.Fprintf(&lines, "%s:%s\n", name, hash(t, password))
		}
		if err := os.WriteFile(passwords, []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&more, "allow_anonymous false\npassword_file %s\n", passwords)
	}
	if cfg.MaxPacket > 0 {
		fmt.Fprintf(&more, "max_packet_size %d\n", cfg.MaxPacket)
	}
	if cfg.MessageLimit > 0 {
		fmt.Fprintf(&more, "message_size_limit %d\n", cfg.MessageLimit)
	}
	for range 5 { // somebody else may take the port that was free a moment ago
		b.port = freePort(t)
		text := fmt.Sprintf(settings, me.Username, dir, b.port) + more.String()
		if err := os.WriteFile(b.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b.launch() {
			return b
		}
	}
	said, _ := os.ReadFile(b.log.Name())
	t.Fatalf("mosquitto does not start: %s", said)
	return nil
}

// hash makes a line of mosquitto's password file, version 7: PBKDF2 with SHA-512.
func hash(t testing.TB, password string) string {
	t.Helper()
	salt := make([]byte, 12)
	_, _ = rand.Read(salt)
	key, err := pbkdf2.Key(sha512.New, password, salt, 101, 64)
	if err != nil {
		t.Fatal(err)
	}
	return "$7$101$" + base64.StdEncoding.EncodeToString(salt) + "$" + base64.StdEncoding.EncodeToString(key)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func program() (string, error) {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/mosquitto")
}

// launch starts the process and reports whether it has its port. That something answers there
// would prove nothing: it may be somebody else's broker.
func (b *Broker) launch() bool {
	before, _ := os.ReadFile(b.log.Name())
	path, err := program()
	if err != nil {
		b.t.Fatalf("this test needs Debian's mosquitto, which `make test` installs: %v", err)
	}
	cmd := exec.Command(path, "-c", b.file)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	b.mu.Lock()
	b.cmd, b.exited = cmd, exited
	b.mu.Unlock()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if said, _ := os.ReadFile(b.log.Name()); bytes.Contains(said[len(before):], []byte(" running")) {
			return true
		}
		select {
		case <-tick.C:
		case <-exited:
			return false
		case <-deadline:
			b.t.Fatal("mosquitto does not listen after 20 seconds")
		}
	}
}

// Stop ends the process, which keeps its sessions and messages on disk. It does nothing to a
// broker that is stopped.
func (b *Broker) Stop() {
	b.signal(syscall.SIGTERM)
}

// Freeze lets the process stop running while its connections stay, as a cut line does; Thaw lets
// it go on.
func (b *Broker) Freeze() { _ = b.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (b *Broker) Thaw() { _ = b.cmd.Process.Signal(syscall.SIGCONT) }

func (b *Broker) signal(sig syscall.Signal) {
	b.mu.Lock()
	cmd, exited := b.cmd, b.exited
	b.cmd = nil
	b.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGCONT)
	_ = cmd.Process.Signal(sig)
	<-exited
}

// Start starts a stopped broker again, on the same port, with what it kept.
func (b *Broker) Start() {
	b.t.Helper()
	if !b.launch() {
		said, _ := os.ReadFile(b.log.Name())
		b.t.Fatalf("mosquitto does not start again: %s", said)
	}
}

// Address is host:port.
func (b *Broker) Address() string { return fmt.Sprintf("127.0.0.1:%d", b.port) }

// URL is the address as an upstream is configured with, by the name localhost if there is TLS.
func (b *Broker) URL() string { return b.URLFor(b.host) }

// URLFor is URL with another name for the host.
func (b *Broker) URLFor(host string) string { return fmt.Sprintf("%s://%s:%d", b.scheme, host, b.port) }

package compare

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"gatewayctl/cmd/gatewayctl/internal/bench"
)

// A broker is one of those that are compared.
type broker struct {
	name    string
	version string
	dir     string
	client  []*tls.Config
	launch  func(ctx context.Context) (*process, addresses, error)

	process *process
	at      addresses
}

const startTimeout = 30 * time.Second

// start runs the broker, again if it ran before.
func (b *broker) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if b.process, b.at, err = b.launch(ctx); err != nil {
		err = fmt.Errorf("%s: %w", b.name, err)
		if b.process != nil {
			err = errors.Join(b.process.explain(err), b.stop())
		}
	}
	return err
}

func (b *broker) stop() error {
	p := b.process
	b.process = nil
	if err := p.stop(); err != nil {
		return fmt.Errorf("%s: %w", b.name, err)
	}
	return nil
}

// target is where to send load.
func (b *broker) target(secure bool) bench.Target {
	t := bench.Target{Address: b.at.Plain, PID: b.process.pid()}
	if secure {
		t.Address, t.TLS = b.at.TLS, b.client
	}
	return t
}

// listening waits until p answers at address.
func listening(ctx context.Context, p *process, address string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("it does not listen at %s: %w", address, err)
		}
	}
}

// others are certificates for brokers that are not the gateway.
func (a *authority) others() (server files, clients []*tls.Config, err error) {
	if server, err = a.issue("server"); err != nil {
		return server, nil, err
	}
	for i := range identities {
		f, err := a.issue(deviceName(i))
		if err != nil {
			return server, nil, err
		}
		cfg, err := ClientTLS(f.cert, f.key, f.ca)
		if err != nil {
			return server, nil, err
		}
		clients = append(clients, cfg)
	}
	return server, clients, nil
}

const identities = 8 // connections take turns with so many certificates

func deviceName(i int) string { return fmt.Sprintf("bench-%d", i+1) }

// own is a broker that this binary can be.
func own(kind Kind, version, dir, binary string, server files, clients []*tls.Config) *broker {
	b := &broker{name: string(kind), version: version, dir: dir, client: clients}
	b.launch = func(ctx context.Context) (*process, addresses, error) {
		var at addresses
		p, err := start(filepath.Join(dir, b.name+".log"), true, binary,
			"bench", "broker", string(kind), "--cert", server.cert, "--key", server.key, "--ca", server.ca)
		if err != nil {
			return nil, at, err
		}
		defer context.AfterFunc(ctx, func() { _ = p.out.Close() })()
		line, err := bufio.NewReader(p.out).ReadBytes('\n')
		if err != nil {
			return p, at, fmt.Errorf("it does not say where it listens: %w", err)
		}
		return p, at, json.Unmarshal(line, &at)
	}
	return b
}

// mosquittoConfig is Debian's default but for listeners, and for the queue, which is unbounded so
// that nothing is lost.
const mosquittoConfig = `user %s
log_dest stderr
log_type error
log_type warning
persistence false
allow_anonymous true
max_queued_messages 0
listener %d 127.0.0.1
listener %d 127.0.0.1
cafile %s
certfile %s
keyfile %s
require_certificate true
`

// mosquitto is Debian's, nil if it is not installed.
func mosquitto(dir string, server files, clients []*tls.Config) (*broker, error) {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return nil, nil //nolint:nilerr // it is then left out
		}
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	b := &broker{name: "mosquitto", dir: dir, client: clients}
	help, _ := exec.Command(program, "-h").Output() // its status is 3
	if line, _, ok := strings.Cut(string(help), "\n"); ok {
		b.version = strings.TrimPrefix(line, "mosquitto version ")
	}
	b.launch = func(ctx context.Context) (p *process, at addresses, err error) {
		for range 5 { // somebody else may take a port that was free a moment ago
			var plain, secure int
			if plain, secure, err = freePorts(); err != nil {
				return nil, at, err
			}
			conf := filepath.Join(dir, "mosquitto.conf")
			text := fmt.Sprintf(mosquittoConfig, me.Username, plain, secure, server.ca, server.cert, server.key)
			if err = os.WriteFile(conf, []byte(text), 0o600); err != nil {
				return nil, at, err
			}
			if p, err = start(filepath.Join(dir, "mosquitto.log"), false, program, "-c", conf); err != nil {
				return nil, at, err
			}
			at = addresses{fmt.Sprintf("127.0.0.1:%d", plain), fmt.Sprintf("127.0.0.1:%d", secure)}
			if err = listening(ctx, p, at.TLS); err == nil || !p.gone() {
				return p, at, err
			}
		}
		return p, at, err
	}
	return b, nil
}

// freePorts finds two ports that nobody listens on.
func freePorts() (a, b int, err error) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer first.Close() //nolint:errcheck // nothing was sent
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer second.Close() //nolint:errcheck // the same
	return first.Addr().(*net.TCPAddr).Port, second.Addr().(*net.TCPAddr).Port, nil
}

// machine says what this runs on.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && (strings.HasPrefix(name, "model name") || strings.HasPrefix(name, "Model")) {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores, %s, Linux %s", model, runtime.NumCPU(), runtime.GOARCH, strings.TrimSpace(string(kernel)))
}

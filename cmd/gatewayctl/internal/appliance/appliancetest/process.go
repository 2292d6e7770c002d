package appliancetest

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatewayctl/cmd/gatewayctl/internal/appliance"
	"gatewayctl/cmd/gatewayctl/internal/config"
)

// serveVariable names the file with the orders of a test binary that is to be a gateway.
const serveVariable = "APPLIANCETEST_SERVE"

// orders is what the process of a gateway is told.
type orders struct {
	Data, Version string
	Config        config.Config
	Build         time.Time
}

// Main is the TestMain of packages that use Setup.Process: it lets the test binary be a gateway
// when it is asked to, and otherwise runs the tests and looks for goroutines that they left.
func Main(m *testing.M) {
	if file := os.Getenv(serveVariable); file != "" {
		if err := serve(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// serve runs a gateway until it is told to stop by SIGTERM, or its parent is gone.
func serve(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o orders
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&o); err != nil {
		return err
	}
	go func() { // the parent has the other end, as long as it lives
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	background := goleak.IgnoreCurrent()
	if err := run(o); err != nil {
		return err
	}
	return goleak.Find(background)
}

func run(o orders) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	gw, err := appliance.Open(ctx, appliance.Options{
		Data: o.Data, Version: o.Version, Config: o.Config, Build: o.Build,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return gw.Run(ctx)
}

// process is a gateway in a process of its own.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer // tells the process that we are gone
	said  said
	ended chan struct{}
	err   error // set before ended is closed
}

// said is what the process wrote.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.buf.Bytes())
}

func startProcess(tb testing.TB, s Setup) (running, error) {
	tb.Helper()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(orders{s.Data, s.Version, s.Config, s.Build}); err != nil {
		return nil, err
	}
	file := filepath.Join(tb.TempDir(), "orders")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(os.Args[0], "-test.run=^$"), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), serveVariable+"="+file)
	p.cmd.Stderr = &p.said
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait() // closes stdin
	}()
	return p, nil
}

func (p *process) failed() <-chan struct{} { return p.ended }

// fault is how the process ended, with what it wrote.
func (p *process) fault() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", p.err, bytes.TrimSpace(p.said.bytes()))
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return p.fault()
	case <-time.After(2 * Patience):
		_ = p.stdin.Close()
		<-p.ended
		return fmt.Errorf("the process does not end: %s", p.said.bytes())
	}
}

func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	if bytes.Contains(p.said.bytes(), []byte("DATA RACE")) {
		return fmt.Errorf("the process had a data race: %s", p.said.bytes())
	}
	return nil
}

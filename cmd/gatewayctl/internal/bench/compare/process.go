package compare

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A process is a broker that we started.
type process struct {
	cmd    *exec.Cmd
	out    io.ReadCloser  // its standard output; nil unless asked for
	in     io.WriteCloser // its standard input
	log    string         // file with what it says
	exited chan struct{}
}

// start runs a program whose words go to the file log, its standard output too unless piped.
func start(log string, piped bool, program string, args ...string) (p *process, err error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // the child has its own
	p = &process{cmd: exec.Command(program, args...), log: log, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM} // Ctrl-C is for us, who stop it
	if piped {
		var w *os.File
		if p.out, w, err = os.Pipe(); err != nil {
			return nil, err
		}
		defer w.Close() //nolint:errcheck // the same
		p.cmd.Stdout = w
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return p, nil
}

// run starts the process and waits for it on one thread: the process is told when that ends.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	err := p.cmd.Start()
	started <- err
	if err == nil {
		_ = p.cmd.Wait()
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// gone reports whether the process has ended.
func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// explain adds the last that the process said to err.
func (p *process) explain(err error) error {
	b, _ := os.ReadFile(p.log)
	if b = bytes.TrimSpace(b); len(b) > 1000 {
		b = b[len(b)-1000:]
	}
	if len(b) == 0 {
		return err
	}
	return fmt.Errorf("%w; it says: %s", err, b)
}

const stopGrace = 15 * time.Second

// stop asks the process to end, by its pid, and insists when it does not.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	_ = p.in.Close()
	if p.out != nil {
		defer p.out.Close() //nolint:errcheck // only read
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-p.exited:
		return nil
	case <-grace.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%s did not end within %v and was killed", p.cmd.Path, stopGrace)
	}
}

package discovery

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain lets more tests run at once than there are processors: they wait most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// A netns is a network namespace with a /run of its own, for the pid file of an Avahi. A process
// holds it open; when the test ends, or the test binary is killed, so is that process, and with it
// the namespace and its interfaces are gone.
type netns struct {
	t    testing.TB
	name string
	pid  int
	fd   int
}

// newNetns makes a namespace with loopback up. Where that is not allowed the test is skipped,
// unless it is continuous integration, where it must not go untested.
func newNetns(t testing.TB, name string) *netns {
	t.Helper()
	for _, program := range []string{"ip", "nsenter", "dbus-daemon", "avahi-daemon", "avahi-publish", "avahi-browse", "avahi-resolve"} {
		if _, err := exec.LookPath(program); err != nil {
			unavailable(t, fmt.Errorf("%w (Debian: avahi-daemon avahi-utils dbus iproute2 util-linux)", err))
		}
	}
	cmd := exec.Command("sh", "-c", `set -e
		mount --make-rprivate /
		mount -t tmpfs tmpfs /run
		mkdir /run/avahi-daemon
		ip link set lo up
		ip link add probe type veth peer name eborp
		ip link del probe
		for f in default all; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done
		echo ready
		exec cat`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe() // cat ends with it
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		unavailable(t, fmt.Errorf("no new network namespace: %w", err))
	}
	n := &netns{t: t, name: name, pid: cmd.Process.Pid, fd: -1}
	t.Cleanup(func() {
		if n.fd >= 0 {
			_ = unix.Close(n.fd)
		}
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
		unavailable(t, fmt.Errorf("network namespace cannot be set up: %s", stderr.String()))
	}
	if n.fd, err = unix.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	return n
}

func unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs root and the programs that it tests against: %v", err)
	}
	t.Skipf("needs root and the programs that it tests against: %v", err)
}

// do runs f on a thread that is in the namespace, and returns when f does.
func (n *netns) do(f func()) {
	done := make(chan error, 1)
	go func() { done <- inNetns(n.fd, f) }()
	if err := <-done; err != nil {
		n.t.Errorf("network namespace %s: %v", n.name, err)
	}
}

// inNetns brings its thread back home: it must not end, since the processes that it started are
// told to end with it.
func inNetns(fd int, f func()) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	f()
	if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
		return err // still locked: nobody else gets this thread
	}
	runtime.UnlockOSThread()
	return nil
}

func (n *netns) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(n.pid), "-n", "-m", "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+n.bus())
	return cmd
}

// bus is the path of the namespace's own D-Bus, kept short.
func (n *netns) bus() string { return "/run/bus" }

// run runs a command in the namespace and returns what it printed.
func (n *netns) run(args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	out, err := n.command(ctx, args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %s: %v\n%s", n.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ip runs the ip command in the namespace.
func (n *netns) ip(args string) {
	n.t.Helper()
	n.run(append([]string{"ip"}, strings.Fields(args)...)...)
}

// wire joins a and b by a cable, with an interface of that name and an address at each end.
func wire(a, b *netns, name, addrA, addrB string) {
	a.t.Helper()
	a.ip(fmt.Sprintf("link add %s type veth peer name %s netns %d", name, name, b.pid))
	a.ip("addr add " + addrA + " dev " + name)
	b.ip("addr add " + addrB + " dev " + name)
	a.ip("link set " + name + " up")
	b.ip("link set " + name + " up")
}

// A process runs in a namespace until the test ends or stop is called.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed when there is a new line
}

func (n *netns) start(args ...string) *process {
	n.t.Helper()
	p := &process{t: n.t, cmd: n.command(context.Background(), args...), done: make(chan struct{}), grown: make(chan struct{})}
	r, w, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	err = p.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		n.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			close(p.grown)
			p.grown = make(chan struct{})
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
	}()
	n.t.Cleanup(func() {
		p.stop(syscall.SIGKILL)
		if n.t.Failed() {
			n.t.Logf("%s: %s:\n%s", n.name, args[0], strings.Join(p.printed(), "\n"))
		}
	})
	return p
}

func (p *process) stop(s os.Signal) {
	_ = p.cmd.Process.Signal(s)
	<-p.done
}

func (p *process) printed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// expect waits for a line that contains want.
func (p *process) expect(want string) {
	p.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		p.mu.Lock()
		grown := p.grown
		seen := slices.ContainsFunc(p.lines, func(l string) bool { return strings.Contains(l, want) })
		p.mu.Unlock()
		if seen {
			return
		}
		select {
		case <-grown:
		case <-p.done:
			p.t.Fatalf("%s ended without saying %q:\n%s", p.cmd, want, strings.Join(p.printed(), "\n"))
		case <-timeout:
			p.t.Fatalf("%s does not say %q:\n%s", p.cmd, want, strings.Join(p.printed(), "\n"))
		}
	}
}

// avahi starts an Avahi, on a D-Bus of its own, as the machine of that name.
func (n *netns) avahi(host string) *process {
	n.t.Helper()
	dir := n.t.TempDir()
	busConfig, config := filepath.Join(dir, "bus.conf"), filepath.Join(dir, "avahi.conf")
	write(n.t, busConfig, `<busconfig>
  <listen>unix:path=`+n.bus()+`</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>`)
	write(n.t, config, "[server]\nhost-name="+host+"\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=yes\n[publish]\npublish-workstation=no\npublish-hinfo=no\n")
	n.start("dbus-daemon", "--nofork", "--print-address", "--config-file="+busConfig).expect("unix:path=")
	p := n.start("avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", config)
	p.expect("Server startup complete")
	return p
}

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// publish announces services by this namespace's Avahi, each given as the arguments of avahi-publish.
func (n *netns) publish(services ...[]string) []*process {
	n.t.Helper()
	var out []*process
	for _, s := range services {
		out = append(out, n.start(append([]string{"avahi-publish"}, s...)...))
	}
	for _, p := range out {
		p.expect("Established under name")
	}
	return out
}

// A seen service is what avahi-browse tells of one, on one interface and address family.
type seen struct {
	Interface, Name, Type, Host, Address string
	Port                                 int
	TXT                                  string // sorted, joined by spaces
}

// browse returns what this namespace's Avahi sees.
func (n *netns) browse(typ string) []seen {
	n.t.Helper()
	var out []seen
	for line := range strings.Lines(n.run("avahi-browse", "-rptk", typ)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ";", 10)
		if f[0] != "=" || len(f) != 10 || f[1] == "lo" {
			continue
		}
		port, err := strconv.Atoi(f[8])
		if err != nil {
			n.t.Fatalf("avahi-browse: %q: %v", line, err)
		}
		txt := strings.Split(strings.Trim(f[9], `"`), `" "`)
		slices.Sort(txt)
		out = append(out, seen{f[1], unescapeString(f[3]), f[4], f[6], f[7], port, strings.Join(txt, " ")})
	}
	return out
}

// eventually calls ok until it returns true, or fails after limit with what it last said.
func eventually(t testing.TB, limit time.Duration, what string, ok func() (bool, any)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		done, last := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; last: %+v", what, limit, last)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// exclusive takes port 5353 for itself, in both families, until release is called.
func exclusive(t testing.TB) (release func()) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Port: port})
	}
	if err != nil {
		t.Errorf("take port %d: %v", port, err)
	}
	return func() { _ = unix.Close(fd) }
}

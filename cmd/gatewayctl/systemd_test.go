package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// self is this test binary, which acts as gatewayctl when it is called by that name.
func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "gatewayctl")
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// unit returns the path of a copy of the unit whose program exists.
func unit(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../systemd/gatewayctl.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gatewayctl.service")
	text := strings.ReplaceAll(string(b), "/usr/bin/gatewayctl", "/bin/true")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUnit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: `make test` installs it")
	}
	path := unit(t)
	if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", path).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level in\n%s", out)
	}
	if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > 2.0 {
		t.Errorf("exposure level %s, want at most 2.0", m[1])
	}
}

// The flags of the unit are those of the program, and the files beside it are what systemd reads.
func TestUnitCallsTheProgram(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../systemd/gatewayctl.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/gatewayctl (.*)$`).FindSubmatch(b)
	if m == nil {
		t.Fatal("the unit does not start /usr/bin/gatewayctl")
	}
	args := append(strings.Fields(string(m[1])), "--help")
	if out, err := exec.Command(self(t), args...).CombinedOutput(); err != nil {
		t.Errorf("gatewayctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	for _, f := range []struct{ program, file string }{
		{"systemd-sysusers", "../../systemd/gatewayctl.sysusers"},
		{"systemd-tmpfiles", "../../systemd/gatewayctl.tmpfiles"},
	} {
		if _, err := exec.LookPath(f.program); err != nil {
			t.Skipf("%s is not installed: `make test` installs it", f.program)
		}
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		args := []string{"--root=" + root, "-"} // a path would be looked for below root
		if f.program == "systemd-tmpfiles" {
			// It knows the account only once it was made, there.
			if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\ngatewayctl:x:990:990::/:/bin/false\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\ngatewayctl:x:990:\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append([]string{"--create"}, args...)
		}
		text, err := os.Open(f.file)
		if err != nil {
			t.Fatal(err)
		}
		defer text.Close()
		cmd := exec.Command(f.program, args...)
		cmd.Stdin = text
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s %s: %v\n%s", f.program, strings.Join(args, " "), err, out)
		}
	}
}

// Type=notify: systemd is told when the gateway is ready, that it lives, and that it stops.
func TestNotify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "gatewayctl.yaml"), []byte(scriptConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, self(t), "serve", "--data", data)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"), "WATCHDOG_USEC=300000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			if err := sock.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := sock.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	expect("READY=1")
	expect("WATCHDOG=1")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
}

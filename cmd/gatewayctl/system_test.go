package main

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestNeighbours runs the real binary in a network namespace of its own, beside one Avahi and in
// sight of another: both hear the gateway, it hears them, and a new address of the machine shows
// in its certificate without a restart.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"unshare", "nsenter", "ip", "dbus-daemon", "avahi-daemon", "avahi-browse", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			unavailable(t, err)
		}
	}
	if err := exec.Command("unshare", "--net", "--mount", "true").Run(); err != nil {
		unavailable(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// --pid --kill-child: whatever the script started ends with it.
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "testdata/system/neighbours.sh", self(t), t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("neighbours.sh: %v\n%s", err, out)
	}
}

// unavailable skips a test whose means this machine lacks; where everything must be tested, it fails.
func unavailable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs root and what `make test` installs: %v", err)
	}
	t.Skipf("needs root and what `make test` installs: %v", err)
}

// TestDiskFull fills the disk under the real binary.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("mosquitto_pub"); err != nil {
		unavailable(t, err)
	}
	if err := exec.Command("unshare", "--mount", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs tmpfs /mnt").Run(); err != nil {
		unavailable(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "testdata/system/diskfull.sh", self(t), t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("diskfull.sh: %v\n%s", err, out)
	}
}

// TestPermission starts the real binary where it may not read or write what it needs.
func TestPermission(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "gatewayctl-permission-") // t.TempDir lies below a directory that others may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "testdata/system/permission.sh", self(t), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("permission.sh: %v\n%s", err, out)
	}
}

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// build makes a release binary for a platform, as `make dist` does.
func build(t *testing.T, env ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gatewayctl")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=cross", "-o", out, ".")
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS="), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, b)
	}
	return out
}

// The release binary is one static file of at most 30 MB.
func TestStaticBinary(t *testing.T) {
	t.Parallel()
	path := build(t, "GOARCH=amd64")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 30<<20 {
		t.Errorf("the binary has %d bytes, want at most 30 MiB", info.Size())
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the binary is dynamically linked")
	}
}

// The arm64 binary starts and serves, under emulation.
func TestARM64(t *testing.T) {
	t.Parallel()
	qemu := ""
	for _, name := range []string{"qemu-aarch64-static", "qemu-aarch64"} {
		if p, err := exec.LookPath(name); err == nil {
			qemu = p
			break
		}
	}
	if qemu == "" {
		t.Skip("qemu-user is not installed (Debian: qemu-user-static)")
	}
	path := build(t, "GOARCH=arm64")
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "gatewayctl.yaml"), []byte(scriptConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var log bytes.Buffer
	serve := exec.CommandContext(ctx, qemu, path, "serve", "--data", data)
	serve.Stderr = &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(ctx, qemu, append([]string{path}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("gatewayctl %v: %v\n%s\n%s", args, err, out, log.String())
		}
		return string(out)
	}
	run("wait", "--timeout", "100s", "--data", data)
	run("provision", "lamp", "--out", filepath.Join(data, "certs"), "--data", data)
	if out := run("device", "list", "--data", data); !bytes.Contains([]byte(out), []byte("lamp")) {
		t.Errorf("device list printed %q", out)
	}
	if err := serve.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("serve ended with %v\n%s", err, log.String())
	}
}

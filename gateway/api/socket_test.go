package api_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatewayctl/gateway/api"
)

// listen opens the socket and checks that FindSocket finds it and that somebody answers.
func listen(t *testing.T, dataDir, explicit string) (net.Listener, string) {
	t.Helper()
	l, path, err := api.ListenSocket(dataDir, explicit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	found, err := api.FindSocket(dataDir)
	if err != nil || found != path {
		t.Errorf("FindSocket = %q, %v, want %q", found, err, path)
	}
	answers(t, path)
	return l, path
}

func answers(t *testing.T, path string) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestSocketInTheDataDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, path := listen(t, dir, "")
	if path != filepath.Join(dir, "gatewayctl.sock") {
		t.Errorf("path %q", path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "socket-path")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the usual place is recorded: %v", err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestSocketWithALongPath(t *testing.T) {
	t.Parallel()
	dir := longDir(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, path := listen(t, dir, "")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(path)) })
	if len(path) > 107 {
		t.Errorf("path %q", path)
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory: %v, %v", info.Mode(), err)
	}
	// A crash leaves the socket; the place is used again.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, again := listen(t, dir, ""); again != path {
		t.Errorf("the next time at %q, before at %q", again, path)
	}
}

// The place of an earlier run that others could have taken over is not used again, and not trusted.
func TestSocketPlaceThatOthersCanWrite(t *testing.T) {
	t.Parallel()
	dir := longDir(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, path := listen(t, dir, "")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(path)) })
	l.Close()
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if found, err := api.FindSocket(dir); err == nil {
		t.Errorf("FindSocket = %q", found)
	}
	_, again := listen(t, dir, "")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(again)) })
	if again == path {
		t.Error("the place is used again")
	}
}

func TestSocketElsewhere(t *testing.T) {
	t.Parallel()
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "admin.sock")
	l, path := listen(t, dir, elsewhere)
	if path != elsewhere {
		t.Errorf("path %q", path)
	}
	l.Close()
	listen(t, dir, "") // the record of the other place is gone
	if _, _, err := api.ListenSocket(dir, "/"+strings.Repeat("x", 107)); err == nil || !strings.Contains(err.Error(), "108 bytes, 107 is the most") {
		t.Errorf("a path that is too long: %v", err)
	}
}

func TestSocketThatIsThereAlready(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, path := listen(t, dir, "")
	if _, _, err := api.ListenSocket(dir, ""); !errors.Is(err, api.ErrSocketInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("while somebody answers: %v", err)
	}
	answers(t, path) // and still does
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, _ = listen(t, dir, "") // nobody answers: it is removed
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := api.ListenSocket(dir, ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file in the way: %q, %v", b, err)
	}
}

func TestFindSocketWithABrokenRecord(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "relative.sock\n", "/" + strings.Repeat("x", 200) + "\n"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "socket-path"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if path, err := api.FindSocket(dir); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "socket-path")) {
			t.Errorf("record %.10q: %q, %v", text, path, err)
		}
	}
	if path, err := api.FindSocket("/nowhere/data"); err != nil || path != "/nowhere/data/gatewayctl.sock" {
		t.Errorf("without a data directory: %q, %v", path, err)
	}
}

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gatewayctl/store/atomicfile"
)

// ErrSocketInUse says that another process answers on the socket.
var ErrSocketInUse = errors.New("another gateway answers there")

const socketMode fs.FileMode = 0o660 // whoever can reach it through the directories above

// ListenSocket opens the admin socket and returns its path: explicit, or else gatewayctl.sock in
// dataDir, or else, where that path has more than 107 bytes, one in a private directory among the
// temporary files. A path that is not in dataDir is recorded in its file socket-path, so that
// [FindSocket] finds it.
//
// A socket that is there already is removed when nobody answers on it; otherwise the error wraps
// [ErrSocketInUse]. The caller holds whatever lock keeps two gateways from the same dataDir.
// Closing the listener removes the socket.
func ListenSocket(dataDir, explicit string) (net.Listener, string, error) {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, "", fmt.Errorf("open the admin socket: %w", err)
	}
	path := filepath.Join(dir, socketName)
	recorded := false
	switch {
	case explicit != "":
		if path, err = filepath.Abs(explicit); err != nil {
			return nil, "", fmt.Errorf("open the admin socket: %w", err)
		}
		if len(path) > maxSocket {
			return nil, "", fmt.Errorf("open the admin socket %s: the path has %d bytes, %d is the most: choose a shorter one", path, len(path), maxSocket)
		}
		recorded = filepath.Dir(path) != dir || filepath.Base(path) != socketName
	case len(path) > maxSocket:
		if path, err = shortPath(dir); err != nil {
			return nil, "", fmt.Errorf("open the admin socket: %w", err)
		}
		recorded = true
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, "", fmt.Errorf("open the admin socket %s: %w", path, err)
	}
	if err := record(dir, path, recorded); err != nil {
		l.Close()
		return nil, "", fmt.Errorf("record the admin socket: %w", err)
	}
	return l, path, nil
}

// record writes where the socket is, or removes what an earlier run wrote.
func record(dir, path string, elsewhere bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if elsewhere {
		return atomicfile.WriteFile(root, socketRecord, []byte(path+"\n"), 0o600)
	}
	if err := root.Remove(socketRecord); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// shortPath returns a place for the socket in a directory of our own. The one of an earlier run is
// used again if it still is ours alone.
func shortPath(dir string) (string, error) {
	if text, err := os.ReadFile(filepath.Join(dir, socketRecord)); err == nil {
		path := strings.TrimSuffix(string(text), "\n")
		if info, err := os.Lstat(filepath.Dir(path)); err == nil && len(path) <= maxSocket && private(info) {
			return path, nil
		}
	}
	tmp := os.TempDir()
	if len(tmp) > maxSocket-40 {
		tmp = "/tmp"
	}
	place, err := os.MkdirTemp(tmp, "gatewayctl-")
	if err != nil {
		return "", err
	}
	return filepath.Join(place, socketName), nil
}

// private reports whether info is a directory that only this process's user can enter.
func private(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && info.Mode().Perm()&0o077 == 0 && int(st.Uid) == os.Geteuid()
}

// listenUnix listens on path, where a dead socket may lie.
func listenUnix(path string) (net.Listener, error) {
	if err := clear(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// The file gets the socket's own mode when it is bound (unix(7)), so that there is no
		// moment in which others could connect.
		var err error
		if ctl := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(socketMode)) }); ctl != nil {
			return ctl
		}
		return err
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil { // the umask may have taken the group's part away
		l.Close()
		return nil, err
	}
	return l, nil
}

// clear removes the socket at path if nobody answers on it.
func clear(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: a file that is not a socket is in the way; move it elsewhere", fs.ErrExist)
	}
	conn, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		conn.Close()
		return ErrSocketInUse
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if errors.Is(err, syscall.EAGAIN) { // somebody is there, but busy
		return ErrSocketInUse
	}
	return err
}

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	socketName   = "gatewayctl.sock" // in the data directory
	socketRecord = "socket-path"     // file in the data directory that names a socket elsewhere
	maxSocket    = 107               // bytes of a socket's path: sun_path less its terminator
)

// FindSocket returns the admin socket of the gateway that has, or last had, the data directory
// dataDir: the path that its file socket-path names, else <dataDir>/gatewayctl.sock. It does not
// say whether a gateway answers there.
//
// A recorded socket must lie in a directory that nobody but root or the owner of the record can
// write to; otherwise somebody else could wait there for the administrator.
func FindSocket(dataDir string) (string, error) {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return "", fmt.Errorf("find the admin socket of %s: %w", dataDir, err)
	}
	record := filepath.Join(dir, socketRecord)
	text, err := os.ReadFile(record)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return filepath.Join(dir, socketName), nil
	case err != nil:
		return "", fmt.Errorf("find the admin socket of %s: %w", dataDir, err)
	}
	path := strings.TrimSuffix(string(text), "\n")
	if !filepath.IsAbs(path) || len(path) > maxSocket {
		return "", fmt.Errorf("find the admin socket: %s does not hold a path: remove the file and start the gateway again", record)
	}
	if err := trustedPlace(filepath.Dir(path), record); err != nil {
		return "", fmt.Errorf("find the admin socket: %w", err)
	}
	return path, nil
}

// trustedPlace reports why somebody other than root or the owner of record could have put a
// socket into dir.
func trustedPlace(dir, record string) error {
	own, err := os.Lstat(record)
	if err != nil {
		return err
	}
	place, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // then nobody answers there
	}
	if err != nil {
		return err
	}
	uid := place.Sys().(*syscall.Stat_t).Uid
	switch {
	case !place.IsDir():
		return fmt.Errorf("%s, named in %s, is not a directory", dir, record)
	case uid != 0 && uid != own.Sys().(*syscall.Stat_t).Uid:
		return fmt.Errorf("%s, named in %s, belongs to user %d: remove it and start the gateway again", dir, record, uid)
	case place.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s, named in %s, can be written by everybody: choose another place for the socket", dir, record)
	}
	return nil
}

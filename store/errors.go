package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	bolterrors "go.etcd.io/bbolt/errors"
)

// A LockedError says that another process has the database open.
type LockedError struct {
	Path string // the database
	PID  int    // who holds it; 0 when that cannot be told
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s is in use by %s: stop that gatewayctl first, or use another data directory", e.Path, who)
}

// restoreHint is the remedy for a database that is lost.
const restoreHint = "restore a backup with `gatewayctl restore FILE`, or move the file away to start anew (all devices must then be provisioned again)"

// corrupt describes damage at a byte offset of path; offset -1 stands for the whole file.
func corrupt(path string, offset int64, format string, args ...any) error {
	where := path
	if offset >= 0 {
		where = fmt.Sprintf("%s at byte %d", path, offset)
	}
	return fmt.Errorf("%s: %w: %s: %s", where, ErrCorrupt, fmt.Sprintf(format, args...), restoreHint)
}

// fileError names the file and the remedy for what the system said about it.
func fileError(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // the path is named once, by us
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		return corrupt(path, -1, "%v", err)
	case errors.Is(err, bolterrors.ErrTimeout):
		return &LockedError{Path: path}
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: run gatewayctl as the user who owns it (it runs as uid %d), or give that user the file with chown", path, err, os.Geteuid())
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%s: %w: the card or disk may have failed; look at dmesg, then mount it writable", path, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w: make the data directory first", path, err)
	case isFull(err):
		if errors.Is(err, ErrFull) {
			return fmt.Errorf("%s: %w: make room on that file system", path, err)
		}
		return fmt.Errorf("%s: %w (%w): make room on that file system", path, ErrFull, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// isFull reports whether err means that there is no room. bbolt formats some errors away, so
// the text counts as well.
func isFull(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return errors.Is(err, bolterrors.ErrMaxSizeReached)
}

// damage is what a panic inside bbolt becomes on its way to the DB's own methods.
type damage struct{ err error }

// guard turns a panic of bbolt, memory faults in its map included, into an error:
// `defer guard(&err)()`. Only bbolt's own code may run under it.
func guard(err *error) func() {
	old := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: %v", ErrCorrupt, r)
		}
	}
}

// onDamage converts a panic inside bbolt, so that it can be told from a panic of the caller's
// function. The goroutine has SetPanicOnFault on.
func onDamage() {
	switch r := recover().(type) {
	case nil:
	case misuse:
		panic(r)
	default:
		panic(damage{fmt.Errorf("%w: %v: %s", ErrCorrupt, r, restoreHint)})
	}
}

// misuse is a panic of this package about its caller.
type misuse string

// boltError translates errors that callers of transactions may meet.
func boltError(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return ErrClosed
	case errors.Is(err, bolterrors.ErrTxNotWritable):
		return errors.New("write in a read transaction")
	}
	return err
}

// foreign says that path is a file of something else.
func foreign(path string) error {
	return fmt.Errorf("%s: %w: it was left untouched; choose another data directory, or move the file away", path, ErrForeign)
}

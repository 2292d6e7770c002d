package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// lockRetry is how often a held lock is tried again.
const lockRetry = 20 * time.Millisecond

// A fileLock is the exclusive flock on the side file PATH.lock, which holds the process's
// number in decimal. The kernel gives the lock up when the process dies, however it dies; the
// file stays, because removing a lock file lets two processes hold two different ones.
type fileLock struct{ f *os.File }

func lockFile(path string, timeout time.Duration) (*fileLock, error) {
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fileError(name, err)
	}
	for deadline := time.Now().Add(timeout); ; time.Sleep(lockRetry) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fileError(name, err), f.Close())
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(&LockedError{Path: path, PID: holder(f)}, f.Close())
		}
	}
	if err := writePID(f); err != nil {
		// The lock is held all the same; only a second process would lack the number.
		if !isFull(err) {
			return nil, errors.Join(fileError(name, err), f.Close())
		}
	}
	return &fileLock{f}, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// holder reads who holds the lock. A number left by a process that is gone counts as unknown:
// the new holder has not written its own yet.
func holder(f *os.File) int {
	var buf [32]byte
	n, _ := f.ReadAt(buf[:], 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(buf[:n])))
	if err != nil || pid <= 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return 0
	}
	return pid
}

// release forgets the number first, so that nobody ever reads it of a lock not held.
func (l *fileLock) release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

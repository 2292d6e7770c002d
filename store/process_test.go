package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"gatewayctl/store"
)

// play is what this test binary does when it is started as a second process.
func play(role, path string) int {
	var err error
	switch role {
	case "hold":
		err = playHold(path)
	case "full":
		err = playFull(path)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// playHold keeps the database open until it is killed.
func playHold(path string) error {
	db, err := store.Open(path, nil, store.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	fmt.Println("held")
	_, err = os.Stdin.Read(make([]byte, 1))
	return err
}

// playFull writes until a file size limit stops it, as a full disk would, and goes on when the
// limit is gone. The limit is the whole process's, hence the process.
func playFull(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	db, err := store.Open(path, nil, store.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	insert := func(i int) error {
		return db.Update(context.Background(), func(tx *store.Tx) error {
			return tx.Bucket("b").Put(fmt.Appendf(nil, "%06d", i), make([]byte, 10_000))
		})
	}
	if err := insert(0); err != nil {
		return err
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	for round := range 3 {
		limit := old
		limit.Cur = uint64(db.Size()) + uint64(round)*50_000
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return err
		}
		n := 0
		var full error
		for n = 1; full == nil; n++ {
			full = insert(1000*round + n)
		}
		if !errors.Is(full, store.ErrFull) || !strings.Contains(full.Error(), path) || !strings.Contains(full.Error(), "make room") {
			return fmt.Errorf("round %d: write %d: %v, want ErrFull with file and remedy", round, n, full)
		}
		err := db.View(func(tx *store.Tx) error {
			if tx.Bucket("b").Get(fmt.Appendf(nil, "%06d", 1000*round+n-1)) != nil {
				return errors.New("a write that failed is there")
			}
			return nil
		})
		if err := errors.Join(err, db.Check()); err != nil {
			return fmt.Errorf("round %d: while full: %w", round, err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			return err
		}
		if err := errors.Join(insert(1000*round+n), db.Check()); err != nil {
			return fmt.Errorf("round %d: after room was made: %w", round, err)
		}
	}
	return nil
}

func second(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_ROLE="+role, "STORE_TEST_PATH="+path)
	return cmd
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	if out, err := second(t, "full", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := store.Verify(path); err != nil {
		t.Error(err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	for range 2 { // the second holder finds what the first, killed, has left
		cmd := second(t, "hold", path)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_, err = store.Open(path, nil, store.Options{LockTimeout: time.Millisecond})
		var locked *store.LockedError
		if !errors.As(err, &locked) || locked.PID != cmd.Process.Pid || locked.Path != path {
			t.Errorf("error = %v, want *LockedError of process %d", err, cmd.Process.Pid)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		in.Close()
	}
	db, err := store.Open(path, nil, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(path, nil, store.Options{LockTimeout: time.Millisecond})
	var locked *store.LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("error = %v, want *LockedError of this process", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// TestLockOfAnotherProgram: something else than gatewayctl, a bbolt tool say, has the file.
func TestLockOfAnotherProgram(t *testing.T) {
	t.Parallel()
	path := sample(t)
	b, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, err = store.Open(path, nil, store.Options{})
	var locked *store.LockedError
	if !errors.As(err, &locked) || locked.PID != 0 {
		t.Errorf("error = %v, want *LockedError", err)
	}
}

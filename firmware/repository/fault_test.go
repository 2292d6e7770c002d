package repository

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// faultyDir fails, or stops the machine, at the nth operation that changes the disk.
type faultyDir struct {
	rootDir
	left *int
	err  error
}

func (d faultyDir) step() error {
	if *d.left--; *d.left < 0 {
		return d.err
	}
	return nil
}

func (d faultyDir) Create(name string) (file, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.rootDir.Create(name)
	return faultyFile{f, d}, err
}

func (d faultyDir) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.rootDir.Rename(from, to)
}

func (d faultyDir) Remove(name string) error {
	if *d.left < 0 && d.err == errPowerCut {
		return d.err
	}
	return d.rootDir.Remove(name)
}

func (d faultyDir) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	return d.rootDir.Sync()
}

type faultyFile struct {
	file
	d faultyDir
}

func (f faultyFile) Write(b []byte) (int, error) {
	if err := f.d.step(); err != nil {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, err
	}
	return f.file.Write(b)
}

func (f faultyFile) Sync() error {
	if err := f.d.step(); err != nil {
		return err
	}
	return f.file.Sync()
}

var errPowerCut = errors.New("power cut")

// TestFaultAtEveryStep adds an image while the disk fills up, or the power fails, at each step in
// turn. The repository then opens without a half image, and the image can be added.
func TestFaultAtEveryStep(t *testing.T) {
	t.Parallel()
	good := bundle(t, "demo", "esp32", "2.0.0")
	for _, fault := range []error{syscall.ENOSPC, errPowerCut} {
		for step := 0; ; step++ {
			s := newShelf(t)
			root, err := os.OpenRoot(s.dir)
			if err != nil {
				t.Fatal(err)
			}
			left := 1 << 30
			r, err := openDir(faultyDir{rootDir{root}, &left, fault}, s.db, Options{})
			if err != nil {
				t.Fatal(err)
			}
			left = step
			_, err = r.Add(t.Context(), "fw.zip", bytes.NewReader(repack(t, good)))
			if err == nil {
				if step < 6 {
					t.Errorf("only %d steps were seen", step)
				}
				root.Close()
				break
			}
			if !errors.Is(err, fault) || len(r.List()) != 0 {
				t.Errorf("%v at step %d: %v, images %v", fault, step, err, r.List())
			}
			if fault != errPowerCut && len(s.files()) != 0 {
				t.Errorf("%v at step %d leaves %q", fault, step, s.files())
			}
			left = 1 << 30
			again := s.open(Options{})
			if len(again.List()) != 0 || len(s.files()) != 0 {
				t.Errorf("%v at step %d: after a restart %v, files %q", fault, step, again.List(), s.files())
			}
			add(t, again, "fw.zip", good)
			root.Close()
		}
	}
}

// TestDamagedFile checks what happens when somebody deletes a file behind the repository's back.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	good := bundle(t, "demo", "esp32", "2.0.0")
	img := add(t, s.open(Options{}), "fw.zip", good)
	if err := os.Remove(filepath.Join(s.dir, img.SHA256)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "notes.txt"), nil, 0o600); err != nil { // not ours: stays
		t.Fatal(err)
	}
	r := s.open(Options{})
	if _, _, err := r.Open(img.SHA256); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "add it again") {
		t.Errorf("Open: %v", err)
	}
	if diff := cmp.Diff(img, add(t, r, "fw.zip", good)); diff != "" {
		t.Error(diff)
	}
	if !bytes.Equal(read(t, r, img.SHA256), good) || len(s.files()) != 2 {
		t.Errorf("files %q", s.files())
	}
}

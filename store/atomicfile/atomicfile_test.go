package atomicfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/store/atomicfile"
)

func openRoot(t *testing.T) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

func TestWriteFileReplaces(t *testing.T) {
	t.Parallel()
	root, dir := openRoot(t)
	if err := root.Mkdir("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, content string
		perm          fs.FileMode
	}{
		{"keys/root.key", "first", 0o600},
		{"keys/root.key", "second, longer", 0o600},
		{"keys/root.key", "", 0o644},
		{"top", "at the root", 0o666},
	} {
		if err := atomicfile.WriteFile(root, tc.name, []byte(tc.content), tc.perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, tc.name))
		if err != nil || string(got) != tc.content {
			t.Errorf("%s = %q, %v; want %q", tc.name, got, err, tc.content)
		}
		if fi, err := os.Stat(filepath.Join(dir, tc.name)); err != nil || fi.Mode().Perm() != tc.perm {
			t.Errorf("%s has mode %v, %v; want %v", tc.name, fi.Mode().Perm(), err, tc.perm)
		}
	}
	if left := names(t, dir); !slices.Equal(left, []string{"keys", "top"}) {
		t.Errorf("left behind: %q", left)
	}
}

func TestWriteKeepsOldOnError(t *testing.T) {
	t.Parallel()
	root, dir := openRoot(t)
	if err := atomicfile.WriteFile(root, "state", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := atomicfile.Write(root, "state", 0o600, func(w io.Writer) error {
		w.Write([]byte("half of the n"))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("error = %v, want %v", err, boom)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "state")); string(got) != "old" {
		t.Errorf("state = %q, want the old content", got)
	}
	if left := names(t, dir); !slices.Equal(left, []string{"state"}) {
		t.Errorf("left behind: %q", left)
	}
	if err := atomicfile.WriteFile(root, "missing/state", nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write into a missing directory: %v", err)
	}
}

func TestSweepRemovesOnlyLeftovers(t *testing.T) {
	t.Parallel()
	root, dir := openRoot(t)
	err := atomicfile.Write(root, "state", 0o600, func(io.Writer) error {
		for _, name := range names(t, dir) { // what a power cut now would leave
			if !atomicfile.IsTemp(name) {
				t.Errorf("%q is not known as a temporary file", name)
			}
			if err := os.Link(filepath.Join(dir, name), filepath.Join(dir, ".leftover"+name)); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Sweep(root, "."); err != nil {
		t.Fatal(err)
	}
	if left := names(t, dir); !slices.Equal(left, []string{"state"}) {
		t.Errorf("left behind: %q", left)
	}
}

// TestWriteOrder pins the order that makes a replacement safe: content, sync, rename, sync of
// the directory; and that each failing step leaves the name alone and no temporary file.
func TestWriteOrder(t *testing.T) {
	t.Parallel()
	want := []string{"create", "write", "sync", "close", "rename", "syncdir"}
	d := &scripted{}
	if err := atomicfile.WriteIn(d, "x", 0o600, d.fill); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, d.steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	for _, step := range want {
		d := &scripted{fail: step}
		if err := atomicfile.WriteIn(d, "x", 0o600, d.fill); !errors.Is(err, errStep) {
			t.Errorf("failing %s: error = %v", step, err)
		}
		if renamed := slices.Contains(d.steps, "rename"); renamed != (step == "rename" || step == "syncdir") {
			t.Errorf("failing %s: renamed = %v", step, renamed)
		}
		if step != "create" && d.steps[len(d.steps)-1] != "remove" {
			t.Errorf("failing %s: the temporary file stays: %q", step, d.steps)
		}
	}
}

var errStep = errors.New("step fails")

type scripted struct {
	steps []string
	fail  string
}

func (d *scripted) step(name string) error {
	d.steps = append(d.steps, name)
	if name == d.fail {
		return errStep
	}
	return nil
}

func (d *scripted) fill(w io.Writer) error {
	_, err := w.Write([]byte("content"))
	return err
}

func (d *scripted) CreateTemp(string, fs.FileMode) (atomicfile.File, error) {
	return d, d.step("create")
}
func (d *scripted) Write(b []byte) (int, error) { return len(b), d.step("write") }
func (d *scripted) Sync() error                 { return d.step("sync") }
func (d *scripted) Close() error                { return d.step("close") }
func (d *scripted) Rename(_, _ string) error    { return d.step("rename") }
func (d *scripted) Remove(string) error         { return d.step("remove") }
func (d *scripted) SyncDir(string) error        { return d.step("syncdir") }

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

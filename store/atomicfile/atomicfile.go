// Package atomicfile replaces a file so that a power cut leaves the old one or the new one,
// never a mixture, a part, or nothing.
//
// # Design
//
// The new content goes to a temporary file in the same directory, which is synced before it
// is renamed over the old one; the directory is synced after that. Without the first sync the
// name could point to an empty file after a power cut, without the second the old content
// could come back after the caller was told that it is gone. A cut in the middle leaves a
// temporary file behind; [Sweep] removes those.
package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// tempSuffix ends the name of every temporary file; Sweep knows them by it.
const tempSuffix = ".atomic-tmp"

// A Dir is what replacing a file needs of a directory. [os.Root] is used through [Write];
// other packages implement Dir to inject faults.
type Dir interface {
	// CreateTemp makes a new file for writing; it fails if name exists.
	CreateTemp(name string, perm fs.FileMode) (File, error)
	// Rename replaces newname by oldname.
	Rename(oldname, newname string) error
	Remove(name string) error
	// SyncDir makes the entries of the directory that holds name durable.
	SyncDir(name string) error
}

// A File is what [Dir.CreateTemp] returns.
type File interface {
	io.Writer
	Sync() error
	Close() error
}

// WriteFile replaces name in root by data. When it returns nil the new content is on stable
// storage; after an error the old content is still there. perm is set exactly, whatever the
// umask; the parent directory of name must exist.
func WriteFile(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	return Write(root, name, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Write is [WriteFile] for content that fill produces. An error of fill leaves name as it was.
func Write(root *os.Root, name string, perm fs.FileMode, fill func(io.Writer) error) error {
	return WriteIn(rootDir{root}, name, perm, fill)
}

// WriteIn is [Write] in any [Dir].
func WriteIn(d Dir, name string, perm fs.FileMode, fill func(io.Writer) error) (err error) {
	temp := tempName(name)
	f, err := d.CreateTemp(temp, perm)
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			// The rename has not happened, or has happened and temp no longer exists.
			if rmErr := d.Remove(temp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
			err = fmt.Errorf("replace %s: %w", name, err)
		}
	}()
	if err := fill(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := d.Rename(temp, name); err != nil {
		return err
	}
	return d.SyncDir(name)
}

// Sweep removes what interrupted writes left in the directory dir of root ("." for root
// itself). Call it before the first write, while no other process writes there.
func Sweep(root *os.Root, dir string) error {
	entries, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	for _, e := range entries {
		if IsTemp(e.Name()) {
			if err := root.Remove(path.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("sweep %s: %w", dir, err)
			}
		}
	}
	return nil
}

// IsTemp reports whether name is that of a temporary file of this package.
func IsTemp(name string) bool { return strings.HasSuffix(name, tempSuffix) }

func tempName(name string) string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	dir, base := path.Split(name)
	return dir + "." + base + "." + hex.EncodeToString(b[:]) + tempSuffix
}

// rootDir is an [os.Root] as a Dir.
type rootDir struct{ root *os.Root }

func (d rootDir) CreateTemp(name string, perm fs.FileMode) (File, error) {
	// 0600 until the mode is set, so that nobody reads a key through a lax umask.
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close(), d.root.Remove(name))
	}
	return f, nil
}

func (d rootDir) Rename(oldname, newname string) error { return d.root.Rename(oldname, newname) }

func (d rootDir) Remove(name string) error { return d.root.Remove(name) }

func (d rootDir) SyncDir(name string) error {
	f, err := d.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

package repository

import (
	"io"
	"io/fs"
	"os"
)

// directory is what the repository needs of the disk; tests inject faults behind it.
type directory interface {
	Create(name string) (file, error) // 0600; fails if it exists
	Open(name string) (io.ReadSeekCloser, error)
	Rename(from, to string) error
	Remove(name string) error
	Size(name string) (int64, error)
	List() ([]string, error)
	Sync() error // makes names durable
}

type file interface {
	io.Writer
	io.ReaderAt
	Sync() error
	Close() error
}

// rootDir is a directory of the operating system.
type rootDir struct{ root *os.Root }

func (d rootDir) Create(name string) (file, error) {
	return d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d rootDir) Open(name string) (io.ReadSeekCloser, error) { return d.root.Open(name) }
func (d rootDir) Rename(from, to string) error                { return d.root.Rename(from, to) }
func (d rootDir) Remove(name string) error                    { return d.root.Remove(name) }

func (d rootDir) Size(name string) (int64, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d rootDir) List() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d rootDir) Sync() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

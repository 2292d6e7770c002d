package msglog

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"gatewayctl/store/atomicfile"
)

const sector = 512

var errPowerCut = errors.New("power cut")

// A crashFS is a disk in memory that knows what is not on stable storage. After a power cut,
// every sector written since the last sync of its file holds any of the contents that it had
// since then, the size of the file is any of the sizes it had, and every name that was
// changed since the last sync of the directory stands for any of the files that it stood for.
type crashFS struct {
	mu       sync.Mutex
	names    map[string][]*inode // by time; [0] is durable; nil: no such file
	order    []string            // in which names were first used: temporary ones differ from run to run
	ops      int                 // calls that change something
	cutAt    int                 // the call at which the power fails; 0: never
	capacity int64               // bytes that fit on the disk; 0: any number
	written  int64               // bytes given to write
	syncs    int
	fault    func(op, name string) error // returns an error to inject one
	forget   func(op, name string) bool  // mutants: a sync that does nothing
	trace    func(format string, args ...any)
}

func (d *crashFS) tracef(format string, args ...any) {
	if d.trace != nil {
		d.trace(format, args...)
	}
}

type inode struct {
	now     []byte
	durable []byte
	pending map[int][][]byte // contents of a sector since the last sync
	sizes   []int            // since the last sync
}

func newCrashFS() *crashFS { return &crashFS{names: make(map[string][]*inode)} }

func (d *crashFS) at(name string) *inode {
	v := d.names[name]
	if len(v) == 0 {
		return nil
	}
	return v[len(v)-1]
}

func (d *crashFS) set(name string, n *inode) {
	if len(d.names[name]) == 0 {
		d.names[name] = []*inode{nil}
	}
	if !slices.Contains(d.order, name) {
		d.order = append(d.order, name)
	}
	d.names[name] = append(d.names[name], n)
}

// step counts a call; cut says that the power fails during it.
func (d *crashFS) step(op, name string) (cut bool, err error) {
	if d.cutAt > 0 && d.ops >= d.cutAt {
		return false, errPowerCut
	}
	d.ops++
	d.tracef("%d %s %s", d.ops, op, name)
	if d.fault != nil {
		if err := d.fault(op, name); err != nil {
			return false, &fs.PathError{Op: op, Path: name, Err: err}
		}
	}
	return d.cutAt > 0 && d.ops >= d.cutAt, nil
}

func (d *crashFS) used() (n int64) {
	for name := range d.names {
		if i := d.at(name); i != nil {
			n += int64(len(i.now))
		}
	}
	return n
}

// counts returns how many bytes were given to write, and how many files were synced.
func (d *crashFS) counts() (written int64, syncs int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.written, d.syncs
}

func (d *crashFS) isCut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cutAt > 0 && d.ops >= d.cutAt
}

// after returns the disk as it may be after the power cut.
func (d *crashFS) after(rnd *rand.Rand) *crashFS {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tracef("power cut")
	next := newCrashFS()
	next.trace = d.trace
	mode := rnd.IntN(4) // 0: what is not synced is lost; 1: it is kept; else any mixture
	pick := func(n int) int {
		switch mode {
		case 0:
			return 0
		case 1:
			return n - 1
		}
		return rnd.IntN(n)
	}
	images := make(map[*inode]*inode)
	for _, name := range d.order {
		v := d.names[name]
		if len(v) == 0 {
			continue
		}
		if old := v[pick(len(v))]; old != nil {
			if images[old] == nil {
				images[old] = old.after(pick)
			}
			next.names[name] = []*inode{images[old]}
			next.order = append(next.order, name)
		}
	}
	return next
}

func (n *inode) after(pick func(int) int) *inode {
	sizes := append([]int{len(n.durable)}, n.sizes...)
	b := make([]byte, sizes[pick(len(sizes))])
	copy(b, n.durable)
	for s := 0; s*sector < len(b); s++ {
		if p := n.pending[s]; len(p) > 0 {
			if i := pick(len(p) + 1); i > 0 {
				copy(b[s*sector:], p[i-1])
			}
		}
	}
	return &inode{now: b, durable: append([]byte(nil), b...)}
}

func (d *crashFS) Create(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step("create", name); err != nil {
		return nil, err
	}
	if d.at(name) != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if d.capacity > 0 && d.used() >= d.capacity {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	n := new(inode)
	d.set(name, n)
	return &crashFile{d: d, n: n, name: name}, nil
}

func (d *crashFS) CreateTemp(name string, _ fs.FileMode) (atomicfile.File, error) {
	f, err := d.Create(name)
	if err != nil {
		return nil, err
	}
	return f.(*crashFile), nil
}

func (d *crashFS) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cutAt > 0 && d.ops >= d.cutAt {
		return nil, errPowerCut
	}
	n := d.at(name)
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &crashFile{d: d, n: n, name: name}, nil
}

func (d *crashFS) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step("rename", newname); err != nil {
		return err
	}
	n := d.at(oldname)
	d.set(oldname, nil)
	d.set(newname, n)
	return nil
}

func (d *crashFS) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.step("remove", name); err != nil {
		return err
	}
	if d.at(name) == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	d.set(name, nil)
	return nil
}

func (d *crashFS) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cut, err := d.step("syncdir", name); err != nil || cut {
		return errors.Join(err, ifCut(cut))
	}
	if d.forget != nil && d.forget("syncdir", name) {
		return nil
	}
	for name, v := range d.names {
		if last := v[len(v)-1]; last == nil {
			delete(d.names, name)
		} else {
			d.names[name] = []*inode{last}
		}
	}
	return nil
}

func ifCut(cut bool) error {
	if cut {
		return errPowerCut
	}
	return nil
}

func (d *crashFS) Names() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name := range d.names {
		if d.at(name) != nil {
			names = append(names, name)
		}
	}
	return names, nil
}

func (d *crashFS) Close() error { return nil }

type crashFile struct {
	d    *crashFS
	n    *inode
	name string
	off  int64
}

func (f *crashFile) ReadAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.fault != nil {
		if err := f.d.fault("read", f.name); err != nil {
			return 0, err
		}
	}
	if off >= int64(len(f.n.now)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.now[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *crashFile) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, f.off)
	f.off += int64(n)
	return n, err
}

func (f *crashFile) WriteAt(b []byte, off int64) (int, error) {
	d, n := f.d, f.n
	d.mu.Lock()
	defer d.mu.Unlock()
	cut, err := d.step("write", f.name)
	if err != nil {
		return 0, err
	}
	if room := d.capacity - d.used() + int64(len(n.now)) - off; d.capacity > 0 && int64(len(b)) > room {
		b, err = b[:max(room, 0)], &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
	}
	d.written += int64(len(b))
	end := int(off) + len(b)
	d.tracef("   at %d to %d: %v", off, end, err)
	if len(b) > 0 {
		if end > len(n.now) {
			n.now = append(n.now, make([]byte, end-len(n.now))...)
			n.sizes = append(n.sizes, end)
		}
		copy(n.now[off:], b)
		n.touch(int(off), end)
	}
	if cut {
		return 0, errPowerCut
	}
	return len(b), err
}

// touch records the contents of the sectors in a range.
func (n *inode) touch(from, to int) {
	if n.pending == nil {
		n.pending = make(map[int][][]byte)
	}
	for s := from / sector; s*sector < to; s++ {
		b := make([]byte, sector)
		if s*sector < len(n.now) {
			copy(b, n.now[s*sector:])
		}
		n.pending[s] = append(n.pending[s], b)
	}
}

func (f *crashFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if _, err := f.d.step("truncate", f.name); err != nil {
		return err
	}
	n, old := f.n, len(f.n.now)
	f.d.tracef("   from %d to %d", old, size)
	if int(size) >= old {
		return nil
	}
	n.now = n.now[:size:size]
	n.sizes = append(n.sizes, int(size))
	n.touch(int(size), min(old, (int(size)+sector-1)/sector*sector)) // the rest is freed, not written
	return nil
}

func (f *crashFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if cut, err := f.d.step("sync", f.name); err != nil || cut {
		return errors.Join(err, ifCut(cut))
	}
	f.d.syncs++
	if f.d.forget != nil && f.d.forget("sync", f.name) {
		return nil
	}
	n := f.n
	n.durable = append(n.durable[:0], n.now...)
	n.pending, n.sizes = nil, nil
	return nil
}

func (f *crashFile) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return int64(len(f.n.now)), nil
}

func (f *crashFile) Close() error { return nil }

// calledBy reports whether a method of Log is among the callers.
func calledBy(method string) bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "(*Log)."+method) {
			return true
		}
		if !more {
			return false
		}
	}
}

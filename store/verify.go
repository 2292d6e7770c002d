package store

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// Verify reads the whole file at path without changing it and returns an error that names the
// first damage and its offset, or nil: both meta pages, the free list, the tree and every
// nested bucket, key order, bounds of every page and element, no page used twice. bbolt keeps
// no checksums of pages, so a value that was changed in place is not noticed.
//
// The database must not be written to meanwhile; [DB.Check] is for an open one.
func Verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fileError(path, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fileError(path, err)
	}
	if !fi.Mode().IsRegular() {
		return corrupt(path, -1, "it is not a regular file")
	}
	if fi.Size() == 0 {
		return corrupt(path, -1, "it is empty")
	}
	m, pageSize, err := readMeta(path, f)
	if err != nil {
		return err
	}
	if m.pages > uint64(fi.Size())/uint64(pageSize) {
		return corrupt(path, fi.Size(), "it ends here but should have %d pages of %d bytes", m.pages, pageSize)
	}
	w := &walker{path: path, r: f, pageSize: pageSize, pages: m.pages, used: make([]uint64, m.pages/64+1)}
	if m.freelist != noFreelist {
		if err := w.freelist(m.freelist); err != nil {
			return err
		}
	}
	if err := w.page(m.root, true, nil, nil); err != nil {
		return err
	}
	if !w.ours {
		return foreign(path)
	}
	return nil
}

// Check verifies the open database as [Verify] does, but for the free list, while others go on
// reading and writing it.
func (db *DB) Check() error {
	return db.View(func(tx *Tx) error {
		f, err := os.Open(db.path)
		if err != nil {
			return fileError(db.path, err)
		}
		defer f.Close()
		pageSize := tx.b.DB().Info().PageSize
		pages := uint64(tx.b.Size()) / uint64(pageSize)
		w := &walker{path: db.path, r: f, pageSize: pageSize, pages: pages, used: make([]uint64, pages/64+1)}
		return w.page(uint64(tx.b.Cursor().Bucket().Root()), true, nil, nil)
	})
}

// Backup writes a consistent copy of the database to w, while others go on using it. The copy
// is a database file of its own.
func (db *DB) Backup(w io.Writer) error {
	return db.View(func(tx *Tx) error {
		_, err := tx.b.WriteTo(w)
		return err
	})
}

// bbolt's file format (version 2), all numbers in the machine's byte order. A page begins with
// id (8 bytes), flags (2), count (2), overflow (4); a meta page goes on with the fields of meta.
const (
	pageHeader = 16
	element    = 16
	metaBytes  = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	leafIsBucket = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)
)

var order = binary.NativeEndian

// meta is what a meta page says.
type meta struct {
	root, freelist, pages, txid uint64
}

// parseMeta reads the meta page that begins at page; magic tells whether it is one at all, ok
// whether it is whole.
func parseMeta(page []byte) (m meta, pageSize int, magic, ok bool) {
	b := page[pageHeader:]
	if order.Uint32(b) != boltMagic {
		return m, 0, false, false
	}
	h := fnv.New64a()
	h.Write(b[:metaBytes-8])
	m = meta{root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:])}
	pageSize = int(order.Uint32(b[8:]))
	whole := order.Uint32(b[4:]) == boltVersion && h.Sum64() == order.Uint64(b[56:]) &&
		pageSize >= 1024 && pageSize <= 1<<24 && pageSize&(pageSize-1) == 0
	return m, pageSize, true, whole
}

// readMeta finds the newest whole meta page, as bbolt does.
func readMeta(path string, f io.ReaderAt) (meta, int, error) {
	var buf [pageHeader + metaBytes]byte
	var best meta
	size, anyMagic := 0, false
	at := func(offset int64) bool {
		if _, err := f.ReadAt(buf[:], offset); err != nil {
			return false
		}
		m, pageSize, magic, ok := parseMeta(buf[:])
		anyMagic = anyMagic || magic
		if ok && (size == 0 || m.txid > best.txid) {
			best, size = m, pageSize
		}
		return ok
	}
	if at(0) {
		at(int64(size))
	} else {
		for shift := range 15 { // the page size is not known: try them all
			if at(1024 << shift) {
				break
			}
		}
	}
	switch {
	case size != 0 && best.pages > best.root:
		return best, size, nil
	case size != 0:
		return best, 0, corrupt(path, 0, "the meta page points outside the file")
	case anyMagic:
		return best, 0, corrupt(path, 0, "both meta pages are damaged")
	}
	return best, 0, foreign(path)
}

// A walker visits every page that can be reached from a root.
type walker struct {
	path     string
	r        io.ReaderAt
	pageSize int
	pages    uint64
	used     []uint64 // one bit per page
	ours     bool     // the bucket that marks our files was seen
}

func (w *walker) bad(id uint64, format string, args ...any) error {
	return corrupt(w.path, int64(id)*int64(w.pageSize), format, args...)
}

// take marks n pages as used, once.
func (w *walker) take(id, n uint64) error {
	if id < 2 || id >= w.pages || n > w.pages-id {
		return w.bad(min(id, w.pages), "a reference to page %d leaves the file of %d pages", id, w.pages)
	}
	for i := id; i < id+n; i++ {
		if w.used[i/64]&(1<<(i%64)) != 0 {
			return w.bad(i, "page %d is used twice", i)
		}
		w.used[i/64] |= 1 << (i % 64)
	}
	return nil
}

// read returns a page with what overflows it.
func (w *walker) read(id uint64) ([]byte, error) {
	if err := w.take(id, 1); err != nil {
		return nil, err
	}
	buf := make([]byte, w.pageSize)
	at := int64(id) * int64(w.pageSize)
	if _, err := w.r.ReadAt(buf, at); err != nil {
		return nil, w.bad(id, "cannot be read: %v", err)
	}
	if got := order.Uint64(buf); got != id {
		return nil, w.bad(id, "the page calls itself %d", got)
	}
	if over := uint64(order.Uint32(buf[12:])); over > 0 {
		if err := w.take(id+1, over); err != nil {
			return nil, err
		}
		buf = append(buf, make([]byte, over*uint64(w.pageSize))...)
		if _, err := w.r.ReadAt(buf[w.pageSize:], at+int64(w.pageSize)); err != nil {
			return nil, w.bad(id, "cannot be read: %v", err)
		}
	}
	return buf, nil
}

// freelist marks the free pages, so that a page both free and in the tree is noticed.
func (w *walker) freelist(id uint64) error {
	buf, err := w.read(id)
	if err != nil {
		return err
	}
	if order.Uint16(buf[8:]) != flagFreelist {
		return w.bad(id, "the free list is no free list")
	}
	n, ids := uint64(order.Uint16(buf[10:])), buf[pageHeader:]
	if n == 0xFFFF { // the count did not fit
		n, ids = order.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids))/8 {
		return w.bad(id, "the free list is longer than its page")
	}
	for i := range n {
		if err := w.take(order.Uint64(ids[i*8:]), 1); err != nil {
			return err
		}
	}
	return nil
}

// page walks the tree under id. Its keys must lie in [low, high); nil leaves a side open.
func (w *walker) page(id uint64, top bool, low, high []byte) error {
	buf, err := w.read(id)
	if err != nil {
		return err
	}
	return w.elements(id, buf, top, low, high)
}

// elements walks one page that was read, or one that is kept inline in a leaf of page id.
func (w *walker) elements(id uint64, buf []byte, top bool, low, high []byte) error {
	flags, n := order.Uint16(buf[8:]), int(order.Uint16(buf[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return w.bad(id, "the page is neither branch nor leaf (flags %#x)", flags)
	}
	if pageHeader+n*element > len(buf) || flags == flagBranch && n == 0 {
		return w.bad(id, "the page cannot hold its %d elements", n)
	}
	var keys [][]byte
	for i := range n {
		at := pageHeader + i*element
		e := buf[at : at+element]
		pos, keyLen, valueLen := uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		if flags == flagBranch {
			pos, keyLen, valueLen = uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])), 0
		}
		start := uint64(at) + pos
		if pos < element || start+keyLen+valueLen > uint64(len(buf)) || keyLen > bbolt.MaxKeySize {
			return w.bad(id, "element %d lies outside its page", i)
		}
		key := buf[start : start+keyLen]
		if low != nil && string(key) < string(low) || high != nil && string(key) >= string(high) || i > 0 && string(key) <= string(keys[i-1]) {
			return w.bad(id, "key %d is out of order", i)
		}
		keys = append(keys, key)
		if flags == flagLeaf && order.Uint32(e)&leafIsBucket != 0 {
			if top && string(key) == ownBucket {
				w.ours = true
			}
			if err := w.bucket(id, buf[start+keyLen:start+keyLen+valueLen]); err != nil {
				return err
			}
		}
	}
	if flags == flagLeaf {
		return nil
	}
	for i, key := range keys {
		next := high
		if i+1 < n {
			next = keys[i+1]
		}
		child := order.Uint64(buf[pageHeader+i*element+8:])
		if i == 0 {
			key = low // the first key of a branch may be newer than the smallest below it
		}
		if err := w.page(child, top, key, next); err != nil {
			return err
		}
	}
	return nil
}

// bucket walks a nested bucket: the root page's number and a sequence, then, if that number is
// 0, the page itself.
func (w *walker) bucket(id uint64, value []byte) error {
	if len(value) < 16 {
		return w.bad(id, "a nested bucket is too short")
	}
	if root := order.Uint64(value); root != 0 {
		return w.page(root, false, nil, nil)
	}
	if len(value) < 16+pageHeader {
		return w.bad(id, "a nested bucket is too short")
	}
	return w.elements(id, value[16:], false, nil, nil)
}

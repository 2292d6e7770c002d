package msglog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// windowBytes is how much of a segment is read at once.
const windowBytes = 64 << 10

// A window reads batches of one segment file through one buffer.
type window struct {
	r    io.ReaderAt
	salt uint32
	base int64 // where in the file buf begins
	buf  []byte
}

// reset turns w to another file; the buffer is kept.
func (w *window) reset(r io.ReaderAt, salt uint32) {
	w.r, w.salt, w.base, w.buf = r, salt, 0, w.buf[:0]
}

// bytes returns n bytes at off, valid until the next call. limit is the end of what may be read;
// off+n does not exceed it.
func (w *window) bytes(off int64, n int, limit int64) ([]byte, error) {
	if off >= w.base && off+int64(n) <= w.base+int64(len(w.buf)) {
		return w.buf[off-w.base:][:n], nil
	}
	size := int(min(int64(max(n, windowBytes)), limit-off))
	if cap(w.buf) < size {
		w.buf = make([]byte, 0, max(size, windowBytes))
	}
	got, err := w.r.ReadAt(w.buf[:size], off)
	w.base, w.buf = off, w.buf[:got]
	if got >= n {
		return w.buf[:n], nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: the file ends at byte %d", errDamaged, off+int64(got))
	}
	if errors.Is(err, syscall.EIO) { // the medium has lost it
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil, err
}

// batch reads and checks the batch at off. The payload is valid until the next call. Errors are
// errDamaged or the file system's.
func (w *window) batch(off, limit int64) (batchHead, []byte, error) {
	if limit-off < batchHeader {
		return batchHead{}, nil, errDamaged
	}
	b, err := w.bytes(off, batchHeader, limit)
	if err != nil {
		return batchHead{}, nil, err
	}
	h, err := parseBatchHead(b)
	if err != nil {
		return h, nil, err
	}
	if int64(h.payload) > limit-off-batchHeader {
		return h, nil, errDamaged
	}
	if b, err = w.bytes(off, batchHeader+h.payload, limit); err != nil {
		return h, nil, err
	}
	if batchSum(b, w.salt, off) != le.Uint32(b[4:]) {
		return h, nil, errDamaged
	}
	return h, b[batchHeader:], nil
}

// resync finds the first whole batch at off or later whose first sequence number is at least
// first; it returns limit if there is none.
func (w *window) resync(off, limit int64, first uint64) (int64, error) {
	step := int64(windowBytes)
	for limit-off >= batchHeader {
		n := int(min(step, limit-off))
		b, err := w.bytes(off, n, limit)
		if errors.Is(err, errDamaged) { // unreadable: step over it in small pieces
			if step = 4096; n <= 4096 {
				off += int64(n)
			}
			continue
		}
		if err != nil {
			return limit, err
		}
		i := bytes.Index(b, []byte(batchMagic))
		if i < 0 {
			off += int64(n - len(batchMagic) + 1)
			continue
		}
		off += int64(i)
		h, _, err := w.batch(off, limit)
		if err == nil && h.first >= first {
			return off, nil
		}
		if err != nil && !errors.Is(err, errDamaged) {
			return limit, err
		}
		off++
	}
	return limit, nil
}

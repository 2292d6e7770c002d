package msglog

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

const compactSuffix = ".compact"

func isCompaction(name string) bool { return strings.HasSuffix(name, compactSuffix) }

// compact makes room by rewriting sealed segments that are mostly dead: what somebody still needs
// of neighbouring ones goes into one file, under the same sequence numbers. Without it a consumer
// that is offline and gets one message per segment would hold all of them.
func (l *Log) compact() {
	for !l.quitting() {
		run := l.pickRun()
		if run == nil {
			return
		}
		if err := l.compactRun(run); err != nil {
			if !errors.Is(err, errDeleted) {
				l.log.Warn("compact message log", "path", l.dir, "err", err)
			}
			return
		}
	}
}

// errDeleted says that a segment was deleted while it was being compacted.
var errDeleted = errors.New("nobody needs it any more")

// weight estimates how many bytes of s are needed: each message is counted once per consumer.
func (s *segment) weight() int64 {
	n := int64(0)
	for _, e := range s.live {
		n += e.bytes + 2*batchHeader*e.messages
	}
	return n
}

// pickRun returns neighbouring segments, the first of which is to take up what is needed of all, or
// nil if there is nothing to gain. The checkpoint must cover them, so that nothing but messages
// is needed of them.
func (l *Log) pickRun() []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	var run []*segment
	var size, needed int64
	for _, s := range l.segs {
		usable := s.sealed && s.through < l.cpTail.seg && len(l.damage[s.number]) == 0
		if len(run) == 0 && s.refs == 0 { // a checkpoint may already have left it out
			continue
		}
		if w := s.weight(); usable && needed+w <= l.opts.SegmentBytes-2*segmentHeader && 2*w < s.data.size.Load() {
			run, size, needed = append(run, s), size+s.data.size.Load(), needed+w
			continue
		}
		if size-needed >= l.opts.SegmentBytes/2 {
			break
		}
		run, size, needed = nil, 0, 0
	}
	if size-needed < l.opts.SegmentBytes/2 {
		return nil
	}
	return run
}

// compactRun does one run.
func (l *Log) compactRun(run []*segment) (err error) {
	first, last := run[0], run[len(run)-1]
	head := segmentHead{number: first.number, through: last.through, first: first.first, id: l.id}
	for _, s := range run {
		head.generation = max(head.generation, s.generation+1)
	}
	merged := newSegment(head, 0)
	temp := strings.TrimSuffix(merged.data.name, segmentSuffix) + compactSuffix
	if err := l.fs.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := l.fs.Create(temp)
	if err != nil {
		return err
	}
	k := &compactor{l: l, f: f, salt: merged.data.salt, out: head.append(nil)}
	err = k.copy(run)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		merged.data.size.Store(k.off)
		err = l.exchange(run, merged, temp)
	}
	if err != nil {
		if rmErr := l.fs.Remove(temp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// exchange puts merged in the place of run and deletes the others.
func (l *Log) exchange(run []*segment, merged *segment, temp string) error {
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	if err := l.replace(run, merged, temp); err != nil {
		return err
	}
	// Only when the new file is certain to be found may the others go.
	if err := l.fs.SyncDir(merged.data.name); err != nil {
		return err
	}
	for _, s := range run[1:] {
		if err := l.fs.Remove(s.data.name); err != nil {
			return fmt.Errorf("delete segment %s: %w", l.path(s.data.name), err)
		}
	}
	return nil
}

// replace puts merged in the place of run, on the disk and in memory. A reader that stands in one
// of them goes on in the old file, and finds in the new one what it has not seen.
func (l *Log) replace(run []*segment, merged *segment, temp string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.after(merged.number - 1)
	for i, s := range run {
		if at+i >= len(l.segs) || l.segs[at+i] != s {
			return errDeleted
		}
	}
	if l.closed {
		return ErrClosed
	}
	if err := l.fs.Rename(temp, merged.data.name); err != nil {
		return err
	}
	merged.sealed, merged.fresh = true, true
	for _, s := range run {
		merged.last = max(merged.last, s.last)
		for id, e := range s.live {
			merged.add(id, e.messages, e.bytes)
		}
		l.used -= s.data.size.Load()
		s.into, s.live, s.refs = merged, nil, 0
	}
	l.used += merged.data.size.Load()
	l.stats.Written += merged.data.size.Load()
	l.stats.Full = false
	l.segs = append(l.segs[:at+1], l.segs[at+len(run):]...)
	l.segs[at] = merged
	return nil
}

// current follows a segment to the one that it was compacted into.
func (s *segment) current() *segment {
	for s.into != nil {
		s = s.into
	}
	return s
}

// A compactor writes a compacted segment.
type compactor struct {
	l    *Log
	f    File
	salt uint32
	off  int64  // where out goes
	out  []byte // written from time to time
	kept []byte // the batch that is being filled, header included; empty if none
	head batchHead
}

func (k *compactor) copy(run []*segment) error {
	k.l.mu.Lock()
	snap := k.l.snapshot()
	k.l.mu.Unlock()
	k.open(run[0].first, k.l.now())
	k.kept = append(k.kept, snap...)
	if err := k.close(); err != nil {
		return err
	}
	for _, s := range run {
		k.l.mu.Lock()
		dead := s.refs == 0
		k.l.mu.Unlock()
		if dead {
			continue
		}
		if err := k.copySegment(s); err != nil {
			return err
		}
	}
	if err := k.close(); err != nil {
		return err
	}
	return k.flush()
}

func (k *compactor) copySegment(s *segment) error {
	l := k.l
	l.mu.Lock()
	err := l.acquire(s.data)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		l.mu.Lock()
		l.release(s.data)
		l.mu.Unlock()
	}()
	var w window
	w.reset(s.data.f, s.data.salt)
	limit := s.data.size.Load()
	for off := int64(segmentHeader); off < limit; {
		h, payload, err := w.batch(off, limit)
		if err != nil { // if it is damage, a reader will find it and say so
			return fmt.Errorf("%s at byte %d: %w", l.path(s.data.name), off, err)
		}
		if h.messages > 0 {
			if err := k.copyBatch(h, payload); err != nil {
				return err
			}
		}
		off += int64(batchHeader + h.payload)
	}
	return nil
}

// copyBatch takes over the records that somebody needs, as they are.
func (k *compactor) copyBatch(h batchHead, payload []byte) error {
	k.l.mu.Lock()
	defer k.l.mu.Unlock()
	seq := h.first
	var m message
	for rest := payload; len(rest) > 0; {
		kind, rec, after, err := nextRecord(rest)
		if err != nil {
			return err
		}
		whole := rest[:len(rest)-len(after)]
		rest = after
		if kind != kindMessage {
			continue
		}
		if err := parseMessage(rec, h.time, &m); err != nil {
			return err
		}
		if k.l.isNeeded(&m, seq) {
			if len(k.kept) > 0 && (k.head.time != h.time || k.head.end() != seq || len(k.kept) > maxBatch) {
				if err := k.close(); err != nil {
					return err
				}
			}
			if len(k.kept) == 0 {
				k.open(seq, h.time)
			}
			k.kept = append(k.kept, whole...)
			k.head.messages++
		}
		seq++
	}
	return nil
}

// isNeeded reports whether somebody has not acknowledged message seq. Under Log.mu.
func (l *Log) isNeeded(m *message, seq uint64) bool {
	r := reader{b: m.consumers}
	for len(r.b) > 0 {
		c := l.byID[r.id()]
		if c != nil && (!c.acked.contains(seq) || c.ahead[seq]) {
			return true
		}
	}
	return false
}

func (k *compactor) open(first uint64, time int64) {
	k.kept = append(k.kept[:0], make([]byte, batchHeader)...)
	k.head = batchHead{first: first, time: time}
}

// close ends the batch that is being filled.
func (k *compactor) close() error {
	if len(k.kept) == 0 {
		return nil
	}
	putBatchHead(k.kept, k.head, k.salt, k.off+int64(len(k.out)))
	k.out = append(k.out, k.kept...)
	k.kept = k.kept[:0]
	if len(k.out) < maxBatch {
		return nil
	}
	return k.flush()
}

func (k *compactor) flush() error {
	if _, err := k.f.WriteAt(k.out, k.off); err != nil {
		return err
	}
	k.off += int64(len(k.out))
	k.out = k.out[:0]
	return nil
}

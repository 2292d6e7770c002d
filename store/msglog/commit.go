package msglog

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// A writer is the state of the goroutine that commits; nobody else touches it while it runs.
type writer struct {
	active      *segment // nil until something is to be written
	file        File     // of active
	end         int64    // where the next batch goes
	synced      int64    // active is on stable storage up to here
	mark        position // the end of the last synced batch
	dirUnsynced bool     // active's directory entry is not on stable storage
	suspect     bool     // a sync failed: what was not synced must be written again
	overdue     bool     // a checkpoint failed and is to be tried again
	wasCut      bool     // active was truncated, and that is not on stable storage
	unstamped   bool     // this opening's sequence numbers are not on stable storage yet
	nextSegment uint64
}

// commitLoop writes whatever has queued up while the write before ran.
func (l *Log) commitLoop() {
	timer := time.NewTimer(lazyInterval)
	timer.Stop()
	defer timer.Stop()
	running := false
	for {
		due := false
		select {
		case <-l.work:
		case <-timer.C:
			running, due = false, true
		case <-l.quit:
			return
		}
		l.round(due)
		if !running && l.lazyWork() {
			timer.Reset(lazyInterval)
			running = true
		}
	}
}

// round commits what waits; when due, also what may wait for a while.
func (l *Log) round(due bool) {
	l.mu.Lock()
	if due && len(l.free) > keepFree { // do not keep what a burst has needed
		clear(l.free[keepFree:])
		l.free = l.free[:keepFree]
	}
	acks := due || l.dirtyAcks > 1024
	l.mu.Unlock()
	l.commitWith(acks)
	if due && l.opts.Durability == Second {
		if err := l.sync(); err != nil {
			l.log.Error("sync message log", "path", l.dir, "err", err)
		}
	}
	if due && (l.overdue || l.dead() > 0) || l.pressed() {
		if err := l.checkpoint(); err != nil {
			l.log.Error("write checkpoint of message log", "path", l.dir, "err", err)
		}
	}
}

// lazyWork reports whether something waits for the next round that is due.
func (l *Log) lazyWork() bool {
	unsynced := l.opts.Durability == Second && l.active != nil && (l.synced < l.end || l.suspect)
	l.mu.Lock()
	defer l.mu.Unlock()
	return unsynced || l.overdue || len(l.free) > keepFree || l.dirtyAcks > 0 || l.deadLocked() > 0
}

// pressed reports whether segments should be deleted at once because space runs out.
func (l *Log) pressed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return (l.stats.Full || l.used > l.opts.MaxBytes/2) && l.deadLocked() > 0
}

// dead counts the segments that no consumer needs.
func (l *Log) dead() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadLocked()
}

func (l *Log) deadLocked() int {
	n := 0
	for _, s := range l.segs {
		if s.sealed && s.refs == 0 {
			n++
		}
	}
	return n
}

// commit writes everything that waits, acknowledgments included.
func (l *Log) commit() { l.commitWith(true) }

func (l *Log) commitWith(acks bool) {
	l.mu.Lock()
	if !l.cur.empty() || acks && l.dirtyAcks > 0 && len(l.queue) == 0 {
		l.queue = append(l.queue, l.cur)
		l.cur = l.newBatch()
	}
	batches := l.queue
	l.queue = nil
	if len(batches) > 0 {
		l.takeAcks(batches[len(batches)-1])
		l.notifyRoom()
	}
	l.mu.Unlock()
	for rest := batches; len(rest) > 0; {
		n, err := l.writeRun(rest)
		l.publish(rest[:n])
		rest = rest[n:]
		if err != nil {
			l.fail(rest, err)
			break
		}
	}
	l.mu.Lock()
	for _, b := range batches {
		l.recycle(b)
	}
	l.mu.Unlock()
}

// takeAcks moves every consumer's new acknowledgments into b. Under Log.mu.
func (l *Log) takeAcks(b *batch) {
	if len(l.dirty) == 0 {
		return
	}
	if len(b.buf) == batchHeader {
		b.time = l.now()
	}
	before := len(b.buf)
	for _, c := range l.dirty {
		if !c.removed && len(c.dirty) > 0 {
			b.buf = appendAcks(b.buf, c.id, c.dirty)
			b.acks = append(b.acks, ackedIn{c, c.dirty})
		}
		c.dirty, c.isDirty = nil, false
	}
	l.dirty, l.dirtyAcks = l.dirty[:0], 0
	l.queued += int64(len(b.buf) - before)
}

// writeRun writes as many batches as fit into one segment and makes them durable if somebody
// waits for that. It returns how many are committed; err is why the next one is not.
func (l *Log) writeRun(batches []*batch) (n int, err error) {
	if l.unstamped {
		if err := l.checkpoint(); err != nil {
			return 0, err
		}
	}
	if batches[0].payload() && l.needSegment(batches[0]) {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	start, seq, sync := l.end, l.nextSeq, false
	for _, b := range batches {
		if b.payload() {
			if n > 0 && l.needSegment(b) {
				break
			}
			if err = l.writeBatch(b, seq); err != nil {
				break
			}
			seq += uint64(b.messages)
		}
		sync = sync || b.force || b.sync && l.opts.Durability == Always
		n++
	}
	if n > 0 && sync {
		if err := l.sync(); err != nil {
			l.cut(start)
			return 0, err
		}
	}
	return n, err
}

// needSegment reports whether b must go into a new segment.
func (l *Log) needSegment(b *batch) bool {
	return l.active == nil || l.end > 2*segmentHeader+batchHeader && l.end+int64(len(b.buf)) > l.opts.SegmentBytes
}

func (l *Log) writeBatch(b *batch, first uint64) error {
	h := batchHead{messages: b.messages, first: first, time: b.time, mark: l.mark}
	putBatchHead(b.buf, h, l.active.data.salt, l.end)
	if _, err := l.file.WriteAt(b.buf, l.end); err != nil {
		l.cut(l.end)
		return l.writeError("write", err)
	}
	l.end += int64(len(b.buf))
	return nil
}

// cut takes back what was written from off on. The next sync makes sure of it: were the remains
// to show up behind the end after a power cut, they would look like damage.
func (l *Log) cut(off int64) {
	l.end = off
	if l.active == nil {
		return
	}
	l.wasCut = true
	if err := l.file.Truncate(off); err != nil {
		l.log.Warn("truncate segment", "path", l.path(l.active.data.name), "err", err)
	}
}

func (l *Log) writeError(op string, err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %s: %w", ErrFull, op, err)
	}
	return fmt.Errorf("message log %s: %s: %w", l.dir, op, err)
}

// sync makes the active segment durable up to its end.
func (l *Log) sync() error {
	if l.active == nil || l.synced == l.end && !l.dirUnsynced && !l.suspect && !l.wasCut {
		return nil
	}
	if err := l.syncFile(); err != nil {
		// The kernel may now believe that the pages are clean: they must be dirtied again
		// before another sync means anything.
		l.suspect = true
		return l.writeError("sync", err)
	}
	l.suspect, l.dirUnsynced, l.wasCut, l.synced = false, false, false, l.end
	l.mark = position{l.active.number, l.end}
	l.mu.Lock()
	l.stats.Syncs++
	l.mu.Unlock()
	return nil
}

func (l *Log) syncFile() error {
	if l.suspect {
		if err := rewrite(l.file, l.synced, l.end); err != nil {
			return err
		}
	}
	if l.wasCut {
		if err := l.file.Truncate(l.end); err != nil {
			return err
		}
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	if l.dirUnsynced {
		return l.fs.SyncDir(l.active.data.name)
	}
	return nil
}

// rewrite writes what is in a range of f again.
func rewrite(f File, from, to int64) error {
	buf := make([]byte, min(to-from, 1<<20))
	for from < to {
		b := buf[:min(to-from, int64(len(buf)))]
		if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := f.WriteAt(b, from); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return nil
}

// publish makes committed batches visible and tells everybody.
func (l *Log) publish(batches []*batch) {
	if len(batches) == 0 {
		return
	}
	l.mu.Lock()
	first := l.nextSeq
	over := false
	for _, b := range batches {
		if b.payload() {
			l.queued -= int64(len(b.buf) - batchHeader)
			l.used += int64(len(b.buf))
			l.stats.Written += int64(len(b.buf))
			l.stats.Batches++
			l.stats.Appended += uint64(b.messages)
			l.nextSeq += uint64(b.messages)
			l.active.last = l.nextSeq - 1
		}
		for _, a := range b.adds {
			over = a.c.arrived(l.active, a.load) || over
		}
		for _, f := range b.apply {
			f()
		}
	}
	if l.active != nil {
		l.active.data.size.Store(l.end)
	}
	l.stats.Full = false
	for _, b := range batches {
		for _, a := range b.adds {
			wake(a.c.wake)
		}
	}
	if over || l.used > l.opts.MaxBytes/4*3 {
		wake(l.tidy)
	}
	l.mu.Unlock()
	for _, b := range batches {
		for _, w := range b.waits {
			seq := uint64(0)
			if w.record >= 0 {
				seq = first + uint64(w.record)
			}
			w.done(seq, nil)
		}
		first += uint64(b.messages)
	}
}

// fail gives batches up: nothing of them is in the log. Acknowledgments go back to be written
// later; a message's waiters are told.
func (l *Log) fail(batches []*batch, err error) {
	l.mu.Lock()
	for _, b := range batches {
		if b.payload() {
			l.queued -= int64(len(b.buf) - batchHeader)
		}
		for _, a := range b.adds {
			a.c.expected.messages -= a.messages
			a.c.expected.bytes -= a.bytes
		}
		for _, a := range b.acks {
			a.c.restore(a.ranges)
		}
	}
	l.stats.Full = errors.Is(err, ErrFull)
	wake(l.tidy)
	l.notifyRoom()
	l.mu.Unlock()
	for _, b := range batches {
		for _, w := range b.waits {
			w.done(0, err)
		}
	}
}

package msglog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// An Entry is a message to be kept until all its consumers have acknowledged it.
type Entry struct {
	Body      []byte       // at most MaxBody bytes; copied
	Expires   time.Time    // zero: never; kept with a resolution of 1 ms, rounded up
	Consumers []ConsumerID // who needs it; removed consumers and duplicates are passed over
	// Sync makes the message as durable as Options.Durability says before Append returns. Without
	// it the message is written soon and nobody waits.
	Sync bool
}

// errBusy says that the disk does not keep up; Append then waits.
var errBusy = errors.New("too much waits for the disk")

// Append adds a message and returns its sequence number once it is as durable as e.Sync asks;
// without Sync it returns 0 when the message is queued. The number is 0 as well if no consumer
// needs the message: it is not written then. Numbers ascend, with gaps.
//
// Append waits while a consumer of policy [Block] is at its bound. It returns [ErrFull],
// [ErrTooLarge], [ErrClosed], or ctx's error; in the last case the message may have been kept.
func (l *Log) Append(ctx context.Context, e Entry) (uint64, error) {
	if !e.Sync {
		return 0, l.Enqueue(ctx, e, nil)
	}
	type outcome struct {
		seq uint64
		err error
	}
	done := make(chan outcome, 1)
	if err := l.Enqueue(ctx, e, func(seq uint64, err error) { done <- outcome{seq, err} }); err != nil {
		return 0, err
	}
	select {
	case o := <-done:
		return o.seq, o.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// AppendAsync is [Log.Append] for callers that must not wait: done is called later, from one
// goroutine and in the order of the calls, with the outcome; it must neither block nor use the
// log. If AppendAsync itself returns an error, done is not called: [ErrBlocked] if a consumer of
// policy [Block] is at its bound, else as Append. It waits only while several MiB are
// already waiting for the disk.
func (l *Log) AppendAsync(e Entry, done func(seq uint64, err error)) error {
	return l.enqueue(context.Background(), &e, done, false)
}

// Enqueue is [Log.AppendAsync] for callers that can wait for room, but not for the disk: while a
// consumer of policy [Block] is at its bound it waits until there is room or ctx ends.
func (l *Log) Enqueue(ctx context.Context, e Entry, done func(seq uint64, err error)) error {
	return l.enqueue(ctx, &e, done, true)
}

func (l *Log) enqueue(ctx context.Context, e *Entry, done func(uint64, error), wait bool) error {
	if len(e.Body) > MaxBody {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(e.Body), MaxBody)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		err := l.add(e, done)
		if err == nil || err != errBusy && !(wait && errors.Is(err, ErrBlocked)) {
			return err
		}
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			err = ctx.Err()
		}
		l.mu.Lock()
		if ctx.Err() != nil {
			return err
		}
	}
}

// notifyRoom lets everybody who waits in enqueue try again.
func (l *Log) notifyRoom() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// A batch is what is written at once: the records in their final form, behind room for the header.
type batch struct {
	buf      []byte
	messages uint32
	time     int64
	sync     bool // somebody waits for durability
	force    bool // somebody waits for stable storage, whatever the durability
	waits    []waiter
	adds     []add
	acks     []ackedIn
	apply    []func() // run under Log.mu when the batch is committed
}

// A waiter is told the outcome; record is the index of its message in the batch, -1 for none.
type waiter struct {
	done   func(seq uint64, err error)
	record int64
}

// An add is what a batch adds to one consumer's load.
type add struct {
	c *Consumer
	load
}

// An ackedIn is what a batch says that a consumer is done with.
type ackedIn struct {
	c      *Consumer
	ranges []ackRange
}

func (b *batch) empty() bool { return len(b.buf) == batchHeader && len(b.waits) == 0 }

func (b *batch) payload() bool { return len(b.buf) > batchHeader }

func (l *Log) newBatch() *batch {
	b := new(batch)
	if n := len(l.free); n > 0 {
		b, l.free = l.free[n-1], l.free[:n-1]
	}
	b.buf = append(b.buf[:0], make([]byte, batchHeader)...)
	return b
}

// recycle keeps b for reuse unless one huge message has blown it up.
func (l *Log) recycle(b *batch) {
	if cap(b.buf) > 2*maxBatch || len(l.free) > maxQueued {
		return
	}
	clear(b.waits)
	clear(b.adds)
	clear(b.apply)
	clear(b.acks)
	*b = batch{buf: b.buf, waits: b.waits[:0], adds: b.adds[:0], apply: b.apply[:0], acks: b.acks[:0]}
	l.free = append(l.free, b)
}

// now is the time in µs since 1970.
func (l *Log) now() int64 { return l.opts.Now().UnixMicro() }

// add encodes e into the current batch. Under Log.mu.
func (l *Log) add(e *Entry, done func(uint64, error)) error {
	if l.closed {
		return ErrClosed
	}
	if len(l.queue) >= maxQueued {
		return errBusy
	}
	size := int64(len(e.Body))
	for _, id := range e.Consumers {
		if c := l.byID[id]; c != nil && c.policy == Block && c.full(size) {
			return fmt.Errorf("%w: %s", ErrBlocked, c.name)
		}
	}
	b := l.cur
	l.entryNo++
	var list [64]byte
	ids, n := list[:0], 0
	for _, id := range e.Consumers {
		c := l.byID[id]
		if c == nil || c.entryNo == l.entryNo {
			continue
		}
		c.entryNo = l.entryNo
		if c.policy == DropNewest && c.full(size) {
			c.dropped.Newest++
			continue
		}
		ids = binary.AppendUvarint(ids, uint64(id))
		n++
	}
	record := int64(-1)
	if n > 0 {
		if l.used+l.queued+size+int64(len(ids))+64 > l.opts.MaxBytes-l.opts.reserve() {
			l.stats.Full = true
			wake(l.tidy)
			return fmt.Errorf("%w: the budget of %d bytes is used up", ErrFull, l.opts.MaxBytes)
		}
		record = int64(b.messages)
		l.put(b, e, n, ids)
	}
	if done != nil {
		b.waits = append(b.waits, waiter{done, record})
	}
	b.sync = b.sync || e.Sync && n > 0
	l.entered(b)
	return nil
}

// put appends the record of e to b and counts it.
func (l *Log) put(b *batch, e *Entry, n int, ids []byte) {
	before := len(b.buf)
	t := l.now()
	if before == batchHeader {
		b.time = t
	}
	b.buf = appendMessage(b.buf, t-b.time, lifetimeOf(t, e.Expires), n, ids, e.Body)
	b.messages++
	l.queued += int64(len(b.buf) - before)
	for len(ids) > 0 {
		id, used := binary.Uvarint(ids)
		ids = ids[used:]
		l.byID[ConsumerID(id)].expect(b, int64(len(e.Body)))
	}
}

// control appends a record that is not a message; apply runs when it is committed. It returns
// once that has happened.
func (l *Log) control(kind byte, content []byte, apply func()) error {
	done := make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	b := l.cur
	if len(b.buf) == batchHeader {
		b.time = l.now()
	}
	before := len(b.buf)
	b.buf = appendRecord(b.buf, kind, content)
	l.queued += int64(len(b.buf) - before)
	b.apply = append(b.apply, apply)
	b.waits = append(b.waits, waiter{func(_ uint64, err error) { done <- err }, -1})
	b.sync = true
	l.entered(b)
	l.mu.Unlock()
	if l.opts.manual {
		l.commit()
	}
	return <-done
}

// entered closes b when it is long enough, and wakes the committer.
func (l *Log) entered(b *batch) {
	if len(b.buf) >= batchHeader+maxBatch {
		l.queue = append(l.queue, b)
		l.cur = l.newBatch()
	}
	wake(l.work)
}

package msglog

import (
	"encoding/binary"
	"fmt"
	"math"
	"sort"
	"sync"
	"time"
)

// A ConsumerID is the number that stands for a consumer in the log. It is never given twice.
type ConsumerID uint32

// A Policy says what happens to a message that would take a consumer over its bound.
type Policy int

const (
	DropOldest Policy = iota // drop the oldest messages that were not handed out yet
	DropNewest               // do not keep the new one for this consumer
	Block                    // Append waits or returns ErrBlocked
)

// ConsumerOptions bounds what is kept for a consumer. A message always fits into an empty queue.
type ConsumerOptions struct {
	MaxMessages int64 // 0 means 1,000,000; negative: bounded only by the log's budget
	MaxBytes    int64 // of bodies; 0 means a quarter of the log's budget; negative: only the budget
	WhenFull    Policy
}

// Dropped counts messages that a consumer did not get, by reason, over its whole life.
type Dropped struct {
	Oldest  uint64 // policy DropOldest
	Newest  uint64 // policy DropNewest
	Expired uint64
	Damaged uint64 // lost with a damaged part of the disk
}

// ConsumerStats tells how a consumer is doing.
type ConsumerStats struct {
	Name     string
	Depth    int64     // messages not yet acknowledged
	Bytes    int64     // in their bodies
	InFlight int       // of Depth: handed out by Read
	Oldest   time.Time // when the oldest of them was appended; zero if there is none
	Acked    uint64    // acknowledged, over its whole life
	Dropped  Dropped
}

// A Consumer reads the messages that name it, in order, and acknowledges them. Name, number,
// position and counters survive restarts; bounds are those of the last [Log.Consumer] call. The
// methods are safe for concurrent use, but it takes one reader to keep order.
type Consumer struct {
	l    *Log
	id   ConsumerID
	name string
	wake chan struct{} // capacity 1: there may be something to read

	// Guarded by Log.mu.
	policy      Policy
	maxMessages int64
	maxBytes    int64
	acked       ackset
	ahead       map[uint64]bool // acknowledged before the reader came by: still in depth
	scanned     uint64          // what is up to here was handed out or needs no handing out
	out         outbox
	depth       load // committed and not acknowledged
	expected    load // on its way to the disk
	dirty       []ackRange
	isDirty     bool // in Log.dirty
	done        uint64
	dropped     Dropped
	removed     bool
	entryNo     uint64 // of the last entry that named this consumer
	lastBatch   *batch // where expect has counted last, and at which index
	lastAdd     int

	readMu sync.Mutex // guards cur; locked before Log.mu
	cur    cursor
}

// Consumer opens the consumer called name, or makes it; a new one gets what is appended from now
// on and names it. A second call for a name returns the same Consumer with the new bounds.
func (l *Log) Consumer(name string, opts ConsumerOptions) (*Consumer, error) {
	if name == "" || len(name) > math.MaxUint16 {
		return nil, fmt.Errorf("consumer name has %d bytes: 1 to %d are allowed", len(name), math.MaxUint16)
	}
	l.defMu.Lock()
	defer l.defMu.Unlock()
	l.mu.Lock()
	c := l.byName[name]
	if c != nil {
		c.bound(opts)
		l.mu.Unlock()
		return c, nil
	}
	c = l.newConsumer(l.nextID, name)
	c.bound(opts)
	l.mu.Unlock()
	content := append(binary.AppendUvarint(nil, uint64(c.id)), name...)
	err := l.control(kindDefine, content, func() {
		c.acked.pos = l.nextSeq - 1
		c.scanned = c.acked.pos
		l.register(c)
	})
	if err != nil {
		return nil, fmt.Errorf("define consumer %s: %w", name, err)
	}
	return c, nil
}

func (l *Log) newConsumer(id ConsumerID, name string) *Consumer {
	c := &Consumer{l: l, id: id, name: name, wake: make(chan struct{}, 1)}
	c.bound(ConsumerOptions{})
	return c
}

// register makes c known. Under Log.mu.
func (l *Log) register(c *Consumer) {
	l.byID[c.id], l.byName[c.name] = c, c
	l.nextID = max(l.nextID, c.id+1)
}

// bound sets the limits and drops what is now too much. Under Log.mu.
func (c *Consumer) bound(o ConsumerOptions) {
	pick := func(v, standard int64) int64 {
		switch {
		case v == 0:
			return standard
		case v < 0:
			return math.MaxInt64
		}
		return v
	}
	c.policy = o.WhenFull
	c.maxMessages = pick(o.MaxMessages, 1_000_000)
	c.maxBytes = pick(o.MaxBytes, c.l.opts.MaxBytes/4)
	c.l.notifyRoom()
	if c.over() {
		wake(c.l.tidy)
	}
}

// RemoveConsumer forgets the consumer called name and what is kept for it; that it does not exist
// is no error. Its Reads return [ErrRemoved].
func (l *Log) RemoveConsumer(name string) error {
	l.defMu.Lock()
	defer l.defMu.Unlock()
	l.mu.Lock()
	c := l.byName[name]
	l.mu.Unlock()
	if c == nil {
		return nil
	}
	if err := l.control(kindRemove, binary.AppendUvarint(nil, uint64(c.id)), func() { l.unregister(c) }); err != nil {
		return fmt.Errorf("remove consumer %s: %w", name, err)
	}
	c.closeCursor()
	return nil
}

// unregister forgets c. Under Log.mu.
func (l *Log) unregister(c *Consumer) {
	delete(l.byID, c.id)
	delete(l.byName, c.name)
	for _, s := range l.segs {
		if e := s.live[c.id]; e != nil {
			s.sub(c.id, e.messages, e.bytes)
		}
	}
	c.removed = true
	c.dirty, c.out, c.depth, c.ahead = nil, outbox{}, load{}, nil
	l.notifyRoom()
	wake(c.wake)
	wake(l.work)
}

// Consumers returns the names of all consumers, sorted.
func (l *Log) Consumers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.byName))
	for name := range l.byName {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// ID returns the number to put into [Entry].Consumers.
func (c *Consumer) ID() ConsumerID { return c.id }

// Name returns the name.
func (c *Consumer) Name() string { return c.name }

// full reports whether a message of size bytes would go over the bound. Under Log.mu.
func (c *Consumer) full(size int64) bool {
	n, b := c.depth.messages+c.expected.messages, c.depth.bytes+c.expected.bytes
	return n > 0 && (n >= c.maxMessages || b > c.maxBytes-size)
}

// over reports whether something should be dropped. Under Log.mu.
func (c *Consumer) over() bool {
	return c.policy == DropOldest && c.depth.messages > 1 && (c.depth.messages > c.maxMessages || c.depth.bytes > c.maxBytes)
}

// expect counts a message of size bytes that b will bring. Under Log.mu.
func (c *Consumer) expect(b *batch, size int64) {
	c.expected.messages++
	c.expected.bytes += size
	if c.lastBatch != b || c.lastAdd >= len(b.adds) || b.adds[c.lastAdd].c != c {
		c.lastBatch, c.lastAdd = b, len(b.adds)
		b.adds = append(b.adds, add{c: c})
	}
	a := &b.adds[c.lastAdd]
	a.messages++
	a.bytes += size
}

// arrived counts messages that were committed to s; it reports whether there are now too many.
// Under Log.mu.
func (c *Consumer) arrived(s *segment, n load) bool {
	c.expected.messages -= n.messages
	c.expected.bytes -= n.bytes
	if c.removed {
		return false
	}
	c.depth.messages += n.messages
	c.depth.bytes += n.bytes
	s.add(c.id, n.messages, n.bytes)
	return c.over()
}

// Ack says that the consumer is done with messages; unknown numbers and repetition do no harm. It
// is remembered lazily: after a crash some of what was acknowledged last may be read again.
func (c *Consumer) Ack(seqs ...uint64) error {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if c.removed {
		return ErrRemoved
	}
	for _, seq := range seqs {
		if seq >= l.nextSeq || c.acked.contains(seq) {
			continue
		}
		c.done++
		if h := c.out.take(seq); h != nil {
			c.settle(h.prev+1, seq, 1, int64(h.size), h.seg)
		} else if seq > c.scanned {
			// Not read yet: whoever asks remembers it from before a restart. It is taken off the
			// depth when the reader comes by.
			if c.ahead == nil {
				c.ahead = make(map[uint64]bool)
			}
			c.ahead[seq] = true
			c.acked.add(seq, seq)
			c.addDirty(ackRange{span: span{seq, seq}})
		}
	}
	wake(c.wake) // the reader may have been waiting for the window
	return nil
}

// Rewind makes the next Read start again at the oldest message that is not acknowledged.
func (c *Consumer) Rewind() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.out.rewind()
	wake(c.wake)
}

// settle puts start to end into the acknowledged set, and takes n messages of size bytes that
// lie in s off the depth. Under Log.mu.
func (c *Consumer) settle(start, end uint64, n, size int64, s *segment) {
	s = s.current()
	c.acked.add(start, end)
	gone := s.sub(c.id, n, size)
	c.depth.messages -= gone.messages
	c.depth.bytes -= gone.bytes
	c.addDirty(ackRange{span: span{start, end}, messages: uint64(n), bytes: uint64(size)})
	if c.policy == Block {
		c.l.notifyRoom()
	}
	if s.sealed && s.refs == 0 {
		wake(c.l.work)
	}
}

// addDirty remembers an entry for the next acknowledgment record. Entries are joined while they
// concern one segment and the same side of the last checkpoint: recovery must be able to tell
// to which count they belong. Under Log.mu.
func (c *Consumer) addDirty(r ackRange) {
	l := c.l
	if n := len(c.dirty); n > 0 {
		last := &c.dirty[n-1]
		if !last.fixed && last.end+1 == r.start && (last.end < l.cpSeq) == (r.end < l.cpSeq) && l.bySeq(last.end) == l.bySeq(r.end) {
			last.end = r.end
			last.messages += r.messages
			last.bytes += r.bytes
			return
		}
	}
	c.dirty = append(c.dirty, r)
	c.markDirty(1)
}

func (c *Consumer) markDirty(n int) {
	l := c.l
	if !c.isDirty {
		c.isDirty = true
		l.dirty = append(l.dirty, c)
	}
	if l.dirtyAcks == 0 || l.dirtyAcks+n > 1024 {
		wake(l.work)
	}
	l.dirtyAcks += n
}

// restore takes back entries that could not be written. A checkpoint may hold them all the same:
// recovery passes over an entry that it knows, so none may grow into one that it knows in part.
// Under Log.mu.
func (c *Consumer) restore(ranges []ackRange) {
	if c.removed || len(ranges) == 0 {
		return
	}
	for i := range ranges {
		ranges[i].fixed = true
	}
	c.dirty = append(ranges[:len(ranges):len(ranges)], c.dirty...)
	c.markDirty(len(ranges))
}

// Stats returns a snapshot. To tell the age of a message that was not read yet it may read a
// block of the log.
func (c *Consumer) Stats() ConsumerStats {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	l := c.l
	l.mu.Lock()
	s := ConsumerStats{
		Name: c.name, Depth: c.depth.messages, Bytes: c.depth.bytes, InFlight: c.out.unacked,
		Acked: c.done, Dropped: c.dropped,
	}
	oldest, ok := c.out.oldest()
	peek := !ok && s.Depth > 0 && !l.closed && !c.removed
	l.mu.Unlock()
	if peek {
		if m, err := c.next(); err == nil && m != nil {
			oldest, ok = m.time, true
		}
	}
	if ok {
		s.Oldest = time.UnixMicro(oldest)
	}
	return s
}

package msglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"

	"gatewayctl/store/atomicfile"
)

const (
	checkpointName    = "checkpoint"
	checkpointMagic   = "GWMSGCKP"
	checkpointVersion = 1
)

// A checkpointed is what a checkpoint file says: everything that reading the log up to tail
// would tell.
type checkpointed struct {
	id          logID
	tail        position
	nextSeq     uint64
	nextSegment uint64
	nextID      ConsumerID
	segments    []cpSegment
	consumers   []cpConsumer
}

type cpSegment struct {
	number, through, first, last uint64
	generation                   uint32
	live                         []cpLoad
}

type cpLoad struct {
	id ConsumerID
	load
}

type cpConsumer struct {
	id      ConsumerID
	name    string
	acked   ackset
	done    uint64
	dropped Dropped
}

func (c *checkpointed) append(b []byte) []byte {
	at := len(b)
	b = append(b, checkpointMagic...)
	b = le.AppendUint16(b, checkpointVersion)
	b = append(b, c.id[:]...)
	for _, v := range []uint64{c.tail.seg, uint64(c.tail.off), c.nextSeq, c.nextSegment, uint64(c.nextID), uint64(len(c.segments))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, s := range c.segments {
		for _, v := range []uint64{s.number, s.through - s.number, s.first, s.last - (s.first - 1), uint64(s.generation), uint64(len(s.live))} {
			b = binary.AppendUvarint(b, v)
		}
		for _, e := range s.live {
			b = binary.AppendUvarint(b, uint64(e.id))
			b = binary.AppendUvarint(b, uint64(e.messages))
			b = binary.AppendUvarint(b, uint64(e.bytes))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(c.consumers)))
	for _, k := range c.consumers {
		b = binary.AppendUvarint(b, uint64(k.id))
		b = appendString(b, k.name)
		b = k.acked.append(b)
		for _, v := range []uint64{k.done, k.dropped.Oldest, k.dropped.Newest, k.dropped.Expired, k.dropped.Damaged} {
			b = binary.AppendUvarint(b, v)
		}
	}
	return le.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func parseCheckpoint(b []byte) (*checkpointed, error) {
	const fixed = len(checkpointMagic) + 2 + len(logID{})
	if len(b) < fixed+4 || string(b[:8]) != checkpointMagic || crc32.Checksum(b[:len(b)-4], castagnoli) != le.Uint32(b[len(b)-4:]) {
		return nil, errDamaged
	}
	if v := le.Uint16(b[8:]); v != checkpointVersion {
		return nil, fmt.Errorf("%w: checkpoint format %d, this binary knows %d", ErrNewer, v, checkpointVersion)
	}
	c := new(checkpointed)
	copy(c.id[:], b[10:])
	r := reader{b: b[fixed : len(b)-4]}
	c.tail = position{r.uvarint(), int64(r.uvarint())}
	c.nextSeq, c.nextSegment, c.nextID = r.uvarint(), r.uvarint(), r.id()
	for range r.count(6) {
		s := cpSegment{number: r.uvarint()}
		s.through = s.number + r.uvarint()
		s.first = r.uvarint()
		s.last = s.first - 1 + r.uvarint()
		s.generation = uint32(r.uvarint())
		for range r.count(3) {
			e := cpLoad{id: r.id()}
			e.messages, e.bytes = r.positive(), r.positive()
			s.live = append(s.live, e)
		}
		if s.through < s.number || s.through > maxNumber || s.last > maxNumber {
			r.failed = true
		}
		if n := len(c.segments); n > 0 && s.number <= c.segments[n-1].through {
			r.failed = true
		}
		c.segments = append(c.segments, s)
	}
	for range r.count(9) {
		k := cpConsumer{id: r.id(), name: r.string(), acked: r.ackset(), done: r.uvarint()}
		k.dropped = Dropped{Oldest: r.uvarint(), Newest: r.uvarint(), Expired: r.uvarint(), Damaged: r.uvarint()}
		c.consumers = append(c.consumers, k)
	}
	if r.failed || len(r.b) > 0 || c.tail.off < 0 || c.tail.seg > maxNumber || c.nextSeq > maxNumber || c.nextSegment > maxNumber {
		return nil, errDamaged
	}
	return c, nil
}

func (r *reader) id() ConsumerID {
	v := r.uvarint()
	if v >= math.MaxUint32 { // the last one is never given, so that there is a next
		r.failed = true
		return 0
	}
	return ConsumerID(v)
}

func (r *reader) positive() int64 {
	v := r.uvarint()
	if v > math.MaxInt64 {
		r.failed = true
	}
	return int64(v)
}

// readCheckpoint returns nil without an error if there is no checkpoint.
func readCheckpoint(d FS) (*checkpointed, error) {
	f, err := d.Open(checkpointName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil || size > 1<<30 {
		return nil, errors.Join(err, errDamaged, f.Close())
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	c, err := parseCheckpoint(b)
	return c, errors.Join(err, f.Close())
}

// checkpoint syncs the log, writes down its state and deletes the segments that nobody needs.
// Only the committer calls it.
func (l *Log) checkpoint() error {
	if err := l.sync(); err != nil {
		l.overdue = true
		return err
	}
	l.filesMu.Lock()
	defer l.filesMu.Unlock()
	l.mu.Lock()
	state, dead, acks := l.state()
	l.mu.Unlock()
	b := state.append(nil)
	err := l.writeCheckpoint(b)
	if err != nil && isFull(err) && l.emptyOut(dead) {
		err = l.writeCheckpoint(b)
	}
	l.mu.Lock()
	if err != nil {
		for _, a := range acks {
			a.c.restore(a.ranges)
		}
		l.mu.Unlock()
		l.overdue = true
		return l.writeError("write checkpoint", err)
	}
	l.stats.Written += int64(len(b))
	l.overdue, l.unstamped = false, false
	l.cpSeq, l.cpTail = state.nextSeq, state.tail
	l.forget(dead)
	for _, s := range l.segs {
		s.fresh = false
	}
	l.mu.Unlock()
	for _, s := range dead {
		// A power cut may bring the file back; recovery knows that it is not in the checkpoint.
		if err := l.fs.Remove(s.data.name); err != nil {
			l.log.Warn("delete segment", "path", l.path(s.data.name), "err", err)
		}
	}
	return nil
}

func (l *Log) writeCheckpoint(b []byte) error {
	return atomicfile.WriteIn(l.fs, checkpointName, 0o600, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// state collects what a checkpoint says. The acknowledgments that were to be appended are in it,
// so they are taken off the consumers. Under Log.mu.
func (l *Log) state() (state *checkpointed, dead []*segment, acks []ackedIn) {
	state = &checkpointed{id: l.id, tail: l.mark, nextSeq: l.nextSeq, nextSegment: l.nextSegment, nextID: l.nextID}
	for _, s := range l.segs {
		if s.sealed && s.refs == 0 {
			dead = append(dead, s)
			continue
		}
		c := cpSegment{number: s.number, through: s.through, first: s.first, last: s.last, generation: s.generation}
		for _, k := range l.ordered() {
			if e := s.live[k.id]; e != nil {
				c.live = append(c.live, cpLoad{k.id, *e})
			}
		}
		state.segments = append(state.segments, c)
	}
	for _, c := range l.ordered() {
		state.consumers = append(state.consumers, cpConsumer{id: c.id, name: c.name, acked: c.acked.clone(), done: c.done, dropped: c.dropped})
	}
	for _, c := range l.dirty {
		acks = append(acks, ackedIn{c, c.dirty})
		c.dirty, c.isDirty = nil, false
	}
	l.dirty, l.dirtyAcks = l.dirty[:0], 0
	return state, dead, acks
}

// forget takes dead segments out of the list. Under Log.mu.
func (l *Log) forget(dead []*segment) {
	if len(dead) == 0 {
		return
	}
	gone := make(map[*segment]bool, len(dead))
	for _, s := range dead {
		gone[s] = true
		l.used -= s.data.size.Load()
		delete(l.damage, s.number)
	}
	kept := l.segs[:0]
	for _, s := range l.segs {
		if !gone[s] {
			kept = append(kept, s)
		}
	}
	clear(l.segs[len(kept):])
	l.segs = kept
	l.stats.Full = false
}

// emptyOut frees the blocks of dead segments when there is no room even for a checkpoint. Their
// names stay until it is written: a segment that is listed and missing would be a loss,
// one that is empty was emptied on purpose. Only those that the last checkpoint covers
// whole and as it is: others may hold definitions that are nowhere else, or stand for segments
// that it lists.
func (l *Log) emptyOut(dead []*segment) bool {
	l.mu.Lock()
	occupied := l.occupied()
	l.mu.Unlock()
	any := false
	for _, s := range dead {
		if occupied[s] || s.fresh || l.cpTail.before(position{s.through, s.data.size.Load()}) {
			continue
		}
		any = true
		f, err := l.fs.Open(s.data.name)
		if err == nil {
			err = errors.Join(f.Truncate(0), f.Close())
		}
		if err != nil {
			l.log.Warn("empty segment", "path", l.path(s.data.name), "err", err)
		}
	}
	return any
}

// occupied returns the segments in which a reader stands. Under Log.mu.
func (l *Log) occupied() map[*segment]bool {
	m := make(map[*segment]bool)
	for _, c := range l.byID {
		m[c.cur.seg] = true // changes under Log.mu only
	}
	return m
}

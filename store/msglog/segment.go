package msglog

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
)

// A segment is one file of the log as it is known in memory. Guarded by Log.mu.
type segment struct {
	number, through uint64
	generation      uint32 // how often it was compacted
	first, last     uint64 // sequence numbers; last is first-1 while there is no message
	fresh           bool   // compacted since the newest checkpoint
	sealed          bool   // nothing will be appended
	live            map[ConsumerID]*load
	refs            int64 // sum of live[*].messages
	data            *segData
	into            *segment // what it was compacted into, nil while it is in use
}

// A load is what a consumer still has to acknowledge.
type load struct{ messages, bytes int64 }

// A segData is a file of a segment: compaction replaces it, and who still reads the old one
// may go on.
type segData struct {
	name string
	salt uint32
	size atomic.Int64 // bytes that may be read
	f    File         // open while refs > 0; guarded by Log.mu
	refs int
}

const segmentSuffix = ".log"

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil && n <= maxNumber
}

func newSegment(h segmentHead, size int64) *segment {
	d := &segData{name: segmentName(h.number), salt: salt(h.id, h.number)}
	d.size.Store(size)
	return &segment{
		number: h.number, through: h.through, generation: h.generation, first: h.first, last: h.first - 1,
		live: make(map[ConsumerID]*load), data: d,
	}
}

// acquire opens d for reading; release gives it back. Both under Log.mu.
func (l *Log) acquire(d *segData) error {
	if d.f == nil {
		f, err := l.fs.Open(d.name)
		if err != nil {
			return fmt.Errorf("read segment %s: %w", l.path(d.name), err)
		}
		d.f = f
	}
	d.refs++
	return nil
}

func (l *Log) release(d *segData) {
	if d == nil {
		return
	}
	if d.refs--; d.refs == 0 && d.f != nil {
		if err := d.f.Close(); err != nil {
			l.log.Warn("close segment", "path", l.path(d.name), "err", err)
		}
		d.f = nil
	}
}

// after returns the index of the first segment that holds what was in a segment beyond number n.
func (l *Log) after(n uint64) int {
	return sort.Search(len(l.segs), func(i int) bool { return l.segs[i].through > n })
}

// bySeq returns the segment that holds seq, nil if it is gone.
func (l *Log) bySeq(seq uint64) *segment {
	i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].last >= seq })
	if i == len(l.segs) || l.segs[i].first > seq {
		return nil
	}
	return l.segs[i]
}

// add counts messages that c has to acknowledge.
func (s *segment) add(id ConsumerID, messages, bytes int64) {
	e := s.live[id]
	if e == nil {
		e = new(load)
		s.live[id] = e
	}
	e.messages += messages
	e.bytes += bytes
	s.refs += messages
}

// sub takes messages off again, never below zero: after damage a count may be too small.
func (s *segment) sub(id ConsumerID, messages, bytes int64) load {
	e := s.live[id]
	if e == nil || messages == 0 {
		return load{}
	}
	gone := load{min(messages, e.messages), min(bytes, e.bytes)}
	e.messages -= gone.messages
	e.bytes -= gone.bytes
	s.refs -= gone.messages
	if e.messages == 0 {
		gone.bytes += e.bytes
		delete(s.live, id)
	}
	return gone
}

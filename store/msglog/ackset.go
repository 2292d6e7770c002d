package msglog

import (
	"encoding/binary"
	"math"
	"sort"
)

// A span is a range of sequence numbers, both ends included.
type span struct{ start, end uint64 }

// An ackset is the set of sequence numbers that a consumer is done with: everything up to pos,
// and the spans beyond it, which are sorted, disjoint and not adjacent. What lies between two
// messages of the consumer and concerns it not counts as done together with the later one, so
// the set is as long as there are gaps, whatever else is in the log.
type ackset struct {
	pos    uint64
	beyond []span
}

func (a *ackset) contains(seq uint64) bool { return a.containsAll(seq, seq) }

func (a *ackset) containsAll(start, end uint64) bool {
	if end <= a.pos {
		return true
	}
	if start <= a.pos {
		start = a.pos + 1
	}
	i := a.find(start)
	return i < len(a.beyond) && a.beyond[i].start <= start && end <= a.beyond[i].end
}

// find returns the index of the first span that ends at seq or later.
func (a *ackset) find(seq uint64) int {
	return sort.Search(len(a.beyond), func(i int) bool { return a.beyond[i].end >= seq })
}

// add puts start to end, inclusive, into the set.
func (a *ackset) add(start, end uint64) {
	if end < start || end <= a.pos {
		return
	}
	if start > a.pos+1 {
		i := a.find(start - 1) // the first that may touch
		j := i
		for ; j < len(a.beyond) && a.beyond[j].start <= end+1; j++ {
			start, end = min(start, a.beyond[j].start), max(end, a.beyond[j].end)
		}
		if i == j {
			a.beyond = append(a.beyond, span{})
			copy(a.beyond[i+1:], a.beyond[i:])
		} else {
			a.beyond = append(a.beyond[:i+1], a.beyond[j:]...)
		}
		a.beyond[i] = span{start, end}
		return
	}
	a.pos = end
	n := 0
	for ; n < len(a.beyond) && a.beyond[n].start <= a.pos+1; n++ {
		a.pos = max(a.pos, a.beyond[n].end)
	}
	if n > 0 {
		a.beyond = append(a.beyond[:0], a.beyond[n:]...)
	}
}

// last returns the greatest number in the set.
func (a *ackset) last() uint64 {
	if n := len(a.beyond); n > 0 {
		return a.beyond[n-1].end
	}
	return a.pos
}

func (a *ackset) clone() ackset {
	return ackset{pos: a.pos, beyond: append([]span(nil), a.beyond...)}
}

// append encodes the set: pos, the number of spans, and each as its distance from the end of
// the one before and its length.
func (a *ackset) append(b []byte) []byte {
	b = binary.AppendUvarint(b, a.pos)
	b = binary.AppendUvarint(b, uint64(len(a.beyond)))
	last := a.pos
	for _, s := range a.beyond {
		b = binary.AppendUvarint(b, s.start-last)
		b = binary.AppendUvarint(b, s.end-s.start)
		last = s.end
	}
	return b
}

func (r *reader) ackset() ackset {
	a := ackset{pos: r.uvarint()}
	if a.pos > maxNumber {
		r.failed = true
	}
	last := a.pos
	for range r.count(2) {
		gap, length := r.uvarint(), r.uvarint()
		if gap < 2 || gap > maxNumber || length > maxNumber || last+gap+length > maxNumber {
			r.failed = true
			return a
		}
		last += gap
		a.beyond = append(a.beyond, span{last, last + length})
		last += length
	}
	return a
}

// An ackRange is one entry of an acknowledgment record: the consumer is done with start to end,
// and with that many messages of so many body bytes, all of them in one segment.
type ackRange struct {
	span
	messages, bytes uint64
	fixed           bool // not to be joined with what comes later; in memory only
}

// appendAcks adds an acknowledgment record.
func appendAcks(b []byte, id ConsumerID, ranges []ackRange) []byte {
	content := binary.AppendUvarint(nil, uint64(id))
	last := uint64(0)
	for _, r := range ranges {
		content = binary.AppendUvarint(content, zigzag(int64(r.start-last)))
		content = binary.AppendUvarint(content, r.end-r.start)
		content = binary.AppendUvarint(content, r.messages)
		content = binary.AppendUvarint(content, r.bytes)
		last = r.end
	}
	return appendRecord(b, kindAck, content)
}

// parseAcks calls fn for every entry of an acknowledgment record.
func parseAcks(rec []byte, fn func(id ConsumerID, r ackRange)) error {
	r := reader{b: rec}
	id := r.uvarint()
	if r.failed || id > math.MaxUint32 {
		return errDamaged
	}
	last := uint64(0)
	for len(r.b) > 0 {
		start := last + uint64(unzigzag(r.uvarint()))
		length := r.uvarint()
		e := ackRange{span: span{start, start + length}, messages: r.uvarint(), bytes: r.uvarint()}
		if r.failed || e.start > maxNumber || length > maxNumber || e.end > maxNumber {
			return errDamaged
		}
		fn(ConsumerID(id), e)
		last = e.end
	}
	return nil
}

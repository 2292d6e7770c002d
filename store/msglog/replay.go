package msglog

import (
	"errors"
	"fmt"
)

// begin sets the consumers up as the checkpoint has them.
func (s *survey) begin() {
	if s.cp == nil {
		return
	}
	l := s.l
	l.nextSeq, l.cpSeq = s.cp.nextSeq, s.cp.nextSeq
	l.nextSegment, l.cpTail, l.nextID = s.cp.nextSegment, s.cp.tail, s.cp.nextID
	for _, k := range s.cp.consumers {
		c := l.newConsumer(k.id, k.name)
		c.acked, c.done, c.dropped = k.acked, k.done, k.dropped
		l.register(c)
	}
}

// replay applies what was found after a first gap that is not the tail, and counts the messages.
func (s *survey) replay() error {
	if len(s.gaps) > 0 {
		first := s.gaps[0].pos()
		err := s.each(func(f *surveyed, off int64, h batchHead, payload []byte) error {
			if (position{f.number, off}).before(first) {
				return nil
			}
			return s.replayBatch(f.seg, h, payload)
		})
		if err != nil {
			return err
		}
	}
	// Only now is it known what is acknowledged.
	for _, f := range s.files {
		if f.recount {
			if err := s.recount(f); err != nil {
				return err
			}
		}
	}
	return s.each(func(f *surveyed, _ int64, h batchHead, payload []byte) error {
		if h.messages > 0 {
			s.countBatch(f.seg, h, payload)
		}
		return nil
	})
}

// each calls fn for every valid batch that was scanned, up to the cut.
func (s *survey) each(fn func(f *surveyed, off int64, h batchHead, payload []byte) error) error {
	next := uint64(0)
	if s.cp != nil {
		next = s.cp.nextSeq
	}
	for _, f := range s.scan {
		off := max(f.from, segmentHeader)
		for off < f.size {
			if s.cutAt != nil && !(position{f.number, off}).before(s.cutAt.pos()) {
				return nil
			}
			h, payload, err := f.win.batch(off, f.size)
			if errors.Is(err, errDamaged) || err == nil && h.first < next {
				if off, err = f.win.resync(off+1, f.size, next); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			next = h.end()
			if err := fn(f, off, h, payload); err != nil {
				return err
			}
			off += int64(batchHeader + h.payload)
		}
	}
	return nil
}

// recount counts the messages of one segment.
func (s *survey) recount(f *surveyed) error {
	for off := int64(segmentHeader); off < f.size; {
		h, payload, err := f.win.batch(off, f.size)
		if errors.Is(err, errDamaged) { // a reader will find it
			off, err = f.win.resync(off+1, f.size, 0)
			if err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		s.countBatch(f.seg, h, payload)
		off += int64(batchHeader + h.payload)
		s.scanned += int64(batchHeader + h.payload)
	}
	return nil
}

// replayBatch applies what a batch says about consumers.
func (s *survey) replayBatch(seg *segment, h batchHead, payload []byte) error {
	l := s.l
	l.nextSeq = max(l.nextSeq, h.end())
	if seg.first == unknownFirst {
		seg.first, seg.last = h.first, max(h.first, 1)-1
	}
	if h.messages > 0 {
		seg.last = max(seg.last, h.end()-1)
	}
	for rest := payload; len(rest) > 0; {
		kind, rec, after, err := nextRecord(rest)
		if err != nil {
			return s.unreadable(seg, err)
		}
		rest = after
		switch kind {
		case kindMessage:
		case kindAck:
			err = parseAcks(rec, s.replayAck)
		case kindDefine:
			err = s.replayDefine(rec, h)
		case kindRemove:
			r := reader{b: rec}
			if c := l.byID[r.id()]; c != nil {
				l.unregister(c)
			}
		case kindSnapshot:
			err = s.replaySnapshot(rec)
		default:
			if kind < kindSkippable {
				return fmt.Errorf("%s: %w: record kind %d: install the newer gatewayctl again", l.path(seg.data.name), ErrNewer, kind)
			}
		}
		if err != nil {
			return s.unreadable(seg, err)
		}
	}
	return nil
}

// unreadable reports records that make no sense although their checksum is right. That is no
// damage but somebody's bug; the rest of the batch is passed over.
func (s *survey) unreadable(seg *segment, err error) error {
	s.l.log.Error("message log has records that cannot be read", "path", s.l.path(seg.data.name), "err", err)
	return nil
}

func (s *survey) replayDefine(rec []byte, h batchHead) error {
	r := reader{b: rec}
	id := r.id()
	if r.failed || len(r.b) == 0 {
		return errDamaged
	}
	if s.l.byID[id] == nil {
		c := s.l.newConsumer(id, string(r.b))
		c.acked.pos = h.end() - 1
		s.l.register(c)
	}
	return nil
}

func (s *survey) replayAck(id ConsumerID, r ackRange) {
	l := s.l
	c := l.byID[id]
	if c == nil || c.acked.containsAll(r.start, r.end) {
		return
	}
	c.acked.add(r.start, r.end)
	c.done += r.messages
	// Messages that the checkpoint has counted are taken off; those after it are counted later.
	if s.cp != nil && r.end < s.cp.nextSeq {
		if seg := l.bySeq(r.end); seg != nil {
			seg.sub(id, int64(r.messages), int64(r.bytes))
		}
	}
}

// replaySnapshot learns the consumers when there is no checkpoint. With one, the snapshot tells
// nothing new, and what it says would come without the counts.
func (s *survey) replaySnapshot(rec []byte) error {
	r := reader{b: rec}
	nextID := r.id()
	for range r.count(4) {
		id, name, acked := r.id(), r.string(), r.ackset()
		if r.failed || s.cp != nil {
			continue
		}
		c := s.l.byID[id]
		if c == nil {
			c = s.l.newConsumer(id, name)
			s.l.register(c)
		}
		c.acked.add(0, acked.pos)
		for _, b := range acked.beyond {
			c.acked.add(b.start, b.end)
		}
	}
	if r.failed {
		return errDamaged
	}
	s.l.nextID = max(s.l.nextID, nextID)
	return nil
}

// countBatch adds the messages of a batch to what their consumers still need.
func (s *survey) countBatch(seg *segment, h batchHead, payload []byte) {
	seq := h.first
	var m message
	for rest := payload; len(rest) > 0; {
		kind, rec, after, err := nextRecord(rest)
		if err != nil {
			return // reported before
		}
		rest = after
		if kind != kindMessage {
			continue
		}
		if parseMessage(rec, h.time, &m) == nil {
			r := reader{b: m.consumers}
			for len(r.b) > 0 {
				if c := s.l.byID[r.id()]; c != nil && !c.acked.contains(seq) {
					seg.add(c.id, 1, int64(len(m.body)))
				}
			}
		}
		seq++
	}
}

// finish brings segments and consumers into agreement.
func (s *survey) finish() {
	l := s.l
	if s.cutAt != nil {
		s.dropTail()
	}
	for _, seg := range l.segs {
		l.nextSegment = max(l.nextSegment, seg.through+1)
		if seg.first == unknownFirst { // and it holds nothing
			seg.first = l.nextSeq
			seg.last = seg.first - 1
		}
		for id, e := range seg.live {
			c := l.byID[id]
			if c == nil || c.acked.containsAll(seg.first, seg.last) {
				seg.sub(id, e.messages, e.bytes)
				continue
			}
			c.depth.messages += e.messages
			c.depth.bytes += e.bytes
		}
		l.used += seg.data.size.Load()
	}
	l.nextSegment = max(l.nextSegment, 1)
	for _, c := range l.byID {
		c.scanned = c.acked.pos
		l.nextSeq = max(l.nextSeq, c.acked.last()+1) // whatever happened: nothing new is acknowledged
	}
}

// dropTail takes what is to be cut off out of the list of segments.
func (s *survey) dropTail() {
	l := s.l
	kept := l.segs[:0]
	for _, seg := range l.segs {
		if seg.number > s.cutAt.seg || seg.number == s.cutAt.seg && s.cutAt.off < segmentHeader {
			continue
		}
		if seg.number == s.cutAt.seg {
			seg.data.size.Store(s.cutAt.off)
		}
		kept = append(kept, seg)
	}
	l.segs = kept
}

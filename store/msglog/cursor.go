package msglog

import "errors"

// A cursor is where a consumer's reader stands. It goes through the segments in order, so what
// it needs does not grow with the backlog. Guarded by Consumer.readMu.
type cursor struct {
	seg     *segment
	data    *segData // acquired while it is not nil
	win     window
	off     int64  // of the next batch
	expect  uint64 // the least sequence number that the next batch may begin with
	payload []byte // of the batch that is being read, while rest is not empty
	rest    []byte
	head    batchHead
	seq     uint64 // of the next message in rest

	scanned  uint64 // what Consumer.scanned was when the batch was read
	batchOff int64
	cand     candidate // the next message, if has
	has      bool

	other dataWindow // for what is read again
}

// A candidate is a message that names the consumer; it points into the window.
type candidate struct {
	message
	seq uint64
	rel int32 // where its record begins in the payload
}

// A dataWindow is a window that knows its file.
type dataWindow struct {
	window
	data *segData
}

// next returns the next message that names c, nil if there is none yet. It returns the same one
// until cur.has is cleared. Under readMu.
func (c *Consumer) next() (*candidate, error) {
	for !c.cur.has {
		if len(c.cur.rest) > 0 {
			if err := c.cur.scan(c.id); err != nil {
				return nil, err
			}
			continue
		}
		limit, ok, err := c.reach()
		if err != nil || !ok {
			return nil, err
		}
		if err := c.nextBatch(limit); err != nil {
			return nil, err
		}
	}
	return &c.cur.cand, nil
}

// scan looks for the next message for id in the rest of the batch. What does not parse there was
// written so, and its checksum is right: that is a bug or a newer format, not damage.
func (k *cursor) scan(id ConsumerID) error {
	for len(k.rest) > 0 {
		rel := len(k.payload) - len(k.rest)
		kind, rec, rest, err := nextRecord(k.rest)
		if err != nil {
			return err
		}
		k.rest = rest
		if kind != kindMessage {
			continue
		}
		seq := k.seq
		k.seq++
		if err := parseMessage(rec, k.head.time, &k.cand.message); err != nil {
			return err
		}
		if seq > k.scanned && k.cand.needs(id) {
			k.cand.seq, k.cand.rel, k.has = seq, int32(rel), true
			return nil
		}
	}
	return nil
}

// nextBatch reads the batch at off.
func (c *Consumer) nextBatch(limit int64) error {
	k := &c.cur
	head, payload, err := k.win.batch(k.off, limit)
	if err == nil && head.first < k.expect {
		err = errDamaged
	}
	if errors.Is(err, errDamaged) {
		k.off, err = c.l.pass(k.seg, &k.win, k.off, limit, k.expect)
		return err
	}
	if err != nil {
		return err
	}
	k.batchOff, k.expect = k.off, head.end()
	k.off += int64(batchHeader + head.payload)
	// Some was seen before: in the last opening, or before the segment was compacted.
	if k.scanned = c.scannedUpTo(); head.messages == 0 || head.end() <= k.scanned+1 {
		return nil
	}
	k.head, k.payload, k.rest, k.seq = head, payload, payload, head.first
	return nil
}

func (c *Consumer) scannedUpTo() uint64 {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.scanned
}

// reach makes sure that the cursor stands before something to read; limit is how far it may.
func (c *Consumer) reach() (limit int64, ok bool, err error) {
	l, k := c.l, &c.cur
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := c.usable(); err != nil {
		return 0, false, err
	}
	if k.seg == nil {
		if ok, err := c.enter(0); !ok {
			return 0, false, err
		}
	}
	for {
		if size := k.data.size.Load(); k.off < size {
			return size, true, nil
		}
		if !k.seg.sealed {
			k.win.buf = nil // idle: do not keep the memory
			return 0, false, nil
		}
		at := l.after(k.seg.through)
		c.passed(k.seg)
		if at == len(l.segs) {
			return 0, false, nil // the next one is about to be made
		}
		if _, err := c.enter(at); err != nil {
			return 0, false, err
		}
	}
}

// enter moves the cursor to the first segment from index at on that holds something for c, or to
// the end of the last. Under Log.mu.
func (c *Consumer) enter(at int) (bool, error) {
	l, k := c.l, &c.cur
	for ; at < len(l.segs); at++ {
		s := l.segs[at]
		mine := s.live[c.id] != nil
		if !mine && at < len(l.segs)-1 {
			continue
		}
		if err := l.acquire(s.data); err != nil {
			return false, err
		}
		l.release(k.data)
		k.seg, k.data, k.off, k.expect = s, s.data, segmentHeader, s.first
		if !mine {
			k.off, k.expect = s.data.size.Load(), s.last+1
		}
		k.win.reset(s.data.f, s.data.salt)
		return true, nil
	}
	return false, nil
}

// passed is called when the reader has seen all of s: what it has not handed out and what is
// still counted there was lost to damage. Under Log.mu.
func (c *Consumer) passed(s *segment) {
	e := s.live[c.id]
	if e == nil {
		return
	}
	rest := *e
	for i := c.out.index(s.first); i < len(c.out.list) && c.out.list[i].seq <= s.last; i++ {
		if h := &c.out.list[i]; !h.acked {
			rest.messages--
			rest.bytes -= int64(h.size)
		}
	}
	if rest.messages <= 0 {
		return
	}
	gone := s.sub(c.id, rest.messages, max(rest.bytes, 0))
	c.depth.messages -= gone.messages
	c.depth.bytes -= gone.bytes
	if len(c.l.damage[s.number]) > 0 {
		c.dropped.Damaged += uint64(gone.messages)
	}
	if s.refs == 0 {
		wake(c.l.work)
	}
}

// closeCursor lets go of the files.
func (c *Consumer) closeCursor() {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.release(c.cur.data)
	c.cur = cursor{}
}

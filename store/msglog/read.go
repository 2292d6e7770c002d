package msglog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Record is a message as [Consumer.Read] returns it.
type Record struct {
	Seq     uint64
	Time    time.Time // when it was appended, to the microsecond
	Expires time.Time // zero: never
	Body    []byte    // the caller's to keep
}

// maxReadBytes bounds the bodies of one Read, but for the first.
const maxReadBytes = 1 << 20

// Read returns the next messages, at least one and at most limit, in the order of their numbers; it
// waits until there is one. Each is returned once until [Consumer.Rewind]. Expired messages are
// passed over and count as done. Read also waits while 65,536 messages are read and not
// acknowledged. It returns [ErrClosed], [ErrRemoved], ctx's error, or what the disk says; after
// the last, call it again later.
func (c *Consumer) Read(ctx context.Context, limit int) ([]Record, error) {
	for {
		records, err := c.read(max(limit, 1))
		if len(records) > 0 || err != nil {
			return records, err
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.l.quit:
			return nil, ErrClosed
		}
	}
}

// read is Read without the wait.
func (c *Consumer) read(limit int) ([]Record, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	l := c.l
	l.mu.Lock()
	err := c.usable()
	again := c.out.next(limit)
	if !c.out.again {
		c.cur.other = dataWindow{} // do not keep the memory
	}
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if len(again) > 0 {
		return c.reread(again)
	}
	var records []Record
	var bodies arena
	for len(records) < limit && bodies.total < maxReadBytes {
		m, err := c.next()
		if err != nil && len(records) == 0 {
			return nil, err
		}
		if m == nil || err != nil {
			break
		}
		l.mu.Lock()
		v, err := c.judge(m, true)
		l.mu.Unlock()
		if err != nil {
			return records, err
		}
		if v == stay {
			break
		}
		if v == handOut {
			records = append(records, record(m, &bodies))
		}
		c.cur.has = false
	}
	return records, nil
}

// usable says why c cannot be read. Under Log.mu.
func (c *Consumer) usable() error {
	if c.l.closed {
		return ErrClosed
	}
	if c.removed {
		return ErrRemoved
	}
	return nil
}

func record(m *candidate, bodies *arena) Record {
	r := Record{Seq: m.seq, Time: time.UnixMicro(m.time), Body: bodies.copy(m.body)}
	if us, ok := m.expires(); ok {
		r.Expires = time.UnixMicro(us)
	}
	return r
}

type verdict int

const (
	stay    verdict = iota // leave the message where it is
	skip                   // done with it
	handOut                // Read returns it
)

// judge decides about the next message and keeps the books. With hand unset it only drops. Under
// Log.mu.
func (c *Consumer) judge(m *candidate, hand bool) (verdict, error) {
	if err := c.usable(); err != nil {
		return stay, err
	}
	n, size := int64(1), int64(len(m.body))
	switch us, expires := m.expires(); {
	case c.acked.contains(m.seq):
		if !c.ahead[m.seq] { // before the log was opened: no longer counted
			n, size = 0, 0
		}
		delete(c.ahead, m.seq)
	case expires && us <= c.l.now():
		c.dropped.Expired++
	case c.over():
		c.dropped.Oldest++
	case !hand || c.out.unacked >= maxUnacked:
		return stay, nil
	default:
		c.out.push(handed{
			seq: m.seq, prev: c.scanned, seg: c.cur.seg, data: c.cur.data,
			off: c.cur.batchOff, rel: m.rel, size: int32(size), time: m.time,
		})
		c.scanned = m.seq
		return handOut, nil
	}
	c.settle(c.scanned+1, m.seq, n, size, c.cur.seg)
	c.scanned = m.seq
	return skip, nil
}

// reread fetches messages that were handed out before.
func (c *Consumer) reread(list []handed) ([]Record, error) {
	var records []Record
	var bodies arena
	for i, h := range list {
		m, err := c.fetch(&h)
		if err != nil {
			if errors.Is(err, errDamaged) {
				c.lose(h)
				continue
			}
			c.again(h.seq)
			return records, err
		}
		records = append(records, record(m, &bodies))
		if bodies.total >= maxReadBytes && i+1 < len(list) {
			c.again(list[i+1].seq)
			break
		}
	}
	return records, nil
}

// again makes the next Read go on at seq, which was handed out before.
func (c *Consumer) again(seq uint64) {
	c.l.mu.Lock()
	c.out.again, c.out.resend = true, seq
	c.l.mu.Unlock()
}

// lose gives up a message that was handed out and can no longer be read.
func (c *Consumer) lose(h handed) {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if t := c.out.take(h.seq); t != nil {
		c.dropped.Damaged++
		c.settle(t.prev+1, t.seq, 1, int64(t.size), t.seg)
	}
}

// fetch reads one message by its place.
func (c *Consumer) fetch(h *handed) (*candidate, error) {
	l := c.l
	l.mu.Lock()
	data, off, rel := h.seg.current().data, h.off, int(h.rel)
	err := l.acquire(data)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() {
		l.mu.Lock()
		l.release(data)
		l.mu.Unlock()
	}()
	w := &c.cur.other
	if w.data != data {
		w.data = data
		w.reset(data.f, data.salt)
	}
	w.r = data.f
	limit := data.size.Load()
	if data != h.data { // compacted meanwhile: the message has moved
		if off, rel, err = w.locate(h.seq, limit); err != nil {
			return nil, err
		}
	}
	head, payload, err := w.batch(off, limit)
	if err != nil {
		return nil, err
	}
	if rel >= len(payload) {
		return nil, errDamaged
	}
	_, rec, _, err := nextRecord(payload[rel:])
	if err != nil {
		return nil, err
	}
	m := &candidate{seq: h.seq, rel: h.rel}
	return m, parseMessage(rec, head.time, &m.message)
}

// locate finds the place of a message in a segment.
func (w *window) locate(seq uint64, limit int64) (off int64, rel int, err error) {
	for off = segmentHeader; off < limit; {
		h, payload, err := w.batch(off, limit)
		if err != nil {
			return 0, 0, err
		}
		if seq < h.first {
			break
		}
		if seq < h.end() {
			at := h.first
			for p := payload; len(p) > 0; {
				kind, _, rest, err := nextRecord(p)
				if err != nil {
					return 0, 0, err
				}
				if kind == kindMessage {
					if at == seq {
						return off, len(payload) - len(p), nil
					}
					at++
				}
				p = rest
			}
			break
		}
		off += int64(batchHeader + h.payload)
	}
	return 0, 0, fmt.Errorf("%w: message %d is not there", errDamaged, seq)
}

// An arena copies bodies into few allocations.
type arena struct {
	free  []byte
	total int
}

func (a *arena) copy(b []byte) []byte {
	a.total += len(b)
	if len(b) > 8<<10 {
		return append([]byte(nil), b...)
	}
	if len(b) > len(a.free) {
		a.free = make([]byte, max(len(b), min(16<<10, 4*len(b))))
	}
	out := a.free[:len(b):len(b)]
	a.free = a.free[len(b):]
	copy(out, b)
	return out
}

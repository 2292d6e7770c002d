package msglog

import "sort"

// maxUnacked bounds how many messages a consumer may have read and not acknowledged; Read waits
// beyond it.
const maxUnacked = 1 << 16

// A handed is a message that Read has returned.
type handed struct {
	seq, prev uint64 // prev: what was scanned before it
	seg       *segment
	data      *segData // the file that the offsets are of
	off       int64    // of its batch
	rel       int32    // of its record, from the start of the payload
	size      int32    // of its body
	time      int64
	acked     bool
}

// An outbox keeps what a consumer has read and not acknowledged, in order. Guarded by Log.mu.
type outbox struct {
	list    []handed
	head    int // list[:head] is acknowledged
	unacked int
	resend  uint64 // while again is set: the next to be read again has at least this number
	again   bool
}

func (o *outbox) push(h handed) {
	if o.head > 1024 && o.head > len(o.list)/2 {
		n := copy(o.list, o.list[o.head:])
		clear(o.list[n:])
		o.list, o.head = o.list[:n], 0
	}
	o.list = append(o.list, h)
	o.unacked++
}

// index returns where seq is or would be.
func (o *outbox) index(seq uint64) int {
	live := o.list[o.head:]
	return o.head + sort.Search(len(live), func(i int) bool { return live[i].seq >= seq })
}

// take marks seq as acknowledged and returns it, nil if it is not there. The pointer is valid
// until the next push.
func (o *outbox) take(seq uint64) *handed {
	i := o.head
	if i >= len(o.list) || o.list[i].seq != seq { // mostly it is the first
		i = o.index(seq)
	}
	if i == len(o.list) || o.list[i].seq != seq || o.list[i].acked {
		return nil
	}
	h := &o.list[i]
	h.acked = true
	o.unacked--
	for o.head < len(o.list) && o.list[o.head].acked {
		o.head++
	}
	if o.unacked == 0 { // h stays readable: its memory is not overwritten before the next push
		o.list, o.head = o.list[:0], 0
	}
	return h
}

func (o *outbox) rewind() { o.again, o.resend = o.unacked > 0, 0 }

// next returns up to n messages that are to be read again.
func (o *outbox) next(n int) []handed {
	if !o.again {
		return nil
	}
	var got []handed
	i := o.index(o.resend)
	for ; i < len(o.list) && len(got) < n; i++ {
		if h := o.list[i]; !h.acked {
			got = append(got, h)
			o.resend = h.seq + 1
		}
	}
	if i == len(o.list) {
		o.again = false
	}
	return got
}

// oldest returns the time of the oldest message that is not acknowledged.
func (o *outbox) oldest() (int64, bool) {
	if o.unacked == 0 {
		return 0, false
	}
	return o.list[o.head].time, true
}

package api

import (
	"bytes"
	"sync"
)

// The bounds of what waits for one reader of a stream.
const (
	maxOutboxEvents = 1024
	maxOutboxBytes  = 4 << 20
)

// An outbox holds what one reader of a stream has not taken yet. When it is full, what comes is
// left out and counted, and the count is told at the place of what is missing. Putting never
// blocks.
type outbox struct {
	filled chan struct{} // holds one token when there is something to drain

	mu    sync.Mutex
	queue []frame
	bytes int
	ended bool
}

// frame is one event, or the place of lost ones.
type frame struct {
	name string
	id   uint64
	data []byte
	lost uint64
}

func newOutbox() *outbox { return &outbox{filled: make(chan struct{}, 1)} }

// put adds an event; nothing is added after the end.
func (o *outbox) put(name string, id uint64, v any) {
	data := mustJSON(v)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	if len(o.queue) >= maxOutboxEvents || len(o.queue) > 0 && o.bytes+len(data) > maxOutboxBytes {
		o.miss(1)
		return
	}
	o.push(frame{name: name, id: id, data: data})
}

// lost tells the reader that n events are missing here.
func (o *outbox) lost(n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.miss(n)
	}
}

// end adds the last event, however full it is.
func (o *outbox) end(name string, v any) {
	data := mustJSON(v)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.push(frame{name: name, data: data})
		o.ended = true
	}
}

func (o *outbox) miss(n uint64) {
	if last := len(o.queue) - 1; last >= 0 && o.queue[last].lost > 0 {
		o.queue[last].lost += n
		return
	}
	o.push(frame{lost: n})
}

func (o *outbox) push(f frame) {
	o.queue = append(o.queue, f)
	o.bytes += len(f.data)
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

// drain writes everything to buf and reports whether that was the end.
func (o *outbox) drain(buf *bytes.Buffer) (ended bool) {
	o.mu.Lock()
	queue := o.queue
	o.queue, o.bytes = nil, 0
	ended = o.ended
	o.mu.Unlock()
	for _, f := range queue {
		if f.lost > 0 {
			appendEvent(buf, StreamLost, 0, mustJSON(Lost{Count: f.lost}))
			continue
		}
		appendEvent(buf, f.name, f.id, f.data)
	}
	return ended
}

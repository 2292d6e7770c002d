package bridge

import (
	"context"
	"slices"
	"sync"
)

// maxInFlight is what the packet identifiers of MQTT allow (§2.3.1), with some left for others.
const maxInFlight = 60000

// A window bounds the messages that are on their way. Those who wait are served in turn, as soon as
// there is one place: to gather more of them would leave the line idle, and a broker that uses
// Nagle's algorithm, as mosquitto does by default, would sit on its acknowledgments for 40 ms.
type window struct {
	mu    sync.Mutex
	limit int
	used  int
	queue []*waiter
}

type waiter struct {
	want int
	got  chan int // holds one number
}

func newWindow(limit int) *window { return &window{limit: limit} }

// acquire takes between 1 and want places, waiting for them if need be.
func (w *window) acquire(ctx context.Context, want int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	w.mu.Lock()
	me := &waiter{want, make(chan int, 1)}
	w.queue = append(w.queue, me)
	w.serve()
	w.mu.Unlock()
	select {
	case n := <-me.got:
		return n, nil
	default:
	}
	select {
	case n := <-me.got:
		return n, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.queue, me); i >= 0 {
		w.queue = slices.Delete(w.queue, i, i+1)
	} else {
		w.used -= <-me.got
	}
	w.serve()
	return 0, ctx.Err()
}

// release gives n places back.
func (w *window) release(n int) {
	w.mu.Lock()
	w.used -= n
	w.serve()
	w.mu.Unlock()
}

// resize changes the number of places; the places that are in use stay so.
func (w *window) resize(limit int) {
	w.mu.Lock()
	w.limit = limit
	w.serve()
	w.mu.Unlock()
}

// idle reports whether no place is in use.
func (w *window) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.used == 0
}

func (w *window) serve() {
	for len(w.queue) > 0 {
		first := w.queue[0]
		n := min(first.want, w.limit-w.used)
		if n <= 0 {
			return
		}
		w.used += n
		w.queue = w.queue[1:]
		first.got <- n
	}
}

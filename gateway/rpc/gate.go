package rpc

import (
	"context"
	"sync"

	"gatewayctl/pki/identity"
)

// gates lets a bounded number of calls through to each device, in order of arrival. A device
// that nobody calls costs nothing.
type gates struct {
	concurrent, waiting int

	mu   sync.Mutex
	open map[identity.DeviceID]*gate
}

type gate struct {
	inside int
	queue  []chan struct{} // closed when it is that caller's turn
}

// enter waits for a turn at id's gate. leave must be called once, if err is nil.
func (g *gates) enter(ctx context.Context, id identity.DeviceID) (leave func(), err error) {
	g.mu.Lock()
	d := g.open[id]
	if d == nil {
		d = &gate{}
		g.open[id] = d
	}
	if d.inside < g.concurrent {
		d.inside++
		g.mu.Unlock()
		return func() { g.leave(id, d) }, nil
	}
	if len(d.queue) >= g.waiting {
		g.mu.Unlock()
		return nil, ErrBusy
	}
	turn := make(chan struct{})
	d.queue = append(d.queue, turn)
	g.mu.Unlock()

	select {
	case <-turn:
		return func() { g.leave(id, d) }, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range d.queue {
		if other == turn {
			d.queue = append(d.queue[:i], d.queue[i+1:]...)
			return nil, ctx.Err()
		}
	}
	g.pass(id, d) // the turn came at the same moment: hand it on
	return nil, ctx.Err()
}

func (g *gates) leave(id identity.DeviceID, d *gate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(id, d)
}

// pass gives the place of a caller that has left to the next one; g.mu is held.
func (g *gates) pass(id identity.DeviceID, d *gate) {
	if len(d.queue) > 0 {
		next := d.queue[0]
		d.queue = d.queue[1:]
		close(next)
		return
	}
	if d.inside--; d.inside == 0 {
		delete(g.open, id)
	}
}

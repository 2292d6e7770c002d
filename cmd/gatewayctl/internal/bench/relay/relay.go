// Package relay is the least that a program must do to pass MQTT messages on: the floor that
// brokers are measured against. It is no broker: it has no sessions, retained messages, wills,
// QoS 2, keepalive or authorization, and it trusts its clients.
//
// # Design
//
// A connection's goroutine reads as much as there is, handles every frame of it, appends to the
// destinations' outbound buffers, and flushes each connection that it touched once when its input
// is used up; acknowledgments ride in the same flush. Matches are kept per connection and topic
// until any subscription changes. A flush writes without blocking; when a socket is full, a
// goroutine of that connection writes the rest, so that a slow reader slows nobody. What a reader
// leaves beyond a bound is dropped and counted.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"gatewayctl/broker/mqtt"
)

// A Relay passes messages on. The zero value is ready to use.
type Relay struct {
	mu      sync.Mutex
	subs    map[mqtt.Filter]map[*conn]byte // granted QoS
	changes atomic.Uint64                  // of subs

	dropped atomic.Uint64
}

// Dropped is how many deliveries were given up because their receiver did not read.
func (r *Relay) Dropped() uint64 { return r.dropped.Load() }

// Serve accepts connections from l, over TLS if cfg is not nil, until ctx ends, and returns when
// the last of them has ended. It closes l.
func (r *Relay) Serve(ctx context.Context, l net.Listener, cfg *tls.Config) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		raw, ok := nc.(rawConn)
		if !ok {
			_ = nc.Close()
			return fmt.Errorf("accept: %T is no socket", nc)
		}
		group.Go(func() { r.serve(ctx, raw, cfg) })
	}
}

func (r *Relay) serve(ctx context.Context, raw rawConn, cfg *tls.Config) {
	c, err := newConn(r, raw)
	if err != nil {
		_ = raw.Close()
		return
	}
	defer c.out.close()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	if cfg != nil {
		if err := c.secure(ctx, cfg); err != nil {
			return
		}
	}
	_ = c.run() // why a client is gone is nobody's business here
	r.forget(c)
}

func (r *Relay) subscribe(c *conn, f mqtt.Filter, qos byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subs == nil {
		r.subs = map[mqtt.Filter]map[*conn]byte{}
	}
	if r.subs[f] == nil {
		r.subs[f] = map[*conn]byte{}
	}
	r.subs[f][c] = qos
	r.changes.Add(1)
}

func (r *Relay) unsubscribe(c *conn, f mqtt.Filter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subs[f], c)
	if len(r.subs[f]) == 0 {
		delete(r.subs, f)
	}
	r.changes.Add(1)
}

func (r *Relay) forget(c *conn) {
	for f := range c.filters {
		r.unsubscribe(c, f)
	}
}

// A destination is who gets the messages of a topic, and how.
type destination struct {
	c   *conn
	qos byte
}

// match finds the destinations of topic, each once.
func (r *Relay) match(topic string) []destination {
	r.mu.Lock()
	defer r.mu.Unlock()
	best := map[*conn]byte{}
	for f, subs := range r.subs {
		if !f.Match(topic) {
			continue
		}
		for c, qos := range subs {
			best[c] = max(best[c], qos)
		}
	}
	found := make([]destination, 0, len(best))
	for c, qos := range best {
		found = append(found, destination{c, qos})
	}
	return found
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Idle makes n connections that do nothing, each with one subscription, and tells what they cost
// in memory. The broker has settle, 3 s if that is 0, to give back what it needed for a moment. It
// should be a fresh one: what earlier work left is not ours.
func Idle(ctx context.Context, t Target, n int, settle time.Duration) (r Result, err error) {
	r.Mode = "idle"
	if n < 1 || n > maxClients {
		return r, impossible("idle: %d connections: there must be 1 to %d", n, maxClients)
	}
	if t.PID == 0 {
		return r, impossible("idle: the broker's process must be known")
	}
	if settle == 0 {
		settle = 3 * time.Second
	}
	before, err := residentBytes(t.PID)
	if err != nil {
		return r, err
	}
	name, clients := runName(), make([]*client, n)
	defer func() {
		for _, c := range clients {
			if c != nil {
				c.drop()
			}
		}
	}()
	err = each(ctx, n, func(ctx context.Context, i int) error {
		c, _, err := t.connect(ctx, i, 512, fmt.Sprintf("bench-%s-idle-%d", name, i), true)
		if err != nil {
			return err
		}
		clients[i] = c
		return c.subscribe(ctx, 1, fmt.Sprintf("bench/%s/idle/%d", name, i))
	})
	if err != nil {
		return r, fmt.Errorf("idle: %w", err)
	}
	if err := pause(ctx, settle); err != nil {
		return r, err
	}
	r.Messages = uint64(n)
	if r.Resident, err = residentBytes(t.PID); err != nil {
		return r, err
	}
	r.PerClient = (r.Resident - before) / int64(n)
	return r, nil
}

// Connects makes connections one after the other for d, workers at a time: TCP, a full TLS
// handshake without resumption if t says so, CONNECT, CONNACK, DISCONNECT. With a number of
// connections it ends after as many.
func Connects(ctx context.Context, t Target, workers, connections int, d time.Duration) (r Result, err error) {
	r.Mode = "connects"
	if workers < 1 || workers > 1_000 || connections < 0 || d <= 0 {
		return r, impossible("connects: %d workers, %d connections in %v: there must be 1 to 1000 workers and some time", workers, connections, d)
	}
	name := runName()
	from, to := sample{at: time.Now()}, sample{}
	if err := from.processes(t.PID); err != nil {
		return r, err
	}
	var started, made atomic.Uint64
	g, gctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			for time.Since(from.at) < d && gctx.Err() == nil {
				i := started.Add(1)
				if connections > 0 && i > uint64(connections) {
					return nil
				}
				c, _, err := t.connect(gctx, int(i), 512, fmt.Sprintf("bench-%s-%d", name, i), true)
				if err != nil {
					return err
				}
				c.leave()
				made.Add(1)
			}
			return nil
		})
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return r, fmt.Errorf("connects: %w", err)
	}
	to.at, to.delivered = time.Now(), made.Load()
	if err := to.processes(t.PID); err != nil {
		return r, err
	}
	to.since(from, &r)
	return r, nil
}

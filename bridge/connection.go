package bridge

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gatewayctl/broker/mqtt"
)

// A connection is one connection of an uplink, from the attempt to its end.
type connection struct {
	u         *uplink
	window    *window
	link      Link          // set before up is closed
	up        chan struct{} // closed when publishing may start
	connected atomic.Bool
	took      atomic.Bool // the upstream has acknowledged a message
	received  atomic.Bool // a message came down
	lost      atomic.Bool // the connection has ended with something on its way
	jobs      []chan job  // for the workers of the way down, chosen by topic
	seed      maphash.Seed

	mu      sync.Mutex
	flights []*flight // on their way, the oldest first; some may be done
	careful int       // acknowledgments until the window opens
	lone    *flight   // on its way alone
}

// A flight is one message on its way up.
type flight struct {
	c     *connection
	r     *rule
	seq   uint64
	topic string // local
	qos   mqtt.QoS
	trial bool // it is its last try
	since time.Time
	done  atomic.Bool
}

func newConnection(u *uplink) *connection {
	c := &connection{u: u, window: newWindow(u.maxInFlight), up: make(chan struct{}), seed: maphash.MakeSeed()}
	u.mu.Lock()
	careful := u.careful
	u.careful = false
	u.mu.Unlock()
	for _, r := range u.rules {
		careful = careful || r.suspected()
	}
	if careful {
		c.beCareful()
	}
	for range downWorkers {
		c.jobs = append(c.jobs, make(chan job, downQueue))
	}
	return c
}

// run makes the connection and serves it until it ends. why says why it ended, err that the
// message log failed.
func (c *connection) run(ctx context.Context) (why, err error) {
	life, end := context.WithCancelCause(context.WithoutCancel(ctx)) // it outlives ctx by the grace
	defer end(nil)
	drainCtx, stopDrains := context.WithCancel(ctx)
	defer stopDrains()
	ackCtx, stopAcks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAcks()

	var acks errgroup.Group
	for _, r := range c.u.rules {
		if r.consumer != nil {
			acks.Go(func() error {
				err := r.acknowledge(ackCtx)
				if err != nil {
					end(err)
				}
				return err
			})
		}
	}
	var workers sync.WaitGroup
	for _, jobs := range c.jobs {
		workers.Go(func() { c.work(life, jobs) })
	}
	ended := make(chan error, 1)
	go func() { ended <- c.u.upstream.Run(life, c.session()) }()

	var drains *errgroup.Group
	drains, drainCtx = errgroup.WithContext(drainCtx)
	select {
	case why = <-ended:
	case <-ctx.Done():
		end(nil)
		<-ended
	case <-c.up:
		for _, r := range c.u.rules {
			if r.consumer != nil {
				drains.Go(func() error { return r.drain(drainCtx, c) })
			}
		}
		drains.Go(func() error { return c.watch(drainCtx, end) })
		select {
		case why = <-ended:
		case <-drainCtx.Done():
			c.settle()
			end(nil)
			<-ended
		}
	}
	if cause := context.Cause(life); why == nil && errors.Is(cause, errSilent) {
		why = cause
	}
	stopDrains()
	end(nil)
	err = drains.Wait()
	workers.Wait()
	c.judge(why)
	stopAcks()
	return why, errors.Join(err, acks.Wait())
}

func (c *connection) session() Session {
	s := Session{
		Connected: func(l Link, granted []Grant) {
			c.link = l
			c.connected.Store(true)
			c.u.enter(Connected, nil, time.Time{})
			c.grant(granted)
			close(c.up)
		},
		Message:  c.message,
		TooLarge: c.tooLarge,
	}
	for _, r := range c.u.rules {
		if f := r.mapping.RemoteFilter(); f != "" {
			s.Subscriptions = append(s.Subscriptions, Subscription{f, r.mapping.Rule().QoS})
		}
	}
	return s
}

// grant notes which subscriptions the upstream has refused.
func (c *connection) grant(granted []Grant) {
	for _, g := range granted {
		for _, r := range c.u.rules {
			if r.mapping.RemoteFilter() != g.Filter {
				continue
			}
			text := ""
			switch {
			case g.Refused:
				text = fmt.Sprintf("the upstream refuses the subscription to %q: check what it allows this client", g.Filter)
			case g.QoS < r.mapping.Rule().QoS:
				text = fmt.Sprintf("the upstream grants %q only QoS %d: messages may be lost on the way down", g.Filter, g.QoS)
			}
			if r.note(text) && text != "" {
				c.u.log.Warn("subscription upstream", "filter", g.Filter, "err", text)
				c.u.tell(Event{Kind: EventRefused, Rule: r.mapping.Name(), Topic: string(g.Filter), Text: text})
			}
		}
	}
}

// watch ends the connection when a message stays unacknowledged for too long.
func (c *connection) watch(ctx context.Context, end context.CancelCauseFunc) error {
	limit := c.u.b.opts.AckTimeout
	tick := time.NewTicker(max(limit/8, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		c.mu.Lock()
		c.prune()
		late := len(c.flights) > 0 && time.Since(c.flights[0].since) > limit
		c.mu.Unlock()
		if late {
			end(fmt.Errorf("%w: nothing for %v", errSilent, limit))
			return nil
		}
	}
}

// settle waits a little for the acknowledgments of what is on its way.
func (c *connection) settle() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(c.u.b.opts.Grace)
	defer timeout.Stop()
	for !c.window.idle() && !c.lost.Load() {
		select {
		case <-tick.C:
		case <-timeout.C:
			return
		}
	}
}

// judge decides, when the connection has ended, whether a message may be to blame.
func (c *connection) judge(why error) {
	if !errors.Is(why, ErrClosed) {
		return
	}
	c.mu.Lock()
	lone, several := c.lone, len(c.flights) > 0
	c.mu.Unlock()
	switch {
	case lone != nil && lone.trial:
		lone.r.refuse(lone.seq, lone.topic, fmt.Sprintf("the upstream closes the connection on it and takes others: %v", why))
	case lone != nil:
		lone.r.blame(lone.seq)
	case several:
		c.u.mu.Lock()
		c.u.careful = true
		c.u.mu.Unlock()
	}
}

// beCareful has messages sent alone for a while.
func (c *connection) beCareful() {
	c.mu.Lock()
	c.careful = c.u.maxInFlight
	c.mu.Unlock()
	c.window.resize(1)
}

// send puts a message on its way.
func (c *connection) send(f *flight, m mqtt.Message) {
	f.r.inFlight.Add(1)
	c.mu.Lock()
	if c.careful > 0 {
		c.lone = f
	}
	c.prune()
	c.flights = append(c.flights, f)
	c.mu.Unlock()
	c.link.Publish(m, f.finish)
}

// prune forgets the flights that are done, up to the oldest that is not. Needs mu.
func (c *connection) prune() {
	for len(c.flights) > 0 && c.flights[0].done.Load() {
		c.flights[0] = nil
		c.flights = c.flights[1:]
	}
}

// finish is what the upstream says of a message.
func (f *flight) finish(err error) {
	c := f.c
	f.r.inFlight.Add(-1)
	var refused *RefusedError
	switch {
	case err == nil:
		f.r.took(f.seq)
		if f.qos > mqtt.QoS0 { // only then it is the upstream that says so
			c.took.Store(true)
		}
	case errors.As(err, &refused):
		f.r.refuse(f.seq, f.topic, refused.Why)
	default: // it stays in flights, for judge, and in its place, so that nothing follows it
		c.lost.Store(true)
		return
	}
	f.done.Store(true)
	c.mu.Lock()
	open := false
	if c.careful > 0 {
		c.lone = nil
		c.careful--
		open = c.careful == 0
	}
	c.mu.Unlock()
	if open {
		c.window.resize(c.u.maxInFlight)
	}
	c.window.release(1)
}

// An outgoing message is ready to be published upstream.
type outgoing struct {
	seq   uint64
	topic string // local
	m     mqtt.Message
}

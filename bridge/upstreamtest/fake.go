// Package upstreamtest holds what a [bridge.Upstream] must do, as a suite of tests, and a
// deliberately awkward upstream in memory that passes it.
package upstreamtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

// A Fake is an upstream in memory with all the bad habits of real ones. The zero value is a broker
// that behaves; its methods are safe for concurrent use. It keeps user properties, as MQTT 5.0 does.
type Fake struct {
	Name string // what Describe says; "" means "fake"

	mu       sync.Mutex
	stopped  bool
	habits   Habits
	received []mqtt.Message
	accepted int
	session  []bridge.Subscription
	queue    []*pending // for the session, acknowledged ones removed
	retained map[string]mqtt.Message
	link     *fakeLink
	runs     int
}

// Habits says how a [Fake] misbehaves.
type Habits struct {
	Silent  bool                            // takes messages and never acknowledges them
	Shuffle bool                            // acknowledges late and out of order
	Lose    int                             // takes every n-th message and breaks the connection instead of acknowledging; 0 means never
	Poison  func(m mqtt.Message) bool       // breaks the connection instead of taking the message
	Ignore  func(m mqtt.Message) bool       // throws the message away and says nothing
	Refuse  func(m mqtt.Message) (w string) // refuses for good; "" means not
	Deny    func(f mqtt.Filter) bool        // refuses the subscription
	Forget  bool                            // loses sessions between connections
}

type pending struct {
	m    mqtt.Message
	sent bool // on the present connection
}

type fakeLink struct {
	fake    *Fake
	ended   chan struct{}
	once    sync.Once
	why     error
	wake    chan struct{} // something was published
	down    chan struct{} // something is queued for the session
	mu      sync.Mutex
	closed  bool
	in      []publish
	held    []publish // taken and not acknowledged yet
	ignored []publish // never to be acknowledged
}

type publish struct {
	m    mqtt.Message
	done func(error)
}

// Describe implements [bridge.Upstream].
func (f *Fake) Describe() bridge.Description {
	name := f.Name
	if name == "" {
		name = "fake"
	}
	return bridge.Description{Address: "fake://" + name, Broker: name, UserProperties: true}
}

var errStopped = errors.New("connect: connection refused by the fake, which is stopped")

// Run implements [bridge.Upstream].
func (f *Fake) Run(ctx context.Context, s bridge.Session) error {
	if ctx.Err() != nil {
		return nil
	}
	l := &fakeLink{fake: f, ended: make(chan struct{}), wake: make(chan struct{}, 1), down: make(chan struct{}, 1)}
	grants, err := f.connect(l, s)
	if err != nil {
		return err
	}
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { l.take(lctx) })
	wg.Go(func() { l.deliver(lctx, s) })
	s.Connected(l, grants)
	select {
	case <-ctx.Done():
	case <-l.ended:
		err = l.why
	}
	cancel()
	wg.Wait()
	f.mu.Lock()
	f.link = nil
	f.mu.Unlock()
	l.mu.Lock()
	l.closed = true
	rest := slices.Concat(l.held, l.ignored, l.in)
	l.mu.Unlock()
	for _, p := range rest {
		p.done(bridge.ErrLost)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (f *Fake) connect(l *fakeLink, s bridge.Session) (grants []bridge.Grant, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return nil, errStopped
	}
	f.runs++
	f.link = l
	if f.habits.Forget || len(s.Subscriptions) == 0 {
		f.session, f.queue = nil, nil
	}
	for _, p := range f.queue {
		p.sent = false
	}
	for _, sub := range s.Subscriptions {
		if f.habits.Deny != nil && f.habits.Deny(sub.Filter) {
			grants = append(grants, bridge.Grant{Filter: sub.Filter, Refused: true})
			continue
		}
		grants = append(grants, bridge.Grant{Filter: sub.Filter, QoS: sub.QoS})
		f.session = slices.DeleteFunc(f.session, func(o bridge.Subscription) bool { return o.Filter == sub.Filter })
		f.session = append(f.session, sub)
		for _, m := range f.retained {
			if sub.Filter.Match(m.Topic) {
				m.QoS, m.Retain = min(m.QoS, sub.QoS), true
				f.queue = append(f.queue, &pending{m: m})
			}
		}
	}
	return grants, nil
}

// Publish implements [bridge.Link].
func (l *fakeLink) Publish(m mqtt.Message, done func(error)) {
	if err := mqtt.ValidateTopic(m.Topic, 0); err != nil {
		done(&bridge.RefusedError{Why: err.Error()})
		return
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		done(bridge.ErrLost)
		return
	}
	m.Payload = slices.Clone(m.Payload)
	l.in = append(l.in, publish{m, done})
	l.mu.Unlock()
	signal(l.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *fakeLink) end(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.ended)
	})
}

// take is the other side: it takes what was published, one message after the other, and
// acknowledges what has gathered when there is nothing more to take.
func (l *fakeLink) take(ctx context.Context) {
	for {
		select {
		case <-l.wake:
		case <-l.ended:
			return
		case <-ctx.Done():
			return
		}
		for {
			p, ok := l.next()
			if !ok {
				break
			}
			if !l.judge(p) {
				return
			}
		}
		l.acknowledge()
	}
}

func (l *fakeLink) next() (publish, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.in) == 0 {
		return publish{}, false
	}
	p := l.in[0]
	l.in = l.in[1:]
	return p, true
}

// judge does with one message what the habits want; it reports whether the connection goes on.
func (l *fakeLink) judge(p publish) bool {
	f := l.fake
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.habits
	keep := func(list *[]publish) {
		l.mu.Lock()
		*list = append(*list, p)
		l.mu.Unlock()
	}
	switch {
	case h.Poison != nil && h.Poison(p.m):
		keep(&l.ignored)
		l.end(fmt.Errorf("%w: it does not like a message", bridge.ErrClosed))
		return false
	case h.Ignore != nil && h.Ignore(p.m):
		keep(&l.ignored)
		return true
	case h.Refuse != nil && h.Refuse(p.m) != "":
		p.done(&bridge.RefusedError{Why: h.Refuse(p.m)})
		return true
	}
	f.received = append(f.received, p.m)
	f.accepted++
	f.retain(p.m)
	f.enqueue(p.m)
	if h.Lose > 0 && f.accepted%h.Lose == 0 {
		keep(&l.ignored)
		l.end(fmt.Errorf("%w: out of the blue", bridge.ErrClosed))
		return false
	}
	keep(&l.held)
	return true
}

func (l *fakeLink) acknowledge() {
	l.fake.mu.Lock()
	h := l.fake.habits
	l.fake.mu.Unlock()
	if h.Silent {
		return
	}
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	if h.Shuffle {
		rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	}
	for _, p := range held {
		p.done(nil)
	}
}

// deliver hands what is queued for the session to the bridge, in order.
func (l *fakeLink) deliver(ctx context.Context, s bridge.Session) {
	f := l.fake
	for {
		f.mu.Lock()
		i := slices.IndexFunc(f.queue, func(p *pending) bool { return !p.sent })
		var p *pending
		if i >= 0 {
			p = f.queue[i]
			p.sent = true
			if p.m.QoS == mqtt.QoS0 {
				f.queue = slices.Delete(f.queue, i, i+1)
			}
		}
		f.mu.Unlock()
		if p != nil {
			s.Message(ctx, p.m, func() { f.forget(l, p) })
		}
		if p != nil && ctx.Err() == nil {
			continue
		}
		select {
		case <-l.down:
		case <-l.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (f *Fake) forget(l *fakeLink, p *pending) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.link != l { // an acknowledgment on a connection that has ended
		return
	}
	f.queue = slices.DeleteFunc(f.queue, func(q *pending) bool { return q == p })
}

// enqueue puts a message into the session if it subscribes to it. Needs mu.
func (f *Fake) enqueue(m mqtt.Message) {
	for _, sub := range f.session {
		if sub.Filter.Match(m.Topic) {
			m.QoS, m.Retain = min(m.QoS, sub.QoS), false
			f.queue = append(f.queue, &pending{m: m})
			break
		}
	}
	if f.link != nil {
		signal(f.link.down)
	}
}

func (f *Fake) retain(m mqtt.Message) {
	if !m.Retain {
		return
	}
	if f.retained == nil {
		f.retained = make(map[string]mqtt.Message)
	}
	f.retained[m.Topic] = m
}

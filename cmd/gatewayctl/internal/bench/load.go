package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Load says what is sent. Zero fields take the default that is written beside them.
type Load struct {
	QoS      byte          // 0 or 1
	Payload  int           // bytes of a message; 128, at least [MinPayload]
	Window   int           // messages a publisher may be ahead of its slowest subscriber; 512
	WarmUp   time.Duration // before the measured time; 300 ms
	Duration time.Duration // measured time; 2 s
	Messages int           // of each publisher, instead of WarmUp and Duration

	Persistent bool // subscribers have a persistent session
	Filters    int  // subscriptions that other clients have, which match nothing
	Wildcards  bool // the other subscriptions have wildcards
}

func (l Load) withDefaults() (Load, error) {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Payload, 128)
	def(&l.Window, 512)
	if l.Duration == 0 {
		l.Duration = 2 * time.Second
	}
	if l.WarmUp == 0 {
		l.WarmUp = 300 * time.Millisecond
	}
	switch {
	case l.QoS > 1:
		return l, impossible("QoS %d: the load generator speaks QoS 0 and 1", l.QoS)
	case l.Payload < MinPayload || l.Payload > 1<<20:
		return l, impossible("payload of %d bytes: it must have %d to %d", l.Payload, MinPayload, 1<<20)
	case l.Window < 2 || l.Window > 30_000:
		return l, impossible("window of %d messages: it must be 2 to 30000", l.Window)
	case l.Messages < 0 || l.Filters < 0 || l.Duration < 0 || l.WarmUp < 0:
		return l, impossible("a negative number or duration")
	}
	return l, nil
}

const maxClients = 20_000

// ErrOptions is returned for a load that cannot be: the caller's mistake.
var ErrOptions = errors.New("impossible load")

func impossible(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrOptions}, args...)...)
}

// Pairs has n publishers, each with a subscriber of its own.
func Pairs(ctx context.Context, t Target, n int, l Load) (Result, error) {
	return plan{mode: "pairs", pubs: n, subs: n}.run(ctx, t, l)
}

// FanOut has one publisher and n subscribers. Messages are counted as they are delivered.
func FanOut(ctx context.Context, t Target, n int, l Load) (Result, error) {
	return plan{mode: "fanout", pubs: 1, subs: n}.run(ctx, t, l)
}

// FanIn has n publishers and one subscriber.
func FanIn(ctx context.Context, t Target, n int, l Load) (Result, error) {
	return plan{mode: "fanin", pubs: n, subs: 1}.run(ctx, t, l)
}

// A plan is what one kind of load does. Subscriber i gets the messages of publisher i when there
// are as many of both, else those of all publishers.
type plan struct {
	mode       string
	pubs, subs int
	prepare    func(*flow)                                  // when all are connected; may be nil
	conduct    func(context.Context, *flow) (Result, error) // while messages flow; nil: measure once
	conclude   func(*flow, *Result)                         // when all have ended; may be nil
}

func (p plan) run(ctx context.Context, t Target, l Load) (Result, error) {
	r := Result{Mode: p.mode}
	l, err := l.withDefaults()
	if err != nil {
		return r, fmt.Errorf("%s: %w", p.mode, err)
	}
	f := newFlow(t, l)
	if p.conduct == nil {
		p.conduct = steady
	}
	err = f.with(ctx, p, func() (err error) {
		if p.prepare != nil {
			p.prepare(f)
		}
		r, err = f.run(ctx, func(ctx context.Context) (Result, error) { return p.conduct(ctx, f) })
		if p.conclude != nil {
			p.conclude(f, &r)
		}
		return err
	})
	if r.Mode = p.mode; err != nil {
		return r, fmt.Errorf("%s: %w", p.mode, err)
	}
	return r, nil
}

// steady measures once.
func steady(ctx context.Context, f *flow) (Result, error) {
	if f.load.Messages == 0 {
		if err := pause(ctx, f.load.WarmUp); err != nil {
			return Result{}, err
		}
	}
	return f.measure(ctx, f.load.Duration)
}

// with connects everybody, calls do and cleans up.
func (f *flow) with(ctx context.Context, p plan, do func() error) error {
	if p.pubs < 1 || p.subs < 1 || p.pubs+p.subs > maxClients {
		return impossible("%d publishers and %d subscribers: there must be 1 to %d in all", p.pubs, p.subs, maxClients)
	}
	l, name := f.load, runName()
	id := func(kind string, i int) string { return fmt.Sprintf("bench-%s-%s-%d", name, kind, i) }
	topic := func(i int) string { return fmt.Sprintf("bench/%s/%d", name, i) }
	paired := p.pubs == p.subs

	others, err := f.target.strangers(ctx, name, l)
	defer func() {
		for _, c := range others {
			c.leave()
		}
	}()
	if err != nil {
		return err
	}
	clients := make([]*client, p.subs+p.pubs)
	defer func() {
		for _, c := range clients {
			if c != nil {
				c.drop()
			}
		}
	}()
	err = each(ctx, len(clients), func(ctx context.Context, i int) (err error) {
		if i >= p.subs {
			clients[i], _, err = f.target.connect(ctx, i, readBytes, id("pub", i-p.subs), true)
			return err
		}
		if clients[i], _, err = f.target.connect(ctx, i, readBytes, id("sub", i), !l.Persistent); err != nil {
			return err
		}
		filter := topic(i)
		if !paired {
			filter = "bench/" + name + "/+"
		}
		return clients[i].subscribe(ctx, l.QoS, filter)
	})
	if err == nil {
		f.wire(clients[p.subs:], clients[:p.subs], paired, topic)
		err = do()
	}
	if l.Persistent {
		err = errors.Join(err, each(context.WithoutCancel(ctx), p.subs, func(ctx context.Context, i int) error {
			return f.target.forget(ctx, i, id("sub", i))
		}))
	}
	return err
}

// wire tells publishers and subscribers of each other.
func (f *flow) wire(pubs, subs []*client, paired bool, topic func(int) string) {
	for i, c := range pubs {
		f.pubs = append(f.pubs, newPublisher(i, c, topic(i), f.load))
	}
	for i, c := range subs {
		s := newSubscriber(c, len(pubs))
		s.pubs, s.clock = f.pubs, f.clock
		f.subs = append(f.subs, s)
		for j, p := range f.pubs {
			if !paired || i == j {
				p.receivers = append(p.receivers, &s.past[j])
			}
		}
	}
}

const (
	filtersPerClient  = 500
	filtersPerRequest = 50
)

// strangers are clients with subscriptions that match nothing of the load.
func (t Target) strangers(ctx context.Context, name string, l Load) ([]*client, error) {
	n := (l.Filters + filtersPerClient - 1) / filtersPerClient
	if n > maxClients {
		return nil, impossible("%d filters are more than %d", l.Filters, maxClients*filtersPerClient)
	}
	made := make([]*client, n)
	err := each(ctx, n, func(ctx context.Context, i int) error {
		c, _, err := t.connect(ctx, i, 1<<10, fmt.Sprintf("bench-%s-other-%d", name, i), true)
		if err != nil {
			return err
		}
		made[i] = c
		for first := i * filtersPerClient; first < min(l.Filters, (i+1)*filtersPerClient); first += filtersPerRequest {
			var filters []string
			for k := first; k < min(l.Filters, (i+1)*filtersPerClient, first+filtersPerRequest); k++ {
				filters = append(filters, strangeFilter(name, k, l.Wildcards))
			}
			if err := c.subscribe(ctx, l.QoS, filters...); err != nil {
				return err
			}
		}
		return nil
	})
	alive := made[:0]
	for _, c := range made {
		if c != nil {
			alive = append(alive, c)
		}
	}
	return alive, err
}

// strangeFilter matches nothing of the load, but only its last level tells.
func strangeFilter(name string, k int, wildcards bool) string {
	if wildcards {
		return fmt.Sprintf("bench/+/other-%d", k)
	}
	return fmt.Sprintf("bench/%s/other-%d", name, k)
}

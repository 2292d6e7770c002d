package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatewayctl/bridge/rules"
	"gatewayctl/broker/mqtt"
)

// An uplink is one upstream with its rules.
type uplink struct {
	b           *Bridge
	bus         bus
	name        string
	upstream    Upstream
	about       Description
	maxInFlight int
	rules       []*rule
	vetoed      map[string]bool // origins of what must not go up: it came from this broker
	unmatched   atomic.Uint64
	log         *slog.Logger

	mu      sync.Mutex
	seen    Status // but for what status() fills in
	careful bool   // the next connection begins by sending messages alone
}

func newUplink(b *Bridge, bus bus, cfg UpstreamConfig, set *rules.Set) (*uplink, error) {
	u := &uplink{
		b: b, bus: bus, name: cfg.Name, upstream: cfg.Upstream, about: cfg.Upstream.Describe(),
		maxInFlight: cmp.Or(cfg.MaxInFlight, 50), vetoed: make(map[string]bool),
		log: b.opts.Log.With("upstream", cfg.Name),
	}
	u.seen = Status{State: Stopped, Since: b.opts.Now()}
	for _, name := range set.Siblings(cfg.Name) {
		u.vetoed[OriginPrefix+name] = true
	}
	for i, m := range set.Mappings(cfg.Name) {
		r := &rule{u: u, mapping: m, dropped: make(map[string]uint64), wake: make(chan struct{}, 1)}
		r.suspects.limit = b.opts.Tries
		u.rules = append(u.rules, r)
		if err := r.register(cfg.Rules[i]); err != nil {
			return u, fmt.Errorf("rule %q: %w", m.Name(), err)
		}
	}
	return u, nil
}

// errSilent ends a connection that leaves messages unacknowledged.
var errSilent = errors.New("the upstream does not acknowledge messages")

// run makes one connection after the other.
func (u *uplink) run(ctx context.Context) error {
	wait := backoff{first: u.b.opts.MinBackoff, most: u.b.opts.MaxBackoff}
	defer u.enter(Stopped, nil, time.Time{})
	for ctx.Err() == nil {
		u.enter(Connecting, nil, time.Time{})
		began := time.Now()
		c := newConnection(u)
		why, err := c.run(ctx)
		if err != nil {
			return fmt.Errorf("bridge to %s: %w", u.name, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if c.took.Load() || c.received.Load() || c.connected.Load() && time.Since(began) > u.b.opts.MaxBackoff {
			wait.reset()
		}
		pause := wait.next()
		u.enter(Waiting, why, u.b.opts.Now().Add(pause))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// enter notes a new state, and tells who wants to know.
func (u *uplink) enter(s State, why error, next time.Time) {
	now := u.b.opts.Now()
	u.mu.Lock()
	was, before := u.seen.State, u.seen.LastError
	u.seen.State, u.seen.Since, u.seen.NextAttempt = s, now, next
	wasUp := was == Connected
	if s == Connected {
		u.seen.Connections++
	}
	if why != nil {
		u.seen.LastError, u.seen.LastErrorAt = why.Error(), now
	}
	u.mu.Unlock()
	switch {
	case s == Connected:
		u.log.Info("connected to upstream", "address", u.about.Address)
		u.tell(Event{Kind: EventConnected, Text: "connected to " + u.about.Address})
	case wasUp && why != nil:
		u.log.Warn("upstream disconnected", "err", why)
		u.tell(Event{Kind: EventDisconnected, Text: why.Error()})
	case wasUp:
		u.log.Info("disconnected from upstream")
		u.tell(Event{Kind: EventDisconnected, Text: "the bridge ends"})
	case was == Connecting && why != nil && why.Error() != before:
		u.log.Warn("upstream cannot be reached", "err", why)
		u.tell(Event{Kind: EventUnreachable, Text: why.Error()})
	}
}

func (u *uplink) tell(e Event) {
	e.Upstream = u.name
	u.b.opts.Observe(e)
}

// accept reports whether a local message may go up: not what came from the same broker, and not
// what has crossed too many bridges.
func (r *rule) accept(m *mqtt.Message) bool {
	if m.Publisher.Origin != "" && r.u.vetoed[m.Publisher.Origin] {
		return false
	}
	if _, ok := r.mapping.Up(m.Topic); !ok {
		if r.mapping.Echo(m.Topic) {
			r.drop(DropEcho, 1)
		}
		return false
	}
	if len(m.UserProperties) > 0 && hops(m.UserProperties) >= r.u.b.opts.MaxHops {
		r.drop(DropHops, 1)
		return false
	}
	return true
}

// Package bridge forwards chosen topics to other brokers and fetches chosen topics from them,
// and loses nothing that was acknowledged on the way.
//
// # Design
//
// A rule for the way up is a durable consumer of the message log, from the moment at which the
// bridge is made: what the rule matches is stored, whatever its quality of service, before the
// publisher's acknowledgment. There is no second queue. A drain reads the log in order, keeps a
// window of messages on their way, and acknowledges a message to the log only after the upstream
// has acknowledged it. When a connection ends, everything unacknowledged is read again from the
// log, from the oldest on; so the order per topic is kept over reconnects and restarts, and a
// message is sent twice only if its acknowledgment was lost.
//
// On the way down the upstream keeps what the rules subscribe to, under a persistent session, and
// is told to forget a message only after the local broker has made it durable. Messages of one
// topic stay in order; those of different topics are published side by side.
//
// # Messages that an upstream does not take
//
// MQTT 3.1.1 has no way to refuse a publish: brokers close the connection instead, and would close
// it again and again. So after a connection was closed with messages on their way, the next ones
// are sent alone for a while. A message that was alone when the connection was closed
// Options.Tries times is stepped over. As soon as the upstream has taken another message it gets a
// last trial on the same connection; only if that is closed again the message is given up, counted
// and reported. Without such proof nothing is given up: an upstream that takes nothing loses
// nothing. The other message is one of another topic if there is one.
//
// An upstream that says nothing does not refuse: the connection is made anew and the message sent
// again, without holding up those after it.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"gatewayctl/bridge/rules"
	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

// OriginPrefix, followed by the name of an upstream, is the Publisher.Origin of what came down
// from it.
const OriginPrefix = "bridge:"

// consumerPrefix starts the names of the bridge's consumers in the message log.
const consumerPrefix = "bridge/"

// bus is the local broker.
type bus interface {
	// Publish returns once m is as durable as an acknowledgment promises.
	Publish(ctx context.Context, m mqtt.Message) error
	// AddConsumer stores what f matches and accept does not veto for c, from now on until remove.
	AddConsumer(name string, f mqtt.Filter, c *msglog.Consumer, accept func(*mqtt.Message) bool) (remove func(), err error)
}

// Config says what is bridged.
type Config struct {
	Upstreams []UpstreamConfig
}

// An UpstreamConfig is one upstream and its rules.
type UpstreamConfig struct {
	Name     string // 1 to 64 of a-z A-Z 0-9 _ - . ; unique
	Upstream Upstream
	Rules    []RuleConfig
	// MaxInFlight bounds the publishes of all rules together that are not acknowledged yet; 0 means
	// 50. More is faster over a long line, and sends more again after a break.
	MaxInFlight int
}

// A RuleConfig is one rule and the bounds of its queue. A rule is known to the log by its name, so
// it keeps its queue when anything else about it changes.
type RuleConfig struct {
	rules.Rule
	MaxMessages int64         // in the queue; as in [msglog.ConsumerOptions]
	MaxBytes    int64         // in the queue; as in [msglog.ConsumerOptions]
	WhenFull    msglog.Policy // what happens at these bounds
}

// Options configures a [Bridge].
type Options struct {
	AckTimeout time.Duration    // a connection that leaves a message unacknowledged for this long is ended; 0 means 30s
	MinBackoff time.Duration    // bounds the random wait before the first new connection; 0 means 1s
	MaxBackoff time.Duration    // ... and before the later ones; 0 means 1m
	Grace      time.Duration    // how long Run waits for acknowledgments when it ends; 0 means 1s
	Tries      int              // see the package comment; 0 means 5
	MaxHops    int              // bridges that a message may have crossed; 0 means 8
	Observe    func(Event)      // told what happens; must not block; nil: nobody
	Now        func() time.Time // nil means time.Now
	Log        *slog.Logger     // nil discards
}

func (o *Options) defaults() {
	for _, d := range []struct {
		at *time.Duration
		is time.Duration
	}{
		{&o.AckTimeout, 30 * time.Second}, {&o.MinBackoff, time.Second}, {&o.MaxBackoff, time.Minute}, {&o.Grace, time.Second},
	} {
		if *d.at == 0 {
			*d.at = d.is
		}
	}
	if o.Tries == 0 {
		o.Tries = 5
	}
	if o.MaxHops == 0 {
		o.MaxHops = 8
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("component", "bridge")
}

// A Bridge connects the local broker with its upstreams. It stores what its rules match from the
// moment it is made until [Bridge.Close]; it connects while [Bridge.Run] runs. Its methods are
// safe for concurrent use.
type Bridge struct {
	log     *msglog.Log
	opts    Options
	uplinks []*uplink
}

// New checks the rules of all upstreams together (see package rules), opens a consumer of the log
// for each rule that goes up, and registers it at the local broker. Its error joins everything that is
// wrong with the configuration; then nothing was registered.
//
// A queue of a rule that is no longer configured is removed if it is empty; otherwise it is kept,
// reported by [Bridge.Abandoned], until its rule comes back or [Bridge.Discard] removes it.
func New(log *msglog.Log, bus bus, cfg Config, opts Options) (*Bridge, error) {
	opts.defaults()
	set, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	for _, w := range set.Warnings() {
		opts.Log.Warn("bridge rule", "err", w)
	}
	b := &Bridge{log: log, opts: opts}
	for _, uc := range cfg.Upstreams {
		u, err := newUplink(b, bus, uc, set)
		b.uplinks = append(b.uplinks, u)
		if err != nil {
			b.Close()
			return nil, fmt.Errorf("bridge to %s: %w", uc.Name, err)
		}
	}
	for _, a := range b.Abandoned() {
		if a.DepthMessages > 0 {
			opts.Log.Warn("queue without a rule is kept", "consumer", a.Name, "messages", a.DepthMessages, "bytes", a.DepthBytes)
			continue
		}
		if err := b.Discard(a.Name); err != nil {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

func compile(cfg Config) (*rules.Set, error) {
	var errs []error
	var ups []rules.Upstream
	for _, uc := range cfg.Upstreams {
		if uc.Upstream == nil {
			return nil, fmt.Errorf("upstream %q has no connection", uc.Name)
		}
		d := uc.Upstream.Describe()
		u := rules.Upstream{Name: uc.Name, Broker: d.Broker, NoLocal: d.NoLocal}
		for _, r := range uc.Rules {
			u.Rules = append(u.Rules, r.Rule)
		}
		ups = append(ups, u)
		if uc.MaxInFlight < 0 || uc.MaxInFlight > maxInFlight {
			errs = append(errs, fmt.Errorf("upstream %q: max_in_flight %d: write 1 to %d", uc.Name, uc.MaxInFlight, maxInFlight))
		}
	}
	set, err := rules.Compile(ups...)
	return set, errors.Join(append(errs, err)...)
}

// Run keeps all upstreams connected until ctx is cancelled. It returns an error only when the
// message log fails.
func (b *Bridge) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { // without upstreams as well
		<-ctx.Done()
		return nil
	})
	for _, u := range b.uplinks {
		g.Go(func() error { return u.run(ctx) })
	}
	return g.Wait()
}

// Close stops storing what the rules match; what is stored stays. Run must have returned.
func (b *Bridge) Close() {
	for _, u := range b.uplinks {
		for _, r := range u.rules {
			if r.remove != nil {
				r.remove()
				r.remove = nil
			}
		}
	}
}

// Abandoned lists the queues of rules that are no longer configured.
func (b *Bridge) Abandoned() (list []Abandoned) {
	for _, name := range b.log.Consumers() {
		if !strings.HasPrefix(name, consumerPrefix) || b.configured(name) {
			continue
		}
		a := Abandoned{Name: name}
		if c, err := b.log.Consumer(name, msglog.ConsumerOptions{MaxMessages: -1, MaxBytes: -1}); err == nil {
			s := c.Stats()
			a.DepthMessages, a.DepthBytes, a.Oldest = s.Depth, s.Bytes, s.Oldest
		}
		list = append(list, a)
	}
	return list
}

func (b *Bridge) configured(consumer string) bool {
	for _, u := range b.uplinks {
		for _, r := range u.rules {
			if r.consumer != nil && r.consumerName == consumer {
				return true
			}
		}
	}
	return false
}

// Discard removes an abandoned queue with everything in it.
func (b *Bridge) Discard(name string) error {
	if !strings.HasPrefix(name, consumerPrefix) || b.configured(name) {
		return fmt.Errorf("discard queue %q: it belongs to a rule", name)
	}
	if err := b.log.RemoveConsumer(name); err != nil {
		return fmt.Errorf("discard queue %q: %w", name, err)
	}
	return nil
}

package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options configures an [Announcer].
type Options struct {
	Interfaces []string     // names of those to announce on; nil means all that can multicast
	Log        *slog.Logger // nil discards
}

// An Announcer tells the network of services while [Announcer.Run] runs.
type Announcer struct {
	opts Options
	wake chan struct{}

	mu       sync.Mutex
	services []Service
	revision int // counts updates
}

// NewAnnouncer returns an announcer of nothing yet; see [Announcer.Update].
func NewAnnouncer(opts Options) *Announcer {
	opts.Log = component(opts.Log)
	return &Announcer{opts: opts, wake: make(chan struct{}, 1)}
}

// Update makes services the ones that are announced: what changed is announced at once, what is no
// longer there says goodbye. It may be called at any time, before Run too, and by any goroutine. It
// fails if one of the services is not well-formed, and then changes nothing.
//
// Addresses of interfaces need no update where [Service.IPs] is nil.
func (a *Announcer) Update(services []Service) error {
	var checked []Service
	for _, s := range services {
		c, err := s.complete()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(checked, func(o Service) bool {
			return strings.EqualFold(o.Type, c.Type) && strings.EqualFold(o.Instance, c.Instance)
		}) {
			return fmt.Errorf("service %s: instance %q is announced twice", c.Type, c.Instance)
		}
		checked = append(checked, c)
	}
	a.mu.Lock()
	a.services = checked
	a.revision++
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// Run announces on every interface, as they come and go, until ctx ends; then it says goodbye and
// returns nil. A name that another has already gets a number: "Hub (2)". It runs once at a time.
func (a *Announcer) Run(ctx context.Context) error {
	n := newNetwork(a.opts.Interfaces, a.opts.Log)
	defer n.close()
	_, err := n.refresh()
	n.complain(err)
	e := &announcing{responder: newResponder(jitter, a.opts.Log), source: a}
	n.run(ctx, e, a.wake)
	for range 2 { // packets get lost, above all by radio
		farewell := e.leave()
		for _, p := range farewell {
			n.send(p)
		}
		if len(farewell) > 0 {
			<-time.After(50 * time.Millisecond)
		}
	}
	return nil
}

// announcing is a responder that takes its services from an Announcer.
type announcing struct {
	*responder
	source   *Announcer
	revision int // of the services that it has
}

func (e *announcing) update(now time.Time) {
	e.source.mu.Lock()
	defer e.source.mu.Unlock()
	if e.revision != e.source.revision {
		e.revision = e.source.revision
		e.setServices(now, e.source.services)
	}
}

func (e *announcing) poll(now time.Time) ([]packet, time.Time) {
	e.update(now)
	return e.responder.poll(now)
}

// ScanOptions configures [Scan] and [Watch].
type ScanOptions struct {
	Timeout    time.Duration    // of Scan; 0 means 3 s
	Services   []string         // types to look for, such as _http._tcp; nil means [DefaultServices]
	Interfaces []string         // names of those to look on; nil means all that can multicast
	Now        func() time.Time // for Found.Seen; nil means time.Now
	Log        *slog.Logger     // nil discards
}

// DefaultServices returns the service types that devices, brokers and gateways announce.
func DefaultServices() []string {
	return []string{TypeMQTT, "_mqtt._tcp", TypeGateway, "_http._tcp", "_shelly._tcp", "_esphomelib._tcp", "_home-assistant._tcp"}
}

func (o ScanOptions) start() (*network, *browser, error) {
	if o.Services == nil {
		o.Services = DefaultServices()
	}
	var types []string
	for _, typ := range o.Services {
		labels, err := splitType(typ)
		if err != nil {
			return nil, nil, err
		}
		types = append(types, strings.Join(labels, "."))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = component(o.Log)
	return newNetwork(o.Interfaces, o.Log), newBrowser(types, jitter, o.Now, o.Log), nil
}

// Scan asks every interface once and again until the timeout, and returns what answered with a
// host and a port, sorted by service, instance and interface. Silence is no proof of absence. If
// ctx ends before, Scan returns what it has and the cause. It returns [ErrNoInterface] if there is
// nothing to ask over.
func Scan(ctx context.Context, opts ScanOptions) ([]Found, error) {
	if opts.Timeout == 0 {
		opts.Timeout = 3 * time.Second
	}
	n, b, err := opts.start()
	if err != nil {
		return nil, err
	}
	defer n.close()
	if _, err := n.refresh(); errors.Is(err, ErrNoInterface) {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, opts.Timeout)
	defer cancel()
	n.run(limited, b, nil)
	return b.all(), context.Cause(ctx)
}

// Watch reports each instance when it is found, when something of it changes, and when it is gone,
// until ctx ends; then it returns nil. It asks ever less often, listens to what others ask, and
// follows interfaces as they come and go. report is called by one goroutine, which it holds up:
// while it does not return, packets are lost. The error is about opts.
func Watch(ctx context.Context, opts ScanOptions, report func(Found)) error {
	n, b, err := opts.start()
	if err != nil {
		return err
	}
	defer n.close()
	b.report = report
	_, err = n.refresh()
	n.complain(err)
	n.run(ctx, b, nil)
	return nil
}

func component(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log.With("component", "discovery")
}

// jitter is a random time from lo to hi (RFC 6762 asks for it so that hosts do not speak at once).
func jitter(lo, hi time.Duration) time.Duration { return lo + rand.N(hi-lo+1) }

// Package broker runs the gateway's MQTT broker: listeners with and without TLS, authorization
// by policy, sessions, retained messages, wills, and the hand-over to durable consumers. It
// speaks MQTT 3.1.1 and 5.0.
//
// A client whose policy does not grant its identifier is refused with return code 5
// (MQTT 3.1.1 §3.2.2.3) or reason code 0x87 (MQTT 5.0 §3.2.2.2). A refused filter gets 0x80 or
// 0x87 and its connection stays; a refused publish gets 0x87 in MQTT 5.0 and closes a connection
// of MQTT 3.1.1, as AWS IoT does. A [Broker] serves nobody until [Broker.Run]; its methods are
// safe for concurrent use.
//
// # Design
//
// Two planes share one connection. mochi-mqtt runs the control plane: CONNECT, CONNACK, PING,
// DISCONNECT. What it reads was written by us: the connection parses every frame of the client
// strictly (package plane) and hands on a CONNECT of its own making (clean start, no will, no
// password, no expiry), so none of the client's bytes reach mochi's decoder and mochi holds
// nothing that outlives a connection. One hook authenticates, opens the session and writes the
// CONNACK. PUBLISH, SUBSCRIBE and their acknowledgments are handled on the spot.
//
// Why mochi does not deliver. By the source of its release 2.7.9, what the first users need cannot
// be had from its message path: a full outbound channel drops QoS 1; one packet
// identifier space serves both directions, so a client that publishes and subscribes at QoS 1
// loses messages and gets 0x91 for a SUBSCRIBE; a client's Receive Maximum leaks until delivery
// stops; `+/#` misses `a`, `a/#` misses the retained `a`; wills bypass the publish hook, so a
// durable consumer never sees them; a retained publish and a subscription race on the same
// memory. Delivery is therefore here, in memory and simple.
//
// Promises that are kept now: an acknowledged publish that a durable consumer matched is
// committed to the message log, once for all of them, before its PUBACK or PUBREC; acknowledgments
// leave in the order of the publishes, while the connection reads on; a repeated QoS 2 publish is
// taken once, also after a reconnect; identifiers of both directions are apart; Receive Maximum
// and a window of 20 for 3.1.1 hold; redelivery is in order, before anything new, with DUP and the
// same identifiers; nobody blocks in another connection's socket; intervals are monotonic.
//
// Promises of DESIGN.md §2 and §3 that are not kept yet, because sessions and retained messages
// live in memory: they do not survive a restart, nor does the record of QoS 2 identifiers, so an
// acknowledgment means stable storage for durable consumers only; pending wills are published at
// a clean shutdown and lost with a crash; session queues do not spill to disk; there is no match
// cache, each connection has mochi's goroutines besides its own, and keepalive is a deadline per
// connection; there is no $SYS tree.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"

	"gatewayctl/broker/mqtt"
	"gatewayctl/pki/identity"
	"gatewayctl/store/msglog"
)

// A Broker connects clients, durable consumers and handlers of this process.
type Broker struct {
	auth Authority
	log  appender
	opts Options
	slog *slog.Logger
	ctl  *mochi.Server

	n                   counters
	queued, queuedBytes atomic.Int64
	logFailing          atomic.Bool
	cuts                atomic.Uint64 // calls of Disconnect
	index               *index
	retained            *retained
	handlers            atomic.Pointer[[]*handler] // replaced under mu
	consumers           atomic.Pointer[[]*consumer]

	mu        sync.Mutex
	state     runState
	listeners map[string]*listener
	conns     map[*conn]struct{}  // accepted and not gone
	addresses map[string]int      // connections per remote address
	admitted  int                 // connections that count against MaxClients
	refusing  int                 // connections beyond a limit that are told so
	claims    map[string]*conn    // who has a client identifier, or is waiting for it
	owned     map[string]int      // sessions by Principal.Key
	sessions  map[string]*session // by client identifier

	failed    chan error
	accepting sync.WaitGroup // accept loops
	running   sync.WaitGroup // connections
}

type runState byte

const (
	notStarted runState = iota
	started
	stopping
)

// appender is the message log.
type appender interface {
	AppendAsync(e msglog.Entry, done func(seq uint64, err error)) error
}

// ErrStopped is returned once the broker has been told to stop.
var ErrStopped = errors.New("the broker has stopped")

// New returns a broker that asks auth who connects and appends what durable consumers match to
// log.
func New(auth Authority, log *msglog.Log, opts Options) *Broker {
	return newBroker(auth, log, opts)
}

func newBroker(auth Authority, log appender, opts Options) *Broker {
	opts = opts.withDefaults()
	b := &Broker{
		auth: auth, log: log, opts: opts, slog: opts.Log.With("component", "broker"),
		index: newIndex(), retained: newRetained(opts.MaxRetained, opts.MaxRetainedBytes),
		listeners: map[string]*listener{}, conns: map[*conn]struct{}{}, addresses: map[string]int{},
		claims: map[string]*conn{}, owned: map[string]int{}, sessions: map[string]*session{},
		failed: make(chan error, 1),
	}
	b.handlers.Store(&[]*handler{})
	b.consumers.Store(&[]*consumer{})
	b.ctl = newControlPlane(b)
	return b
}

// Run serves the listeners until ctx is done, then stops: it closes the listeners, waits for
// commits whose acknowledgments are due, tells clients (0x8B), ends all sessions, publishes
// their wills, and returns nil once every goroutine has ended. It returns an error if a listener
// fails for good. It can be called once.
func (b *Broker) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.state != notStarted {
		b.mu.Unlock()
		return ErrStopped
	}
	b.state = started
	for _, l := range b.listeners {
		b.startAccepting(l)
	}
	b.mu.Unlock()

	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	var err error
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case err = <-b.failed:
			done = true
		case <-sweep.C:
			b.retained.sweep(time.Now())
		}
	}
	b.stop()
	return err
}

func (b *Broker) stop() {
	b.mu.Lock()
	b.state = stopping
	for _, l := range b.listeners {
		_ = l.Net.Close()
	}
	b.mu.Unlock()
	b.accepting.Wait()

	for _, c := range b.liveConns() {
		c.stopServing()
	}
	b.running.Wait()

	b.mu.Lock()
	sessions := make([]*session, 0, len(b.sessions))
	for _, s := range b.sessions {
		sessions = append(sessions, s)
	}
	b.mu.Unlock()
	for _, s := range sessions {
		b.endSession(s)
	}
}

// liveConns returns the accepted connections that have not gone.
func (b *Broker) liveConns() []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	return conns
}

// A Session is one established connection with its session.
type Session struct {
	ClientID        string
	Device          identity.DeviceID
	Principal       string // Principal.Name
	CertificateID   string
	Connected       time.Time
	Address         string // of the client, with its port
	Listener        string
	ProtocolVersion byte // 4 is MQTT 3.1.1, 5 is MQTT 5.0
	KeepAlive       time.Duration
	CleanStart      bool
	Subscriptions   int
	Queued          int // messages that wait for the client or for its acknowledgment
}

// Sessions returns the established connections, in no particular order.
func (b *Broker) Sessions() []Session {
	var list []Session
	for _, c := range b.liveConns() {
		info := c.info.Load()
		if info == nil || !c.serving() {
			continue
		}
		s := *info
		s.Subscriptions = b.index.count(c.sess)
		s.Queued = c.sess.waiting()
		list = append(list, s)
	}
	return list
}

// Disconnect cuts the connections that match, at once: no later frame of them counts, and their
// sockets are closed after a DISCONNECT with reason (MQTT 5.0 only). Sessions stay as their
// clients asked for; wills are published. It returns how many connections it cut.
//
// match sees connections that are about to be established as well, as far as they are known, and
// an Authority that was asked about one meanwhile is asked again: call Disconnect after what it
// enforces has taken effect.
func (b *Broker) Disconnect(match func(Session) bool, reason mqtt.ReasonCode) int {
	b.cuts.Add(1)
	n := 0
	for _, c := range b.liveConns() {
		if info := c.info.Load(); info != nil && match(*info) && c.fail(reason, "") {
			n++
		}
	}
	return n
}

// Forget ends the sessions of the principal with this key, connected or not, with what waits in
// them: nobody who gets the name later finds them.
func (b *Broker) Forget(key string) {
	b.cuts.Add(1)
	for _, c := range b.liveConns() {
		if p := c.owner.Load(); p != nil && p.Key == key {
			c.forget.Store(true)
			c.fail(mqtt.AdministrativeAction, "session removed")
		}
	}
	b.mu.Lock()
	var gone []*session
	for _, s := range b.sessions {
		switch {
		case s.key != key:
		case b.claims[s.id] == nil:
			gone = append(gone, s)
		default: // its connection may be past asking whether it is to forget the session
			s.forgotten = true
		}
	}
	b.mu.Unlock()
	for _, s := range gone {
		b.endSession(s)
	}
}

// event fills in what is known of c and tells Observe.
func (b *Broker) event(c *conn, e Event) {
	e.Listener, e.Address = c.l.Name, c.remote
	if info := c.info.Load(); info != nil {
		e.ClientID, e.Device, e.Principal = info.ClientID, info.Device, info.Principal
	}
	b.opts.Observe(e)
}

// refused counts a refusal and tells Observe.
func (b *Broker) refused(c *conn, kind EventKind, counter string, r *refusal) {
	b.n.refused.add(counter, 1)
	b.event(c, Event{Kind: kind, Topic: r.topic, Code: r.reason, Reason: r.why, Policy: r.policy, Statement: r.statement})
}

func wrapListener(name string, err error) error { return fmt.Errorf("listener %s: %w", name, err) }

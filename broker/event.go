package broker

import (
	"sync"
	"sync/atomic"

	"gatewayctl/broker/mqtt"
	"gatewayctl/pki/identity"
)

// An EventKind says what an [Event] is about.
type EventKind string

// The kinds of events.
const (
	Connected        EventKind = "connected"         // a client has its session
	Disconnected     EventKind = "disconnected"      // its connection ended; Reason says how
	ConnectRefused   EventKind = "connect-refused"   // a connection was turned away
	PublishRefused   EventKind = "publish-refused"   // a message was not taken
	SubscribeRefused EventKind = "subscribe-refused" // a filter was not granted
	Limit            EventKind = "limit"             // a bound was reached; Reason says which
	Panic            EventKind = "panic"             // a bug cost one connection; the log has the stack
	LogFailing       EventKind = "log-failing"       // the message log takes no messages; Reason says why
	LogWorking       EventKind = "log-working"       // it does again
)

// An Event tells people what happened. It never carries a payload or a password.
type Event struct {
	Kind      EventKind
	ClientID  string // as far as it is known
	Device    identity.DeviceID
	Principal string
	Address   string // of the client, with its port
	Listener  string
	Topic     string          // topic or filter that was refused
	Code      mqtt.ReasonCode // what an MQTT 5.0 client is told; how the connection ended
	Reason    string          // lower case
	Policy    string          // that decided a refusal; "" when no policy allows
	Statement string
}

// The reasons that [Stats] counts refusals and losses by. They are few, so that they can be labels.
const (
	refusedClients      = "clients"     // too many connections
	refusedPerAddress   = "per-address" // too many connections from one address
	refusedTLS          = "tls"         // handshake failed
	refusedCertificate  = "certificate" // verified certificate that is not accepted
	refusedTimeout      = "timeout"     // no CONNECT in time
	refusedMalformed    = "malformed"   // malformed packet or protocol error
	refusedConnect      = "connect"     // not authorized to connect
	refusedSessions     = "sessions"    // too many sessions
	refusedPublish      = "publish"     // not authorized to publish
	refusedSubscribe    = "subscribe"   // not authorized to subscribe, or too many subscriptions
	refusedRetained     = "retained"    // no room for retained messages
	refusedLog          = "log"         // the message log did not take a message
	refusedStalled      = "stalled"     // clients that do not read
	droppedExpired      = "expired"     // message expiry
	droppedQueueFull    = "queue-full"  // the session's queue was full
	droppedSlow         = "slow"        // QoS 0 to a client that does not keep up
	droppedTooLarge     = "too-large"   // larger than the client accepts
	droppedNotPermitted = "not-permitted"
	droppedSessionEnd   = "session-end" // queued when the session ended
)

// counters are the broker's totals since it was made.
type counters struct {
	accepted, panics                           atomic.Uint64
	messagesIn, messagesOut, bytesIn, bytesOut atomic.Uint64
	refused, dropped                           tally
}

// A tally counts by reason. The zero value is ready.
type tally struct {
	mu sync.Mutex
	n  map[string]uint64
}

func (t *tally) add(reason string, n int) {
	if n == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]uint64{}
	}
	t.n[reason] += uint64(n)
}

func (t *tally) copy() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := make(map[string]uint64, len(t.n))
	for k, v := range t.n {
		m[k] = v
	}
	return m
}

// Stats are totals since the broker was made, and sizes as they are now.
type Stats struct {
	Connections map[string]int // established connections by listener
	Pending     int            // accepted connections that have not connected yet

	Sessions      int // connected or not
	Subscriptions int
	Retained      int
	RetainedBytes int64
	Queued        int64 // messages that wait in sessions
	QueuedBytes   int64

	Accepted                                   uint64 // connections
	MessagesIn, MessagesOut, BytesIn, BytesOut uint64 // MQTT's bytes, without TLS
	Panics                                     uint64
	Refused, Dropped                           map[string]uint64 // by reason
}

// Stats returns a snapshot.
func (b *Broker) Stats() Stats {
	s := Stats{
		Connections: map[string]int{},
		Accepted:    b.n.accepted.Load(), Panics: b.n.panics.Load(),
		MessagesIn: b.n.messagesIn.Load(), MessagesOut: b.n.messagesOut.Load(),
		BytesIn: b.n.bytesIn.Load(), BytesOut: b.n.bytesOut.Load(),
		Refused: b.n.refused.copy(), Dropped: b.n.dropped.copy(),
		Subscriptions: b.index.size(),
		Queued:        b.queued.Load(), QueuedBytes: b.queuedBytes.Load(),
	}
	s.Retained, s.RetainedBytes = b.retained.size()
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Sessions = len(b.sessions)
	for name := range b.listeners {
		s.Connections[name] = 0
	}
	for c := range b.conns {
		switch {
		case c.serving():
			s.Connections[c.l.Name]++
		case !c.closing():
			s.Pending++
		}
	}
	return s
}

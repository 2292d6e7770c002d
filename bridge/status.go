package bridge

import (
	"time"

	"gatewayctl/bridge/rules"
	"gatewayctl/broker/mqtt"
)

// A State is what an upstream is doing.
type State string

// The states.
const (
	Stopped    State = "stopped"    // Run does not run
	Connecting State = "connecting" // a connection is being made
	Connected  State = "connected"
	Waiting    State = "waiting" // until the next attempt
)

// A Status is one upstream as people want to see it.
type Status struct {
	Name        string       `json:"name"`
	Address     string       `json:"address"`
	State       State        `json:"state"`
	Since       time.Time    `json:"since"`                // when State began
	LastError   string       `json:"last_error,omitempty"` // why the last connection ended or did not come about; stays until replaced
	LastErrorAt time.Time    `json:"last_error_at,omitzero"`
	NextAttempt time.Time    `json:"next_attempt,omitzero"` // while Waiting
	Connections uint64       `json:"connections"`           // that were up
	InFlight    int          `json:"in_flight"`             // publishes that are not acknowledged yet
	Unmatched   uint64       `json:"unmatched"`             // messages that came down and that no rule wanted
	Rules       []RuleStatus `json:"rules"`
}

// A RuleStatus is one rule. Counters count since the bridge was made.
type RuleStatus struct {
	Name          string            `json:"name"`
	Direction     rules.Direction   `json:"direction"`
	LocalFilter   mqtt.Filter       `json:"local_filter,omitempty"`  // what goes up
	RemoteFilter  mqtt.Filter       `json:"remote_filter,omitempty"` // what comes down
	DepthMessages int64             `json:"depth_messages"`          // stored and not acknowledged by the upstream
	DepthBytes    int64             `json:"depth_bytes"`
	Oldest        time.Time         `json:"oldest,omitzero"` // when the oldest of these was stored
	InFlight      int               `json:"in_flight"`
	Sent          uint64            `json:"sent"`                 // acknowledged by the upstream
	Resent        uint64            `json:"resent"`               // sent once more after a connection ended
	Received      uint64            `json:"received"`             // came down and is durable here
	Suspects      int               `json:"suspects"`             // stepped over because the upstream breaks the connection on them
	Dropped       map[string]uint64 `json:"dropped,omitempty"`    // by reason
	LastError     string            `json:"last_error,omitempty"` // of this rule alone, such as a refused subscription
}

// Why messages were dropped. Those of the message log count over the life of the queue.
const (
	DropOldest    = "oldest"          // the queue was full
	DropNewest    = "newest"          // the queue was full
	DropRefused   = "refused"         // the upstream does not take it
	DropExpired   = "expired"         // its expiry came first
	DropDamaged   = "damaged"         // it cannot be read any more
	DropUnmatched = "unmatched"       // the rule has changed since it was stored
	DropEcho      = "echo"            // a rule of the same broker would bring it straight back
	DropHops      = "hops"            // it has crossed too many bridges
	DropTooLarge  = "too-large"       // came down and is larger than allowed
	DropLocal     = "refused-locally" // came down and the local broker does not take it
)

// An Abandoned is a queue in the log whose rule is no longer configured.
type Abandoned struct {
	Name          string    `json:"name"`
	DepthMessages int64     `json:"depth_messages"`
	DepthBytes    int64     `json:"depth_bytes"`
	Oldest        time.Time `json:"oldest,omitzero"`
}

// An EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	EventConnected    EventKind = "bridge-connected"
	EventDisconnected EventKind = "bridge-disconnected" // a connection that was up has ended
	EventUnreachable  EventKind = "bridge-unreachable"  // a connection did not come about; once per cause
	EventRefused      EventKind = "bridge-refused"      // a message or a subscription was refused for good
)

// An Event is something that people may want to know.
type Event struct {
	Kind     EventKind
	Upstream string
	Rule     string // "" if it concerns the whole upstream
	Topic    string // of a refused message, as published locally, or a refused filter
	Text     string
}

// Status returns what every upstream is doing, in the order of the configuration.
func (b *Bridge) Status() []Status {
	list := make([]Status, 0, len(b.uplinks))
	for _, u := range b.uplinks {
		list = append(list, u.status())
	}
	return list
}

func (u *uplink) status() Status {
	u.mu.Lock()
	s := u.seen
	u.mu.Unlock()
	s.Name, s.Address = u.name, u.about.Address
	s.Unmatched = u.unmatched.Load()
	s.Rules = make([]RuleStatus, 0, len(u.rules))
	for _, r := range u.rules {
		rs := r.status()
		s.InFlight += rs.InFlight
		s.Rules = append(s.Rules, rs)
	}
	return s
}

func (r *rule) status() RuleStatus {
	s := RuleStatus{
		Name: r.mapping.Name(), Direction: r.mapping.Rule().Direction,
		LocalFilter: r.mapping.LocalFilter(), RemoteFilter: r.mapping.RemoteFilter(),
		InFlight: int(r.inFlight.Load()), Sent: r.sent.Load(), Resent: r.resent.Load(), Received: r.received.Load(),
	}
	r.mu.Lock()
	s.LastError = r.lastError
	s.Suspects = len(r.suspects.stepped)
	for why, n := range r.dropped {
		s.drop(why, n)
	}
	r.mu.Unlock()
	if r.consumer != nil {
		c := r.consumer.Stats()
		s.DepthMessages, s.DepthBytes, s.Oldest = c.Depth, c.Bytes, c.Oldest
		s.drop(DropOldest, c.Dropped.Oldest)
		s.drop(DropNewest, c.Dropped.Newest)
		s.drop(DropExpired, c.Dropped.Expired)
		s.drop(DropDamaged, c.Dropped.Damaged)
	}
	return s
}

func (s *RuleStatus) drop(why string, n uint64) {
	if n == 0 {
		return
	}
	if s.Dropped == nil {
		s.Dropped = make(map[string]uint64)
	}
	s.Dropped[why] += n
}

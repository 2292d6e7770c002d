package broker

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// maxWindow bounds the deliveries in flight to one client, whatever it allows.
const maxWindow = 256

// A session is what the broker keeps of a client (MQTT 5.0 §4.1): its subscriptions, what was
// sent and is not acknowledged, what waits, and the QoS 2 identifiers it has used.
type session struct {
	b   *Broker
	id  string // client identifier
	key string // of the principal that owns it

	subs map[mqtt.Filter]*subscription // guarded by the index

	// Guarded by the broker's mutex.
	timer     *time.Timer // while offline: the end of the session
	forgotten bool        // ends with the connection that has it, nobody resumes it

	mu       sync.Mutex
	ended    bool
	warned   bool  // that the queue is full
	keep     bool  // it outlives its connection
	conn     *conn // nil while offline
	access   Access
	will     *pendingWill // published unless the client returns in time
	offline  time.Time    // since when; zero while online
	received map[uint16]struct{}

	window   int
	flying   int // sent on this connection and not acknowledged
	inflight map[uint16]*outgoing
	resend   []*outgoing // in flight before this connection, and not sent again yet
	queue    []*outgoing
	head     int // of queue
	bytes    int64
	lastID   uint16
	seq      uint64
}

// An outgoing is a delivery with QoS 1 or 2.
type outgoing struct {
	msg     *mqtt.Message // nil once the client has received it (PUBREC)
	qos     mqtt.QoS
	retain  bool
	subIDs  []uint32
	share   *share    // of a shared subscription
	expires time.Time // monotonic; zero never
	cost    int64

	id     uint16
	seq    uint64 // order of first sending
	flying bool   // sent on this connection
	done   bool   // acknowledged before it was sent again
}

func newSession(b *Broker, id, key string) *session {
	return &session{
		b: b, id: id, key: key, keep: true,
		subs: map[mqtt.Filter]*subscription{}, inflight: map[uint16]*outgoing{}, received: map[uint16]struct{}{},
	}
}

// waiting returns how many messages wait for the client or for its acknowledgment.
func (s *session) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) - s.head + len(s.inflight)
}

// A delivery is a message on its way to one session.
type delivery struct {
	msg     *mqtt.Message
	qos     mqtt.QoS // granted and published, the lower
	retain  bool
	subIDs  []uint32
	share   *share
	expires time.Time
}

// deliver sends d, or keeps it for later, or drops it. It never blocks.
func (s *session) deliver(d delivery) {
	s.mu.Lock()
	if s.ended || s.conn == nil && !s.keep {
		s.mu.Unlock()
		return
	}
	if s.access == nil || !s.access.Receive(d.msg.Topic).Allowed() {
		s.mu.Unlock()
		s.b.n.dropped.add(droppedNotPermitted, 1)
		return
	}
	if d.qos == mqtt.QoS0 {
		s.sendNow(d)
		s.mu.Unlock()
		return
	}
	lost := s.enqueue(&outgoing{
		msg: d.msg, qos: d.qos, retain: d.retain, subIDs: d.subIDs, share: d.share, expires: d.expires,
		cost: int64(len(d.msg.Topic) + len(d.msg.Payload) + 256),
	})
	s.pumpLocked()
	first := lost > 0 && !s.warned
	s.warned = s.warned || first
	c := s.conn
	s.mu.Unlock()
	s.b.n.dropped.add(droppedQueueFull, lost)
	if first {
		s.b.queueFull(s, c)
	}
}

// sendNow sends a QoS 0 delivery or drops it.
func (s *session) sendNow(d delivery) {
	if s.conn == nil {
		return
	}
	p := plane.Publish{Message: *d.msg, SubscriptionIDs: d.subIDs}
	p.Message.QoS, p.Message.Retain = mqtt.QoS0, d.retain
	if !setExpiry(&p.Message, d.expires) {
		s.b.n.dropped.add(droppedExpired, 1)
		return
	}
	switch s.conn.deliver(&p) {
	case sentNoRoom:
		s.b.n.dropped.add(droppedSlow, 1)
	case sentTooLarge:
		s.b.n.dropped.add(droppedTooLarge, 1)
	}
}

// seconds returns d in whole seconds, as the standard counts them.
func seconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Second, 0), 1<<32-1))
}

// setExpiry puts what is left of the message expiry interval into m [MQTT-3.3.2-6]. It returns
// false if nothing is [MQTT-3.3.2-5].
func setExpiry(m *mqtt.Message, expires time.Time) bool {
	if expires.IsZero() {
		return true
	}
	left := time.Until(expires)
	m.ExpirySeconds = max(seconds(left+time.Second-1), 1)
	return left > 0
}

// enqueue puts o at the end of the queue and returns how many messages that cost.
func (s *session) enqueue(o *outgoing) (lost int) {
	o2 := &s.b.opts
	full := func() bool {
		return len(s.queue)-s.head >= o2.MaxQueuedMessages || s.bytes+o.cost > o2.MaxQueuedBytes ||
			s.b.queuedBytes.Load()+o.cost > o2.MaxQueuedBytesTotal
	}
	for full() {
		lost++
		if o2.WhenFull == DropNewest || s.head == len(s.queue) {
			return lost
		}
		s.pop()
	}
	s.queue = append(s.queue, o)
	s.bytes += o.cost
	s.b.queued.Add(1)
	s.b.queuedBytes.Add(o.cost)
	return lost
}

func (s *session) pop() *outgoing {
	o := s.queue[s.head]
	s.queue[s.head] = nil
	s.head++
	if s.head == len(s.queue) {
		s.queue, s.head, s.warned = s.queue[:0], 0, false
	} else if s.head > 1024 && s.head > len(s.queue)/2 {
		s.queue, s.head = slices.Delete(s.queue, 0, s.head), 0
	}
	s.uncount(o)
	return o
}

// uncount takes o out of the totals of the queue.
func (s *session) uncount(o *outgoing) {
	s.bytes -= o.cost
	s.b.queued.Add(-1)
	s.b.queuedBytes.Add(-o.cost)
}

// pump sends what waits as far as the window and the connection's buffer allow.
func (s *session) pump() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pumpLocked()
}

func (s *session) pumpLocked() {
	for s.conn != nil && s.flying < s.window && len(s.resend) > 0 { // [MQTT-4.4.0-1]
		if o := s.resend[0]; !o.done && !s.sendOutgoing(o, true) {
			return
		}
		s.resend = s.resend[1:]
	}
	for s.conn != nil && s.flying < s.window && s.head < len(s.queue) {
		o := s.queue[s.head]
		if !o.expires.IsZero() && time.Until(o.expires) <= 0 {
			s.pop()
			s.b.n.dropped.add(droppedExpired, 1)
			continue
		}
		if !s.access.Receive(o.msg.Topic).Allowed() { // the policy may have changed meanwhile
			s.pop()
			s.b.n.dropped.add(droppedNotPermitted, 1)
			continue
		}
		o.id = s.nextID()
		if !s.sendOutgoing(o, false) {
			return
		}
		s.pop()
		if o.flying {
			s.seq++
			o.seq = s.seq
			s.inflight[o.id] = o
		}
	}
}

// sendOutgoing sends o with its identifier. It returns false if it must wait; o.flying says
// whether it was sent rather than dropped.
func (s *session) sendOutgoing(o *outgoing, dup bool) bool {
	if o.msg == nil { // received by the client, not released
		o.flying = s.conn.send(func(b []byte) []byte {
			return (&plane.Ack{Type: plane.PUBREL, PacketID: o.id}).Append(b, s.conn.version)
		})
		if o.flying {
			s.flying++
		}
		return o.flying
	}
	p := plane.Publish{Message: *o.msg, Dup: dup, PacketID: o.id, SubscriptionIDs: o.subIDs} // [MQTT-3.3.1-1]
	p.Message.QoS, p.Message.Retain = o.qos, o.retain
	setExpiry(&p.Message, o.expires)
	switch s.conn.deliver(&p) {
	case sentNoRoom, sentEnded:
		return false
	case sentTooLarge: // as if it had been sent (§3.1.2.11.4)
		s.b.n.dropped.add(droppedTooLarge, 1)
		delete(s.inflight, o.id)
		return true
	}
	o.flying = true
	s.flying++
	return true
}

// nextID returns a packet identifier that is not in use [MQTT-2.2.1-3].
func (s *session) nextID() uint16 {
	for {
		s.lastID++
		if _, used := s.inflight[s.lastID]; s.lastID != 0 && !used {
			return s.lastID
		}
	}
}

// acknowledged handles the client's answer to a delivery. An answer to none is not its fault: it
// may be late. One that its delivery does not allow is a protocol error.
func (s *session) acknowledged(a *plane.Ack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.inflight[a.PacketID]
	if o != nil && !o.allows(a.Type) {
		return &plane.Error{Reason: mqtt.ProtocolError, What: "acknowledgment out of order"}
	}
	switch {
	case a.Type != plane.PUBREC && o != nil:
		s.finish(o)
	case a.Type != plane.PUBREC:
	case o != nil && a.Reason.Failed(): // [MQTT-4.3.3-4]
		s.finish(o)
	case o != nil:
		o.msg = nil // [MQTT-4.3.3-6]: not sent again
		s.releaseLocked(a.PacketID, mqtt.Success)
	case !a.Reason.Failed():
		s.releaseLocked(a.PacketID, mqtt.PacketIdentifierNotFound)
	}
	s.pumpLocked()
	return nil
}

// allows reports whether the client may answer o with a packet of type t now (MQTT 5.0 §4.3).
func (o *outgoing) allows(t plane.Type) bool {
	switch t {
	case plane.PUBACK:
		return o.qos == mqtt.QoS1
	case plane.PUBREC: // also when it comes again
		return o.qos == mqtt.QoS2
	default: // PUBCOMP
		return o.qos == mqtt.QoS2 && o.msg == nil
	}
}

func (s *session) releaseLocked(id uint16, reason mqtt.ReasonCode) {
	if s.conn != nil {
		rel := plane.Ack{Type: plane.PUBREL, PacketID: id, Reason: reason}
		s.conn.send(func(b []byte) []byte { return rel.Append(b, s.conn.version) })
	}
}

func (s *session) finish(o *outgoing) {
	delete(s.inflight, o.id)
	o.done = true
	if o.flying {
		o.flying = false
		s.flying--
	}
}

func bySending(a, b *outgoing) int { return cmp.Compare(a.seq, b.seq) }

// attach makes c the session's connection and sends what is owed: first what was in flight, in
// its order and with its identifiers, then what waits.
func (s *session) attach(c *conn, access Access, window int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.access, s.window, s.offline = c, access, window, time.Time{}
	s.flying, s.resend = 0, s.resend[:0]
	for _, o := range s.inflight {
		o.flying = false
		s.resend = append(s.resend, o)
	}
	slices.SortFunc(s.resend, bySending)
	s.pumpLocked()
}

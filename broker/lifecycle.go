package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// expiryOf is how long the session of a CONNECT outlives its connection.
func (b *Broker) expiryOf(hello *plane.Connect) time.Duration {
	switch {
	case hello.Version == plane.V5:
		return b.limitExpiry(hello.SessionExpirySeconds)
	case hello.CleanStart:
		return 0
	}
	return b.opts.MaxSessionExpiry
}

func (b *Broker) limitExpiry(s uint32) time.Duration {
	if s == 1<<32-1 { // never
		return b.opts.MaxSessionExpiry
	}
	return min(time.Duration(s)*time.Second, b.opts.MaxSessionExpiry)
}

// authenticate finds out whom c acts for, and takes the client identifier for it. It returns
// false after having refused.
func (b *Broker) authenticate(c *conn) bool {
	ctx, cancel := context.WithTimeout(context.Background(), b.opts.HandshakeTimeout)
	defer cancel()
	asked := c.connInfo()
	c.keepWill()
	for range 10 {
		cuts := b.cuts.Load()
		p, err := b.auth.Authenticate(ctx, asked)
		if err != nil {
			c.refuse(refusedConnect, b.refusalOf(c, err))
			return false
		}
		id, refused := b.identify(asked.ClientID, &p)
		if refused == nil {
			refused = b.mayLeave(c.will, &p)
		}
		info := *c.info.Load()
		info.ClientID, info.Device, info.Principal = id, p.Device, p.Name
		c.info.Store(&info)
		c.owner.Store(&p)
		if refused != nil {
			c.refuse(refusedConnect, refused)
			return false
		}
		if b.cuts.Load() == cuts { // from here on, Disconnect sees whom it cuts
			return b.claim(c, id, p.Key)
		}
	}
	c.refuse(refusedConnect, &refusal{reason: mqtt.ServerBusy, why: "permissions change too fast"})
	return false
}

func (b *Broker) refusalOf(c *conn, err error) *refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return &refusal{reason: r.code(), why: err.Error()}
	}
	b.slog.Warn("client cannot be authenticated", "listener", c.l.Name, "err", err)
	return &refusal{reason: mqtt.ServerUnavailable, why: err.Error()}
}

func (c *conn) connInfo() ConnInfo {
	h := c.hello
	i := ConnInfo{
		Listener: c.l.Name, Secure: c.l.tls != nil, Peer: c.peer, Certificate: c.certificate, ServerName: c.serverName,
		RemoteAddr: c.RemoteAddr(), ProtocolVersion: c.version, ClientID: h.ClientID, UserName: h.UserName,
		Password: h.Password, PersistentConnect: c.sessionExpiry > 0, LastWill: h.Will != nil,
	}
	h.Password = nil
	if h.Will != nil {
		i.WillTopic = h.Will.Message.Topic
	}
	return i
}

// lastWords is how long a connection goes on that is going to be taken over. A client that says
// goodbye and is back at once has sent its DISCONNECT before: it must count, or its will would be
// published.
const lastWords = 20 * time.Millisecond

// claim takes the client identifier for c. A connection of the same owner that has it is taken
// over [MQTT-3.1.4-3]: claim returns when it is gone, so that at any time one connection, and
// one goroutine, acts for the identifier. The identifier of another owner is never taken over.
func (b *Broker) claim(c *conn, id, key string) bool {
	b.mu.Lock()
	holder, s := b.claims[id], b.sessions[id]
	if holder != nil && holder.owner.Load().Key != key || s != nil && s.key != key {
		b.mu.Unlock()
		c.refuse(refusedConnect, &refusal{reason: mqtt.ClientIdentifierNotValid, why: "the client identifier is held by another principal"})
		return false
	}
	var evicted *session
	if s == nil {
		var ok bool
		if evicted, ok = b.makeRoomLocked(key); !ok {
			b.mu.Unlock()
			c.refuse(refusedSessions, &refusal{reason: mqtt.QuotaExceeded, why: fmt.Sprintf("%d sessions are the limit", b.opts.MaxSessions)})
			return false
		}
	}
	b.claims[id], c.previous = c, holder
	b.mu.Unlock()

	if evicted != nil {
		b.finishSession(evicted)
		b.n.refused.add(refusedSessions, 1)
		b.event(c, Event{Kind: Limit, Reason: fmt.Sprintf("session %q ended: its principal has too many", evicted.id)})
	}
	if holder == nil {
		return true
	}
	last := time.NewTimer(lastWords)
	defer last.Stop()
	patience := time.NewTimer(b.opts.HandshakeTimeout)
	defer patience.Stop()
	select {
	case <-holder.gone:
		return true
	case <-c.out.dead:
		return false
	case <-last.C:
	}
	holder.fail(mqtt.SessionTakenOver, "")
	select {
	case <-holder.gone:
		return true
	case <-c.out.dead:
	case <-patience.C:
		c.refuse(refusedConnect, &refusal{reason: mqtt.ServerUnavailable, why: "the client's earlier connection does not end"})
	}
	return false
}

// makeRoomLocked finds room for one more session of the owner: at a limit, its oldest session
// that is offline has to go. It returns false if there is none.
func (b *Broker) makeRoomLocked(key string) (evicted *session, ok bool) {
	full := len(b.sessions) >= b.opts.MaxSessions
	if !full && b.owned[key] < b.opts.MaxSessionsPerOwner {
		return nil, true
	}
	var since time.Time
	for _, s := range b.sessions {
		if s.key != key || b.claims[s.id] != nil {
			continue
		}
		s.mu.Lock()
		offline := s.offline
		s.mu.Unlock()
		if evicted == nil || offline.Before(since) {
			evicted, since = s, offline
		}
	}
	if evicted != nil {
		b.removeLocked(evicted)
	}
	return evicted, evicted != nil || !full
}

// openSession finds or makes the session of c, before its CONNACK.
func (b *Broker) openSession(c *conn) {
	id, key := c.info.Load().ClientID, c.owner.Load().Key
	b.mu.Lock()
	s := b.sessions[id]
	var old *session
	if s != nil && (c.hello.CleanStart || s.forgotten) { // [MQTT-3.1.2-4]
		old, s = s, nil
		b.removeLocked(old)
	}
	if s == nil {
		s = newSession(b, id, key)
		b.sessions[id] = s
		b.owned[key]++
	} else {
		c.resumed = true // [MQTT-3.2.2-3]
		if s.timer != nil {
			s.timer.Stop()
			s.timer = nil
		}
	}
	b.mu.Unlock()
	if old != nil {
		b.finishSession(old)
	}
	s.takeWill() // [MQTT-3.1.3-9]
	c.sess = s
}

// startSession lets messages flow, after the CONNACK.
func (b *Broker) startSession(c *conn) {
	c.established.Store(true)
	b.event(c, Event{Kind: Connected})
	window := b.opts.Window
	if c.version == plane.V5 {
		window = maxWindow
		if c.hello.ReceiveMaximum > 0 { // [MQTT-3.3.4-9]
			window = min(window, int(c.hello.ReceiveMaximum))
		}
	}
	c.sess.attach(c, c.owner.Load().Access, window)
}

// detach takes the connection out of its session and gives its client identifier back.
func (b *Broker) detach(c *conn) {
	if c.previous != nil {
		<-c.previous.gone
		c.previous = nil
	}
	defer b.release(c)
	if c.sess == nil {
		return
	}
	expiry := c.sessionExpiry
	if c.forget.Load() {
		expiry = 0
	}
	c.sess.detach(expiry > 0)
	if c.established.Load() {
		c.out.mu.Lock()
		e := c.out.ending
		c.out.mu.Unlock()
		b.event(c, Event{Kind: Disconnected, Code: e.code, Reason: e.reason})
		b.leaveWill(c, expiry)
	}
	b.mu.Lock()
	s := c.sess
	if b.sessions[s.id] != s {
		b.mu.Unlock()
		return
	}
	if expiry > 0 && !s.forgotten {
		s.timer = time.AfterFunc(expiry, func() { b.expire(s) })
		b.mu.Unlock()
		b.handOver(s)
		return
	}
	b.removeLocked(s)
	b.mu.Unlock()
	b.finishSession(s)
}

func (b *Broker) release(c *conn) {
	info := c.info.Load()
	if info == nil {
		return
	}
	if cl, ok := b.ctl.Clients.Get(info.ClientID); ok && cl.Net.Conn == net.Conn(c) { // left behind by a bug
		b.ctl.Clients.Delete(info.ClientID)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.claims[info.ClientID] == c {
		delete(b.claims, info.ClientID)
	}
}

// expire ends a session that nobody has come back for.
func (b *Broker) expire(s *session) {
	b.mu.Lock()
	if b.sessions[s.id] != s || s.timer == nil {
		b.mu.Unlock()
		return
	}
	if b.claims[s.id] != nil { // somebody is about to come back for it, or fails to
		s.timer.Reset(time.Second)
		b.mu.Unlock()
		return
	}
	b.removeLocked(s)
	b.mu.Unlock()
	b.finishSession(s)
}

// removeLocked takes s out of the table; [Broker.finishSession] has to follow.
func (b *Broker) removeLocked(s *session) {
	if b.sessions[s.id] != s {
		return
	}
	delete(b.sessions, s.id)
	if b.owned[s.key]--; b.owned[s.key] <= 0 {
		delete(b.owned, s.key)
	}
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// finishSession drops what s holds. A will that waits is published: the session has ended before
// its delay [MQTT-3.1.2-8].
func (b *Broker) finishSession(s *session) {
	b.index.removeAll(s)
	will := s.takeWill()
	lost, shared := s.clear()
	b.mu.Lock()
	stopping := b.state == stopping
	b.mu.Unlock()
	if stopping { // there is nobody left to hand them to
		lost, shared = lost+len(shared), nil
	}
	b.n.dropped.add(droppedSessionEnd, lost)
	b.deliverAgain(shared)
	if will != nil {
		b.publishWill(will)
	}
}

// endSession ends s whatever its state.
func (b *Broker) endSession(s *session) {
	b.mu.Lock()
	b.removeLocked(s)
	b.mu.Unlock()
	b.finishSession(s)
}

// detach makes s offline.
func (s *session) detach(keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.keep, s.offline = nil, keep, time.Now()
	s.flying, s.resend = 0, nil
}

// clear ends s and returns how many messages it still held, but for those that another member of
// its group may get.
func (s *session) clear() (lost int, shared []*outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.eachShared(func(o *outgoing) bool {
		shared = append(shared, o)
		return true
	})
	lost = len(s.queue) - s.head + len(s.inflight)
	for s.head < len(s.queue) {
		s.pop()
	}
	clear(s.inflight)
	clear(s.received)
	s.queue, s.resend = nil, nil
	return lost, shared
}

func (b *Broker) queueFull(s *session, c *conn) {
	e := Event{Kind: Limit, ClientID: s.id, Code: mqtt.QuotaExceeded, Reason: "the session's queue is full: messages are dropped"}
	if c != nil {
		b.event(c, e)
		return
	}
	b.opts.Observe(e)
}

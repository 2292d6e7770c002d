package broker

import (
	"errors"
	"slices"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// A model is what the standard says of a few clients: it is told what they send and what they
// see, one step after the other, and fails when they see what they should not, or do not see what
// they should.
type model struct {
	fail     func(format string, args ...any)
	sessions map[string]*modelSession
	conns    map[string]*modelConn
	retained map[string]mqtt.Message
	shared   []*sharedItem
	inStep   int  // messages that this step has published
	unknown  bool // something happened that the model does not know about
}

type modelSession struct {
	id       string
	conn     *modelConn // nil while offline
	offline  time.Time
	expiry   time.Duration
	subs     map[mqtt.Filter]modelSub
	ever     map[mqtt.Filter]bool // shared ones that it has had
	received map[uint16]bool
	now      []*modelDelivery // QoS 0, due in this step
	queue    []*modelDelivery // QoS 1 and 2 that were not seen yet
	inflight map[uint16]*modelDelivery
	order    []*modelDelivery // of inflight
}

type modelSub struct {
	plane.Subscription
	id uint32
}

type modelConn struct {
	s          *modelSession
	version    byte
	hello      *plane.Connect
	window     int
	will       *mqtt.Message
	expiry     time.Duration
	aliases    map[uint16]string // of the client
	ourAliases map[uint16]string
	want       [][]byte // answers in their order
	ended      bool
	bye        []byte // DISCONNECT that is due
}

type modelDelivery struct {
	msg      mqtt.Message // with the QoS and the retain flag of the delivery
	ids      []uint32
	item     *sharedItem // of a shared subscription
	id       uint16
	here     bool // seen on this connection
	released bool // PUBREC sent
	relSeen  bool
}

// A sharedItem is a message for one of the members of a group.
type sharedItem struct {
	msg    mqtt.Message
	filter mqtt.Filter
	taken  bool // a member has seen it
	must   bool // a member has room for it now
}

func newModel(fail func(string, ...any)) *model {
	return &model{fail: fail, sessions: map[string]*modelSession{}, conns: map[string]*modelConn{}, retained: map[string]mqtt.Message{}}
}

// over reports whether the client has no connection any more.
func (m *model) over(id string) bool { return m.conns[id] == nil || m.conns[id].ended }

func (m *model) expire() {
	for _, s := range m.sessions {
		if s.conn == nil && time.Since(s.offline) >= s.expiry {
			m.remove(s)
		}
	}
}

// remove ends a session. What it held for a group is for another member, unless it was QoS 2.
func (m *model) remove(s *modelSession) {
	delete(m.sessions, s.id)
	m.handOver(s, func(*sharedItem) bool { return true })
}

func (m *model) handOver(s *modelSession, which func(*sharedItem) bool) {
	for id, d := range s.inflight {
		if d.item != nil && d.msg.QoS == mqtt.QoS1 && which(d.item) {
			d.item.taken = false
			s.forget(id)
		}
	}
}

func (s *modelSession) forget(id uint16) {
	d := s.inflight[id]
	delete(s.inflight, id)
	s.order = slices.DeleteFunc(s.order, func(x *modelDelivery) bool { return x == d })
}

// connected reports whether a member of the group is.
func (m *model) connected(filter mqtt.Filter) bool {
	for _, s := range m.sessions {
		if _, member := s.subs[filter]; member && s.conn != nil {
			return true
		}
	}
	return false
}

func (m *model) connects(id string, hello *plane.Connect) {
	m.expire()
	s := m.sessions[id]
	if s != nil && hello.CleanStart {
		m.remove(s)
		s = nil
	}
	present := byte(0)
	if s != nil {
		present = 1
	} else {
		s = &modelSession{
			id: id, subs: map[mqtt.Filter]modelSub{}, ever: map[mqtt.Filter]bool{}, received: map[uint16]bool{},
			inflight: map[uint16]*modelDelivery{},
		}
		m.sessions[id] = s
	}
	for _, d := range s.inflight {
		d.here, d.relSeen = false, false
	}
	c := &modelConn{
		s: s, version: hello.Version, hello: hello, window: fuzzOptions.Window, want: [][]byte{{present}},
		aliases: map[uint16]string{}, ourAliases: map[uint16]string{}, expiry: time.Duration(hello.SessionExpirySeconds) * time.Second,
	}
	switch {
	case hello.Version == plane.V5 && hello.ReceiveMaximum > 0:
		c.window = int(hello.ReceiveMaximum)
	case hello.Version == plane.V5:
		c.window = 1000
	case !hello.CleanStart:
		c.expiry = 60 * 24 * time.Hour
	}
	if hello.Will != nil {
		c.will = &hello.Will.Message
	}
	s.conn, m.conns[id] = c, c
}

// end is the end of a connection. A reason is told to clients of MQTT 5.0.
func (m *model) end(c *modelConn, reason mqtt.ReasonCode) {
	if c.ended {
		return
	}
	c.ended = true
	if reason != mqtt.Success && c.version == plane.V5 {
		c.bye = (&plane.Disconnect{Reason: reason}).Append(nil, plane.V5)
	}
	s := c.s
	s.conn, s.offline, s.expiry = nil, time.Now(), c.expiry
	if c.expiry == 0 {
		m.remove(s)
	}
	if c.will != nil {
		m.publish(*c.will, s.id)
	}
	if c.expiry > 0 {
		m.handOver(s, func(item *sharedItem) bool { return m.connected(item.filter) })
	}
}

func (m *model) lost(id string) {
	m.expire()
	m.end(m.conns[id], mqtt.Success)
}

func (m *model) takenOver(id string) {
	m.expire()
	m.end(m.conns[id], mqtt.SessionTakenOver)
}

func (m *model) violates(id string, err error) {
	m.expire()
	var bad *plane.Error
	errors.As(err, &bad)
	m.end(m.conns[id], bad.Reason)
}

package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/pki/identity"
)

// A conn is one connection. It is the net.Conn that mochi gets.
//
// Fields without a guard belong to the goroutine that serves the connection.
type conn struct {
	b        *Broker
	l        *listener
	raw      *socket
	nc       net.Conn // raw, or the TLS connection over it; set before the connection is served
	remote   string
	host     string // remote without its port
	accepted time.Time

	peer        identity.Peer
	certificate *x509.Certificate
	serverName  string
	turnedAway  *refusal // the connection is only served to be told so

	// Reading.
	in       []byte // bytes that were read and not handled yet, at the end of buf
	buf      []byte
	full     bool      // the last read filled buf
	pass     []byte    // frames of our making that mochi has not read yet
	deadline time.Time // for the next whole packet; zero waits forever
	pub      plane.Publish
	aliases  map[uint16]string // of the client

	// What the CONNECT said, and what became of it.
	hello         *plane.Connect // nil before it
	version       byte
	keepAlive     time.Duration
	sessionExpiry time.Duration
	will          *plane.Will // nil without, and once the client has taken its leave
	resumed       bool
	sess          *session
	previous      *conn // who had the client identifier before

	info        atomic.Pointer[Session]   // set with the CONNECT, more with the session
	owner       atomic.Pointer[Principal] // set when authenticated
	welcomed    atomic.Bool               // an accepting CONNACK is on its way: a DISCONNECT may follow
	established atomic.Bool
	forget      atomic.Bool // the session ends with the connection
	gone        chan struct{}

	out outbound
}

var errClosed = net.ErrClosed

func newConn(b *Broker, l *listener, raw *socket) *conn {
	c := &conn{b: b, l: l, raw: raw, remote: raw.RemoteAddr().String(), accepted: time.Now(), gone: make(chan struct{})}
	c.host = c.remote
	if host, _, err := net.SplitHostPort(c.remote); err == nil {
		c.host = host
	}
	c.out.init()
	c.deadline = c.accepted.Add(b.opts.HandshakeTimeout)
	return c
}

// secure finishes the TLS handshake, if there is one, and finds out who is there.
func (c *conn) secure() error {
	if c.l.tls == nil {
		c.open(c.raw)
		return nil
	}
	if err := c.raw.SetDeadline(c.deadline); err != nil {
		return err
	}
	t := tls.Server(c.raw, c.l.tls)
	if err := t.HandshakeContext(context.Background()); err != nil {
		return err
	}
	state := t.ConnectionState()
	c.serverName = state.ServerName
	if len(state.PeerCertificates) > 0 {
		c.certificate = state.PeerCertificates[0]
		peer, err := c.identify(state.PeerCertificates)
		if err != nil {
			return &refusal{reason: mqtt.NotAuthorized, why: "client certificate: " + err.Error()}
		}
		c.peer = peer
	}
	if err := c.raw.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c.open(t)
	return nil
}

func (c *conn) identify(certs []*x509.Certificate) (identity.Peer, error) {
	if c.l.Peer != nil {
		return c.l.Peer(certs)
	}
	leaf := certs[0]
	return identity.Peer{
		CertificateID: identity.CertificateID(leaf), Serial: leaf.SerialNumber.Text(16),
		CommonName: leaf.Subject.CommonName, NotAfter: leaf.NotAfter,
	}, nil
}

// Read handles the client's frames and returns what mochi is to see. Before the CONNACK that is
// the CONNECT alone, as mochi asks for nothing else: frames that came with it wait for the answer.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.pass) == 0 {
		h, frame, err := c.nextFrame()
		if err != nil {
			return 0, c.readFailed(err)
		}
		if c.closing() { // fenced: nothing that comes later counts
			return 0, errClosed
		}
		if err := c.handle(h, frame[h.Start:]); err != nil {
			return 0, c.readFailed(err)
		}
	}
	n := copy(p, c.pass)
	c.pass = c.pass[n:]
	return n, nil
}

// A read buffer starts small, as most clients are idle.
const (
	minReadBuffer  = 1 << 10
	keepReadBuffer = 16 << 10
)

// frameTimeout is how long one packet may take to arrive when there is no keep alive.
const frameTimeout = 2 * time.Minute

// nextFrame returns the next whole frame. It is valid until the next call.
func (c *conn) nextFrame() (plane.Header, []byte, error) {
	// Counted from here, so that a connection that we paused counts as alive.
	if c.hello != nil && c.keepAlive > 0 {
		c.deadline = time.Now().Add(c.keepAlive + c.keepAlive/2) // [MQTT-3.1.2-22]
	} else if c.hello != nil {
		c.deadline = time.Time{}
	}
	for {
		if c.hello == nil && len(c.in) > 0 && plane.Type(c.in[0]>>4) != plane.CONNECT { // [MQTT-3.1.0-1]
			return plane.Header{}, nil, &plane.Error{Reason: mqtt.ProtocolError, What: "the first packet is not a CONNECT"}
		}
		h, ok, err := plane.ParseHeader(c.in, c.b.opts.MaxPacketBytes)
		if err != nil {
			return h, nil, err
		}
		if ok && len(c.in) >= h.Size {
			frame := c.in[:h.Size:h.Size]
			c.in = c.in[h.Size:]
			return h, frame, nil
		}
		if len(c.in) > 0 && c.deadline.IsZero() {
			c.deadline = time.Now().Add(frameTimeout)
		}
		if err := c.fill(); err != nil {
			return h, nil, err
		}
	}
}

// fill reads more bytes. The buffer grows with what arrives, not with what is announced.
func (c *conn) fill() error {
	if len(c.in) == 0 && cap(c.buf) > keepReadBuffer {
		c.buf = nil
	}
	if len(c.in) == cap(c.buf) || c.full && cap(c.buf) < keepReadBuffer {
		grown := make([]byte, max(2*cap(c.buf), minReadBuffer))
		c.buf = grown[:copy(grown, c.in)]
	} else {
		c.buf = c.buf[:copy(c.buf[:cap(c.buf)], c.in)]
	}
	if err := c.armRead(); err != nil {
		return err
	}
	n, err := c.nc.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	c.in, c.full = c.buf, len(c.buf) == cap(c.buf)
	c.b.n.bytesIn.Add(uint64(n))
	if n > 0 {
		return nil
	}
	return err
}

// readFailed ends the connection for err, which is what its client did or what the network did.
func (c *conn) readFailed(err error) error {
	var bad *plane.Error
	switch {
	case c.closing():
	case errors.As(err, &bad):
		c.violated(bad)
	case isTimeout(err) && c.hello == nil:
		c.refuse(refusedTimeout, &refusal{reason: mqtt.MaximumConnectTime, why: "no CONNECT in time"})
	case isTimeout(err):
		c.fail(mqtt.KeepAliveTimeout, "")
	default:
		c.lost()
	}
	return err
}

// violated answers a malformed packet or a protocol error.
func (c *conn) violated(bad *plane.Error) {
	if !c.established.Load() {
		c.refuse(refusedMalformed, &refusal{reason: bad.Reason, why: bad.What})
		return
	}
	c.b.n.refused.add(refusedMalformed, 1)
	c.fail(bad.Reason, bad.What)
}

// handle acts on one frame of the client.
func (c *conn) handle(h plane.Header, body []byte) error {
	if c.hello == nil {
		return c.handleConnect(body)
	}
	if h.Type == plane.PUBLISH {
		return c.handlePublish(h, body)
	}
	p, err := plane.Parse(c.version, h, body)
	if err != nil {
		return err
	}
	switch p := p.(type) {
	case *plane.Ack:
		return c.handleAck(p)
	case *plane.Subscribe:
		c.subscribe(p)
	case *plane.Unsubscribe:
		c.unsubscribe(p)
	case *plane.Ping:
		c.pass = p.Append(nil, c.version)
	case *plane.Disconnect:
		return c.handleDisconnect(p)
	case *plane.Connect: // [MQTT-3.1.0-2]
		return &plane.Error{Reason: mqtt.ProtocolError, What: "a second CONNECT"}
	default: // AUTH: nobody is admitted with an authentication method (§4.12)
		return &plane.Error{Reason: mqtt.ProtocolError, What: "AUTH without an authentication method"}
	}
	return nil
}

func (c *conn) handleConnect(body []byte) error {
	hello, err := plane.ParseConnect(body)
	c.version = hello.Version
	if err != nil {
		return err
	}
	c.hello, c.will = hello, hello.Will
	c.keepAlive = time.Duration(hello.KeepAlive) * time.Second
	if limit := c.b.opts.MaxKeepAlive; c.version == plane.V5 && limit > 0 && (c.keepAlive == 0 || c.keepAlive > limit) {
		c.keepAlive = limit // §3.2.2.3.14
	}
	c.sessionExpiry = c.b.expiryOf(hello)
	c.info.Store(&Session{
		ClientID: hello.ClientID, CertificateID: c.peer.CertificateID, Connected: c.b.opts.Now(), Address: c.remote,
		Listener: c.l.Name, ProtocolVersion: c.version, KeepAlive: c.keepAlive, CleanStart: hello.CleanStart,
	})
	switch {
	case c.turnedAway != nil: // counted when it was accepted
		c.sendRefusal(c.turnedAway)
		return errClosed
	case hello.HasAuthMethod:
		c.refuse(refusedConnect, &refusal{reason: mqtt.BadAuthenticationMethod, why: "authentication methods are not supported"})
		return errClosed
	case c.version == plane.V311 && hello.ClientID == "" && !hello.CleanStart: // MQTT 3.1.1 [MQTT-3.1.3-8]
		c.refuse(refusedConnect, &refusal{reason: mqtt.ClientIdentifierNotValid, why: "no client identifier for a session that stays"})
		return errClosed
	}
	clean := plane.Connect{Version: c.version, CleanStart: true, ClientID: hello.ClientID}
	c.pass = clean.Append(nil, c.version)
	return nil
}

func (c *conn) handleDisconnect(p *plane.Disconnect) error {
	if p.HasSessionExpiry {
		if p.SessionExpirySeconds > 0 && c.hello.SessionExpirySeconds == 0 { // §3.14.2.2.2
			return &plane.Error{Reason: mqtt.ProtocolError, What: "session expiry that was 0 is changed"}
		}
		c.sessionExpiry = c.b.limitExpiry(p.SessionExpirySeconds)
	}
	if p.Reason == mqtt.NormalDisconnection { // [MQTT-3.14.4-3]
		c.will = nil
	}
	c.shut(ending{code: p.Reason, reason: "closed by the client"})
	return io.EOF
}

// refuse answers a CONNECT, or what came instead of one, and ends the connection.
func (c *conn) refuse(counter string, r *refusal) {
	if c.sendRefusal(r) {
		c.b.refused(c, ConnectRefused, counter, r)
	}
}

func (c *conn) sendRefusal(r *refusal) bool {
	var frame []byte
	if c.version != 0 || r.reason == mqtt.UnsupportedProtocolVersion {
		frame = plane.AppendConnAckRefusal(nil, c.version, r.reason)
	}
	if !c.takes(len(frame)) {
		frame = nil
	}
	return c.shut(ending{code: r.reason, reason: r.why, last: frame, linger: true})
}

// fail ends the connection for a reason of ours, which an MQTT 5.0 client is told. It can be
// called by anybody. It returns false if the connection had ended before.
func (c *conn) fail(code mqtt.ReasonCode, why string) bool {
	e := ending{code: code, reason: code.String(), linger: true}
	if why != "" {
		e.reason += ": " + why
	}
	e.last = c.goodbye(code)
	return c.shut(e)
}

// goodbye is the DISCONNECT that says code; clients below 5.0 never get one.
func (c *conn) goodbye(code mqtt.ReasonCode) []byte {
	if !c.welcomed.Load() || c.version != plane.V5 {
		return nil
	}
	return (&plane.Disconnect{Reason: code}).Append(nil, c.version)
}

// lost ends a connection that the network or the client ended without a DISCONNECT.
func (c *conn) lost() { c.shut(ending{code: mqtt.UnspecifiedError, reason: "connection lost"}) }

// stopServing ends the connection because the broker stops: nothing more is read, and
// acknowledgments that wait for a commit are sent first.
func (c *conn) stopServing() {
	code := mqtt.ServerShuttingDown
	c.shut(ending{code: code, reason: code.String(), last: c.goodbye(code), patient: true, linger: true})
}

// end is called once, when mochi is done with the connection.
func (c *conn) end() {
	c.lost() // unless something else ended it
	c.b.guard(c, func() { c.b.detach(c) })
	close(c.gone)
	c.closeSocket()
}

// serving reports whether c has its session and has not ended.
func (c *conn) serving() bool { return c.established.Load() && !c.closing() }

// abandon marks a connection as ended that was never served.
func (c *conn) abandon() { close(c.gone) }

// Write takes mochi's packets: a CONNACK, a PINGRESP. Its DISCONNECTs are dropped, as ours says it.
func (c *conn) Write(p []byte) (int, error) {
	welcome := false
	switch plane.Type(p[0] >> 4) {
	case plane.CONNACK:
		welcome = accepts(p)
		if !c.takes(len(p)) {
			c.refuse(refusedConnect, &refusal{reason: mqtt.PacketTooLarge, why: "the client accepts no packet as large as a CONNACK"})
			return 0, errClosed
		}
	case plane.PINGRESP:
	default:
		return len(p), nil
	}
	if !c.send(func(b []byte) []byte {
		if welcome {
			c.welcomed.Store(true) // before the client can know
		}
		return append(b, p...)
	}) {
		return 0, errClosed
	}
	return len(p), nil
}

// accepts reports whether a CONNACK lets the client in: its second byte after the length is zero
// (MQTT 5.0 §3.2.2.2).
func accepts(connack []byte) bool {
	i := 1
	for i < len(connack) && connack[i]&0x80 != 0 {
		i++
	}
	return i+2 < len(connack) && connack[i+2] == 0
}

// Close is mochi's way to end a connection.
func (c *conn) Close() error {
	c.lost()
	return nil
}

// LocalAddr implements [net.Conn].
func (c *conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline does nothing: mochi's arithmetic overflows, and all deadlines are held here.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see [conn.SetDeadline].
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; see [conn.SetDeadline].
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*conn)(nil)

package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/pki/identity"
)

// A Listener is one way in.
type Listener struct {
	Name string       // unique
	Net  net.Listener // the broker closes it
	TLS  *tls.Config  // nil means a plain connection

	// Peer says whom the certificates of a finished handshake name, leaf first; an error refuses
	// the connection. Nil takes the leaf's fields as they stand, without a role.
	Peer func(certs []*x509.Certificate) (identity.Peer, error)
}

type listener struct {
	Listener
	tls *tls.Config
}

// Serve adds a listener, before or during [Broker.Run]. It does not wait for the listener's end.
// It fails if the name is taken or the broker has stopped; l.Net is then the caller's to close.
func (b *Broker) Serve(l Listener) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == stopping {
		return wrapListener(l.Name, ErrStopped)
	}
	if _, taken := b.listeners[l.Name]; taken {
		return wrapListener(l.Name, errors.New("the name is taken"))
	}
	in := &listener{Listener: l}
	if l.TLS != nil {
		in.tls = l.TLS.Clone()
		in.tls.GetConfigForClient = noteSmallRecords(l.TLS.GetConfigForClient)
	}
	b.listeners[l.Name] = in
	if b.state == started {
		b.startAccepting(in)
	}
	return nil
}

// noteSmallRecords remembers which clients ask for short TLS records (RFC 6066 §4). Go does not
// answer them, but what we write in short pieces arrives in short records.
func noteSmallRecords(next func(*tls.ClientHelloInfo) (*tls.Config, error)) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	const maxFragmentLength = 1
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s, ok := hello.Conn.(*socket); ok {
			for _, extension := range hello.Extensions {
				if extension == maxFragmentLength {
					s.small.Store(true)
				}
			}
		}
		if next == nil {
			return nil, nil
		}
		return next(hello)
	}
}

// A socket is an accepted connection.
type socket struct {
	net.Conn
	heard atomic.Bool // something was read
	small atomic.Bool // the client cannot take long TLS records
}

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 && !s.heard.Load() {
		s.heard.Store(true)
	}
	return n, err
}

// startAccepting is called with mu held.
func (b *Broker) startAccepting(l *listener) {
	b.accepting.Add(1)
	go func() {
		defer b.accepting.Done()
		b.accept(l)
	}()
}

func (b *Broker) accept(l *listener) {
	var pause time.Duration
	for {
		raw, err := l.Net.Accept()
		if err == nil {
			pause = 0
			b.admit(l, &socket{Conn: raw})
			continue
		}
		b.mu.Lock()
		stopping := b.state == stopping
		b.mu.Unlock()
		if stopping {
			return
		}
		if errors.Is(err, net.ErrClosed) {
			select {
			case b.failed <- wrapListener(l.Name, fmt.Errorf("accept: %w", err)):
			default:
			}
			return
		}
		// Out of file descriptors, most likely: time heals it.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		b.slog.Warn("accept failed, retrying", "listener", l.Name, "err", err)
		time.Sleep(pause)
	}
}

// refusedAtOnce is how many connections beyond a limit are served at the same time for the sake
// of a clear refusal; more are just closed.
const refusedAtOnce = 16

// admit counts a new connection and starts to serve it, or turns it away.
func (b *Broker) admit(l *listener, s *socket) {
	b.n.accepted.Add(1)
	c := newConn(b, l, s)
	b.mu.Lock()
	counter := ""
	switch {
	case b.state == stopping:
		counter = refusedClients
		c.turnedAway = &refusal{reason: mqtt.ServerShuttingDown, why: "the broker is stopping"}
	case b.admitted >= b.opts.MaxClients:
		counter = refusedClients
		c.turnedAway = &refusal{reason: mqtt.ServerBusy, why: fmt.Sprintf("%d connections are the limit", b.opts.MaxClients)}
	case b.addresses[c.host] >= b.opts.MaxPerAddress:
		counter = refusedPerAddress
		c.turnedAway = &refusal{reason: mqtt.QuotaExceeded, why: fmt.Sprintf("%d connections of one address are the limit", b.opts.MaxPerAddress)}
	}
	serve := true
	if c.turnedAway == nil {
		b.admitted++
		b.addresses[c.host]++
	} else if serve = b.state != stopping && b.refusing < refusedAtOnce; serve {
		b.refusing++
	}
	if serve {
		b.conns[c] = struct{}{}
		b.running.Add(1)
	}
	b.mu.Unlock()

	if c.turnedAway != nil {
		b.refused(c, Limit, counter, c.turnedAway)
	}
	if !serve {
		_ = s.Close()
		return
	}
	go b.handshake(c)
}

// leave undoes what admit counted. It is the last thing that happens to a connection.
func (b *Broker) leave(c *conn) {
	b.mu.Lock()
	delete(b.conns, c)
	if c.turnedAway != nil {
		b.refusing--
	} else {
		b.admitted--
		if b.addresses[c.host]--; b.addresses[c.host] == 0 {
			delete(b.addresses, c.host)
		}
	}
	b.mu.Unlock()
	b.running.Done()
}

// handshake finishes the TLS handshake and starts to serve the connection, in a goroutine of its
// own: the stack that grew here goes away with this one.
func (b *Broker) handshake(c *conn) {
	if err := c.secure(); err != nil {
		var ref *refusal
		counter := refusedTLS
		switch {
		case c.closing():
		case errors.As(err, &ref):
			b.refused(c, ConnectRefused, refusedCertificate, ref)
		case !c.raw.heard.Load() && !isTimeout(err): // somebody looked whether the port is open
			b.n.refused.add(counter, 1)
		default:
			if isTimeout(err) {
				counter = refusedTimeout
			}
			b.refused(c, ConnectRefused, counter, &refusal{reason: mqtt.NotAuthorized, why: "TLS handshake: " + err.Error()})
		}
		_ = c.raw.Close()
		c.abandon()
		b.leave(c)
		return
	}
	go b.serve(c)
}

// serve runs an accepted connection to its end.
func (b *Broker) serve(c *conn) {
	defer b.leave(c)
	defer c.end()
	// What mochi says about the end of a connection was decided, and told, by the connection.
	b.guard(c, func() { _ = b.ctl.EstablishConnection(c.l.Name, c) })
}

// guard lets a bug cost one connection.
func (b *Broker) guard(c *conn, do func()) {
	defer func() {
		if p := recover(); p != nil {
			b.n.panics.Add(1)
			b.slog.Error("connection ended by a bug", "listener", c.l.Name, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			b.event(c, Event{Kind: Panic, Code: mqtt.ImplementationSpecificError, Reason: fmt.Sprint(p)})
			c.fail(mqtt.ImplementationSpecificError, "bug")
		}
	}()
	do()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func (r *refusal) Error() string { return r.why }

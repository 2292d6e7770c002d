package mqttclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sync/errgroup"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

const (
	bufferBytes = 64 << 10
	goodbye     = time.Second // how long a connection may take to end in good order
)

// conn is one connection, from CONNACK to its end. It is the bridge.Link of its session.
type conn struct {
	client  *Client
	nc      net.Conn
	r       *bufio.Reader
	session bridge.Session
	heard   atomic.Int64 // when bytes last came, in nanoseconds since started
	started time.Time

	mu      sync.Mutex
	closed  bool
	out     []byte                 // waits for the writer
	written []func(error)          // done of the QoS 0 publishes in out
	pending map[uint16]func(error) // done of the QoS 1 publishes, by packet identifier
	lastID  uint16
	suback  map[uint16]chan []byte // return codes, by packet identifier
	inbound []*delivery            // QoS 1 messages that were not acknowledged yet, in the order of arrival
	wake    chan struct{}          // holds a token while out has something for the writer
}

// A delivery is one QoS 1 message that came down.
type delivery struct {
	id    uint16
	acked bool
}

// Run implements [bridge.Upstream].
func (c *Client) Run(ctx context.Context, s bridge.Session) error {
	ready, cancel := context.WithTimeoutCause(ctx, c.opts.Timeout, fmt.Errorf("no answer within %v", c.opts.Timeout))
	defer cancel()
	cn, err := c.open(ready, s)
	if err == nil {
		err = cn.serve(ctx, ready)
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && ready.Err() != nil:
		return fmt.Errorf("connect to %s: %w", c.url, context.Cause(ready))
	}
	return err
}

// open dials and does the handshake of MQTT.
func (c *Client) open(ctx context.Context, s bridge.Session) (*conn, error) {
	password, err := c.password()
	if err != nil {
		return nil, err
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	cn := &conn{
		client: c, nc: nc, session: s, started: time.Now(),
		pending: make(map[uint16]func(error)), suback: make(map[uint16]chan []byte), wake: make(chan struct{}, 1),
	}
	cn.r = bufio.NewReaderSize(hearing{cn}, bufferBytes)
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = cn.handshake(password)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = nc.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect to %s: %w", c.url, err)
	}
	return cn, nil
}

func (cn *conn) handshake(password secret) error {
	o := cn.client.opts
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4 // [MQTT-3.1.2-1]
	p.ClientIdentifier = cn.client.clientID
	p.CleanSession = len(cn.session.Subscriptions) == 0
	p.Keepalive = uint16(math.Ceil(o.KeepAlive.Seconds()))
	if o.Username != "" {
		p.UsernameFlag, p.Username = true, o.Username
	}
	if password != "" {
		p.PasswordFlag, p.Password = true, []byte(password)
	}
	if err := p.Write(cn.nc); err != nil {
		return err
	}
	first, n, err := readHeader(cn.r)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the broker closed the connection instead of answering CONNECT: check the port, and whether it wants TLS or a client certificate")
	}
	if err != nil {
		return err
	}
	if first>>4 != packets.Connack || n != 2 { // [MQTT-3.2.0-1]
		return fmt.Errorf("the answer to CONNECT is no CONNACK (first byte %#02x): is this an MQTT broker?", first)
	}
	var body [2]byte
	if _, err := io.ReadFull(cn.r, body[:]); err != nil {
		return err
	}
	if code := body[1]; code != 0 {
		return fmt.Errorf("the broker refuses: %s", connackText(code, cn.client.clientID))
	}
	return nil
}

// serve runs the connection until it ends. ready bounds the time until the subscriptions stand.
func (cn *conn) serve(ctx, ready context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	readerEnded := make(chan struct{})
	g.Go(func() error {
		defer close(readerEnded)
		return cn.read(gctx)
	})
	g.Go(func() error { return cn.write(ctx, gctx) })
	g.Go(func() error { return cn.watch(gctx) })
	g.Go(func() error {
		granted, err := cn.subscribe(gctx, ready)
		if err == nil {
			cn.session.Connected(cn, granted)
		}
		return err
	})
	g.Go(func() error { // ends the others
		<-gctx.Done()
		if ctx.Err() != nil { // in good order: the writer says goodbye, the broker hangs up [MQTT-3.14.4-3]
			_ = cn.nc.SetDeadline(time.Now().Add(goodbye)) // a broker may forget what it has not read when it sees the end
			<-readerEnded
		}
		return cn.nc.Close()
	})
	err := g.Wait()
	cn.lose(err)
	return err
}

// lose reports everything that was not acknowledged.
func (cn *conn) lose(cause error) {
	err := bridge.ErrLost
	if cause != nil {
		err = fmt.Errorf("%w: %w", bridge.ErrLost, cause)
	}
	cn.mu.Lock()
	cn.closed = true
	pending, written := cn.pending, cn.written
	cn.pending, cn.written, cn.out, cn.inbound = nil, nil, nil, nil
	cn.mu.Unlock()
	for _, done := range pending {
		done(err)
	}
	for _, done := range written {
		done(err)
	}
}

// Publish implements [bridge.Link].
func (cn *conn) Publish(m mqtt.Message, done func(error)) {
	if err := mqtt.ValidateTopic(m.Topic, 0); err != nil {
		done(&bridge.RefusedError{Why: err.Error()})
		return
	}
	if n := publishSize(m); n > maxRemaining { // [MQTT-2.2.3]
		done(&bridge.RefusedError{Why: fmt.Sprintf("%d bytes are more than an MQTT packet can hold", n)})
		return
	}
	cn.mu.Lock()
	if cn.closed {
		cn.mu.Unlock()
		done(bridge.ErrLost)
		return
	}
	var id uint16
	if m.QoS > 0 {
		if id = cn.freeID(); id == 0 {
			cn.mu.Unlock()
			done(fmt.Errorf("%w: all packet identifiers are in use", bridge.ErrLost))
			return
		}
		cn.pending[id] = done
	} else {
		cn.written = append(cn.written, done)
	}
	cn.out = appendPublish(cn.out, m, id)
	cn.mu.Unlock()
	cn.signal()
}

// freeID returns a packet identifier that is not in use, 0 if there is none [MQTT-2.3.1-2].
func (cn *conn) freeID() uint16 {
	for range math.MaxUint16 {
		cn.lastID++
		if cn.lastID == 0 { // [MQTT-2.3.1-1]
			cn.lastID = 1
		}
		_, publish := cn.pending[cn.lastID]
		_, subscribe := cn.suback[cn.lastID]
		if !publish && !subscribe {
			return cn.lastID
		}
	}
	return 0
}

func (cn *conn) signal() {
	select {
	case cn.wake <- struct{}{}:
	default:
	}
}

// write sends what has gathered, as often as there is something. When parent is cancelled it
// sends the rest and DISCONNECT.
func (cn *conn) write(parent, ctx context.Context) error {
	var buf []byte
	var written []func(error)
	for {
		ending := false
		select {
		case <-cn.wake:
		case <-ctx.Done():
			if parent.Err() == nil {
				return nil
			}
			ending = true
		}
		cn.mu.Lock()
		buf, cn.out = cn.out, buf[:0]
		written, cn.written = cn.written, written[:0]
		cn.mu.Unlock()
		if ending {
			buf = append(buf, packets.Disconnect<<4, 0)
		}
		if _, err := cn.nc.Write(buf); err != nil {
			for _, done := range written {
				done(fmt.Errorf("%w: %w", bridge.ErrLost, err))
			}
			return ended(err)
		}
		for i, done := range written {
			done(nil)
			written[i] = nil
		}
		if ending {
			return nil
		}
		if cap(buf) > 4*bufferBytes { // one burst of large messages must not stay for ever
			buf = nil
		}
	}
}

// watch pings when nothing has been heard for a while, and gives the connection up when nothing
// comes back. It notices a cut line within the keepalive time.
func (cn *conn) watch(ctx context.Context) error {
	keepAlive := cn.client.opts.KeepAlive
	ticker := time.NewTicker(keepAlive / 5)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		silence := time.Since(cn.started) - time.Duration(cn.heard.Load())
		if silence > keepAlive-keepAlive/10 {
			return fmt.Errorf("nothing was heard from %s for %v: the line is cut or the broker hangs", cn.client.url, silence.Round(time.Millisecond))
		}
		if silence > keepAlive/3 { // [MQTT-3.1.2-23]
			cn.mu.Lock()
			cn.out = append(cn.out, packets.Pingreq<<4, 0)
			cn.mu.Unlock()
			cn.signal()
		}
	}
}

// hearing is the socket, noting when bytes came.
type hearing struct{ cn *conn }

func (h hearing) Read(p []byte) (int, error) {
	n, err := h.cn.nc.Read(p)
	h.cn.heard.Store(int64(time.Since(h.cn.started)))
	return n, err
}

// ended marks errors that mean that the other side closed the connection.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w (%w)", bridge.ErrClosed, err)
	}
	return err
}

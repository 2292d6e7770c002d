package bench

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// A Target is the broker to load.
type Target struct {
	Address string        // host:port
	TLS     []*tls.Config // connections take turns with these; nil: TCP without TLS
	PID     int           // of the broker, on this machine; 0: its cost is not known
}

const (
	dialTimeout = 10 * time.Second
	keepAlive   = 600 // seconds; longer than any run, as subscribers do not ping
	dialers     = 8   // connections that are being made at the same time
)

// A client is one connection to the broker.
type client struct {
	nc   net.Conn // TLS, if there is any
	wire *wire
	in   *scanner
	id   string
}

// A wire counts what comes from the socket, and reads much at once also when TLS asks for little.
type wire struct {
	net.Conn
	ahead    *bufio.Reader
	received atomic.Int64
}

func (w *wire) Read(p []byte) (int, error) {
	if w.ahead != nil && w.ahead.Buffered() > 0 {
		return w.ahead.Read(p)
	}
	var n int
	var err error
	if w.ahead != nil {
		n, err = w.ahead.Read(p)
		w.received.Add(int64(n + w.ahead.Buffered()))
		return n, err
	}
	n, err = w.Conn.Read(p)
	w.received.Add(int64(n))
	return n, err
}

// dial makes the connection, n-th of its kind, without MQTT.
func (t Target) dial(ctx context.Context, n, buffer int) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: raw}
	c := &client{nc: w, wire: w}
	if len(t.TLS) > 0 {
		if buffer > 1<<10 {
			w.ahead = bufio.NewReaderSize(raw, buffer)
		}
		cfg := t.TLS[n%len(t.TLS)].Clone()
		cfg.DynamicRecordSizingDisabled = true // full records from the start
		if cfg.ServerName == "" {
			cfg.ServerName, _, _ = net.SplitHostPort(t.Address)
		}
		secure := tls.Client(w, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("TLS handshake with %s: %w", t.Address, err)
		}
		c.nc = secure
	}
	c.in = newScanner(c.nc, buffer)
	return c, nil
}

// connect makes the connection and starts a session. present says whether there was one.
func (t Target) connect(ctx context.Context, n, buffer int, id string, clean bool) (c *client, present bool, err error) {
	if c, err = t.dial(ctx, n, buffer); err != nil {
		return nil, false, err
	}
	present, err = c.hello(ctx, id, clean)
	if err != nil {
		c.drop()
		return nil, false, fmt.Errorf("connect as %s: %w", id, err)
	}
	return c, present, nil
}

func (c *client) hello(ctx context.Context, id string, clean bool) (present bool, err error) {
	c.id = id
	frame, body, err := c.ask(ctx, &plane.Connect{Version: plane.V311, ClientID: id, CleanStart: clean, KeepAlive: keepAlive}, plane.CONNACK)
	if err != nil {
		return false, err
	}
	if len(frame) != body+2 {
		return false, errFrame
	}
	if code := frame[body+1]; code != 0 {
		return false, fmt.Errorf("the broker refuses with return code %d", code)
	}
	return frame[body] == 1, nil
}

// ask sends a packet and awaits the answer of type want. Nothing else may come before it.
func (c *client) ask(ctx context.Context, p plane.Packet, want plane.Type) (frame []byte, body int, err error) {
	if err := c.nc.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, 0, err
	}
	defer c.nc.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection tells at its next use
	stop := context.AfterFunc(ctx, c.drop)
	defer stop()
	if _, err := c.nc.Write(p.Append(nil, plane.V311)); err != nil {
		return nil, 0, err
	}
	if frame, body, err = c.in.await(); err != nil {
		return nil, 0, errors.Join(ctx.Err(), err)
	}
	if typeOf(frame) != want {
		return nil, 0, fmt.Errorf("packet type %d came instead of %d", typeOf(frame), want)
	}
	return frame, body, nil
}

// subscribe asks for filters, all with the same QoS.
func (c *client) subscribe(ctx context.Context, qos byte, filters ...string) error {
	p := &plane.Subscribe{PacketID: 1}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, plane.Subscription{Filter: mqtt.Filter(f), QoS: mqtt.QoS(qos)})
	}
	frame, body, err := c.ask(ctx, p, plane.SUBACK)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", filters[0], err)
	}
	if len(frame) != body+2+len(filters) {
		return fmt.Errorf("subscribe to %s: %w", filters[0], errFrame)
	}
	for i, code := range frame[body+2:] {
		if code != qos {
			return fmt.Errorf("subscribe to %s: the broker grants 0x%02x instead of QoS %d", filters[i], code, qos)
		}
	}
	return nil
}

// leave ends the session in the protocol's way.
func (c *client) leave() {
	_ = c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.nc.Write((&plane.Disconnect{}).Append(nil, plane.V311))
	c.drop()
}

func (c *client) drop() { _ = c.wire.Conn.Close() }

// forget ends the persistent session of id, if there is one. n is that of its connection: the
// session belongs to the owner of the certificate.
func (t Target) forget(ctx context.Context, n int, id string) error {
	c, _, err := t.connect(ctx, n, 1<<10, id, true)
	if err != nil {
		return fmt.Errorf("remove the session of %s: %w", id, err)
	}
	c.leave()
	return nil
}

// each makes n things, some of them at the same time.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(dialers)
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(ctx, i)
		})
	}
	return g.Wait()
}

// runName tells this run's topics and clients from those of others.
func runName() string {
	var b [4]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

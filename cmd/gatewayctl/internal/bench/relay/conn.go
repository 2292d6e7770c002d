package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

const (
	readBytes  = 64 << 10
	maxPacket  = 1 << 20
	maxRoutes  = 4096 // topics per connection whose matches are kept
	helloAfter = 10 * time.Second
)

var errUnsupported = errors.New("not supported by the relay")

// A conn is one client.
type conn struct {
	r       *Relay
	in      io.Reader
	out     *outbound
	filters map[mqtt.Filter]bool
	hello   bool // CONNECT was seen

	routes  map[string][]destination // as of changes
	changes uint64
	touched []*outbound // to be flushed
}

func newConn(r *Relay, raw rawConn) (*conn, error) {
	out, err := newOutbound(raw)
	if err != nil {
		return nil, err
	}
	return &conn{r: r, in: raw, out: out, filters: map[mqtt.Filter]bool{}, routes: map[string][]destination{}}, nil
}

// secure does the TLS handshake. After it TLS writes into the outbound buffer only.
func (c *conn) secure(ctx context.Context, cfg *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, helloAfter)
	defer cancel()
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	w := &sink{rawConn: c.out.raw, ahead: bufio.NewReaderSize(c.out.raw, readBytes)}
	t := tls.Server(w, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	w.collect()
	c.in, c.out.tls, c.out.sink = t, t, w
	return nil
}

// run reads and handles frames until the client leaves or does what the relay cannot.
func (c *conn) run() error {
	defer c.flush() // also what came before the last frame
	buf := make([]byte, readBytes)
	r, w := 0, 0
	for {
		n, err := c.in.Read(buf[w:])
		if n == 0 && err != nil {
			return err
		}
		w += n
		for {
			h, ok, err := plane.ParseHeader(buf[r:w], maxPacket)
			if err != nil {
				return err
			}
			if !ok || h.Size > w-r {
				if ok && h.Size > len(buf) {
					bigger := make([]byte, h.Size)
					w = copy(bigger, buf[r:w])
					buf, r = bigger, 0
				}
				break
			}
			if err := c.handle(h, buf[r:r+h.Size]); err != nil {
				return err
			}
			r += h.Size
		}
		c.flush()
		if r > 0 {
			w = copy(buf, buf[r:w])
			r = 0
		}
	}
}

func (c *conn) handle(h plane.Header, frame []byte) error {
	if !c.hello && h.Type != plane.CONNECT {
		return errUnsupported
	}
	switch h.Type {
	case plane.PUBLISH:
		return c.publish(h, frame)
	case plane.PUBACK:
		return nil
	case plane.PINGREQ:
		c.reply(plane.AppendPingResp)
		return nil
	}
	p, err := plane.Parse(plane.V311, h, frame[h.Start:])
	if err != nil {
		return err
	}
	switch p := p.(type) {
	case *plane.Connect:
		if p.Version != plane.V311 || c.hello {
			return errUnsupported
		}
		c.hello = true
		c.reply(func(b []byte) []byte { return append(b, byte(plane.CONNACK)<<4, 2, 0, 0) })
	case *plane.Subscribe:
		granted := make([]mqtt.ReasonCode, len(p.Subscriptions))
		for i, s := range p.Subscriptions {
			qos := min(byte(s.QoS), 1)
			granted[i] = mqtt.ReasonCode(qos)
			c.filters[s.Filter] = true
			c.r.subscribe(c, s.Filter, qos)
		}
		c.reply(func(b []byte) []byte { return plane.AppendSubAck(b, plane.V311, p.PacketID, granted) })
	case *plane.Unsubscribe:
		for _, f := range p.Filters {
			delete(c.filters, f)
			c.r.unsubscribe(c, f)
		}
		c.reply(func(b []byte) []byte { return plane.AppendUnsubAck(b, plane.V311, p.PacketID, nil) })
	case *plane.Disconnect:
		return io.EOF
	default:
		return errUnsupported
	}
	return nil
}

// publish passes a frame on and answers it.
func (c *conn) publish(h plane.Header, frame []byte) error {
	qos := h.Flags >> 1 & 3
	body := frame[h.Start:]
	if qos > 1 || len(body) < 2 {
		return errUnsupported
	}
	size := int(binary.BigEndian.Uint16(body))
	rest := body[2:]
	if len(rest) < size+2*int(qos) {
		return errUnsupported
	}
	m := message{frame: frame, start: h.Start, qos: qos, topicEnd: h.Start + 2 + size}
	for _, d := range c.route(rest[:size]) {
		if !d.c.out.add(m, min(qos, d.qos), c) {
			c.r.dropped.Add(1)
		}
	}
	if qos == 1 {
		id := rest[size : size+2]
		c.reply(func(b []byte) []byte { return append(b, byte(plane.PUBACK)<<4, 2, id[0], id[1]) })
	}
	return nil
}

// route returns the destinations of topic.
func (c *conn) route(topic []byte) []destination {
	if now := c.r.changes.Load(); now != c.changes || len(c.routes) > maxRoutes {
		clear(c.routes)
		c.changes = now
	}
	found, ok := c.routes[string(topic)]
	if !ok {
		name := string(topic)
		found = c.r.match(name)
		c.routes[name] = found
	}
	return found
}

// reply appends to this client's own buffer.
func (c *conn) reply(frame func([]byte) []byte) {
	o := c.out
	o.mu.Lock()
	o.buf = frame(o.buf)
	o.touch(c)
	o.mu.Unlock()
}

// flush sends what was appended while the input was handled.
func (c *conn) flush() {
	for i, o := range c.touched {
		o.flush()
		c.touched[i] = nil
	}
	c.touched = c.touched[:0]
}

package appliancetest

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// A Client is one MQTT connection, for one goroutine. It reads only when it is asked for
// something, acknowledges what it is given at QoS 1, and knows no keep alive.
type Client struct {
	Version byte // [plane.V5] if not set otherwise before Hello
	Conn    net.Conn

	r     *bufio.Reader
	inbox []Packet // read while something else was waited for
	id    uint16   // of the last packet
}

// A Packet is what the gateway sent, as far as tests look at it.
type Packet struct {
	Type           plane.Type
	SessionPresent bool              // CONNACK
	ID             uint16            // of acknowledgments and of PUBLISH
	Reasons        []mqtt.ReasonCode // CONNACK, SUBACK, DISCONNECT, PUBACK and the like; return codes in MQTT 3.1.1
	Message        mqtt.Message      // PUBLISH, without its properties
	Dup            bool
}

// Reason is the only reason code, or the first.
func (p Packet) Reason() mqtt.ReasonCode {
	if len(p.Reasons) == 0 {
		return mqtt.Success
	}
	return p.Reasons[0]
}

// Dial connects to address, host:port or a path, over TLS if cfg is not nil.
func Dial(address string, cfg *tls.Config) (*Client, error) {
	nc, err := dial(address)
	if err != nil {
		return nil, err
	}
	return over(nc, cfg)
}

// over makes a client of a connection that was just made.
func over(nc net.Conn, cfg *tls.Config) (*Client, error) {
	if cfg != nil {
		t := tls.Client(nc, cfg)
		if err := errors.Join(t.SetDeadline(soon()), t.Handshake(), t.SetDeadline(time.Time{})); err != nil {
			return nil, errors.Join(err, nc.Close())
		}
		nc = t
	}
	return &Client{Version: plane.V5, Conn: nc, r: bufio.NewReader(nc)}, nil
}

// Close ends the connection without a word.
func (c *Client) Close() { _ = c.Conn.Close() }

// Hello sends a CONNECT, whose version is the client's, and returns the CONNACK.
func (c *Client) Hello(hello plane.Connect) (Packet, error) {
	hello.Version = c.Version
	if err := c.Send(&hello); err != nil {
		return Packet{}, err
	}
	return c.Await(plane.CONNACK)
}

// Send sends one packet.
func (c *Client) Send(p plane.Packet) error {
	if err := c.Conn.SetWriteDeadline(soon()); err != nil {
		return err
	}
	_, err := c.Conn.Write(p.Append(nil, c.Version))
	return err
}

// Await returns the next packet of type want. A DISCONNECT that comes instead is an error, what
// else comes is kept for later.
func (c *Client) Await(want plane.Type) (Packet, error) {
	for i, p := range c.inbox {
		if p.Type == want {
			c.inbox = append(c.inbox[:i], c.inbox[i+1:]...)
			return p, nil
		}
	}
	for {
		p, err := c.read()
		switch {
		case err != nil:
			return Packet{}, err
		case p.Type == want:
			return p, nil
		case p.Type == plane.DISCONNECT:
			return p, fmt.Errorf("disconnected: %w", &plane.Error{Reason: p.Reason(), What: "by the gateway"})
		}
		c.inbox = append(c.inbox, p)
	}
}

// End reads until the connection ends, and returns the reason of the DISCONNECT, or
// [mqtt.Success] without one. A connection that stays open is an error.
func (c *Client) End() (reason mqtt.ReasonCode, err error) {
	for {
		p, err := c.read()
		if p.Type == plane.DISCONNECT {
			reason = p.Reason()
		}
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return reason, errors.New("the connection stays open")
		}
		if err != nil {
			return reason, nil
		}
	}
}

// Publish publishes and returns the acknowledgment's reason once it is there; QoS 2 is brought to
// its end. It does not wait at QoS 0.
func (c *Client) Publish(m mqtt.Message) (mqtt.ReasonCode, error) {
	c.id++
	id := c.id
	if err := c.Send(&plane.Publish{Message: m, PacketID: id}); err != nil || m.QoS == mqtt.QoS0 {
		return mqtt.Success, err
	}
	first, last := plane.PUBACK, plane.PUBACK
	if m.QoS == mqtt.QoS2 {
		first, last = plane.PUBREC, plane.PUBCOMP
	}
	p, err := c.Await(first)
	if err == nil && first != last && !p.Reason().Failed() {
		if err = c.Send(&plane.Ack{Type: plane.PUBREL, PacketID: id}); err == nil {
			p, err = c.Await(last)
		}
	}
	if err == nil && p.ID != id {
		err = fmt.Errorf("packet %d was acknowledged, not %d", p.ID, id)
	}
	return p.Reason(), err
}

// Subscribe returns what is answered for the filter: the QoS granted, or a failure.
func (c *Client) Subscribe(filter string, qos mqtt.QoS) (mqtt.ReasonCode, error) {
	c.id++
	err := c.Send(&plane.Subscribe{PacketID: c.id, Subscriptions: []plane.Subscription{{Filter: mqtt.Filter(filter), QoS: qos}}})
	if err != nil {
		return 0, err
	}
	p, err := c.Await(plane.SUBACK)
	return p.Reason(), err
}

// Receive returns the next message and acknowledges it, up to QoS 1.
func (c *Client) Receive() (mqtt.Message, error) {
	p, err := c.Await(plane.PUBLISH)
	if err == nil && p.Message.QoS == mqtt.QoS1 {
		err = c.Send(&plane.Ack{Type: plane.PUBACK, PacketID: p.ID})
	}
	return p.Message, err
}

// Ping returns once everything that was sent before has been handled.
func (c *Client) Ping() error {
	if err := c.Send(&plane.Ping{}); err != nil {
		return err
	}
	_, err := c.Await(plane.PINGRESP)
	return err
}

// MustPing fails the test unless the connection works.
func (c *Client) MustPing(tb testing.TB) {
	tb.Helper()
	if err := c.Ping(); err != nil {
		tb.Fatalf("the connection does not work: %v", err)
	}
}

// MustPublish fails the test unless the message is acknowledged.
func (c *Client) MustPublish(tb testing.TB, topic, payload string, qos mqtt.QoS) {
	tb.Helper()
	reason, err := c.Publish(mqtt.Message{Topic: topic, Payload: []byte(payload), QoS: qos})
	if err != nil || reason.Failed() {
		tb.Fatalf("publish to %s: %v, %v", topic, reason, err)
	}
}

// MustSubscribe fails the test unless the filter is granted.
func (c *Client) MustSubscribe(tb testing.TB, filter string, qos mqtt.QoS) {
	tb.Helper()
	reason, err := c.Subscribe(filter, qos)
	if err != nil || reason.Failed() {
		tb.Fatalf("subscribe to %s: %v, %v", filter, reason, err)
	}
}

// MustReceive fails the test unless a message comes.
func (c *Client) MustReceive(tb testing.TB) mqtt.Message {
	tb.Helper()
	m, err := c.Receive()
	if err != nil {
		tb.Fatalf("no message: %v", err)
	}
	return m
}

// MustEnd fails the test unless the connection ends, with a DISCONNECT that says reason.
func (c *Client) MustEnd(tb testing.TB, reason mqtt.ReasonCode) {
	tb.Helper()
	switch got, err := c.End(); {
	case err != nil:
		tb.Fatal(err)
	case c.Version == plane.V5 && got != reason:
		tb.Fatalf("the connection ended with %v, want %v", got, reason)
	case c.Version != plane.V5 && got != mqtt.Success:
		tb.Fatalf("a DISCONNECT was sent to a client of MQTT 3.1.1: %v", got)
	}
}

// read reads the next packet.
func (c *Client) read() (Packet, error) {
	if err := c.Conn.SetReadDeadline(soon()); err != nil {
		return Packet{}, err
	}
	first, err := c.r.ReadByte()
	if err != nil {
		return Packet{}, err
	}
	size, err := binary.ReadUvarint(c.r)
	if err != nil {
		return Packet{}, err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return Packet{}, err
	}
	f := fields{b: body, v5: c.Version == plane.V5}
	p := Packet{Type: plane.Type(first >> 4)}
	switch p.Type {
	case plane.CONNACK:
		p.SessionPresent = f.number(1) == 1
		p.Reasons = []mqtt.ReasonCode{mqtt.ReasonCode(f.number(1))}
	case plane.PUBLISH:
		p.Dup = first&8 != 0
		p.Message = mqtt.Message{Topic: string(f.take(f.number(2))), QoS: mqtt.QoS(first >> 1 & 3), Retain: first&1 != 0}
		if p.Message.QoS > mqtt.QoS0 {
			p.ID = uint16(f.number(2))
		}
		f.skipProperties()
		p.Message.Payload = f.b
	case plane.SUBACK, plane.UNSUBACK:
		p.ID = uint16(f.number(2))
		f.skipProperties()
		for _, b := range f.b {
			p.Reasons = append(p.Reasons, mqtt.ReasonCode(b))
		}
	case plane.PUBACK, plane.PUBREC, plane.PUBREL, plane.PUBCOMP, plane.DISCONNECT:
		if p.Type != plane.DISCONNECT {
			p.ID = uint16(f.number(2))
		}
		if len(f.b) > 0 {
			p.Reasons = []mqtt.ReasonCode{mqtt.ReasonCode(f.number(1))}
		}
	}
	if f.short {
		return p, fmt.Errorf("packet of type %d is too short: %x", p.Type, body)
	}
	return p, nil
}

// fields reads the fields of a packet.
type fields struct {
	b     []byte
	v5    bool
	short bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.short, f.b = true, nil
		return nil
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) number(size int) (v int) {
	for _, b := range f.take(size) {
		v = v<<8 | int(b)
	}
	return v
}

func (f *fields) skipProperties() {
	if !f.v5 {
		return
	}
	n, used := binary.Uvarint(f.b)
	f.take(max(used, 1))
	f.take(int(n))
}

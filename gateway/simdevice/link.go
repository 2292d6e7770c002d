package simdevice

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// ioTimeout bounds connecting, the wait for CONNACK, every write, and a packet that began to arrive.
const ioTimeout = 10 * time.Second

// link is one MQTT connection.
type link struct {
	conn  net.Conn
	r     *bufio.Reader
	limit int // largest packet that fits into the receive buffer

	mu      sync.Mutex // guards writes
	packet  uint16     // last packet identifier
	written time.Time
}

// queued is a publish that waits for a connection.
type queued struct {
	topic   string
	payload []byte
}

func newLink(conn net.Conn, limit int) *link {
	return &link{conn: conn, r: bufio.NewReaderSize(conn, 256), limit: limit}
}

// write sends one packet in one piece.
func (l *link) write(p packets.ControlPacket) error {
	var buf bytes.Buffer
	if err := p.Write(&buf); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = time.Now()
	if err := l.conn.SetWriteDeadline(l.written.Add(ioTimeout)); err != nil {
		return err
	}
	_, err := l.conn.Write(buf.Bytes())
	if err != nil {
		l.conn.Close() // a TLS connection does not survive a failed write
	}
	return err
}

// goodbye ends the connection in an orderly way, if that takes no time.
func (l *link) goodbye() {
	_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second)) // also frees a writer that hangs
	l.mu.Lock()
	defer l.mu.Unlock()
	var buf bytes.Buffer
	if packets.NewControlPacket(packets.Disconnect).Write(&buf) == nil {
		_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = l.conn.Write(buf.Bytes())
	}
}

func (l *link) nextID() uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.packet++; l.packet == 0 {
		l.packet = 1
	}
	return l.packet
}

// publish sends one message, QoS 1.
func (l *link) publish(topic string, payload []byte) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.MessageID = topic, payload, 1, l.nextID()
	return l.write(p)
}

// errIdle is returned by read when nothing came in time.
var errIdle = errors.New("nothing arrived")

// read returns the next packet, or errIdle if none begins to arrive in time.
func (l *link) read(wait time.Duration) (packets.ControlPacket, error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if _, err := l.r.Peek(1); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, errIdle
		}
		return nil, err
	}
	if err := l.conn.SetReadDeadline(time.Now().Add(ioTimeout)); err != nil {
		return nil, err
	}
	size, head := 0, 1
	for ; ; head++ {
		b, err := l.r.Peek(head + 1)
		if err != nil {
			return nil, err
		}
		if head > 4 {
			return nil, errors.New("malformed packet length")
		}
		size |= int(b[head]&0x7f) << (7 * (head - 1))
		if b[head] < 0x80 {
			break
		}
	}
	if size+head+1 > l.limit { // as the firmware does
		return nil, fmt.Errorf("a packet of %d bytes does not fit into the receive buffer of %d", size+head+1, l.limit)
	}
	return packets.ReadPacket(l.r)
}

// handshake connects and sends one SUBSCRIBE for each filter, as the firmware does after every
// CONNACK.
func (b *boot) handshake(l *link) error {
	c := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	c.ProtocolName, c.ProtocolVersion = "MQTT", 4
	c.ClientIdentifier, c.CleanSession = b.conf.clientID, b.conf.clean
	c.Keepalive = uint16(b.conf.keepAlive / time.Second)
	if b.conf.willTopic != "" {
		c.WillFlag, c.WillTopic, c.WillMessage = true, b.conf.willTopic, []byte(b.conf.willMessage)
		c.WillRetain, c.WillQos = b.conf.willRetain, 1
	}
	if b.conf.user != "" {
		c.UsernameFlag, c.Username = true, b.conf.user
		c.PasswordFlag, c.Password = b.conf.password != "", []byte(b.conf.password)
	}
	if err := l.write(c); err != nil {
		return err
	}
	p, err := l.read(ioTimeout)
	if err != nil {
		return fmt.Errorf("wait for CONNACK: %w", err)
	}
	ack, ok := p.(*packets.ConnackPacket)
	switch {
	case !ok:
		return fmt.Errorf("%s instead of CONNACK", p)
	case ack.ReturnCode != packets.Accepted:
		return fmt.Errorf("the broker refuses the connection: %s", packets.ConnackReturnCodes[ack.ReturnCode])
	}
	for _, filter := range b.filters() {
		s := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
		s.MessageID, s.Topics, s.Qoss = l.nextID(), []string{filter}, []byte{1}
		if err := l.write(s); err != nil {
			return err
		}
	}
	return nil
}

// filters are the subscriptions, in the order of the firmware.
func (b *boot) filters() []string {
	switch {
	case !b.conf.rpc:
		return nil
	case !b.conf.wildcard:
		return []string{b.conf.id + "/rpc"}
	}
	return []string{b.conf.id + "/rpc/#", b.conf.id + "/rpc"}
}

// serve handles packets until the connection ends. Like the firmware it has one thread: calls
// run one after the other.
func (b *boot) serve(ctx context.Context, l *link) error {
	b.setLink(l)
	acks := len(b.filters())
	if acks == 0 {
		b.ready()
	}
	pinged := false
	for {
		p, err := l.read(b.conf.keepAlive)
		if err == errIdle {
			if pinged {
				return errors.New("the broker does not answer")
			}
			pinged = true
			err = l.write(packets.NewControlPacket(packets.Pingreq))
		}
		if err != nil {
			return err
		}
		switch p := p.(type) {
		case *packets.PublishPacket:
			if p.Qos > 0 { // QoS 2 as well: the firmware knows no better
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				if err := l.write(ack); err != nil {
					return err
				}
			}
			b.deliver(ctx, p.TopicName, p.Payload)
		case *packets.SubackPacket: // a refusal goes unnoticed
			if acks--; acks == 0 {
				b.ready()
			}
		}
		if p != nil {
			pinged = false
			if err := l.keepAlive(b.conf.keepAlive); err != nil {
				return err
			}
		}
	}
}

// keepAlive sends a PINGREQ if messages come in so fast that there was no pause for one.
func (l *link) keepAlive(interval time.Duration) error {
	l.mu.Lock()
	due := time.Since(l.written) >= interval
	l.mu.Unlock()
	if !due {
		return nil
	}
	return l.write(packets.NewControlPacket(packets.Pingreq))
}

func (b *boot) ready() {
	b.d.log.Info("connected")
	if b.d.cfg.OnReady != nil {
		b.d.cfg.OnReady()
	}
}

// setLink makes l the connection in use and sends what has waited for one.
func (b *boot) setLink(l *link) {
	b.d.mu.Lock()
	b.link = l
	var waiting []queued
	if l != nil {
		waiting, b.queue = b.queue, nil
	}
	b.d.mu.Unlock()
	for _, q := range waiting {
		if err := l.publish(q.topic, q.payload); err != nil {
			b.d.log.Debug("publish", "topic", q.topic, "err", err)
		}
	}
}

// publish sends a message, or keeps it until there is a connection; of those kept the oldest is
// dropped beyond mqtt.max_queue_length. Device.mu is not held.
func (b *boot) publish(topic string, payload []byte) {
	if topic == "" || strings.ContainsAny(topic, "+#\x00") {
		return
	}
	b.d.mu.Lock()
	l := b.link
	if l == nil {
		if b.queue = append(b.queue, queued{topic, payload}); len(b.queue) > b.conf.maxQueue {
			b.queue = b.queue[1:]
		}
	}
	b.d.mu.Unlock()
	if l == nil {
		return
	}
	if err := l.publish(topic, payload); err != nil {
		b.d.log.Debug("publish", "topic", topic, "err", err)
	}
}

// matches reports whether topic belongs to one of the device's own filters.
func matches(filter, topic string) bool {
	prefix, wildcard := strings.CutSuffix(filter, "/#")
	return topic == prefix || wildcard && strings.HasPrefix(topic, prefix+"/")
}

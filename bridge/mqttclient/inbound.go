package mqttclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

// filtersPerSubscribe is what AWS IoT Core takes in one packet; others take more.
const filtersPerSubscribe = 8

// subscribe asks for all subscriptions, packet by packet, and waits for the answers. It asks on
// every connection, whether the broker says that it has the session or not, because that may be
// an older one with other filters; what is retained comes again then.
func (cn *conn) subscribe(ctx, ready context.Context) ([]bridge.Grant, error) {
	var grants []bridge.Grant
	for rest := cn.session.Subscriptions; len(rest) > 0; {
		n := min(len(rest), filtersPerSubscribe)
		p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
		for _, s := range rest[:n] {
			p.Topics = append(p.Topics, string(s.Filter))
			p.Qoss = append(p.Qoss, byte(min(s.QoS, mqtt.QoS1)))
		}
		var packet bytes.Buffer
		answer := make(chan []byte, 1)
		cn.mu.Lock()
		p.MessageID = cn.freeID()
		if err := p.Write(&packet); err != nil {
			cn.mu.Unlock()
			return nil, err
		}
		cn.suback[p.MessageID] = answer
		cn.out = append(cn.out, packet.Bytes()...)
		cn.mu.Unlock()
		cn.signal()

		var codes []byte
		select {
		case codes = <-answer:
		case <-ctx.Done():
			return nil, ctx.Err() // the connection ended; another goroutine says why
		case <-ready.Done():
			return nil, fmt.Errorf("subscribe at %s: %w", cn.client.url, context.Cause(ready))
		}
		if len(codes) != n { // [MQTT-3.8.4-5]
			return nil, fmt.Errorf("subscribe at %s: %d answers to %d filters", cn.client.url, len(codes), n)
		}
		for i, code := range codes {
			grants = append(grants, bridge.Grant{Filter: rest[i].Filter, QoS: mqtt.QoS(code & 0x03), Refused: code > 2})
		}
		rest = rest[n:]
	}
	return grants, nil
}

// read handles every packet that comes, until the connection ends.
func (cn *conn) read(ctx context.Context) error {
	for {
		first, n, err := readHeader(cn.r)
		if err == nil {
			err = cn.packet(ctx, first, n)
		}
		if err != nil {
			return fmt.Errorf("connection to %s: %w", cn.client.url, ended(err))
		}
	}
}

func (cn *conn) packet(ctx context.Context, first byte, n int) error {
	switch kind := first >> 4; {
	case first == pubackFirst && n == pubackLenBytes:
		b, err := cn.r.Peek(pubackLenBytes)
		if err != nil {
			return err
		}
		id := binary.BigEndian.Uint16(b)
		_, _ = cn.r.Discard(pubackLenBytes)
		cn.puback(id)
		return nil
	case kind == typePublish:
		return cn.publish(ctx, first, n)
	case n > maxControl:
		return fmt.Errorf("malformed packet: type %d with %d bytes", kind, n)
	default:
		return cn.control(first, n)
	}
}

func (cn *conn) puback(id uint16) {
	cn.mu.Lock()
	done := cn.pending[id]
	delete(cn.pending, id)
	cn.mu.Unlock()
	if done != nil { // an acknowledgment of what was never sent, or twice, is ignored
		done(nil)
	}
}

// control handles the packets that come rarely.
func (cn *conn) control(first byte, n int) error {
	p, err := packets.NewControlPacketWithHeader(packets.FixedHeader{MessageType: first >> 4, RemainingLength: n})
	if err != nil {
		return err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(cn.r, body); err != nil {
		return err
	}
	if err := p.Unpack(bytes.NewReader(body)); err != nil {
		return fmt.Errorf("malformed packet: type %d: %w", first>>4, err)
	}
	switch p := p.(type) {
	case *packets.SubackPacket:
		cn.mu.Lock()
		answer := cn.suback[p.MessageID]
		delete(cn.suback, p.MessageID)
		cn.mu.Unlock()
		if answer != nil {
			answer <- p.ReturnCodes
		}
		return nil
	case *packets.PingrespPacket:
		return nil
	}
	return fmt.Errorf("the broker sent a packet of type %d, which a client never gets here", first>>4)
}

var errTopic = errors.New("malformed PUBLISH")

// publish takes one message (§3.3). It is read by hand, so that a message that is too large is
// never held in memory.
func (cn *conn) publish(ctx context.Context, first byte, n int) error {
	qos := mqtt.QoS(first & qosMask >> 1)
	if qos > mqtt.QoS1 { // never asked for, [MQTT-3.8.4-6]
		return fmt.Errorf("the broker sent a message at QoS %d: at most 1 was asked for", qos)
	}
	head := 2
	if qos > 0 {
		head = 4
	}
	lenBytes, err := cn.r.Peek(2)
	if err != nil {
		return err
	}
	topicLen := int(binary.BigEndian.Uint16(lenBytes))
	if n < head+topicLen {
		return fmt.Errorf("%w: topic of %d bytes in %d", errTopic, topicLen, n)
	}
	_, _ = cn.r.Discard(2)
	buf := make([]byte, topicLen+head-2)
	if _, err := io.ReadFull(cn.r, buf); err != nil {
		return err
	}
	topic := string(buf[:topicLen])
	if err := mqtt.ValidateTopic(topic, 0); err != nil {
		return fmt.Errorf("%w: %w", errTopic, err)
	}
	ack := func() {}
	if qos > 0 {
		ack = cn.expect(binary.BigEndian.Uint16(buf[topicLen:]))
	}
	size := n - head - topicLen
	if n > cn.client.opts.MaxPacket {
		if _, err := io.CopyN(io.Discard, cn.r, int64(size)); err != nil {
			return err
		}
		ack()
		cn.session.TooLarge(topic, size)
		return nil
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(cn.r, payload); err != nil {
		return err
	}
	cn.session.Message(ctx, mqtt.Message{Topic: topic, Payload: payload, QoS: qos, Retain: first&flagRetain != 0}, ack)
	return nil
}

// expect notes a message that must be acknowledged and returns how to do that. PUBACKs leave in
// the order of arrival [MQTT-4.6.0-2], so a late one holds back those after it.
func (cn *conn) expect(id uint16) (ack func()) {
	d := &delivery{id: id}
	cn.mu.Lock()
	cn.inbound = append(cn.inbound, d)
	cn.mu.Unlock()
	return func() {
		cn.mu.Lock()
		d.acked = true
		before := len(cn.out)
		for len(cn.inbound) > 0 && cn.inbound[0].acked {
			cn.out = appendPuback(cn.out, cn.inbound[0].id)
			cn.inbound = cn.inbound[1:]
		}
		news := len(cn.out) > before
		cn.mu.Unlock()
		if news {
			cn.signal()
		}
	}
}

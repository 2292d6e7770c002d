package simdevice_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"gatewayctl/gateway/simdevice"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what must happen; a test that passes never waits for it.
const patience = 20 * time.Second

// bench is a device on a bench: the test is its broker and sees every packet.
type bench struct {
	t   *testing.T
	dev *simdevice.Device
	l   net.Listener
}

// newBench switches a device on. Its times are short unless cfg says otherwise.
func newBench(t *testing.T, cfg simdevice.Config) *bench {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ID, cfg.Address = "esp32_A1B2C3", l.Addr().String()
	quicken(&cfg)
	b := &bench{t: t, l: l, dev: simdevice.New(cfg)}
	t.Cleanup(runDevice(t, b.dev))
	t.Cleanup(func() { l.Close() })
	return b
}

func quicken(cfg *simdevice.Config) {
	if cfg.BootTime == 0 {
		cfg.BootTime = time.Millisecond
	}
	if cfg.ReconnectMin == 0 {
		cfg.ReconnectMin, cfg.ReconnectMax = 5*time.Millisecond, 50*time.Millisecond
	}
}

// runDevice starts Run and returns what ends it.
func runDevice(t testing.TB, dev *simdevice.Device) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- dev.Run(ctx) }()
	return func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	}
}

// peer is one connection of the device, seen by its broker.
type peer struct {
	t       *testing.T
	conn    net.Conn
	r       *bufio.Reader
	connect *packets.ConnectPacket
	filters []string
	other   []*packets.PublishPacket // arrived while something else was awaited
	lastID  int
}

// accept takes the next connection, refused with code unless it is 0.
func (b *bench) accept(code byte) *peer {
	b.t.Helper()
	if err := b.l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		b.t.Fatal(err)
	}
	conn, err := b.l.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	p := &peer{t: b.t, conn: conn, r: bufio.NewReader(conn)}
	c, ok := p.read().(*packets.ConnectPacket)
	if !ok {
		b.t.Fatal("the first packet is no CONNECT")
	}
	p.connect = c
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.ReturnCode = code
	p.write(ack)
	return p
}

// connected takes the next connection and its subscriptions.
func (b *bench) connected(subscriptions int) *peer {
	b.t.Helper()
	p := b.accept(0)
	for range subscriptions {
		s, ok := p.read().(*packets.SubscribePacket)
		if !ok {
			b.t.Fatal("no SUBSCRIBE")
		}
		if len(s.Topics) != 1 || s.Qoss[0] != 1 {
			b.t.Errorf("SUBSCRIBE to %v with QoS %v", s.Topics, s.Qoss)
		}
		p.filters = append(p.filters, s.Topics...)
		ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		ack.MessageID, ack.ReturnCodes = s.MessageID, []byte{0x80} // which the firmware does not notice
		p.write(ack)
	}
	return p
}

func (p *peer) read() packets.ControlPacket {
	p.t.Helper()
	got, err := p.tryRead()
	if err != nil {
		p.t.Fatal(err)
	}
	return got
}

func (p *peer) tryRead() (packets.ControlPacket, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	return packets.ReadPacket(p.r)
}

func (p *peer) write(c packets.ControlPacket) {
	p.t.Helper()
	if err := c.Write(p.conn); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) publish(topic, payload string, qos byte) {
	p.t.Helper()
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Qos, m.MessageID = topic, []byte(payload), qos, 7
	p.write(m)
}

// message returns the next publish of the device.
func (p *peer) message() *packets.PublishPacket {
	p.t.Helper()
	for {
		if m, ok := p.read().(*packets.PublishPacket); ok {
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = m.MessageID
			p.write(ack)
			return m
		}
	}
}

// answer is a response frame.
type answer struct {
	ID     json.RawMessage
	Src    string
	Dst    string
	Tag    string
	Result json.RawMessage
	Error  *struct {
		Code    int
		Message string
	}
}

// gone waits for the end of the connection and reports whether the device said goodbye.
func (p *peer) gone() (goodbye bool) {
	p.t.Helper()
	for {
		got, err := p.tryRead()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			p.t.Fatal("the connection does not end")
		}
		if err != nil {
			return goodbye
		}
		_, goodbye = got.(*packets.DisconnectPacket)
	}
}

// answered returns the next answer to src, which other messages may precede.
func (p *peer) answered(src string) answer {
	p.t.Helper()
	for {
		m := p.message()
		if m.TopicName != src+"/rpc" {
			p.other = append(p.other, m)
			continue
		}
		if m.Qos != 1 || m.Retain {
			p.t.Errorf("answer with QoS %d, retained %v", m.Qos, m.Retain)
		}
		var a answer
		if err := json.Unmarshal(m.Payload, &a); err != nil {
			p.t.Fatalf("answer %q: %v", m.Payload, err)
		}
		return a
	}
}

// call calls a method the way the gateway does and returns result or "code: message".
func (p *peer) call(method, params string) string {
	p.t.Helper()
	p.lastID++
	if params == "" {
		params = "null"
	}
	p.publish("esp32_A1B2C3/rpc/"+method, fmt.Sprintf(`{"id":%d,"src":"gw/x","params":%s}`, p.lastID, params), 1)
	a := p.answered("gw/x")
	if string(a.ID) != fmt.Sprint(p.lastID) {
		p.t.Errorf("%s answered with id %s", method, a.ID)
	}
	if a.Error != nil {
		return fmt.Sprintf("%d: %s", a.Error.Code, a.Error.Message)
	}
	return string(a.Result)
}

// field returns one field of a result.
func (p *peer) field(method, params, name string) string {
	p.t.Helper()
	result := p.call(method, params)
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(result), &fields); err != nil {
		p.t.Fatalf("%s: %s", method, result)
	}
	return strings.Trim(string(fields[name]), `"`)
}

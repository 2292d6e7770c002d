package broker

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// The conformance tests are plays: clients send frames, and every frame that the broker sends is
// compared byte by byte. Time is fake, so a will delay of an hour costs nothing. The names of the
// plays are the normative statements of MQTT 5.0, or of MQTT 3.1.1 where it says so.

// A play is what happens on a scene. It is played once in each version it is written for.
type play struct {
	name    string
	version byte // 0 is both
	opts    Options
	play    func(s *scene)
}

func perform(t *testing.T, plays []play) {
	t.Helper()
	t.Parallel()
	for _, p := range plays {
		for _, version := range []byte{plane.V311, plane.V5} {
			if p.version != 0 && p.version != version {
				continue
			}
			name := p.name
			if p.version == 0 {
				name += map[byte]string{plane.V311: ", 3.1.1", plane.V5: ", 5.0"}[version]
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { p.play(newScene(t, version, p.opts)) })
			})
		}
	}
}

// A scene is a broker with clients, which are known by their client identifiers.
type scene struct {
	*testBroker
	t       *testing.T
	version byte // of clients that nothing else is said of
	pipe    *pipeListener
	clients map[string]*client
}

func newScene(t *testing.T, version byte, opts Options) *scene {
	s := &scene{testBroker: newTestBroker(opts), t: t, version: version, pipe: newPipeListener(), clients: map[string]*client{}}
	if err := s.Serve(Listener{Name: "pipe", Net: s.pipe}); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	return s
}

// dial returns a connection that has sent nothing yet.
func (s *scene) dial(version byte) *client {
	here, there := net.Pipe()
	s.pipe.conns <- there
	return newClient(s.t, &buffered{Conn: here}, version)
}

// A buffered connection takes whatever is written to it, as a socket does within bounds.
type buffered struct {
	net.Conn
	queue chan []byte
}

func (b *buffered) Write(p []byte) (int, error) {
	if b.queue == nil {
		queue := make(chan []byte, 1024)
		b.queue = queue
		go func() {
			var err error
			for p := range queue {
				if err == nil { // nobody reads any more otherwise
					_, err = b.Conn.Write(p)
				}
			}
		}()
	}
	b.queue <- bytes.Clone(p)
	return len(p), nil
}

// SetWriteDeadline has nothing to do: Write does not wait.
func (b *buffered) SetWriteDeadline(time.Time) error { return nil }

func (b *buffered) Close() error {
	if b.queue != nil {
		close(b.queue)
		b.queue = nil
	}
	return b.Conn.Close()
}

// open connects a client and returns its CONNACK; open again takes over.
func (s *scene) open(id string, with ...func(*plane.Connect)) reply {
	s.t.Helper()
	return s.openAs(s.version, id, with...)
}

func (s *scene) openAs(version byte, id string, with ...func(*plane.Connect)) reply {
	s.t.Helper()
	c := s.dial(version)
	patient := func(c *plane.Connect) { c.KeepAlive = 0 }
	p := c.connect(id, append([]func(*plane.Connect){patient}, with...)...)
	if p.codes[1] != 0 {
		s.t.Fatalf("CONNACK %x for %s", p.body, id)
	}
	s.clients[id] = c
	return p
}

// drop ends a client's connection without a DISCONNECT.
func (s *scene) drop(id string) {
	s.t.Helper()
	_ = s.clients[id].nc.Close()
	synctest.Wait()
}

// leave ends it with one.
func (s *scene) leave(id string) {
	s.t.Helper()
	s.send(id, &plane.Disconnect{})
	s.clients[id].closed()
	synctest.Wait()
}

// send sends packets of a client and returns once the broker has done what there is to do.
func (s *scene) send(id string, packets ...plane.Packet) {
	s.t.Helper()
	c := s.clients[id]
	for _, p := range packets {
		c.write(p.Append(nil, c.version))
	}
	synctest.Wait()
}

// want reads what the broker must have sent to a client, in this order.
func (s *scene) want(id string, packets ...plane.Packet) {
	s.t.Helper()
	c := s.clients[id]
	for i, p := range packets {
		want := p.Append(nil, c.version)
		got, err := c.readFrame()
		if err != nil {
			s.t.Fatalf("%s, frame %d: %v, want %x", id, i, err, want)
		}
		if !bytes.Equal(got, want) {
			s.t.Fatalf("%s, frame %d: %x (%q), want %x", id, i, got, got, want)
		}
	}
}

// quiet expects that the broker has nothing more for the clients.
func (s *scene) quiet(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		s.send(id, &plane.Ping{})
		s.want(id, hexFrame("d0 00"))
	}
}

// ended expects the end of a client's connection, and before it a DISCONNECT with reason in
// MQTT 5.0 alone.
func (s *scene) ended(id string, reason mqtt.ReasonCode) {
	s.t.Helper()
	s.clients[id].disconnected(reason)
	synctest.Wait()
}

// subscribes subscribes a client to filters and reads the SUBACK.
func (s *scene) subscribes(id string, qos mqtt.QoS, filters ...string) {
	s.t.Helper()
	p := &plane.Subscribe{PacketID: 100}
	codes := make([]mqtt.ReasonCode, len(filters))
	for i, f := range filters {
		p.Subscriptions = append(p.Subscriptions, plane.Subscription{Filter: mqtt.Filter(f), QoS: qos})
		codes[i] = mqtt.ReasonCode(qos)
	}
	s.send(id, p)
	s.want(id, subAck{100, codes})
}

// publishes publishes as the gateway itself does, without a client that has to be served.
func (s *scene) publishes(m mqtt.Message) {
	s.t.Helper()
	if err := s.Publish(s.t.Context(), m); err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait()
}

// passes lets time pass.
func (s *scene) passes(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (c *client) readFrame() ([]byte, error) {
	p, err := c.tryReadNew()
	if err != nil {
		return nil, err
	}
	frame := binary.AppendUvarint([]byte{byte(p.typ)<<4 | p.flags}, uint64(len(p.body)))
	return append(frame, p.body...), nil
}

// pub is a PUBLISH, from a client or to one.
func pub(topic, text string, qos mqtt.QoS, id uint16, with ...func(*plane.Publish)) *plane.Publish {
	p := &plane.Publish{Message: mqtt.Message{Topic: topic, Payload: []byte(text), QoS: qos}, PacketID: id}
	for _, change := range with {
		change(p)
	}
	return p
}

func dup(p *plane.Publish)    { p.Dup = true }
func retain(p *plane.Publish) { p.Message.Retain = true }

func subscriptionIDs(ids ...uint32) func(*plane.Publish) {
	return func(p *plane.Publish) { p.SubscriptionIDs = ids }
}

func expiresIn(seconds uint32) func(*plane.Publish) {
	return func(p *plane.Publish) { p.Message.ExpirySeconds = seconds }
}

func alias(n uint16) func(*plane.Publish) { return func(p *plane.Publish) { p.TopicAlias = n } }

func ackOf(t plane.Type, id uint16, reason ...mqtt.ReasonCode) *plane.Ack {
	a := &plane.Ack{Type: t, PacketID: id}
	if len(reason) > 0 {
		a.Reason = reason[0]
	}
	return a
}

// expiry asks for a session that stays for a while; in 3.1.1 it stays anyway.
func expiry(seconds uint32) func(*plane.Connect) {
	return func(c *plane.Connect) { c.CleanStart, c.SessionExpirySeconds = false, seconds }
}

// will leaves a will of QoS 1 to the topic "will".
func will(text string, with ...func(*plane.Will)) func(*plane.Connect) {
	return func(c *plane.Connect) {
		c.Will = &plane.Will{Message: mqtt.Message{Topic: "will", Payload: []byte(text), QoS: mqtt.QoS1}}
		for _, change := range with {
			change(c.Will)
		}
	}
}

func delay(seconds uint32) func(*plane.Will) { return func(w *plane.Will) { w.DelaySeconds = seconds } }

// A hexFrame is a frame as it is, whatever the version.
type hexFrame string

// Append implements [plane.Packet].
func (h hexFrame) Append(b []byte, _ byte) []byte {
	frame, err := hex.DecodeString(strings.ReplaceAll(string(h), " ", ""))
	if err != nil {
		panic(err)
	}
	return append(b, frame...)
}

// A subAck is a SUBACK.
type subAck struct {
	id    uint16
	codes []mqtt.ReasonCode
}

// Append implements [plane.Packet].
func (a subAck) Append(b []byte, version byte) []byte {
	return plane.AppendSubAck(b, version, a.id, a.codes)
}

// An unsubAck is an UNSUBACK.
type unsubAck struct {
	id    uint16
	codes []mqtt.ReasonCode
}

// Append implements [plane.Packet].
func (a unsubAck) Append(b []byte, version byte) []byte {
	return plane.AppendUnsubAck(b, version, a.id, a.codes)
}

package broker

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// FuzzSession lets three clients do what the input says, valid and invalid, and holds everything
// that the broker sends against a model of the standard (model): answers in their order, each
// message to whom it belongs and to nobody else, once and in order, with the right flags,
// identifiers and properties; redelivery; wills; the end of a connection with its reason. Time
// is fake.
func FuzzSession(f *testing.F) { // seeds are in testdata/fuzz/FuzzSession
	f.Fuzz(func(t *testing.T, input []byte) {
		synctest.Test(t, func(t *testing.T) { newFuzzRun(t, input).run() })
	})
}

// The same with some inputs that are always the same.
func TestRandomSessions(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 5))
		input := make([]byte, 20+random.IntN(400))
		for i := range input {
			input[i] = byte(random.Uint32())
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newFuzzRun(t, input).run() })
		})
	}
}

// fuzzOptions are small, so that the limits are met.
var fuzzOptions = Options{ReceiveMaximum: 4, Window: 2, MaxTopicLevels: 4, MaxPacketBytes: 200}

const fuzzSteps = 60

// A fuzzRun is one input at work.
type fuzzRun struct {
	*scene
	input []byte
	model *model
	conns map[string]*fuzzConn
	sent  int // messages, each with its number as its payload
	log   []string
}

func newFuzzRun(t *testing.T, input []byte) *fuzzRun {
	r := &fuzzRun{scene: newScene(t, plane.V5, fuzzOptions), input: input, conns: map[string]*fuzzConn{}}
	r.model = newModel(r.fail)
	return r
}

func (r *fuzzRun) fail(format string, args ...any) {
	r.t.Helper()
	for _, line := range r.log {
		r.t.Log(line)
	}
	r.t.Fatalf(format, args...)
}

func (r *fuzzRun) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// next returns the next number of the input, below n; 0 when there is no more.
func (r *fuzzRun) next(n int) int {
	if len(r.input) == 0 {
		return 0
	}
	v := int(r.input[0]) % n
	r.input = r.input[1:]
	return v
}

func (r *fuzzRun) run() {
	for range fuzzSteps {
		if len(r.input) == 0 {
			break
		}
		r.step()
		if r.model.unknown {
			return
		}
		r.settle()
	}
	r.finish()
	if n := r.Stats().Panics; n > 0 {
		r.fail("%d panics", n)
	}
}

func (r *fuzzRun) step() {
	id := []string{"a", "b", "c"}[r.next(3)]
	c := r.conns[id]
	op := r.next(16)
	if c == nil && op < 12 {
		op = 15
	}
	switch op {
	case 0, 1, 2:
		r.sends(c, r.publish())
	case 3, 4:
		r.sends(c, r.subscribe())
	case 5:
		r.sends(c, &plane.Unsubscribe{PacketID: 1, Filters: []mqtt.Filter{r.filter(), r.filter()}})
	case 6, 7: // as it should be
		if a := r.model.nextAck(id); a != nil {
			r.sends(c, a)
		}
	case 8: // as it comes
		a := &plane.Ack{Type: plane.PUBACK + plane.Type(r.next(4)), PacketID: uint16(1 + r.next(4))}
		if r.next(4) == 0 && (a.Type == plane.PUBACK || a.Type == plane.PUBREC) {
			a.Reason = mqtt.QuotaExceeded
		}
		r.sends(c, a)
	case 9:
		r.sends(c, []plane.Packet{
			&plane.Ping{}, &plane.Auth{}, &plane.Disconnect{}, &plane.Disconnect{Reason: mqtt.DisconnectWithWillMessage},
			&plane.Disconnect{HasSessionExpiry: true, SessionExpirySeconds: uint32(60 * r.next(2))}, &plane.Connect{Version: c.version, ClientID: id},
		}[r.next(6)])
	case 10:
		r.mutant(c)
	case 11:
		r.note("%s is lost", id)
		r.drop(c)
	case 12:
		r.note("time passes")
		<-time.After([]time.Duration{7 * time.Second, 2 * time.Minute}[r.next(2)])
	case 13:
		r.stranger()
	default:
		r.connect(id)
	}
}

func (r *fuzzRun) topic() string {
	return []string{"a", "a/b", "b", "$x", "a/b/c/d/e", "$SYS/x"}[r.next(6)]
}

func (r *fuzzRun) filter() mqtt.Filter {
	return []mqtt.Filter{"a", "a/#", "+", "#", "+/b", "$share/g/a", "$share/h/b", "$x/#", "a/b/c/d/e", "$share/g/+/b"}[r.next(10)]
}

func (r *fuzzRun) payload() []byte {
	r.sent++
	return fmt.Append(nil, r.sent)
}

func (r *fuzzRun) publish() *plane.Publish {
	p := &plane.Publish{Message: mqtt.Message{Topic: r.topic(), Payload: r.payload(), QoS: mqtt.QoS(r.next(3))}}
	flags := r.next(256)
	p.Message.Retain, p.Dup = flags&1 != 0, flags&2 != 0 && p.Message.QoS > 0
	if flags&0b11100 == 0b11100 {
		p.Message.Payload = nil // with retain: removes
	}
	if p.Message.QoS > 0 {
		p.PacketID = uint16(1 + r.next(3))
	}
	if flags&32 != 0 {
		p.TopicAlias = uint16(r.next(4))
		if flags&64 != 0 {
			p.Message.Topic = ""
		}
	}
	return p
}

func (r *fuzzRun) subscribe() *plane.Subscribe {
	p := &plane.Subscribe{PacketID: 1, ID: uint32(r.next(3))}
	for range 1 + r.next(2) {
		s := plane.Subscription{Filter: r.filter(), QoS: mqtt.QoS(r.next(3))}
		options := r.next(16)
		s.NoLocal, s.RetainAsPublished, s.RetainHandling = options&1 != 0, options&2 != 0, byte(options>>2)
		p.Subscriptions = append(p.Subscriptions, s)
	}
	return p
}

func (r *fuzzRun) sends(c *fuzzConn, p plane.Packet) {
	r.sendsFrame(c, p.Append(nil, c.version))
}

// mutant sends a frame that was valid.
func (r *fuzzRun) mutant(c *fuzzConn) {
	frame := []plane.Packet{
		r.publish(), r.subscribe(), &plane.Unsubscribe{PacketID: 1, Filters: []mqtt.Filter{"a"}},
		&plane.Ack{Type: plane.PUBREL, PacketID: 1}, &plane.Disconnect{Reason: mqtt.UnspecifiedError}, &plane.Ping{},
	}[r.next(6)].Append(nil, c.version)
	for range 1 + r.next(3) {
		switch at := r.next(len(frame)); r.next(3) {
		case 0:
			frame[at] ^= 1 << r.next(8)
		case 1:
			frame[at] = byte(r.next(256))
		case 2:
			frame = append(frame, byte(r.next(256)))
		}
	}
	r.sendsFrame(c, frame)
}

func (r *fuzzRun) sendsFrame(c *fuzzConn, frames []byte) {
	r.note("%s sends %x", c.id, frames)
	_, _ = c.nc.Write(frames)
	for len(frames) > 0 && !r.model.over(c.id) {
		h, ok, err := plane.ParseHeader(frames, fuzzOptions.MaxPacketBytes)
		if err != nil {
			r.model.violates(c.id, err)
			return
		}
		if !ok || len(frames) < h.Size { // it would wait for the rest
			r.drop(c)
			return
		}
		p, err := plane.Parse(c.version, h, frames[h.Start:h.Size])
		if err != nil {
			r.model.violates(c.id, err)
			return
		}
		r.model.gets(c.id, p)
		frames = frames[h.Size:]
	}
}

func (r *fuzzRun) drop(c *fuzzConn) {
	synctest.Wait() // what was sent is handled before the end
	r.read(c)
	_ = c.nc.Close()
	r.model.lost(c.id)
	delete(r.conns, c.id)
	synctest.Wait()
}

// stranger sends something instead of a CONNECT.
func (r *fuzzRun) stranger() {
	frame := make([]byte, r.next(8))
	for i := range frame {
		frame[i] = byte(r.next(256))
	}
	if len(frame) > 0 && frame[0]>>4 == byte(plane.CONNECT) {
		frame[0] = 0
	}
	r.note("a stranger sends %x", frame)
	here, there := net.Pipe()
	r.pipe.conns <- there
	_, _ = here.Write(frame)
	_ = here.Close()
}

func (r *fuzzRun) connect(id string) {
	flags := r.next(256)
	hello := &plane.Connect{Version: plane.V311, ClientID: id, CleanStart: flags&1 != 0}
	if flags&2 != 0 {
		hello.Version = plane.V5
		hello.SessionExpirySeconds = 60 * uint32(flags>>2&1)
		hello.TopicAliasMaximum = uint16(flags >> 3 & 1)
		hello.ReceiveMaximum = uint16(r.next(3))
	}
	if flags&16 != 0 {
		hello.Will = &plane.Will{Message: mqtt.Message{Topic: []string{"a", "b"}[flags>>5&1], Payload: r.payload(), QoS: mqtt.QoS(r.next(3)), Retain: flags&64 != 0}}
	}
	r.note("%s connects: %+v", id, hello)
	old := r.conns[id]
	here, there := net.Pipe()
	c := &fuzzConn{id: id, nc: &buffered{Conn: here}, version: hello.Version}
	r.pipe.conns <- there
	_, _ = c.nc.Write(hello.Append(nil, hello.Version))
	go c.receive()
	r.t.Cleanup(func() { _ = c.nc.Close() })
	<-time.After(1010 * time.Millisecond) // a takeover is patient; no multiple of this is the session expiry
	synctest.Wait()
	if old != nil {
		r.model.takenOver(id)
		r.read(old)
		if !old.done() {
			r.fail("%s was not taken over", id)
		}
	}
	r.conns[id] = c
	r.model.connects(id, hello)
}

// settle holds what the broker has sent against the model.
func (r *fuzzRun) settle() {
	synctest.Wait()
	for _, id := range []string{"a", "b", "c"} {
		if c := r.conns[id]; c != nil {
			r.read(c)
		}
	}
	r.model.settled()
	for id, c := range r.conns {
		if r.model.over(id) && !c.done() {
			<-time.After(lingerTime)
			synctest.Wait()
		}
		switch {
		case r.model.over(id) && !c.done():
			r.fail("%s should have been disconnected", id)
		case !r.model.over(id) && c.done():
			r.fail("%s was disconnected", id)
		case c.done():
			_ = c.nc.Close()
			delete(r.conns, id)
		}
	}
}

func (r *fuzzRun) read(c *fuzzConn) {
	for _, frame := range c.take() {
		r.note("%s gets %x", c.id, frame)
		r.model.sees(c.id, c.version, frame)
	}
}

// finish lets everybody acknowledge everything, and expects that nothing is left.
func (r *fuzzRun) finish() {
	for round := 0; ; round++ {
		acks := 0
		for id, c := range r.conns {
			if a := r.model.nextAck(id); a != nil {
				r.sends(c, a)
				r.settle()
				acks++
			}
		}
		if acks == 0 {
			break
		}
		if round > 10*fuzzSteps {
			r.fail("deliveries without end")
		}
	}
	r.model.finished()
}

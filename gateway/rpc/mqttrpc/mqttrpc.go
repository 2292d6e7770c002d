// Package mqttrpc carries RPC frames over MQTT, as Mongoose OS devices speak it.
//
// # Design
//
// A request goes to `<device>/rpc/<Method>`: stock firmware subscribes to both `<device>/rpc` and
// `<device>/rpc/#` and would run a request to the former twice. There is no second try on the
// plain topic, because from outside a device without the wildcard subscription looks exactly like
// one that is slow, and a method that ran twice may have moved a valve twice.
//
// The device answers to the topic `<src>/rpc`, and src is ours to choose. It lies in the device's
// own subtree, so that a device needs no right outside of it, and ends in random letters that are
// made anew for every call. An answer counts if it came on that topic, was published by a client
// with the device's certificate, and has the id of the request; so no device can answer for
// another one, and a late answer finds nobody.
package mqttrpc

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"
)

// Origin is what the requests carry as [mqtt.Publisher].Origin.
const Origin = "rpc"

// answers is the one subscription for the answers to all calls.
const answers = mqtt.Filter("+/rpc-resp/+/rpc")

// bus is the gateway's own broker.
type bus interface {
	Publish(ctx context.Context, m mqtt.Message) error
	Subscribe(f mqtt.Filter, h func(mqtt.Message)) (cancel func(), err error)
}

// Options configures a [Transport].
type Options struct {
	MaxAnswerBytes int          // a larger answer is an error of its call; 0 means 256 KiB
	Log            *slog.Logger // nil discards
}

// A Transport is the [rpc.Transport] over MQTT. It works while [Transport.Run] does.
type Transport struct {
	bus  bus
	opts Options

	ready   chan struct{} // closed when Run has subscribed
	stopped chan struct{} // closed when Run has ended

	mu      sync.Mutex
	pending map[string]*call // by random suffix
}

// call is one request that waits for its answer.
type call struct {
	device   identity.DeviceID
	arrived  chan answer // never blocks the broker: what does not fit is dropped
	foreign  int         // answers that somebody else published; under Transport.mu
	overflow int         // dropped; under Transport.mu
}

type answer struct {
	payload   []byte
	sizeBytes int // of an answer that is too large; payload is nil then
}

// New returns a Transport over b.
func New(b bus, opts Options) *Transport {
	opts.MaxAnswerBytes = cmp.Or(opts.MaxAnswerBytes, 256<<10)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Transport{
		bus: b, opts: opts,
		ready: make(chan struct{}), stopped: make(chan struct{}),
		pending: map[string]*call{},
	}
}

// Run receives answers until ctx ends; calls that still wait then end with [rpc.ErrClosed]. It
// must be called once.
func (t *Transport) Run(ctx context.Context) error {
	defer close(t.stopped)
	cancel, err := t.bus.Subscribe(answers, t.receive)
	if err != nil {
		return fmt.Errorf("subscribe to the answers of devices: %w", err)
	}
	defer cancel()
	close(t.ready)
	<-ctx.Done()
	return nil
}

// Call implements [rpc.Transport]. It waits for [Transport.Run] to begin. The request expires
// with the deadline of ctx, so that a device that reconnects later does not run what nobody
// waits for any more.
func (t *Transport) Call(ctx context.Context, dev identity.DeviceID, f rpc.Frame) (rpc.Frame, error) {
	select {
	case <-t.ready:
	case <-t.stopped:
		return rpc.Frame{}, rpc.ErrClosed
	case <-ctx.Done():
		return rpc.Frame{}, ctx.Err()
	}
	suffix := strings.ToLower(rand.Text())
	f.ID = randomID()
	f.Src = dev.String() + "/rpc-resp/" + suffix
	f.Dst = dev.String()
	if err := f.Validate(); err != nil {
		return rpc.Frame{}, fmt.Errorf("%w: %w", rpc.ErrBadRequest, err)
	}
	c := &call{device: dev, arrived: make(chan answer, 4)}
	t.mu.Lock()
	t.pending[suffix] = c
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.pending, suffix)
	}()
	request := mqtt.Message{
		Topic: dev.String() + "/rpc/" + f.Method, Payload: f.Append(nil), QoS: mqtt.QoS1,
		ExpirySeconds: expiry(ctx), Publisher: mqtt.Publisher{Origin: Origin},
	}
	if err := ctx.Err(); err != nil {
		return rpc.Frame{}, err
	}
	if err := t.bus.Publish(ctx, request); err != nil {
		return rpc.Frame{}, fmt.Errorf("publish the request: %w", err)
	}
	return t.await(ctx, c, f.ID)
}

// await returns the first answer that belongs to id.
func (t *Transport) await(ctx context.Context, c *call, id rpc.ID) (rpc.Frame, error) {
	var other rpc.ID
	wrong := 0
	for {
		select {
		case <-ctx.Done():
			return rpc.Frame{}, t.silence(ctx.Err(), c, wrong, other)
		case <-t.stopped:
			return rpc.Frame{}, rpc.ErrClosed
		case a := <-c.arrived:
			if a.payload == nil {
				return rpc.Frame{}, fmt.Errorf("%w: %d bytes are more than the %d allowed", rpc.ErrBadAnswer, a.sizeBytes, t.opts.MaxAnswerBytes)
			}
			got, err := rpc.ParseFrame(a.payload)
			if err != nil {
				return rpc.Frame{}, fmt.Errorf("%w: %w", rpc.ErrBadAnswer, err)
			}
			if got.ID.Answers(id) {
				return got, nil
			}
			wrong, other = wrong+1, got.ID
		}
	}
}

// silence explains the end of ctx by what came instead of the answer.
func (t *Transport) silence(err error, c *call, wrong int, other rpc.ID) error {
	t.mu.Lock()
	foreign, overflow := c.foreign, c.overflow
	t.mu.Unlock()
	switch {
	case foreign > 0:
		return &noAnswer{fmt.Sprintf("%d answers were ignored because another client published them", foreign), err}
	case wrong > 0:
		return &noAnswer{fmt.Sprintf("%d answers were ignored because of their id, the last one %.40q", wrong+overflow, other), err}
	}
	return err
}

// noAnswer is the end of a context with what is known about it.
type noAnswer struct {
	why   string
	cause error
}

func (e *noAnswer) Error() string { return e.why }
func (e *noAnswer) Unwrap() error { return e.cause }

// receive hands an answer to the call that waits for it. It runs in the broker: it parses
// nothing and never waits.
func (t *Transport) receive(m mqtt.Message) {
	device, rest, ok := strings.Cut(m.Topic, "/rpc-resp/")
	if !ok {
		return
	}
	suffix, ok := strings.CutSuffix(rest, "/rpc")
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.pending[suffix]
	if c == nil {
		return // late, a second one, or the mos tool's
	}
	if device != c.device.String() || m.Publisher.Device != c.device {
		c.foreign++
		t.opts.Log.Warn("answer of another client ignored", "device", c.device, "topic", m.Topic)
		return
	}
	a := answer{sizeBytes: len(m.Payload)}
	if len(m.Payload) <= t.opts.MaxAnswerBytes {
		a.payload = append([]byte{}, m.Payload...)
	}
	select {
	case c.arrived <- a:
	default:
		c.overflow++
	}
}

// randomID returns a positive id of at most 53 bits that nobody can guess.
func randomID() rpc.ID {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return rpc.IntID(int64(binary.BigEndian.Uint64(b[:])>>11) | 1)
}

// expiry returns the rest of ctx's time in whole seconds, rounded up; 0 if it has no deadline.
func expiry(ctx context.Context) uint32 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	left := (time.Until(deadline) + time.Second - 1) / time.Second
	return uint32(min(max(left, 1), 1<<31))
}

var _ rpc.Transport = (*Transport)(nil)

package mqttrpc_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway/rpc"
	"gatewayctl/gateway/rpc/mqttrpc"
	"gatewayctl/gateway/rpc/rpctest"
	"gatewayctl/pki/identity"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBus delivers every message to every matching handler, in the publisher's goroutine.
type fakeBus struct {
	mu       sync.Mutex
	handlers map[int]subscription
	next     int
	refuse   error
}

type subscription struct {
	filter mqtt.Filter
	handle func(mqtt.Message)
}

func (b *fakeBus) Publish(_ context.Context, m mqtt.Message) error {
	if b.refuse != nil {
		return b.refuse
	}
	b.mu.Lock()
	var matching []func(mqtt.Message)
	for _, s := range b.handlers {
		if s.filter.Match(m.Topic) {
			matching = append(matching, s.handle)
		}
	}
	b.mu.Unlock()
	for _, handle := range matching {
		handle(m)
	}
	return nil
}

func (b *fakeBus) Subscribe(f mqtt.Filter, h func(mqtt.Message)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.handlers == nil {
		b.handlers = map[int]subscription{}
	}
	b.next++
	id := b.next
	b.handlers[id] = subscription{f, h}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.handlers, id)
	}, nil
}

// device puts serve behind the bus as a Mongoose OS device: the method comes from the topic, the
// answer goes to <src>/rpc.
func (b *fakeBus) device(t *testing.T, id identity.DeviceID, serve rpctest.Serve) {
	t.Helper()
	if _, err := b.Subscribe(mqtt.Filter(id.String()+"/rpc/#"), func(m mqtt.Message) {
		req, err := rpc.ParseFrame(m.Payload)
		if err != nil || req.Dst != id.String() {
			t.Errorf("the device got %s", m.Payload)
			return
		}
		req.Method = strings.TrimPrefix(m.Topic, id.String()+"/rpc/")
		serve(req, func(payload []byte) {
			b.from(id, req.Src+"/rpc", payload)
		})
	}); err != nil {
		t.Fatal(err)
	}
}

// from publishes as the client of a device.
func (b *fakeBus) from(id identity.DeviceID, topic string, payload []byte) {
	_ = b.Publish(context.Background(), mqtt.Message{Topic: topic, Payload: payload, QoS: mqtt.QoS1,
		Publisher: mqtt.Publisher{ClientID: id.String(), Device: id}})
}

// start runs a Transport for the length of the test.
func start(t *testing.T, b *fakeBus) *mqttrpc.Transport {
	t.Helper()
	tr := mqttrpc.New(b, mqttrpc.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return tr
}

func TestContract(t *testing.T) {
	t.Parallel()
	rpctest.Run(t, func(t *testing.T) (rpc.Transport, func(identity.DeviceID, rpctest.Serve)) {
		b := &fakeBus{}
		return start(t, b), func(id identity.DeviceID, serve rpctest.Serve) { b.device(t, id, serve) }
	})
}

// TestRequest checks what goes over the wire.
func TestRequest(t *testing.T) {
	t.Parallel()
	b := &fakeBus{}
	tr := start(t, b)
	lamp := rpctest.ID(t, "lamp")
	got := make(chan mqtt.Message, 1)
	if _, err := b.Subscribe("#", func(m mqtt.Message) {
		if !strings.HasSuffix(m.Topic, "/rpc/Sys.GetInfo") {
			return
		}
		got <- m
		req, _ := rpc.ParseFrame(m.Payload)
		b.from(lamp, req.Src+"/rpc", rpctest.Reply(req, "fine"))
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
	defer cancel()
	if _, err := tr.Call(ctx, lamp, rpc.Frame{Method: "Sys.GetInfo", Src: "forged", ID: rpc.IntID(1)}); err != nil {
		t.Fatal(err)
	}
	m := <-got
	req, err := rpc.ParseFrame(m.Payload)
	if err != nil {
		t.Fatal(err)
	}
	suffix, ok := strings.CutPrefix(req.Src, "lamp/rpc-resp/")
	if m.Topic != "lamp/rpc/Sys.GetInfo" || m.QoS != mqtt.QoS1 || m.Retain || m.ExpirySeconds != 10 || m.Publisher.Origin != "rpc" ||
		req.Method != "Sys.GetInfo" || req.Dst != "lamp" || !ok || len(suffix) < 20 || strings.Contains(suffix, "/") || req.ID == rpc.IntID(1) {
		t.Errorf("request %+v\n%s", m, m.Payload)
	}
}

// TestForgedAnswers lets a neighbour answer, and the device itself on its neighbour's topic.
func TestForgedAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{}
		tr := mqttrpc.New(b, mqttrpc.Options{})
		runCtx, stop := context.WithCancel(t.Context())
		go func() { _ = tr.Run(runCtx) }()
		defer stop()
		lamp, thief := rpctest.ID(t, "lamp"), rpctest.ID(t, "thief")
		honest := false
		b.device(t, lamp, func(req rpc.Frame, reply func([]byte)) {
			forged := rpctest.Reply(req, "forged")
			b.from(thief, req.Src+"/rpc", forged)
			b.from(identity.DeviceID{}, req.Src+"/rpc", forged)
			b.from(thief, strings.Replace(req.Src, "lamp", "thief", 1)+"/rpc", forged)
			b.from(lamp, strings.Replace(req.Src, "lamp", "thief", 1)+"/rpc", forged)
			b.from(lamp, req.Src+"x/rpc", forged)
			b.from(lamp, "lamp/rpc-resp/rpc", forged)
			if honest {
				reply(rpctest.Reply(req, "honest"))
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := tr.Call(ctx, lamp, rpc.Frame{Method: "Test.Forge"})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another client published") {
			t.Errorf("forged answers give %v", err)
		}
		honest = true
		answer, err := tr.Call(t.Context(), lamp, rpc.Frame{Method: "Test.Forge"})
		if err != nil || string(answer.Result) != `"honest"` {
			t.Errorf("answer %s, %v", answer.Result, err)
		}
	})
}

// TestWrongIDIsTold checks that a lying device's timeout says what it did.
func TestWrongIDIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{}
		tr := mqttrpc.New(b, mqttrpc.Options{})
		runCtx, stop := context.WithCancel(t.Context())
		go func() { _ = tr.Run(runCtx) }()
		defer stop()
		lamp := rpctest.ID(t, "lamp")
		b.device(t, lamp, func(req rpc.Frame, reply func([]byte)) {
			req.ID = rpc.IntID(4711)
			for range 100 { // more than a call keeps
				reply(rpctest.Reply(req, "wrong"))
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := tr.Call(ctx, lamp, rpc.Frame{Method: "Test.Lie"})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `100 answers were ignored because of their id, the last one "4711"`) {
			t.Errorf("wrong ids give %v", err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	b := &fakeBus{}
	tr := mqttrpc.New(b, mqttrpc.Options{})
	lamp := rpctest.ID(t, "lamp")

	early, cancelEarly := context.WithCancel(t.Context())
	cancelEarly()
	if _, err := tr.Call(early, lamp, rpc.Frame{Method: "A.B"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call before Run gives %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	b.device(t, lamp, func(rpc.Frame, func([]byte)) { cancel() })
	if _, err := tr.Call(t.Context(), lamp, rpc.Frame{Method: "A.B"}); !errors.Is(err, rpc.ErrClosed) {
		t.Errorf("a call that waits when Run ends gives %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := tr.Call(t.Context(), lamp, rpc.Frame{Method: "A.B"}); !errors.Is(err, rpc.ErrClosed) {
		t.Errorf("a call after Run gives %v", err)
	}
	if len(b.handlers) != 1 { // the device's
		t.Errorf("%d subscriptions are left", len(b.handlers))
	}
}

func TestPublishRefused(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	b := &fakeBus{refuse: full}
	if _, err := start(t, b).Call(t.Context(), rpctest.ID(t, "lamp"), rpc.Frame{Method: "A.B"}); !errors.Is(err, full) {
		t.Errorf("a refused publish gives %v", err)
	}
}

func BenchmarkCall(b *testing.B) {
	bus := &fakeBus{}
	tr := mqttrpc.New(bus, mqttrpc.Options{})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = tr.Run(ctx) }()
	lamp := rpctest.ID(b, "lamp")
	if _, err := bus.Subscribe("lamp/rpc/#", func(m mqtt.Message) {
		req, _ := rpc.ParseFrame(m.Payload)
		bus.from(lamp, req.Src+"/rpc", rpctest.Reply(req, 1))
	}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tr.Call(ctx, lamp, rpc.Frame{Method: "GPIO.Read"}); err != nil {
			b.Fatal(err)
		}
	}
}

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

// bus gives what is sent to it to its subscribers.
type bus struct {
	mu   sync.Mutex
	subs []func(mqtt.Message)
	gone chan struct{} // one for each subscription that ended
}

func newBus() *bus { return &bus{gone: make(chan struct{}, 10)} }

func (b *bus) subscribe(f mqtt.Filter, deliver func(mqtt.Message)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, func(m mqtt.Message) {
		if f.Match(m.Topic) {
			deliver(m)
		}
	})
	return func() { b.gone <- struct{}{} }, nil
}

func (b *bus) deliver(m mqtt.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, deliver := range b.subs {
		deliver(m)
	}
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	b := newBus()
	c := start(t, api.Services{Subscribe: b.subscribe})
	s, err := c.Subscribe(t.Context(), "a/#", "b")
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte("line 1\nline 2\r\n\x00\xff")
	b.deliver(mqtt.Message{Topic: "a/b", Payload: payload, QoS: mqtt.QoS2, Retain: true})
	for m, err := range s.All() {
		if err != nil || m.Topic != "a/b" || string(m.Payload) != string(payload) || m.QoS != 2 || !m.Retain {
			t.Errorf("%+v, %v", m, err)
		}
		break
	}
	for range 2 {
		<-b.gone // leaving the loop ends the subscriptions
	}
	if _, err := c.Subscribe(t.Context(), "a/#/b"); code(err) != api.CodeInvalid {
		t.Errorf("a bad filter: %v", err)
	}
}

func TestStreamEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBus()
	c := start(t, api.Services{Subscribe: b.subscribe})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Subscribe(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := s.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if s, err = c.Subscribe(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(); code(err) != api.CodeTimeout {
		t.Errorf("timed out: %v", err)
	}
	if _, err := s.Next(); code(err) != api.CodeTimeout {
		t.Errorf("asked once more: %v", err)
	}
}

func TestStreamEndsWithTheGateway(t *testing.T) {
	t.Parallel()
	b := newBus()
	dir := dataDir(t)
	a := startIn(t, dir, api.Services{Subscribe: b.subscribe})
	s, err := newClient(t, client.Options{Data: dir}).Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	a.Stop()
	if _, err := s.Next(); code(err) != api.CodeStopping || exit(err) != 1 {
		t.Errorf("error %v", err)
	}
}

func TestStreamTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	b := newBus()
	c := start(t, api.Services{Subscribe: b.subscribe})
	s, err := c.Subscribe(t.Context(), "#")
	if err != nil {
		t.Fatal(err)
	}
	const sent = 4000
	for range sent {
		b.deliver(mqtt.Message{Topic: "a", Payload: make([]byte, 1000)})
	}
	got := uint64(0)
	for got+s.Lost() < sent {
		b.deliver(mqtt.Message{Topic: "more"}) // so that there is something to read after the last notice
		m, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.Topic == "a" {
			got++
		}
	}
	if got == 0 || s.Lost() == 0 {
		t.Errorf("%d came, %d were lost", got, s.Lost())
	}
	s.Close()
	<-b.gone
}

// serve answers every request with what answer writes.
func serve(t *testing.T, answer http.HandlerFunc) *client.Client {
	t.Helper()
	dir := dataDir(t)
	l, err := net.Listen("unix", filepath.Join(dir, "gatewayctl.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: answer}}
	server.Start()
	t.Cleanup(server.Close)
	return newClient(t, client.Options{Data: dir, StreamTimeout: 300 * time.Millisecond})
}

func TestStreamThatFallsSilent(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "event: ready\ndata: {}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s, err := c.Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(); code(err) != client.CodeConnectionLost {
		t.Errorf("error %v", err)
	}
}

func TestStreamFormat(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, ": a comment\n\nid: 1\nevent: ready\ndata: {}\n\n"+
			":\n\nevent: message\r\ndata: {\"topic\":\r\ndata:\"a\"}\r\n\r\n"+ // two lines, as the standard allows
			"event: lost\ndata: {\"count\":3}\n\n"+
			"retry: 5\nevent: message\ndata: {\"topic\":\"b\"}\n\nevent: message\ndata: {\"top")
	})
	s, err := c.Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a", "b"} {
		if m, err := s.Next(); err != nil || m.Topic != want {
			t.Errorf("%+v, %v, want %s", m, err, want)
		}
	}
	if s.Lost() != 3 {
		t.Errorf("%d lost", s.Lost())
	}
	if _, err := s.Next(); code(err) != client.CodeConnectionLost {
		t.Errorf("half an event: %v", err)
	}
}

func TestEventThatIsTooLarge(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "event: ready\ndata: {}\n\n")
		for r.Context().Err() == nil {
			if _, err := fmt.Fprintf(w, "data: %01000000d\n", 0); err != nil {
				return
			}
		}
	})
	s, err := c.Subscribe(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(); code(err) != client.CodeConnectionLost {
		t.Errorf("error %v", err)
	}
}

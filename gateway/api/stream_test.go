package api_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"
)

// bus is a broker that delivers in process.
type bus struct {
	mu   sync.Mutex
	next int
	subs map[int]func(mqtt.Message)
	gone chan struct{} // one for each subscription that ended
}

func newBus() *bus { return &bus{subs: map[int]func(mqtt.Message){}, gone: make(chan struct{}, 100)} }

func (b *bus) subscribe(f mqtt.Filter, deliver func(mqtt.Message)) (func(), error) {
	if f == "forbidden" {
		return nil, errors.New("not this one")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	id := b.next
	b.subs[id] = func(m mqtt.Message) {
		if f.Match(m.Topic) {
			deliver(m)
		}
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, id)
		b.gone <- struct{}{}
	}, nil
}

func (b *bus) publish(topic, payload string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lamp, _ := identity.ParseDeviceID("lamp")
	for _, deliver := range b.subs {
		deliver(mqtt.Message{Topic: topic, Payload: []byte(payload), QoS: mqtt.QoS1, Publisher: mqtt.Publisher{ClientID: "lamp#1", Device: lamp}})
	}
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	b := newBus()
	s := start(t, api.Services{Subscribe: b.subscribe}, api.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	f := s.follow(t, ctx, "GET", "/api/v1/subscribe?filter=a/%23&filter=a/b&filter=c", "")
	b.publish("x", "no")
	b.publish("a/b", "once")
	b.publish("c", "two")
	want := api.Message{Topic: "a/b", Payload: []byte("once"), QoS: 1, Publisher: &api.Publisher{ClientID: "lamp#1", Device: "lamp"}}
	if diff := cmp.Diff(want, expect[api.Message](t, f, "message")); diff != "" {
		t.Error(diff)
	}
	if m := expect[api.Message](t, f, "message"); m.Topic != "c" {
		t.Errorf("a message that two filters match came twice, or %+v", m)
	}
	cancel() // the client leaves
	for range 3 {
		<-b.gone
	}
	if p := s.problem(t, "GET", "/api/v1/subscribe?filter=a&filter=forbidden", ""); !strings.Contains(p.Detail, "not this one") {
		t.Errorf("problem %+v", p)
	}
	<-b.gone // the one that was there is taken back
}

// A reader that does not read loses messages, is told how many, and holds nobody up.
func TestSlowReaderLoses(t *testing.T) {
	t.Parallel()
	b := newBus()
	s := start(t, api.Services{Subscribe: b.subscribe}, api.Options{})
	f := s.follow(t, t.Context(), "GET", "/api/v1/subscribe?filter=%23", "")
	const sent = 5000
	payload := strings.Repeat("x", 1000)
	for range sent {
		b.publish("a", payload)
	}
	b.publish("end", "")
	got, lost, notices := 0, uint64(0), 0
	for {
		name, data := f.next(t)
		if name == "lost" {
			var n uint64
			fmt.Sscanf(data, `{"count":%d}`, &n)
			lost += n
			notices++
			if got+int(lost) >= sent {
				break // the end may be among the lost
			}
			continue
		}
		if name != "message" {
			t.Fatalf("event %q", name)
		}
		if strings.Contains(data, `"topic":"end"`) {
			break
		}
		got++
	}
	if lost == 0 || notices == 0 || got == 0 || uint64(got)+lost < sent {
		t.Errorf("%d came, %d were lost in %d notices, of %d", got, lost, notices, sent)
	}
}

func TestHeartbeatAndShutdown(t *testing.T) {
	t.Parallel()
	b := newBus()
	s := start(t, api.Services{Subscribe: b.subscribe}, api.Options{Heartbeat: 5 * time.Millisecond})
	f := s.follow(t, t.Context(), "GET", "/api/v1/subscribe?filter=a", "")
	for f.lines.Scan() {
		if f.lines.Text() == ":" {
			break
		}
	}
	s.api.Stop()
	for {
		name, data := f.next(t)
		if name == "problem" && strings.Contains(data, api.CodeStopping) {
			break
		}
		if name == "" {
			t.Fatal("the stream ended without a word")
		}
	}
	<-b.gone
}

func TestCallEndsWhenTheGatewayStops(t *testing.T) {
	t.Parallel()
	called := make(chan struct{})
	s := start(t, api.Services{Call: func(ctx context.Context, _, _ string, _ jsonRaw) (jsonRaw, error) {
		close(called)
		<-ctx.Done()
		return nil, ctx.Err()
	}}, api.Options{})
	go func() {
		<-called
		s.api.Stop()
	}()
	if p := s.problem(t, "POST", "/api/v1/devices/lamp/rpc/A.B?timeout=5m", ""); p.Code != api.CodeStopping {
		t.Errorf("problem %+v", p)
	}
}

// A revocation ends what an administrator's open stream shows.
func TestRevocationEndsStream(t *testing.T) {
	t.Parallel()
	b := newBus()
	var revoked atomic.Bool
	a := api.New(api.Services{Subscribe: b.subscribe}, api.Options{})
	caller := api.WithCertificates(func([]*x509.Certificate) (identity.Peer, error) {
		if revoked.Load() {
			return identity.Peer{}, errors.New("certificate revoked")
		}
		return identity.Peer{Role: identity.RoleAdmin}, nil
	}, a)
	s := startHandler(t, caller)
	f := s.follow(t, t.Context(), "GET", "/api/v1/subscribe?filter=a", "")
	b.publish("a", "1")
	if name, _ := f.next(t); name != "message" {
		t.Fatal(name)
	}
	revoked.Store(true)
	b.publish("a", "2")
	if name, data := f.next(t); name != "problem" || !strings.Contains(data, "certificate revoked") {
		t.Errorf("%s %s", name, data)
	}
	if name, _ := f.next(t); name != "" {
		t.Error("the stream goes on")
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	log := events.New(events.Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	for i := range 150 {
		kind := []string{"device.connected", "publish.refused"}[i%2]
		log.Add(events.Event{Kind: kind, Device: []string{"lamp", "pump"}[i%2], Severity: []events.Severity{events.Info, events.Warn}[i%2]})
	}
	s := start(t, api.Services{Events: log}, api.Options{})
	for _, tc := range []struct {
		query              string
		count, first, last int
	}{
		{"", 100, 51, 150},
		{"?limit=3", 3, 148, 150},
		{"?after=140", 10, 141, 150},
		{"?after=9999&limit=1", 1, 150, 150},
		{"?since=2026-01-02T03:02:25Z", 6, 145, 150},
		{"?kind=device&limit=2", 2, 147, 149},
		{"?device=pump&limit=1", 1, 150, 150},
		{"?severity=warn&limit=10000", 75, 2, 150},
		{"?severity=error", 0, 0, 0},
	} {
		var got api.EventList
		s.get(t, "/api/v1/events"+tc.query, &got)
		if len(got.Events) != tc.count {
			t.Errorf("%q: %d events", tc.query, len(got.Events))
			continue
		}
		if tc.count > 0 && (got.Events[0].Seq != uint64(tc.first) || got.Events[tc.count-1].Seq != uint64(tc.last)) {
			t.Errorf("%q: from %d to %d", tc.query, got.Events[0].Seq, got.Events[tc.count-1].Seq)
		}
	}
}

func TestFollowEvents(t *testing.T) {
	t.Parallel()
	log := events.New(events.Options{})
	for range 5 {
		log.Add(events.Event{Kind: "old"})
	}
	s := start(t, api.Services{Events: log}, api.Options{})
	now := s.follow(t, t.Context(), "GET", "/api/v1/events/stream", "")
	past := s.follow(t, t.Context(), "GET", "/api/v1/events/stream?limit=2", "")
	after := s.follow(t, t.Context(), "GET", "/api/v1/events/stream?after=4", "")
	only := s.follow(t, t.Context(), "GET", "/api/v1/events/stream?kind=new", "")
	log.Add(events.Event{Kind: "other"})
	log.Add(events.Event{Kind: "new"})
	for name, c := range map[string]struct {
		f    *sse
		want []uint64
	}{"now": {now, []uint64{6, 7}}, "past": {past, []uint64{4, 5, 6, 7}}, "after": {after, []uint64{5, 6, 7}}, "only": {only, []uint64{7}}} {
		for _, want := range c.want {
			if e := expect[api.Event](t, c.f, "event"); e.Seq != want {
				t.Errorf("%s: event %d, want %d", name, e.Seq, want)
			}
		}
	}
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	found := []api.Found{
		{Instance: "b", Service: "_http._tcp"}, {Instance: "a", Service: "_mqtt._tcp"}, {Instance: "gone", Service: "_http._tcp"},
		{Instance: "b", Service: "_http._tcp", Port: 80}, {Instance: "gone", Service: "_http._tcp", Gone: true},
	}
	s := start(t, api.Services{Discover: func(ctx context.Context, emit func(api.Found)) error {
		for _, f := range found {
			emit(f)
		}
		<-ctx.Done()
		return nil
	}}, api.Options{})
	var got api.FoundList
	s.get(t, "/api/v1/discover?timeout=20ms", &got)
	want := []api.Found{{Instance: "b", Service: "_http._tcp", Port: 80}, {Instance: "a", Service: "_mqtt._tcp"}}
	if diff := cmp.Diff(want, got.Found); diff != "" {
		t.Error(diff)
	}
	f := s.follow(t, t.Context(), "GET", "/api/v1/discover/stream?timeout=20ms", "")
	for _, want := range found {
		if diff := cmp.Diff(want, expect[api.Found](t, f, "found")); diff != "" {
			t.Error(diff)
		}
	}
	if name, _ := f.next(t); name != "end" {
		t.Errorf("the stream ends with %q", name)
	}
}

func TestDiscoverThatFails(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{Discover: func(context.Context, func(api.Found)) error { return errors.New("no network") }}, api.Options{})
	if p := s.problem(t, "GET", "/api/v1/discover", ""); !strings.Contains(p.Detail, "no network") {
		t.Errorf("problem %+v", p)
	}
	f := s.follow(t, t.Context(), "GET", "/api/v1/discover/stream", "")
	if p := expect[api.Problem](t, f, "problem"); !strings.Contains(p.Detail, "no network") {
		t.Errorf("problem %+v", p)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	var fails error
	s := start(t, api.Services{Update: func(ctx context.Context, id identity.DeviceID, image string, progress func(api.UpdateProgress)) (api.UpdateResult, error) {
		progress(api.UpdateProgress{Step: "download", Done: 1, Total: 2})
		return api.UpdateResult{Device: id.String(), To: image}, fails
	}}, api.Options{})
	f := s.follow(t, t.Context(), "POST", "/api/v1/devices/lamp/update", `{"image":"fw@2"}`)
	if p := expect[api.UpdateProgress](t, f, "progress"); p.Step != "download" || p.Total != 2 {
		t.Errorf("progress %+v", p)
	}
	if r := expect[api.UpdateResult](t, f, "result"); r.Device != "lamp" || r.To != "fw@2" {
		t.Errorf("result %+v", r)
	}
	if name, _ := f.next(t); name != "" {
		t.Errorf("after the result: %q", name)
	}
	fails = rpc.ErrOffline
	f = s.follow(t, t.Context(), "POST", "/api/v1/devices/lamp/update", `{"image":"fw@2"}`)
	expect[api.UpdateProgress](t, f, "progress")
	if p := expect[api.Problem](t, f, "problem"); p.Code != api.CodeOffline {
		t.Errorf("problem %+v", p)
	}
}

// An update is given up when its client leaves, and the server waits until it is.
func TestUpdateEndsWithItsClient(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	s := start(t, api.Services{Update: func(ctx context.Context, _ identity.DeviceID, _ string, _ func(api.UpdateProgress)) (api.UpdateResult, error) {
		<-ctx.Done()
		close(ended)
		return api.UpdateResult{}, ctx.Err()
	}}, api.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	s.follow(t, ctx, "POST", "/api/v1/devices/lamp/update", `{"image":"fw"}`)
	cancel()
	<-ended
}

func TestPanicInAStream(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{Discover: func(context.Context, func(api.Found)) error { panic("bug") }}, api.Options{})
	f := s.follow(t, t.Context(), "GET", "/api/v1/discover/stream", "")
	if p := expect[api.Problem](t, f, "problem"); p.Code != api.CodeInternal {
		t.Errorf("problem %+v", p)
	}
}

// A client that takes nothing is cut off when the sockets' buffers are full.
func TestClientThatTakesNothing(t *testing.T) {
	t.Parallel()
	b := newBus()
	s := start(t, api.Services{Subscribe: b.subscribe}, api.Options{WriteTimeout: 200 * time.Millisecond})
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /api/v1/subscribe?filter=%%23 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := conn.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	payload := strings.Repeat("x", 100000)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.publish("a", payload)
		case <-b.gone:
			return
		}
	}
}

var _ http.Handler = (*api.API)(nil)

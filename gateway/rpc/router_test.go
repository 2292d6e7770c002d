package rpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/gateway/rpc"
	"gatewayctl/gateway/rpc/rpctest"
	"gatewayctl/pki/identity"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry is a set of names; true means connected.
type registry map[string]bool

func (r registry) Has(name string) bool             { _, ok := r[name]; return ok }
func (r registry) Online(id identity.DeviceID) bool { return r[id.String()] }

func TestFakeKeepsTheContract(t *testing.T) {
	t.Parallel()
	rpctest.Run(t, func(*testing.T) (rpc.Transport, func(identity.DeviceID, rpctest.Serve)) {
		f := &rpctest.Fake{}
		return f, f.Device
	})
}

func TestCallOutcomes(t *testing.T) {
	t.Parallel()
	fake := &rpctest.Fake{}
	fake.Device(rpctest.ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		switch req.Method {
		case "Sys.GetInfo":
			reply(rpctest.Reply(req, map[string]string{"id": "lamp"}))
		case "Sys.Reboot":
			reply(rpc.Frame{ID: req.ID}.Append(nil))
		case "Test.Garbage":
			reply([]byte("?"))
		case "Test.Never":
		default:
			reply(rpctest.Reply(req, &rpc.RemoteError{Code: rpc.CodeNoHandler, Message: "No handler for " + req.Method}))
		}
	})
	r := rpc.NewRouter(registry{"lamp": true, "pump": false}, fake, rpc.Options{Timeout: 20 * time.Millisecond})
	for _, tc := range []struct {
		device, method, params string
		result                 string
		err                    error
		text                   string
	}{
		{"lamp", "Sys.GetInfo", ``, `{"id":"lamp"}`, nil, ""},
		{"lamp", "Sys.Reboot", `{"delay_ms":5}`, `null`, nil, ""},
		{"lamp", "Test.Garbage", ``, ``, rpc.ErrBadAnswer, "cannot be used"},
		{"lamp", "Test.Never", ``, ``, rpc.ErrTimeout, "call Test.Never of lamp: no answer in time"},
		{"lamp", "Test.Unknown", ``, ``, nil, "error 404: No handler for Test.Unknown"},
		{"pump", "Sys.GetInfo", ``, ``, rpc.ErrOffline, "not connected"},
		{"nobody", "Sys.GetInfo", ``, ``, rpc.ErrUnknownDevice, "no such device"},
		{"no/body", "Sys.GetInfo", ``, ``, rpc.ErrUnknownDevice, "no such device"},
		{"lamp", "", ``, ``, rpc.ErrBadRequest, "method is empty"},
		{"lamp", "A/#", ``, ``, rpc.ErrBadRequest, "character '/'"},
		{"lamp", strings.Repeat("x", 101), ``, ``, rpc.ErrBadRequest, "more than 100"},
		{"lamp", "Sys.GetInfo", `{`, ``, rpc.ErrBadRequest, "not JSON"},
	} {
		got, err := r.Call(t.Context(), tc.device, tc.method, json.RawMessage(tc.params))
		if string(got) != tc.result {
			t.Errorf("%s %s = %s, want %s", tc.device, tc.method, got, tc.result)
		}
		if tc.text == "" != (err == nil) || tc.err != nil && !errors.Is(err, tc.err) || err != nil && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s %s: error %v, want %q", tc.device, tc.method, err, tc.text)
		}
	}
	_, err := r.Call(t.Context(), "lamp", "Test.Unknown", nil)
	if remote, ok := errors.AsType[*rpc.RemoteError](err); !ok || remote.Code != 404 {
		t.Errorf("error %v is no RemoteError 404", err)
	}
}

// TestLimit makes six calls to a device that takes one second for each.
func TestLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, most := 0, 0
		fake := &rpctest.Fake{}
		slow := func(req rpc.Frame, reply func([]byte)) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.AfterFunc(time.Second, func() {
				mu.Lock()
				running--
				mu.Unlock()
				reply(rpctest.Reply(req, nil))
			})
		}
		fake.Device(rpctest.ID(t, "lamp"), slow)
		fake.Device(rpctest.ID(t, "pump"), func(req rpc.Frame, reply func([]byte)) { reply(rpctest.Reply(req, nil)) })
		r := rpc.NewRouter(registry{"lamp": true, "pump": true}, fake, rpc.Options{MaxWaiting: 3})

		start := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := r.Call(t.Context(), "lamp", "Test.Slow", nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := r.Call(t.Context(), "lamp", "Test.Slow", nil); !errors.Is(err, rpc.ErrBusy) {
			t.Errorf("a fourth waiting call gives %v", err)
		}
		if _, err := r.Call(t.Context(), "pump", "Test.Fast", nil); err != nil || time.Since(start) != 0 {
			t.Errorf("another device waited %v: %v", time.Since(start), err)
		}
		wg.Wait()
		if most != 2 || time.Since(start) != 3*time.Second {
			t.Errorf("%d calls at once, %v in all; want 2 and 3s", most, time.Since(start))
		}
	})
}

// TestWaitingEndsWithItsContext checks that a caller that gives up leaves no hole in the queue.
func TestWaitingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &rpctest.Fake{}
		fake.Device(rpctest.ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
			time.AfterFunc(time.Second, func() { reply(rpctest.Reply(req, nil)) })
		})
		r := rpc.NewRouter(registry{"lamp": true}, fake, rpc.Options{Concurrent: 1})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.Call(t.Context(), "lamp", "Test.First", nil); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := r.Call(ctx, "lamp", "Test.Second", nil)
			if !errors.Is(err, rpc.ErrTimeout) || !strings.Contains(err.Error(), "earlier calls") {
				t.Errorf("giving up in the queue: %v", err)
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel) // the very moment at which its turn comes
			if _, err := r.Call(ctx, "lamp", "Test.Third", nil); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		wg.Wait()
		if _, err := r.Call(t.Context(), "lamp", "Test.Fourth", nil); err != nil {
			t.Error(err)
		}
	})
}

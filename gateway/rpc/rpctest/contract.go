package rpctest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"
)

// patience bounds what must happen; nothing waits for it in a test that passes.
const patience = 10 * time.Second

// Run checks a transport against the contract of [rpc.Transport]. open starts one, for the length
// of the test t, and returns it with a function that puts a device at its far end.
func Run(t *testing.T, open func(t *testing.T) (rpc.Transport, func(identity.DeviceID, Serve))) {
	t.Helper()
	for _, tc := range []struct {
		name string
		run  func(*testing.T, *channel)
	}{
		{"an answer comes back, the request goes out as given", testAnswer},
		{"null, missing and failed results are told apart", testResults},
		{"what is no answer ends only its own call", testUnusable},
		{"another id is ignored", testWrongID},
		{"second and late answers are ignored", testDuplicates},
		{"answers come in any order", testOrder},
		{"a canceled call returns at once", testCancel},
		{"ids are positive and fit a float64", testIDs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := &channel{}
			c.transport, c.device = open(t)
			tc.run(t, c)
		})
	}
}

type channel struct {
	transport rpc.Transport
	device    func(identity.DeviceID, Serve)
}

// ID is [identity.ParseDeviceID] for names that are known to be right.
func ID(t testing.TB, name string) identity.DeviceID {
	t.Helper()
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (c *channel) call(t *testing.T, dev, method string, params json.RawMessage) (rpc.Frame, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c.transport.Call(ctx, ID(t, dev), rpc.Frame{Method: method, Params: params})
}

// fine checks that dev still answers.
func (c *channel) fine(t *testing.T, dev string) {
	t.Helper()
	answer, err := c.call(t, dev, "Test.Fine", nil)
	if err != nil || string(answer.Result) != `"fine"` {
		t.Errorf("the next call gives %s, %v", answer.Result, err)
	}
}

func testAnswer(t *testing.T, c *channel) {
	got := make(chan rpc.Frame, 1)
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		got <- req
		reply(Reply(req, map[string]int{"value": 1}))
	})
	answer, err := c.call(t, "lamp", "GPIO.Read", json.RawMessage(`{"pin":2}`))
	if err != nil || string(answer.Result) != `{"value":1}` {
		t.Fatalf("answer %+v, %v", answer, err)
	}
	if req := <-got; req.Method != "GPIO.Read" || string(req.Params) != `{"pin":2}` {
		t.Errorf("the device got %+v", req)
	}
}

func testResults(t *testing.T, c *channel) {
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		switch req.Method {
		case "Test.Null":
			reply(Reply(req, nil))
		case "Test.Missing":
			reply(rpc.Frame{ID: req.ID, Src: "lamp"}.Append(nil))
		case "Test.Error":
			reply(Reply(req, &rpc.RemoteError{Code: 404, Message: "No handler for Test.Error"}))
		case "Test.Text":
			reply(rpc.Frame{ID: rpc.TextID(req.ID.String()), Result: json.RawMessage(`"text"`)}.Append(nil))
		}
	})
	for method, check := range map[string]func(rpc.Frame) bool{
		"Test.Null":    func(f rpc.Frame) bool { return string(f.Result) == "null" && f.Error == nil },
		"Test.Missing": func(f rpc.Frame) bool { return f.Result == nil && f.Error == nil },
		"Test.Error":   func(f rpc.Frame) bool { return f.Error != nil && f.Error.Code == 404 },
		"Test.Text":    func(f rpc.Frame) bool { return string(f.Result) == `"text"` },
	} {
		if answer, err := c.call(t, "lamp", method, nil); err != nil || !check(answer) {
			t.Errorf("%s: answer %+v, %v", method, answer, err)
		}
	}
}

func testUnusable(t *testing.T, c *channel) {
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		switch req.Method {
		case "Test.Garbage":
			reply([]byte("\x00\xff{not json"))
		case "Test.Array":
			reply([]byte(`[1,2]`))
		case "Test.Large":
			reply(fmt.Appendf(nil, `{"id":%s,"result":"%s"}`, req.ID, bytes.Repeat([]byte("x"), 10<<20)))
		default:
			reply(Reply(req, "fine"))
		}
	})
	for _, method := range []string{"Test.Garbage", "Test.Array", "Test.Large"} {
		if _, err := c.call(t, "lamp", method, nil); !errors.Is(err, rpc.ErrBadAnswer) {
			t.Errorf("%s: error %v, want %v", method, err, rpc.ErrBadAnswer)
		}
		c.fine(t, "lamp")
	}
}

func testWrongID(t *testing.T, c *channel) {
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		wrong := req
		wrong.ID = rpc.IntID(1)
		reply(Reply(wrong, "wrong"))
		wrong.ID = rpc.TextID("x" + req.ID.String())
		reply(Reply(wrong, "wrong"))
		wrong.ID = rpc.ID{}
		reply(Reply(wrong, "wrong"))
		reply(Reply(req, "fine"))
	})
	c.fine(t, "lamp")
}

func testDuplicates(t *testing.T, c *channel) {
	var mu sync.Mutex
	var earlier []func()
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		mu.Lock()
		defer mu.Unlock()
		for _, again := range earlier {
			again()
		}
		earlier = append(earlier, func() { reply(Reply(req, "late")) })
		reply(Reply(req, "fine"))
		reply(Reply(req, "second"))
	})
	for range 5 {
		c.fine(t, "lamp")
	}
}

func testOrder(t *testing.T, c *channel) {
	const calls = 8
	var mu sync.Mutex
	var held []func()
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, func() { reply(Reply(req, req.Params)) })
		if len(held) == calls {
			for i := range held {
				held[calls-1-i]()
			}
		}
	})
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			answer, err := c.call(t, "lamp", "Test.Echo", json.RawMessage(strconv.Itoa(i)))
			if err != nil || string(answer.Result) != fmt.Sprint(i) {
				t.Errorf("call %d got %s, %v", i, answer.Result, err)
			}
		})
	}
	wg.Wait()
}

func testCancel(t *testing.T, c *channel) {
	ctx, cancel := context.WithCancel(t.Context())
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		if req.Method == "Test.Never" {
			cancel()
			return
		}
		reply(Reply(req, "fine"))
	})
	if _, err := c.transport.Call(ctx, ID(t, "lamp"), rpc.Frame{Method: "Test.Never"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled call gives %v", err)
	}
	ctx, cancelDeadline := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelDeadline()
	if _, err := c.transport.Call(ctx, ID(t, "lamp"), rpc.Frame{Method: "Test.Fine"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call after its deadline gives %v", err)
	}
	c.fine(t, "lamp")
}

func testIDs(t *testing.T, c *channel) {
	ids := make(chan string, 100)
	c.device(ID(t, "lamp"), func(req rpc.Frame, reply func([]byte)) {
		ids <- req.ID.String()
		reply(Reply(req, "fine"))
	})
	seen := map[string]bool{}
	for range 20 {
		c.fine(t, "lamp")
		id := <-ids
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil || n <= 0 || n > rpc.MaxID || seen[id] {
			t.Errorf("id %q is not a new positive integer of at most 2^53", id)
		}
		seen[id] = true
	}
}

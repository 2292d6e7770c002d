package simdevice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// request is a frame that arrives; other fields mean nothing to the device.
type request struct {
	ID     json.RawMessage `json:"id"`
	Src    string          `json:"src"`
	Dst    string          `json:"dst"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Args   json.RawMessage `json:"args"`
	Tag    json.RawMessage `json:"tag"`
}

// response is a frame that leaves, its fields in the firmware's order.
type response struct {
	ID     json.RawMessage `json:"id"`
	Src    string          `json:"src"`
	Dst    string          `json:"dst,omitempty"`
	Tag    json.RawMessage `json:"tag,omitempty"`
	Result any             `json:"result"`
}

type failedResponse struct {
	ID    json.RawMessage `json:"id"`
	Src   string          `json:"src"`
	Dst   string          `json:"dst,omitempty"`
	Tag   json.RawMessage `json:"tag,omitempty"`
	Error *failure        `json:"error"`
}

// A failure is what a method answers when it cannot do what it was asked for.
type failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (f *failure) Error() string { return fmt.Sprintf("%d: %s", f.Code, f.Message) }

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Sprintf(format, args...)}
}

// errLater is returned by a method that answers by call.reply itself.
var errLater = errors.New("answered later")

// method is one RPC method.
type method struct {
	name, args string // args is the format that RPC.Describe tells
	run        func(context.Context, *call) (any, error)
	free       bool // runs without Device.mu
}

// call is one run of a method.
type call struct {
	b      *boot
	params json.RawMessage
	req    request
}

// decode fills v from the parameters.
func (c *call) decode(v any) error {
	if len(c.params) == 0 {
		return nil
	}
	if err := json.Unmarshal(c.params, v); err != nil {
		return fail(400, "invalid arguments")
	}
	return nil
}

// deliver hands a message to every handler whose filter matches: two of them for <id>/rpc.
func (b *boot) deliver(ctx context.Context, topic string, payload []byte) {
	for _, filter := range b.filters() {
		if !matches(filter, topic) {
			continue
		}
		b.handle(ctx, strings.TrimPrefix(strings.TrimPrefix(topic, b.conf.id+"/rpc"), "/"), payload)
		if b.conf.once {
			return
		}
	}
}

// handle runs one request. What is no request, or for another device, is dropped in silence.
func (b *boot) handle(ctx context.Context, topicMethod string, payload []byte) {
	var req request
	if json.Unmarshal(payload, &req) != nil || req.Dst != "" && req.Dst != b.conf.id {
		return
	}
	if string(req.ID) == "null" {
		req.ID = nil
	}
	if topicMethod == "" && req.ID != nil && req.Src == "" { // nowhere to answer to
		return
	}
	if topicMethod != "" {
		req.Method = topicMethod
	}
	if req.Method == "" {
		return
	}
	c := &call{b: b, req: req, params: req.Params}
	if c.params == nil {
		c.params = req.Args
	}
	result, err := b.invoke(ctx, c)
	if err == errLater {
		return
	}
	c.reply(ctx, result, err)
}

// invoke looks up the method and runs it.
func (b *boot) invoke(ctx context.Context, c *call) (any, error) {
	i := slices.IndexFunc(b.methods, func(m method) bool { return m.name == c.req.Method })
	b.d.log.Debug("call", "method", c.req.Method)
	if i < 0 {
		return nil, fail(404, "No handler for %s", c.req.Method)
	}
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if b.resetting {
		return nil, fail(418, "rebooting")
	}
	if b.methods[i].free {
		b.d.mu.Unlock()
		defer b.d.mu.Lock()
	}
	return b.methods[i].run(ctx, c)
}

// reply answers the call, in the way that the faults of the moment demand.
func (c *call) reply(ctx context.Context, result any, err error) {
	if c.req.ID == nil || c.req.Src == "" {
		return
	}
	faults := c.b.d.currentFaults()
	if faults.Silent {
		return
	}
	src := c.req.Dst
	if src == "" {
		src = c.b.conf.id
	}
	id := answerID(c.req.ID)
	if faults.WrongID {
		id = json.RawMessage("1")
	}
	var frame any = response{ID: id, Src: src, Dst: c.req.Src, Tag: c.req.Tag, Result: result}
	if err != nil {
		f, ok := errors.AsType[*failure](err)
		if !ok {
			f = &failure{500, err.Error()}
		}
		frame = failedResponse{ID: id, Src: src, Dst: c.req.Src, Tag: c.req.Tag, Error: f}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(frame); err != nil {
		c.b.d.log.Error("answer", "method", c.req.Method, "err", err)
		return
	}
	payload := bytes.TrimRight(out.Bytes(), "\n")
	if faults.Garbage {
		payload = payload[:len(payload)/2]
	}
	send := func() { c.b.publish(c.req.Src+"/rpc", payload) }
	if faults.Slow > 0 {
		c.b.after(ctx, faults.Slow, send)
		return
	}
	send()
}

// answerID is how the firmware repeats an id: it keeps the text, and digits come back as a number.
func answerID(raw json.RawMessage) json.RawMessage {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return raw
	}
	if s == "" || len(s) > 18 || s[0] == '0' && s != "0" {
		return raw
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return raw
		}
	}
	return json.RawMessage(s)
}

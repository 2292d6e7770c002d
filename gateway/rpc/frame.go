package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// ErrFrame is wrapped by every error of [ParseFrame]: the bytes are no frame.
var ErrFrame = errors.New("not an RPC frame")

// A Frame is one request, answer or notification of the RPC protocol of Mongoose OS and Shelly
// Gen2+. The zero value of a field means that it is absent.
//
// A request has Method, an answer has Result or Error and the ID of its request, a notification
// has Method and no ID. The raw fields hold one compact JSON value each.
type Frame struct {
	ID     ID
	Src    string          // who sent it; over MQTT the answer goes to the topic <Src>/rpc
	Dst    string          // whom it is for; a device drops what is for another
	Method string          // Service.Method, case-sensitive
	Params json.RawMessage // also read from "args", its old name
	Result json.RawMessage // null where a method returns nothing; may be missing in an answer
	Error  *RemoteError    // presence means failure, even with code 0
	Auth   json.RawMessage // digest credentials, an object
	Key    string          // old pre-shared key
	Tag    string          // echoed in the answer

	// Only the mos tool writes these; devices ignore them.
	Version    int   // "v"
	NoResponse bool  // "nr"
	Deadline   int64 // Unix seconds
	Timeout    int64 // seconds
	Trace      json.RawMessage
}

// wire is Frame as it is written; the order of the fields is the one that devices use.
type wire struct {
	Version    int             `json:"v,omitzero"`
	ID         ID              `json:"id,omitzero"`
	Src        string          `json:"src,omitzero"`
	Dst        string          `json:"dst,omitzero"`
	Tag        string          `json:"tag,omitzero"`
	Key        string          `json:"key,omitzero"`
	Method     string          `json:"method,omitzero"`
	Params     json.RawMessage `json:"params,omitempty"`
	Auth       json.RawMessage `json:"auth,omitempty"`
	NoResponse bool            `json:"nr,omitzero"`
	Deadline   int64           `json:"deadline,omitzero"`
	Timeout    int64           `json:"timeout,omitzero"`
	Trace      json.RawMessage `json:"trace,omitempty"`
	Result     json.RawMessage `json:"result,omitempty"`
	Error      *RemoteError    `json:"error,omitempty"`
}

// Validate reports whether [Frame.Append] can write f: every raw field is one JSON value.
func (f Frame) Validate() error {
	for _, field := range []struct {
		name string
		raw  json.RawMessage
	}{{"params", f.Params}, {"result", f.Result}, {"auth", f.Auth}, {"trace", f.Trace}} {
		if len(field.raw) > 0 && !json.Valid(field.raw) {
			return fmt.Errorf("%s is not JSON", field.name)
		}
	}
	return nil
}

// Append appends f as one line of JSON without a line end. It panics if f does not [Frame.Validate].
func (f Frame) Append(dst []byte) []byte {
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(wire{
		Version: f.Version, ID: f.ID, Src: f.Src, Dst: f.Dst, Tag: f.Tag, Key: f.Key, Method: f.Method,
		Params: f.Params, Auth: f.Auth, NoResponse: f.NoResponse, Deadline: f.Deadline, Timeout: f.Timeout,
		Trace: f.Trace, Result: f.Result, Error: f.Error,
	}); err != nil {
		panic(fmt.Sprintf("rpc: write of a frame that does not validate: %v", err))
	}
	out := buf.Bytes()
	return out[:len(out)-1] // the encoder's line end
}

// ParseFrame reads one frame. It is tolerant where devices differ: unknown fields are ignored,
// "args" stands in for "params", a null is an absent field (but for params and result), bytes that are not UTF-8 are
// replaced, and fields that nobody depends on are dropped when they have the wrong type. What
// decides where a frame belongs (id, src, dst, method, error) must be right.
//
// Field names are case-sensitive and the last of equal ones counts. ParseFrame keeps nothing of b.
func ParseFrame(b []byte) (Frame, error) {
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\ufffd"))
	}
	var fields map[string]json.RawMessage // a struct would match names in any case
	if err := json.Unmarshal(b, &fields); err != nil {
		return Frame{}, fmt.Errorf("%w: %v", ErrFrame, err)
	}
	if fields == nil {
		return Frame{}, fmt.Errorf("%w: null is no object", ErrFrame)
	}
	var f Frame
	for _, need := range []struct {
		name string
		into any
	}{{"id", &f.ID}, {"src", &f.Src}, {"dst", &f.Dst}, {"method", &f.Method}} {
		if raw, ok := fields[need.name]; ok {
			if err := json.Unmarshal(raw, need.into); err != nil {
				return Frame{}, fmt.Errorf("%w: %s: %v", ErrFrame, need.name, err)
			}
		}
	}
	var err error
	if f.Error, err = parseError(fields["error"]); err != nil {
		return Frame{}, fmt.Errorf("%w: error: %v", ErrFrame, err)
	}
	f.Result = compact(fields["result"])
	if f.Params = compact(fields["params"]); f.Params == nil {
		f.Params = compact(fields["args"])
	}
	f.Auth, f.Trace = object(fields["auth"]), object(fields["trace"])
	f.Key, f.Tag = lenient[string](fields["key"]), lenient[string](fields["tag"])
	f.Version, f.NoResponse = lenient[int](fields["v"]), lenient[bool](fields["nr"])
	f.Deadline, f.Timeout = lenient[int64](fields["deadline"]), lenient[int64](fields["timeout"])
	return f, nil
}

// parseError reads the error of an answer. Some firmware sends the bare text, some a code
// written as 404.0.
func parseError(raw json.RawMessage) (*RemoteError, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return &RemoteError{Code: -1, Message: text}, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, errors.New("neither an object nor a text")
	}
	code := lenient[float64](fields["code"])
	if code != math.Trunc(code) || math.Abs(code) > math.MaxInt32 {
		return nil, fmt.Errorf("code %.40q is not a small integer", fields["code"])
	}
	return &RemoteError{Code: int(code), Message: lenient[string](fields["message"])}, nil
}

// lenient reads raw as a T; anything else is the zero value.
func lenient[T any](raw json.RawMessage) T {
	var v, zero T
	if len(raw) == 0 || json.Unmarshal(raw, &v) != nil {
		return zero
	}
	return v
}

func compact(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return nil
	}
	var buf bytes.Buffer
	if json.Compact(&buf, raw) != nil {
		return nil // cannot be: raw is part of valid JSON
	}
	return buf.Bytes()
}

func object(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	return compact(raw)
}

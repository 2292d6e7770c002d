package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"gatewayctl/gateway/api"
)

// maxEvent bounds one server-sent event.
const maxEvent = 8 << 20

// A Stream is a running sequence of what the gateway sends. It ends with its context, with Close,
// when the gateway stops, or when there is nothing more to come. Lost may be called from anywhere,
// the rest is for one goroutine.
type Stream[T any] struct {
	c      *Client
	cause  func() error // why the stream's context ended, nil while it lasts
	lines  *bufio.Reader
	lost   atomic.Uint64
	result json.RawMessage
	ended  error // why there is nothing more; nil while running
	close  func() error
}

// errEnd is the orderly end of a stream.
var errEnd = errors.New("end of stream")

// openStream sends r and waits until the gateway says that the stream is in place.
func openStream[T any](ctx context.Context, c *Client, r request) (*Stream[T], error) {
	r.accept = "text/event-stream"
	ctx, cancel := context.WithCancelCause(ctx)
	res, err := c.open(ctx, r)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	s := &Stream[T]{c: c, cause: func() error { return context.Cause(ctx) }}
	s.lines = bufio.NewReader(&watched{res.Body, c.silent, func() { cancel(errSilent) }})
	s.close = sync.OnceValue(func() error {
		cancel(nil)
		return res.Body.Close()
	})
	name, _, err := s.next()
	if err == nil && name != api.StreamReady {
		err = &Error{Status: res.StatusCode, Code: CodeNotGateway, Message: "what answers at " + c.where() + " does not send the gateway's events"}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// All returns what is still to come. The sequence ends with one error, unless the end was an
// orderly one: the time of a scan was up. Leaving the loop closes the stream.
func (s *Stream[T]) All() iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		defer s.Close()
		for {
			v, err := s.Next()
			if err == io.EOF {
				return
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// Next waits for the next one. It returns [io.EOF] at an orderly end.
func (s *Stream[T]) Next() (T, error) {
	var v T
	for s.ended == nil {
		name, data, err := s.next()
		switch {
		case err != nil:
			s.ended = err
		case name == api.StreamLost:
			var lost api.Lost
			if err := json.Unmarshal(data, &lost); err == nil {
				s.lost.Add(lost.Count)
			}
		case name == api.StreamEnd:
			s.ended = errEnd
		case name == api.StreamResult:
			s.result, s.ended = data, errEnd
		default:
			if err := json.Unmarshal(data, &v); err != nil {
				s.ended = &Error{Code: CodeNotGateway, Message: fmt.Sprintf("an event of %s cannot be read: %v", s.c.where(), err), err: err}
				break
			}
			return v, nil
		}
	}
	s.Close()
	if s.ended == errEnd {
		return v, io.EOF
	}
	return v, s.ended
}

// Lost says how many the gateway has left out so far because they were read too slowly.
func (s *Stream[T]) Lost() uint64 { return s.lost.Load() }

// Close ends the stream.
func (s *Stream[T]) Close() error { return s.close() }

// next reads one event (HTML, server-sent events §9.2.6).
func (s *Stream[T]) next() (name string, data []byte, err error) {
	name = "message"
	size := 0
	for {
		line, err := s.lines.ReadBytes('\n')
		if err != nil {
			return "", nil, s.broken(err)
		}
		if size += len(line); size > maxEvent {
			return "", nil, s.broken(fmt.Errorf("an event has more than %d bytes", maxEvent))
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			if data == nil { // a heartbeat
				name, size = "message", 0
				continue
			}
			break
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
			if data == nil {
				data = []byte{}
			}
		}
	}
	if name == api.StreamProblem {
		var p api.Problem
		if err := json.Unmarshal(data, &p); err == nil {
			return "", nil, fromProblem(p)
		}
	}
	return name, data, nil
}

// broken explains the end of a connection.
func (s *Stream[T]) broken(err error) error {
	switch cause := s.cause(); {
	case errors.Is(cause, errSilent):
		err = cause
	case cause != nil:
		return s.c.interrupted(cause)
	}
	return &Error{Code: CodeConnectionLost, Message: fmt.Sprintf("the connection to the gateway at %s broke: %v", s.c.where(), err), err: err}
}

var errSilent = errors.New("nothing was heard from it")

// watched gives up on a body that stays silent for too long.
type watched struct {
	io.Reader
	silent time.Duration
	give   func()
}

func (w *watched) Read(p []byte) (int, error) {
	t := time.AfterFunc(w.silent, w.give)
	defer t.Stop()
	return w.Reader.Read(p)
}

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// feed is what a stream's operation makes of a request: how things get into its outbox.
type feed struct {
	// work, if not nil, runs in a goroutine of its own until its context ends; its return ends
	// the stream: with its error, with its result, or in order when both are nil.
	work  func(ctx context.Context) (result any, err error)
	close func() // releases what the feed holds; may be nil
}

// stream registers an operation that answers with server-sent events. open prepares the feed; its
// error is an ordinary answer. example holds one value of each kind of event, by name.
func stream[I any](a *API, op huma.Operation, have bool, example map[string]any, open func(context.Context, *I, *outbox) (feed, error)) {
	op.Responses = map[string]*huma.Response{"200": a.streamResponse(example)}
	register(a, op, have, func(ctx context.Context, in *I) (*huma.StreamResponse, error) {
		box := newOutbox()
		ctx, cancel := a.untilStop(ctx)
		f, err := open(ctx, in, box)
		if err != nil {
			cancel()
			return nil, a.problem(ctx, op.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			defer cancel()
			if f.close != nil {
				defer f.close()
			}
			if f.work != nil {
				done := make(chan struct{})
				go func() {
					defer close(done)
					a.work(ctx, op.OperationID, f, box)
				}()
				defer func() { cancel(); <-done }()
			}
			_, w := humago.Unwrap(hctx)
			a.send(ctx, w, box)
		}}, nil
	})
}

// work runs a feed's work and puts its end into box.
func (a *API) work(ctx context.Context, operation string, f feed, box *outbox) {
	defer func() {
		if v := recover(); v != nil {
			box.end(StreamProblem, a.problem(ctx, operation, fmt.Errorf("panic: %v", v)))
		}
	}()
	result, err := f.work(ctx)
	switch {
	case err != nil:
		box.end(StreamProblem, a.problem(ctx, operation, err))
	case result != nil:
		box.end(StreamResult, result)
	default:
		box.end(StreamEnd, struct{}{})
	}
}

// send writes what comes into box until the stream or the client ends.
func (a *API) send(ctx context.Context, w http.ResponseWriter, box *outbox) {
	caller := CallerFrom(ctx)
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	var buf bytes.Buffer
	flush := func() bool {
		_, err := w.Write(buf.Bytes())
		buf.Reset()
		return err == nil && rc.Flush() == nil
	}
	last := func(p *Problem) {
		appendEvent(&buf, StreamProblem, 0, mustJSON(p))
		flush()
	}
	appendEvent(&buf, StreamReady, 0, []byte("{}"))
	if !flush() {
		return
	}
	heartbeat := time.NewTicker(a.opts.Heartbeat)
	defer heartbeat.Stop()
	for {
		select {
		case <-box.filled:
		case <-heartbeat.C:
			buf.WriteString(":\n\n")
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errStopping) {
				last(NewProblem(CodeStopping, errStopping.Error(), ""))
			}
			return
		}
		if err := caller.Check(); err != nil {
			buf.Reset()
			last(NewProblem(CodeForbidden, "the client certificate is not accepted any more", "").WithCause(err))
			return
		}
		ended := box.drain(&buf)
		if !flush() || ended {
			return
		}
	}
}

func appendEvent(buf *bytes.Buffer, name string, id uint64, data []byte) {
	if id > 0 {
		fmt.Fprintf(buf, "id: %d\n", id)
	}
	fmt.Fprintf(buf, "event: %s\ndata: %s\n\n", name, data)
}

// mustJSON encodes this package's own types, which always can be.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}

// streamResponse documents a stream whose events are like those of example.
func (a *API) streamResponse(example map[string]any) *huma.Response {
	schemas := a.huma.OpenAPI().Components.Schemas
	all := maps.Clone(example)
	all[StreamReady] = struct{}{}
	all[StreamLost] = Lost{}
	all[StreamProblem] = Problem{}
	var kinds []*huma.Schema
	for _, name := range slices.Sorted(maps.Keys(all)) {
		data := &huma.Schema{Type: huma.TypeObject}
		if t := reflect.TypeOf(all[name]); t.NumField() > 0 {
			data = schemas.Schema(t, true, name)
		}
		kinds = append(kinds, &huma.Schema{
			Title: name, Type: huma.TypeObject, Required: []string{"event", "data"},
			Properties: map[string]*huma.Schema{"event": {Type: huma.TypeString, Enum: []any{name}}, "data": data},
		})
	}
	return &huma.Response{
		Description: "Server-sent events. The first is ready; lost says how many were left out because they were read too slowly; " +
			"problem, result and end are the last. Comments are heartbeats.",
		Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{OneOf: kinds}}}},
	}
}

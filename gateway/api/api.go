package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Prefix is where the operations lie.
const Prefix = "/api/v1"

// Options configures an [API].
type Options struct {
	Version string // of the program, for the OpenAPI document; "" means "dev"

	// Audit is told of every change that was made, refused or failed: who, the operation's id,
	// what it was done to, and nil or why it was not done. It must not block. nil discards.
	Audit func(c Caller, action, target string, outcome error)

	MaxImageBytes int64         // largest firmware image; 0 means 4 GiB
	Heartbeat     time.Duration // of streams; 0 means 15 s
	WriteTimeout  time.Duration // for a client to take what is sent to it; 0 means 30 s
	ReadTimeout   time.Duration // for a client to go on sending a body; 0 means 30 s
	Log           *slog.Logger  // nil discards
}

// An API is the handler of the admin API. It is safe for concurrent use.
type API struct {
	services Services
	opts     Options
	log      *slog.Logger
	mux      *http.ServeMux
	huma     huma.API
	handler  http.Handler
	document func() (openapi, error)

	stopOnce sync.Once
	stopping chan struct{}
}

var errStopping = errors.New("the gateway is shutting down")

// New returns the handler for what s offers.
func New(s Services, opts Options) *API {
	a := &API{services: s, opts: opts, log: opts.Log, mux: http.NewServeMux(), stopping: make(chan struct{})}
	a.opts.defaults()
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.log = a.log.With("component", "api")
	a.huma = humago.New(a.mux, a.config())
	a.registerStatus()
	a.registerDevices()
	a.registerMessages()
	a.registerEvents()
	a.registerDiscover()
	a.registerFirmware()
	a.registerPKI()
	a.registerProbes()
	a.finishDocument()
	a.handler = a.wrap(a.mux)
	return a
}

func (o *Options) defaults() {
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.Audit == nil {
		o.Audit = func(Caller, string, string, error) {}
	}
	if o.MaxImageBytes <= 0 {
		o.MaxImageBytes = 4 << 30
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 30 * time.Second
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 30 * time.Second
	}
}

// ServeHTTP implements [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// Stop ends all streams, calls and updates, telling their clients why. [NewServer] has it called
// when the server shuts down, which would otherwise wait for them.
func (a *API) Stop() { a.stopOnce.Do(func() { close(a.stopping) }) }

// untilStop returns a context that also ends when the API is stopped.
func (a *API) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		select {
		case <-a.stopping:
			cancel(errStopping)
		case <-done:
		}
	}()
	var once sync.Once
	return ctx, func() { once.Do(func() { close(done); cancel(nil) }) }
}

// config sets huma up: JSON only, strict, and every error a [Problem].
func (a *API) config() huma.Config {
	c := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "gatewayctl admin API", Version: a.opts.Version,
				Description: "Everything that the commands of gatewayctl do. Reached over the admin socket, or over HTTPS with an administrator's certificate.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"mutualTLS": {Type: "mutualTLS", Description: "A client certificate of the gateway's own CA with the profile admin. Not needed on the admin socket."},
				},
			},
			Security: []map[string][]string{{"mutualTLS": {}}},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
	}
	c.Transformers = []huma.Transformer{func(_ huma.Context, _ string, v any) (any, error) {
		if m, ok := v.(*huma.ErrorModel); ok {
			return a.fromHuma(m), nil
		}
		return v, nil
	}}
	return c
}

// operation describes one operation; the path is below [Prefix].
func operation(id, method, path, tag, summary, description string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: Prefix + path, Tags: []string{tag}, Summary: summary, Description: description,
		BodyReadTimeout: -1, // wrap sets deadlines while a body is read
	}
}

// read registers an operation that changes nothing. have says whether the service is there.
func read[I, O any](a *API, op huma.Operation, have bool, fn func(context.Context, *I) (O, error)) {
	register(a, op, have, func(ctx context.Context, in *I) (*reply[O], error) {
		out, err := fn(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, op.OperationID, err)
		}
		return &reply[O]{Body: out}, nil
	})
}

// change registers an operation that changes something: target, of the input, is what.
func change[I, O any](a *API, op huma.Operation, have bool, target func(*I) string, fn func(context.Context, *I) (O, error)) {
	register(a, op, have, func(ctx context.Context, in *I) (*reply[O], error) {
		out, err := fn(ctx, in)
		a.opts.Audit(CallerFrom(ctx), op.OperationID, target(in), err)
		if err != nil {
			return nil, a.problem(ctx, op.OperationID, err)
		}
		return &reply[O]{Body: out}, nil
	})
}

type reply[O any] struct{ Body O }

// register adds the operation with its error answer to the document and to the mux.
func register[I, O any](a *API, op huma.Operation, have bool, fn func(context.Context, *I) (*O, error)) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = a.problemResponse()
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		if !have {
			return nil, NewProblem(CodeUnavailable, "this gateway does not offer "+op.OperationID, "")
		}
		return fn(ctx, in)
	})
}

// durationParam is a [Duration] in the query.
type durationParam struct{ Duration }

// within returns the duration, or def when there is none, or a problem when it is above limit.
func (d durationParam) within(def, limit time.Duration) (time.Duration, error) {
	switch v := d.Std(); {
	case v == 0:
		return def, nil
	case v > limit:
		return 0, invalid("query.timeout", "%s is more than %s", v, limit)
	default:
		return v, nil
	}
}

// orEmpty makes a list that is written as [] rather than as null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

type openapi struct{ json, yaml []byte }

// OpenAPI returns the OpenAPI 3.1 document as indented JSON.
func (a *API) OpenAPI() ([]byte, error) {
	doc, err := a.document()
	return doc.json, err
}

func (a *API) finishDocument() {
	doc := a.huma.OpenAPI()
	for _, unused := range []string{"ErrorModel", "ErrorDetail"} { // huma's own errors are never sent
		delete(doc.Components.Schemas.Map(), unused)
	}
	taken := []string{"CredentialsRequest", "IssueRequest", "Message", "Publisher", "RevokeRequest", "UpdateRequest", "UserProperty"}
	for name, schema := range doc.Components.Schemas.Map() {
		if !slices.Contains(taken, name) { // strict in what is taken; what is sent may get new members
			schema.AdditionalProperties = nil
		}
		for _, member := range schema.Properties {
			member.Nullable = false // what is empty is [] or absent
		}
	}
	a.document = sync.OnceValues(func() (openapi, error) {
		j, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			return openapi{}, err
		}
		y, err := doc.YAML()
		return openapi{append(j, '\n'), y}, err
	})
	serve := func(kind string, pick func(openapi) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			doc, err := a.document()
			if err != nil {
				a.write(w, NewProblem(CodeInternal, err.Error(), ""))
				return
			}
			w.Header().Set("Content-Type", kind)
			w.Write(pick(doc))
		}
	}
	a.mux.HandleFunc("GET /openapi.json", serve("application/openapi+json", func(d openapi) []byte { return d.json }))
	a.mux.HandleFunc("GET /openapi.yaml", serve("application/openapi+yaml", func(d openapi) []byte { return d.yaml }))
}

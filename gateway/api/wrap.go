package api

import (
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"gatewayctl/pki/identity"
)

// wrap puts around next what every request goes through, outermost first.
func (a *API) wrap(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.write(w, NewProblem(CodeForbidden, "the request comes from a page of another site", ""))
	}))
	return a.timed(a.recovered(headers(cross.Handler(a.Authorize(a.routed(next))))))
}

// recovered answers what panicked with a problem and logs the stack; one request is lost.
func (a *API) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			a.log.Error("operation panicked", "method", r.Method, "path", r.URL.Path, "err", v, "stack", string(debug.Stack()))
			if t, ok := w.(*timedWriter); ok && t.began {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			a.write(w, NewProblem(CodeInternal, "the operation failed inside the gateway", remedyLog))
		}()
		next.ServeHTTP(w, r)
	})
}

// headers keeps answers out of caches, keys above all, and out of frames.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		next.ServeHTTP(w, r)
	})
}

// timed bounds how long a client may pause while it sends a body or takes an answer. The bounds
// are per read and write, so that long uploads and streams are possible.
func (a *API) timed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			r = r.WithContext(r.Context()) // the server must find its own body when it cleans up
			r.Body = &timedBody{r.Body, rc, a.opts.ReadTimeout}
			rc.SetReadDeadline(time.Now().Add(a.opts.ReadTimeout)) // for what nobody reads, too
		}
		next.ServeHTTP(&timedWriter{ResponseWriter: w, rc: rc, timeout: a.opts.WriteTimeout}, r)
	})
}

type timedBody struct {
	io.ReadCloser
	rc      *http.ResponseController
	timeout time.Duration
}

func (b *timedBody) Read(p []byte) (int, error) {
	b.rc.SetReadDeadline(time.Now().Add(b.timeout))
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		// The server goes on reading, to notice that the client leaves; that may take long.
		b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

type timedWriter struct {
	http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	began   bool // something was sent
}

// Unwrap lets [http.ResponseController] find the server's own writer.
func (w *timedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *timedWriter) WriteHeader(status int) {
	w.began = true
	w.rc.SetWriteDeadline(time.Now().Add(w.timeout))
	w.ResponseWriter.WriteHeader(status)
}

func (w *timedWriter) Write(p []byte) (int, error) {
	w.began = true
	w.rc.SetWriteDeadline(time.Now().Add(w.timeout))
	return w.ResponseWriter.Write(p)
}

// Authorize lets administrators through, and everybody to /healthz and /readyz. Refused changes
// are reported to Options.Audit.
func (a *API) Authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := authorize(r); p != nil {
			if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method) {
				a.opts.Audit(CallerFrom(r.Context()), r.Method, r.URL.Path, p)
			}
			a.write(w, p)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// public reports whether anybody may ask for path.
func public(path string) bool { return path == "/healthz" || path == "/readyz" }

// authorize returns why r is refused, nil if it is not.
func authorize(r *http.Request) *Problem {
	if public(r.URL.Path) {
		return nil
	}
	const remedy = "Use the admin socket on the gateway's own machine, or an administrator's certificate."
	c := CallerFrom(r.Context())
	err := c.Check()
	switch {
	case c.Via == "":
		return NewProblem(CodeUnauthenticated, "nobody is named as the caller: no client certificate was sent", remedy)
	case err != nil:
		return NewProblem(CodeForbidden, "the client certificate is not accepted", remedy).WithCause(err)
	case c.Role != identity.RoleAdmin:
		return NewProblem(CodeForbidden, c.Name+" is not an administrator", remedy)
	}
	return nil
}

// routed makes problems of the mux's own answers to unknown paths and wrong methods.
func (a *API) routed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := a.mux.Handler(r)
		if pattern != "" {
			next.ServeHTTP(w, r)
			return
		}
		probe := &probe{header: http.Header{}}
		h.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.header.Get("Allow"))
			a.write(w, NewProblem(CodeMethodNotAllowed, r.Method+" is not for "+r.URL.Path, "Use "+probe.header.Get("Allow")+"."))
			return
		}
		a.write(w, NewProblem(CodeNotFound, "there is nothing at "+r.URL.Path, "GET /openapi.json describes what there is."))
	})
}

// probe notes what a handler would answer.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

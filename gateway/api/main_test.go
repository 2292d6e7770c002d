package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"gatewayctl/gateway/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an API on a real admin socket.
type server struct {
	http   *http.Client
	api    *api.API
	socket string
	audit  *trail
}

// trail keeps what was reported to the audit.
type trail struct {
	mu    sync.Mutex
	lines []string
}

func (t *trail) add(c api.Caller, action, target string, outcome error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	result := "done"
	if outcome != nil {
		result = outcome.Error()
	}
	t.lines = append(t.lines, strings.Join([]string{c.Via, action, target, result}, " | "))
}

func (t *trail) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

func start(t *testing.T, s api.Services, opts api.Options) *server {
	t.Helper()
	audit := &trail{}
	if opts.Audit == nil {
		opts.Audit = audit.add
	}
	a := api.New(s, opts)
	srv := serve(t, a, api.ServerOptions{OnShutdown: a.Stop}, api.ConnContext)
	srv.api, srv.audit = a, audit
	return srv
}

// startHandler serves h as if every connection came with a client certificate.
func startHandler(t *testing.T, h http.Handler) *server {
	t.Helper()
	withTLS := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
		h.ServeHTTP(w, r)
	})
	return serve(t, withTLS, api.ServerOptions{}, nil)
}

func serve(t *testing.T, handler http.Handler, opts api.ServerOptions, names func(context.Context, net.Conn) context.Context) *server {
	t.Helper()
	srv := &server{}
	dir, err := os.MkdirTemp("", "api") // a path that is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, path, err := api.ListenSocket(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	srv.socket = path
	h := api.NewServer(handler, opts)
	h.ConnContext = names
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	srv.http = &http.Client{Transport: tr}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return srv
}

// ask sends a request and returns the answer with its body read.
func (s *server) ask(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://gatewayctl"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// get decodes what there is at path.
func (s *server) get(t *testing.T, path string, out any) {
	t.Helper()
	res, text := s.ask(t, "GET", path, "")
	if err := json.Unmarshal([]byte(text), out); err != nil || res.StatusCode != 200 {
		t.Fatalf("%s: %s %v %s", path, res.Status, err, text)
	}
}

// problem is ask for a request that must fail.
func (s *server) problem(t *testing.T, method, path, body string, header ...string) api.Problem {
	t.Helper()
	res, text := s.ask(t, method, path, body, header...)
	if kind := res.Header.Get("Content-Type"); kind != "application/problem+json" {
		t.Fatalf("%s %s: content type %q, body %s", method, path, kind, text)
	}
	var p api.Problem
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
	if p.Status != res.StatusCode || p.Type != "/problems/"+p.Code || p.Title == "" || p.Detail == "" {
		t.Errorf("%s %s: status %d, problem %s", method, path, res.StatusCode, text)
	}
	return p
}

// sse is a stream that is being read.
type sse struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// follow opens a stream and reads its first event, which must be ready.
func (s *server) follow(t *testing.T, ctx context.Context, method, path, body string) *sse {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://gatewayctl"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		b, _ := io.ReadAll(res.Body)
		t.Fatalf("%s %s: %s %s", method, path, res.Status, b)
	}
	f := &sse{res.Body, bufio.NewScanner(res.Body)}
	f.lines.Buffer(nil, 8<<20)
	if name, _ := f.next(t); name != "ready" {
		t.Fatalf("the first event is %q", name)
	}
	return f
}

// next returns the next event, or "" at the end; a heartbeat is an event named ":".
func (f *sse) next(t *testing.T) (name, data string) {
	t.Helper()
	for f.lines.Scan() {
		switch line := f.lines.Text(); {
		case line == "" && (name != "" || data != ""):
			return name, data
		case line == ":":
			name = ":"
		default:
			field, value, _ := strings.Cut(line, ": ")
			switch field {
			case "event":
				name = value
			case "data":
				data = value
			}
		}
	}
	return "", ""
}

// expect reads one event and decodes it.
func expect[T any](t *testing.T, f *sse, want string) T {
	t.Helper()
	var v T
	name, data := f.next(t)
	if name != want {
		t.Fatalf("event %q %s, want %s", name, data, want)
	}
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("event %s: %v", data, err)
	}
	return v
}

func longDir(t *testing.T) string {
	return filepath.Join(t.TempDir(), strings.Repeat("d", 100))
}

type jsonRaw = json.RawMessage

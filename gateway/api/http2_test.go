package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatewayctl/gateway/api"
	"gatewayctl/pki/identity"
)

// Browsers speak HTTP/2 to the HTTPS port.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	b := newBus()
	a := api.New(api.Services{
		Subscribe: b.subscribe,
		AddImage: func(_ context.Context, _ string, r io.Reader) (api.Image, error) {
			n, err := io.Copy(io.Discard, r)
			return api.Image{SizeBytes: n}, err
		},
		Status: func(ctx context.Context) (api.Status, error) {
			select { // longer than any of the timeouts
			case <-ctx.Done():
				return api.Status{}, ctx.Err()
			case <-time.After(700 * time.Millisecond):
				return api.Status{Health: "ok"}, nil
			}
		},
	}, api.Options{ReadTimeout: 400 * time.Millisecond, WriteTimeout: 400 * time.Millisecond, Heartbeat: 5 * time.Millisecond})
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("protocol %s", r.Proto)
		}
		admin := api.Caller{Name: "ann", Role: identity.RoleAdmin, Via: api.ViaCertificate}
		a.ServeHTTP(w, r.WithContext(api.WithCaller(r.Context(), admin)))
	}))
	ts.EnableHTTP2 = true
	ts.StartTLS()
	t.Cleanup(ts.Close)
	s := &server{http: ts.Client()}
	s.http.Transport = &rewrite{ts.URL, s.http.Transport}

	ctx, cancel := context.WithCancel(t.Context())
	f := s.follow(t, ctx, "GET", "/api/v1/subscribe?filter=a", "")
	if res, text := s.ask(t, "GET", "/api/v1/status", ""); res.StatusCode != 200 || !strings.Contains(text, `"health":"ok"`) {
		t.Errorf("%s %s", res.Status, text)
	}
	if res, text := s.ask(t, "POST", "/api/v1/firmware", "12345"); res.StatusCode != 200 || !strings.Contains(text, `"size_bytes":5`) {
		t.Errorf("%s %s", res.Status, text)
	}
	b.publish("a", "x") // the stream is there still
	for {
		name, _ := f.next(t)
		if name == "" {
			t.Fatal("the stream has ended")
		}
		if name == "message" {
			break
		}
	}
	cancel()
	<-b.gone
}

// rewrite sends requests for the admin socket to a test server.
type rewrite struct {
	url  string
	next http.RoundTripper
}

func (r *rewrite) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = "https", strings.TrimPrefix(r.url, "https://")
	return r.next.RoundTrip(out)
}

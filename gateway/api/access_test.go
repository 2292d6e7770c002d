package api_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/gateway/api"
	"gatewayctl/pki/identity"
)

func metrics(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "gatewayctl_up 1") }

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	audit := &trail{}
	a := api.New(api.Services{
		Metrics: http.HandlerFunc(metrics),
		Status:  func(context.Context) (api.Status, error) { return api.Status{Health: "ok"}, nil },
	}, api.Options{Audit: audit.add})
	admin := api.Caller{Name: "uid 0", Role: identity.RoleAdmin, Via: api.ViaSocket}
	device := api.Caller{Name: "lamp", Role: identity.RoleDevice, Via: api.ViaCertificate}
	for _, tc := range []struct {
		who          string
		caller       api.Caller
		method, path string
		status       int
		code         string
	}{
		{"nobody", api.Caller{}, "GET", "/healthz", 200, ""},
		{"nobody", api.Caller{}, "GET", "/readyz", 200, ""},
		{"nobody", api.Caller{}, "GET", "/metrics", 401, api.CodeUnauthenticated},
		{"nobody", api.Caller{}, "GET", "/openapi.json", 401, api.CodeUnauthenticated},
		{"nobody", api.Caller{}, "GET", "/api/v1/status", 401, api.CodeUnauthenticated},
		{"nobody", api.Caller{}, "GET", "/nothing", 401, api.CodeUnauthenticated},
		{"a device", device, "GET", "/api/v1/status", 403, api.CodeForbidden},
		{"a device", device, "GET", "/metrics", 403, api.CodeForbidden},
		{"a device", device, "POST", "/api/v1/devices/pump/disable", 403, api.CodeForbidden},
		{"an administrator", admin, "GET", "/api/v1/status", 200, ""},
		{"an administrator", admin, "GET", "/metrics", 200, ""},
		{"an administrator", admin, "GET", "/nothing", 404, api.CodeNotFound},
		{"an administrator", admin, "POST", "/api/v1/status", 405, api.CodeMethodNotAllowed},
	} {
		t.Run(tc.who+" "+tc.method+" "+tc.path, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, tc.path, nil)
			if tc.caller.Via != "" {
				r = r.WithContext(api.WithCaller(r.Context(), tc.caller))
			}
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			var p api.Problem
			if w.Code != 200 {
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
					t.Fatal(err, w.Body)
				}
			}
			if w.Code != tc.status || p.Code != tc.code {
				t.Errorf("%d %s, want %d %s: %s", w.Code, p.Code, tc.status, tc.code, w.Body)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Error("the answer may be stored")
			}
		})
	}
	if diff := cmp.Diff([]string{"certificate | POST | /api/v1/devices/pump/disable | lamp is not an administrator"}, audit.all()); diff != "" {
		t.Errorf("audit:\n%s", diff)
	}
}

// A page of another site that an administrator's browser shows must not reach the API with the
// browser's client certificate.
func TestOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{}, api.Options{})
	p := s.problem(t, "POST", "/api/v1/devices/lamp/disable", "", "Sec-Fetch-Site", "cross-site")
	if p.Code != api.CodeForbidden {
		t.Errorf("problem %+v", p)
	}
}

func TestSocketNamesTheUser(t *testing.T) {
	t.Parallel()
	var got api.Caller
	s := start(t, api.Services{Status: func(ctx context.Context) (api.Status, error) {
		got = api.CallerFrom(ctx)
		return api.Status{}, nil
	}}, api.Options{})
	s.ask(t, "GET", "/api/v1/status", "")
	if got.Via != api.ViaSocket || got.UID != os.Getuid() || got.Role != identity.RoleAdmin || got.Name != fmt.Sprintf("uid %d", os.Getuid()) {
		t.Errorf("caller %+v", got)
	}
}

func TestCertificateIsAskedAboutEveryTime(t *testing.T) {
	t.Parallel()
	a := api.New(api.Services{Status: func(context.Context) (api.Status, error) { return api.Status{}, nil }}, api.Options{})
	var revoked atomic.Bool
	h := api.WithCertificates(func([]*x509.Certificate) (identity.Peer, error) {
		if revoked.Load() {
			return identity.Peer{}, errors.New("certificate revoked")
		}
		return identity.Peer{CommonName: "ann", Serial: "0a", Role: identity.RoleAdmin}, nil
	}, a)
	ask := func(certs ...*x509.Certificate) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/api/v1/status", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: certs}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := ask(); w.Code != 401 {
		t.Errorf("without a certificate: %d", w.Code)
	}
	if w := ask(&x509.Certificate{}); w.Code != 200 {
		t.Errorf("with a certificate: %d %s", w.Code, w.Body)
	}
	revoked.Store(true)
	if w := ask(&x509.Certificate{}); w.Code != 403 || !strings.Contains(w.Body.String(), "certificate revoked") {
		t.Errorf("with a revoked certificate: %d %s", w.Code, w.Body)
	}
}

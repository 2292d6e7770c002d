package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

func (a *API) registerStatus() {
	s := a.services
	read(a, operation("status", http.MethodGet, "/status", "gateway", "How the gateway is", ""),
		s.Status != nil, func(ctx context.Context, _ *struct{}) (Status, error) {
			st, err := s.Status(ctx)
			st.Listeners, st.Bridges, st.Warnings = orEmpty(st.Listeners), orEmpty(st.Bridges), orEmpty(st.Warnings)
			return st, err
		})
	read(a, operation("bridge-status", http.MethodGet, "/bridge", "bridge", "Upstreams, their rules and what waits for them", ""),
		s.Upstreams != nil, func(ctx context.Context, _ *struct{}) (UpstreamList, error) {
			list, err := s.Upstreams(ctx)
			for i := range list {
				list[i].Rules = orEmpty(list[i].Rules)
			}
			return UpstreamList{orEmpty(list)}, err
		})
}

// registerProbes adds what monitors ask, outside of the operations' prefix.
func (a *API) registerProbes() {
	a.probe("healthz", "The process lives", func(w http.ResponseWriter, r *http.Request) {
		plain(w, "ok")
	})
	a.probe("readyz", "Devices can connect", func(w http.ResponseWriter, r *http.Request) {
		if a.services.Ready != nil {
			if err := a.services.Ready(); err != nil {
				p := NewProblem(CodeUnavailable, "not ready: "+err.Error(), "")
				p.Status = http.StatusServiceUnavailable
				a.write(w, p)
				return
			}
		}
		plain(w, "ready")
	})
	a.probe("metrics", "Metrics in Prometheus' text format", func(w http.ResponseWriter, r *http.Request) {
		if a.services.Metrics == nil {
			a.write(w, NewProblem(CodeUnavailable, "this gateway does not offer metrics", ""))
			return
		}
		a.services.Metrics.ServeHTTP(w, r)
	})
}

func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, text)
}

// probe adds GET /name to the mux and to the document.
func (a *API) probe(name, summary string, h http.HandlerFunc) {
	var security []map[string][]string // as everything else
	if public("/" + name) {
		security = []map[string][]string{} // none
	}
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: name, Method: http.MethodGet, Path: "/" + name, Tags: []string{"monitoring"}, Summary: summary, Security: security,
		Responses: map[string]*huma.Response{
			"200":     {Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}}},
			"default": a.problemResponse(),
		},
	})
	a.mux.HandleFunc("GET /"+name, h)
}

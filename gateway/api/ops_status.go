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
	a.probe("healthz", "The process lives", "text/plain; charset=utf-8", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	a.probe("readyz", "Devices can connect", "text/plain; charset=utf-8", func(w http.ResponseWriter, r *http.Request) {
		if a.services.Ready != nil {
			if err := a.services.Ready(); err != nil {
				p := NewProblem(CodeUnavailable, "not ready: "+err.Error(), "")
				p.Status = http.StatusServiceUnavailable
				a.write(w, p)
				return
			}
		}
		fmt.Fprintln(w, "ready")
	})
	a.probe("metrics", "Metrics in Prometheus' text format", "", func(w http.ResponseWriter, r *http.Request) {
		if a.services.Metrics == nil {
			a.write(w, NewProblem(CodeUnavailable, "this gateway does not offer metrics", ""))
			return
		}
		a.services.Metrics.ServeHTTP(w, r)
	})
}

// probe adds GET /name to the mux and to the document. kind is its content type, "" when the
// handler sets its own.
func (a *API) probe(name, summary, kind string, h http.HandlerFunc) {
	doc := kind
	if doc == "" {
		doc = "text/plain"
	}
	a.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: name, Method: http.MethodGet, Path: "/" + name, Tags: []string{"monitoring"}, Summary: summary,
		Responses: map[string]*huma.Response{
			"200":     {Description: http.StatusText(http.StatusOK), Content: map[string]*huma.MediaType{doc: {Schema: &huma.Schema{Type: huma.TypeString}}}},
			"default": a.problemResponse(),
		},
	})
	a.mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
		if kind != "" {
			w.Header().Set("Content-Type", kind)
		}
		h(w, r)
	})
}

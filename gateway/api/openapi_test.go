package api_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/gateway/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The document is what scripts and other clients rely on: a change of it is a decision.
func TestOpenAPIDocument(t *testing.T) {
	t.Parallel()
	got, err := api.New(api.Services{}, api.Options{Version: "test"}).OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "openapi.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the OpenAPI document has changed; if that is meant, run go test ./gateway/api -update and look at the difference:\n%s", diff)
	}
}

func TestOpenAPIIsComplete(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{}, api.Options{Version: "test"})
	res, text := s.ask(t, "GET", "/openapi.json", "")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/openapi+json" {
		t.Fatalf("%s, %s", res.Status, res.Header.Get("Content-Type"))
	}
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Summary     string
			Tags        []string
			Responses   map[string]struct{ Content map[string]any }
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %q", doc.OpenAPI)
	}
	seen := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.OperationID == "" || seen[op.OperationID] || op.Summary == "" || len(op.Tags) == 0 {
				t.Errorf("%s %s: incomplete or double: %+v", method, path, op)
			}
			seen[op.OperationID] = true
			if _, ok := op.Responses["default"].Content["application/problem+json"]; !ok {
				t.Errorf("%s %s does not say how it fails", method, path)
			}
		}
	}
	for name := range doc.Components.Schemas {
		if !strings.Contains(text, `"#/components/schemas/`+name+`"`) {
			t.Errorf("schema %s is not used", name)
		}
	}
	if res, text := s.ask(t, "GET", "/openapi.yaml", ""); res.StatusCode != 200 || !strings.Contains(text, "openapi: 3.1") {
		t.Errorf("/openapi.yaml: %s", res.Status)
	}
}

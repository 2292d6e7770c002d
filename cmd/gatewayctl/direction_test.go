package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers is the order of the top-level folders: each imports only itself and what stands before it.
var layers = []string{"store", "pki", "broker", "firmware", "gateway", "bridge", "configs", "cmd"}

// homes are the third-party libraries that live in one place, and that place. Tests may go no further.
var homes = map[string][]string{
	"go.etcd.io/bbolt":                    {"store"},
	"github.com/mochi-mqtt/server":        {"broker", "cmd/gatewayctl/internal/bench"},
	"github.com/hashicorp/mdns":           {"gateway/discovery"},
	"github.com/eclipse/paho.mqtt.golang": {"bridge/mqttclient", "gateway/simdevice"},
	"github.com/spf13/cobra":              {"cmd/gatewayctl"},
	"github.com/danielgtaylor/huma":       {"gateway/api"},
	"go.yaml.in/yaml":                     {"cmd/gatewayctl/internal/config"},
	"github.com/coreos/go-systemd":        {"cmd/gatewayctl"},
	"github.com/prometheus/client_golang": {"cmd/gatewayctl/internal/appliance"},
	"github.com/rogpeppe/go-internal":     {"cmd/gatewayctl"},
	"software.sslmate.com/src/go-pkcs12":  {"gateway/provision"},
	"golang.org/x/crypto/bcrypt":          {"cmd/gatewayctl/internal/appliance"},
}

// TestImportDirection parses every source file of the module, so that a breach shows even where
// the test cache would hide what `go list` says.
func TestImportDirection(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	imports := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != root && (strings.HasPrefix(name, ".") && name != "..") || name == "testdata" || name == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports++
			if why := breach(filepath.ToSlash(rel), imported); why != "" {
				t.Errorf("%s imports %s: %s", rel, imported, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if imports < 100 {
		t.Fatalf("only %d imports were seen: the walk does not reach the module", imports)
	}
}

// breach says why file may not import imported, "" if it may.
func breach(file, imported string) string {
	folder := path.Dir(file)
	for lib, places := range homes {
		if within(imported, lib) && !slices.ContainsFunc(places, func(p string) bool { return within(folder, p) }) {
			return lib + " lives in " + strings.Join(places, " and ")
		}
	}
	ours, ok := strings.CutPrefix(imported, "gatewayctl/")
	if !ok {
		return ""
	}
	from, to := layer(folder), layer(ours)
	switch {
	case from < 0:
		return "the folder has no place in the package map"
	case to < 0:
		return "the imported folder has no place in the package map"
	case to > from:
		return layers[from] + " stands left of " + layers[to]
	case within(ours, "broker") && ours != "broker/mqtt" && from > layer("broker") && !within(folder, "cmd") && folder != "configs":
		return "outside broker, only cmd imports more of it than broker/mqtt"
	case within(ours, "cmd") && !within(folder, "cmd"):
		return "cmd is the composition root"
	}
	return ""
}

func layer(folder string) int { return slices.Index(layers, strings.SplitN(folder, "/", 2)[0]) }

// within reports whether p is dir or lies below it; a major version suffix counts as below.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func TestBreach(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		file, imported string
		allowed        bool
	}{
		{"gateway/rpc/router.go", "gatewayctl/broker/mqtt", true},
		{"gateway/rpc/router.go", "gatewayctl/broker", false},
		{"gateway/rpc/router.go", "gatewayctl/bridge", false},
		{"broker/hook.go", "github.com/mochi-mqtt/server/v2", true},
		{"gateway/rpc/router.go", "github.com/mochi-mqtt/server/v2/packets", false},
		{"pki/issue.go", "go.etcd.io/bbolt", false},
		{"store/db.go", "gatewayctl/pki/identity", false},
		{"cmd/gatewayctl/serve.go", "gatewayctl/broker/acl", true},
		{"helpers/x.go", "gatewayctl/store", false},
	} {
		if got := breach(tc.file, tc.imported); (got == "") != tc.allowed {
			t.Errorf("breach(%q, %q) = %q, want allowed = %v", tc.file, tc.imported, got, tc.allowed)
		}
	}
}

package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/cmd/gatewayctl/internal/config"
)

func TestExampleIsTheDefault(t *testing.T) {
	t.Parallel()
	got, err := config.Load(filepath.Join("..", "..", "..", "..", "configs", "gatewayctl.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Bridge.Upstreams, want.PKI.ServerNames = []config.Upstream{}, []string{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example does not show the defaults (-default +example):\n%s", diff)
	}
}

// The commented parts of the example are configuration too, and must stay loadable.
func TestExampleUncommented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "configs", "gatewayctl.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, line := range strings.Split(string(b), "\n") {
		if line == "  upstreams: []" {
			continue // its commented form follows
		}
		if rest, ok := strings.CutPrefix(line, "  # "); ok {
			line = "  " + rest
		}
		out = append(out, line)
	}
	cfg, err := config.Parse("example", []byte(strings.Join(out, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(cfg.Listeners); got != 5 {
		t.Errorf("%d listeners in the uncommented example, want 5", got)
	}
	if len(cfg.Bridge.Upstreams) != 1 || len(cfg.Bridge.Upstreams[0].Rules) != 3 {
		t.Errorf("bridge in the uncommented example: %+v, want one upstream with three rules", cfg.Bridge)
	}
	if got := cfg.Bridge.Upstreams[0].Rules[0].MaxBytes; got != 512<<20 {
		t.Errorf("max_bytes = %d, want 512MiB", got)
	}
}

func TestParseReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := config.Parse("g.yaml", []byte(`durability: sometimes
listners: {}
listeners:
  mqtt: {type: mqtts, address: "8883"}
  lan: {type: mqtt, address: ":1883"}
limits:
  handshake: 10
  max_packet: 1 parsec
  max_clients: many
mdns: {announce: "perhaps"}
bridge:
  upstreams:
    - name: cloud
      url: mqtts://user:secret@example:8883
      rules:
        - {local: "a/#", direction: sideways, qos: 3}
    - {name: cloud, url: "ftp://x", rules: []}
`))
	var problems *config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("Parse: %v, want *Problems", err)
	}
	got := problems.Error()
	for _, want := range []string{
		`g.yaml:1:13: durability: "sometimes" is not one of always, second, never`,
		`g.yaml:2:1: unknown key listners (did you mean listeners?)`,
		`g.yaml:4:32: listeners.mqtt.address: "8883" is not host:port`,
		`g.yaml:5:30: listeners.lan.address: a plain listener on other than loopback needs a password_file`,
		`g.yaml:7:14: limits.handshake: "10" is not a duration`,
		`g.yaml:8:15: limits.max_packet: "1 parsec" is not a size`,
		`g.yaml:9:16: limits.max_clients: "many" is not a whole number`,
		`g.yaml:10:18: mdns.announce: "perhaps" is neither true nor false`,
		`g.yaml:14:12: bridge.upstreams[0].url: keep credentials out of the URL`,
		`bridge.upstreams[0].rules[0].direction: "sideways" is not one of up, down, both`,
		`bridge.upstreams[0].rules[0].qos: must be 0 or 1`,
		`two upstreams are called "cloud"`,
		`scheme "ftp" is not one of mqtt, mqtts`,
		`an upstream without rules forwards nothing`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("problems lack %q; got:\n%s", want, got)
		}
	}
	if strings.Contains(got, "secret") {
		t.Errorf("a password from the file is shown:\n%s", got)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in, wantErr string
		check             func(config.Config) bool
	}{
		{name: "empty file", in: "", check: func(c config.Config) bool { return cmp.Equal(c, config.Default()) }},
		{name: "only comments", in: "# nothing\n", check: func(c config.Config) bool { return cmp.Equal(c, config.Default()) }},
		{name: "an own listener keeps the default ones", in: "listeners: {p: {type: mqtt, address: '127.0.0.1:0'}}",
			check: func(c config.Config) bool { return len(c.Listeners) == 3 && c.Listeners["mqtt"].Address == ":8883" }},
		{name: "durations", in: "limits: {handshake: 5s}", check: func(c config.Config) bool { return c.Limits.Handshake == 5*time.Second }},
		{name: "empty value leaves the default", in: "durability:\n", check: func(c config.Config) bool { return c.Durability == "always" }},
		{name: "not YAML", in: "a: [", wantErr: "not YAML"},
		{name: "a list", in: "- a\n", wantErr: "the file wants keys and values"},
		{name: "two documents", in: "durability: always\n---\ndurability: never\n", wantErr: "more than one YAML document"},
		{name: "key twice", in: "durability: always\ndurability: never\n", wantErr: "durability is given twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Parse("f", []byte(tc.in))
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("Parse: %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !tc.check(cfg) {
				t.Errorf("Parse(%q) = %+v", tc.in, cfg)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("../../../../configs/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := config.Parse("f", b); err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}

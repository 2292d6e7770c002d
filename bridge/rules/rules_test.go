package rules_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/bridge/rules"
	"gatewayctl/broker/mqtt"
)

// compileOne returns the only mapping of one upstream with one rule.
func compileOne(t *testing.T, r rules.Rule) *rules.Mapping {
	t.Helper()
	set, err := rules.Compile(rules.Upstream{Name: "cloud", Broker: "b:1883", Rules: []rules.Rule{r}})
	if err != nil {
		t.Fatal(err)
	}
	return set.Mappings("cloud")[0]
}

func TestMapping(t *testing.T) {
	t.Parallel()
	up := rules.Rule{Local: "+/data", Direction: rules.Up, RemotePrefix: "site-1/", QoS: 1}
	down := rules.Rule{Local: "commands/#", Direction: rules.Down, RemotePrefix: "site-1/", QoS: 1}
	under := rules.Rule{Local: "#", Direction: rules.Down, RemotePrefix: "site-1/", LocalPrefix: "cloud/", QoS: 1}
	both := rules.Rule{Local: "a/#", Direction: rules.Both, RemotePrefix: "up/", RemotePrefixDown: "down/", LocalPrefix: "l/", QoS: 1}
	bare := rules.Rule{Local: "#", Direction: rules.Up, QoS: 1}
	for _, tc := range []struct {
		name     string
		rule     rules.Rule
		up       bool
		in, want string // want "": not forwarded
	}{
		{"up adds the prefix", up, true, "lamp/data", "site-1/lamp/data"},
		{"up only what matches", up, true, "lamp/rpc", ""},
		{"an up rule brings nothing down", up, false, "site-1/lamp/data", ""},
		{"down takes the prefix off", down, false, "site-1/commands/x", "commands/x"},
		{"down with the parent level, §4.7.1.2", down, false, "site-1/commands", "commands"},
		{"a down rule sends nothing up", down, true, "commands/x", ""},
		{"down under another prefix", under, false, "site-1/a/b", "cloud/a/b"},
		{"the prefix alone is no topic", under, false, "site-1/", ""},
		{"the parent of the prefix, which the remote filter matches", under, false, "site-1", ""},
		{"no $ topic comes out of its prefix, §4.7.2", under, false, "site-1/$SYS/uptime", ""},
		{"both, up", both, true, "l/a/1", "up/a/1"},
		{"both, down", both, false, "down/a/1", "l/a/1"},
		{"both, down not by the prefix for up", both, false, "up/a/1", ""},
		{"no prefix", bare, true, "a", "a"},
		{"no prefix, wildcards skip $ topics", bare, true, "$SYS/uptime", ""},
		{"too long with the prefix [MQTT-4.7.3-3]", up, true, strings.Repeat("x", 65525) + "/data", ""},
		{"longest with the prefix", up, true, strings.Repeat("x", 65523) + "/data", "site-1/" + strings.Repeat("x", 65523) + "/data"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := compileOne(t, tc.rule)
			move := m.Down
			if tc.up {
				move = m.Up
			}
			if got, ok := move(tc.in); got != tc.want || ok != (tc.want != "") {
				t.Errorf("%.40q becomes %.40q, %v, want %.40q", tc.in, got, ok, tc.want)
			}
		})
	}
}

func TestEchoIsNotSent(t *testing.T) {
	t.Parallel()
	set, err := rules.Compile(rules.Upstream{Name: "cloud", Rules: []rules.Rule{
		{Local: "+/data", Direction: rules.Up, RemotePrefix: "site-1/", QoS: 1},
		{Local: "commands/#", Direction: rules.Down, RemotePrefix: "site-1/", QoS: 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := set.Mappings("cloud")[0]
	for topic, sent := range map[string]bool{"lamp/data": true, "commands/data": false, "other": false} {
		if _, ok := m.Up(topic); ok != sent {
			t.Errorf("%q is sent: %v, want %v", topic, ok, sent)
		}
		if echo := topic == "commands/data"; m.Echo(topic) != echo {
			t.Errorf("Echo(%q) = %v", topic, !echo)
		}
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	m := compileOne(t, rules.Rule{Local: "a/#", Direction: rules.Both, RemotePrefix: "up/", RemotePrefixDown: "down/", LocalPrefix: "l/", QoS: 1})
	got := []mqtt.Filter{m.LocalFilter(), m.RemoteFilter(), mqtt.Filter(m.Name())}
	if diff := cmp.Diff([]mqtt.Filter{"l/a/#", "down/a/#", "l/a/# both"}, got); diff != "" {
		t.Errorf("filters and name (-want +got):\n%s", diff)
	}
	m = compileOne(t, rules.Rule{Local: "a/#", Direction: rules.Up, QoS: 1})
	if got := m.RemoteFilter(); got != "" {
		t.Errorf("RemoteFilter of an up rule = %q, want none", got)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	rule := func(change func(*rules.Rule)) []rules.Upstream {
		r := rules.Rule{Name: "r", Local: "+/data", Direction: rules.Up, RemotePrefix: "site-1/", QoS: 1}
		change(&r)
		return []rules.Upstream{{Name: "cloud", Broker: "b:1883", Rules: []rules.Rule{r}}}
	}
	pair := func(a, b rules.Rule) []rules.Upstream {
		return []rules.Upstream{{Name: "cloud", Broker: "b:1883", Rules: []rules.Rule{a, b}}}
	}
	upRule := rules.Rule{Name: "u", Local: "a/+", Direction: rules.Up, QoS: 1}
	downRule := rules.Rule{Name: "d", Local: "+/#", Direction: rules.Down, QoS: 1}
	for _, tc := range []struct {
		name  string
		ups   []rules.Upstream
		field string
		want  string // part of the text
	}{
		{"no direction", rule(func(r *rules.Rule) { r.Direction = "" }), "direction", "write up, down or both"},
		{"unknown direction", rule(func(r *rules.Rule) { r.Direction = "out" }), "direction", `"out" is unknown`},
		{"no filter", rule(func(r *rules.Rule) { r.Local = "" }), "local", "empty"},
		{"bad filter", rule(func(r *rules.Rule) { r.Local = "a/#/b" }), "local", "whole last level"},
		{"shared filter", rule(func(r *rules.Rule) { r.Local = "$share/g/a" }), "local", "is shared"},
		{"QoS 2", rule(func(r *rules.Rule) { r.QoS = 2 }), "qos", "write 1"},
		{"prefix without a slash", rule(func(r *rules.Rule) { r.RemotePrefix = "site-1" }), "remote_prefix", `write "site-1/"`},
		{"prefix with a wildcard", rule(func(r *rules.Rule) { r.LocalPrefix = "+/" }), "local_prefix", "wildcard"},
		{"prefix with NUL", rule(func(r *rules.Rule) { r.LocalPrefix = "a\x00/" }), "local_prefix", "NUL"},
		{"prefix that shares", rule(func(r *rules.Rule) { r.RemotePrefix = "$share/g/" }), "remote_prefix", "shared"},
		{"second prefix of a one-way rule", rule(func(r *rules.Rule) { r.RemotePrefixDown = "d/" }), "remote_prefix_down", "write remote_prefix"},
		{"name with a control character", rule(func(r *rules.Rule) { r.Name = "a\nb" }), "name", "printable"},
		{"too long together", rule(func(r *rules.Rule) { r.RemotePrefix = strings.Repeat("x", 65530) + "/" }), "remote_prefix", "at most 65535"},
		{"publishes $SYS upstream", rule(func(r *rules.Rule) { r.RemotePrefix = "$SYS/" }), "remote_prefix", "belongs to the broker"},
		{"publishes $SYS here", rule(func(r *rules.Rule) { r.Direction, r.Local, r.RemotePrefix = rules.Down, "$SYS/#", "" }), "local_prefix", "belongs to the broker"},
		{"both with one prefix", rule(func(r *rules.Rule) { r.Direction = rules.Both }), "direction", `remote_prefix: "site-1/up/" with remote_prefix_down: "site-1/down/"`},
		{"both with prefixes that overlap", rule(func(r *rules.Rule) {
			r.Direction, r.Local, r.RemotePrefix, r.RemotePrefixDown = rules.Both, "#", "site-1/x/", "site-1/"
		}), "direction", "straight back"},
		{"two rules that echo", pair(upRule, downRule), "remote_prefix", `comes back by rule "d" from "+/#"`},
		{"same names", pair(upRule, upRule), "name", "name of its own"},
		{"no upstream name", []rules.Upstream{{}}, "name", "missing"},
		{"bad upstream name", []rules.Upstream{{Name: "a/b"}}, "name", "characters"},
		{"same upstream names", []rules.Upstream{{Name: "a"}, {Name: "a"}}, "name", "another upstream"},
		{"an echo by a second connection to the broker", []rules.Upstream{
			{Name: "a", Broker: "b:1883", Rules: []rules.Rule{upRule}},
			{Name: "z", Broker: "b:1883", NoLocal: true, Rules: []rules.Rule{downRule}},
		}, "remote_prefix", `of upstream "z", which is the same broker`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := rules.Compile(tc.ups...)
			var p *rules.Problem
			if !errors.As(err, &p) {
				t.Fatalf("Compile: %v, want a problem", err)
			}
			if p.Field != tc.field || !strings.Contains(p.Text, tc.want) {
				t.Errorf("Compile blames %q: %s\nwant %q: …%s…", p.Field, p.Text, tc.field, tc.want)
			}
		})
	}
}

func TestCompileReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := rules.Compile(
		rules.Upstream{Name: "one", Rules: []rules.Rule{{Local: "a/#/b", Direction: "out", QoS: 2, RemotePrefix: "x"}}},
		rules.Upstream{Name: "two", Rules: []rules.Rule{{Name: "r", Local: "#"}}},
	)
	want := []string{`upstream "one"`, "direction", "qos", `write "x/"`, "whole last level", `upstream "two", rule "r"`}
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not mention %s: %v", w, err)
		}
	}
}

func TestCompileAccepts(t *testing.T) {
	t.Parallel()
	upRule := rules.Rule{Name: "u", Local: "a/+", Direction: rules.Up, QoS: 1}
	downRule := rules.Rule{Name: "d", Local: "+/b", Direction: rules.Down, QoS: 1}
	for _, tc := range []struct {
		name    string
		ups     []rules.Upstream
		warning string // "": none
	}{
		{"both with disjoint prefixes", []rules.Upstream{{Name: "c", Rules: []rules.Rule{
			{Local: "#", Direction: rules.Both, RemotePrefix: "up/", RemotePrefixDown: "down/", QoS: 1}}}}, ""},
		{"both with No Local, §3.8.3.1", []rules.Upstream{{Name: "c", NoLocal: true, Rules: []rules.Rule{
			{Local: "#", Direction: rules.Both, QoS: 1}}}}, ""},
		{"qos 0", []rules.Upstream{{Name: "c", Rules: []rules.Rule{{Local: "a", Direction: rules.Up}}}}, "write 1"},
		{"no rules", []rules.Upstream{{Name: "c"}}, "nothing to do"},
		{"sent twice", []rules.Upstream{{Name: "c", Rules: []rules.Rule{
			{Local: "a/+", Direction: rules.Up, QoS: 1}, {Local: "a/b", Direction: rules.Up, QoS: 1}}}}, "sent up twice"},
		{"brought down twice", []rules.Upstream{{Name: "c", Rules: []rules.Rule{
			{Local: "a/+", Direction: rules.Down, QoS: 1}, {Local: "a/b", Direction: rules.Down, QoS: 1}}}}, "come down twice"},
		{"a conversation with a service", []rules.Upstream{{Name: "c", Rules: []rules.Rule{
			{Local: "$aws/things/+/shadow/#", Direction: rules.Up, QoS: 1}}}}, "rarely"},
		{"a relay from one broker to another", []rules.Upstream{
			{Name: "c", Broker: "1", Rules: []rules.Rule{upRule}},
			{Name: "d", Broker: "2", Rules: []rules.Rule{{Name: "d", Local: "a/#", RemotePrefix: "x/", Direction: rules.Down, QoS: 1}}}}, ""},
		{"some topics would echo", []rules.Upstream{{Name: "c", Rules: []rules.Rule{upRule, downRule}}}, `is not sent; to send it, give the two rules`},
		{"two that feed each other", []rules.Upstream{
			{Name: "c", Broker: "1", Rules: []rules.Rule{upRule}},
			{Name: "d", Broker: "2", Rules: []rules.Rule{downRule}}}, "c/u → d/d"},
		{"$ topics and wildcards do not meet, §4.7.2", []rules.Upstream{{Name: "c", Rules: []rules.Rule{
			{Local: "things/a", RemotePrefix: "$aws/", Direction: rules.Up, QoS: 1}, {Local: "#", Direction: rules.Down, QoS: 1}}}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			set, err := rules.Compile(tc.ups...)
			if err != nil {
				t.Fatal(err)
			}
			_, warnings := rules.Lint(tc.ups...)
			if diff := cmp.Diff(warnings, set.Warnings()); diff != "" {
				t.Errorf("Lint and Warnings differ:\n%s", diff)
			}
			switch {
			case tc.warning == "" && len(warnings) > 0:
				t.Errorf("warns: %v", warnings[0])
			case tc.warning != "" && (len(warnings) != 1 || !strings.Contains(warnings[0].Error(), tc.warning)):
				t.Errorf("warns %v, want one with %q", warnings, tc.warning)
			}
		})
	}
}

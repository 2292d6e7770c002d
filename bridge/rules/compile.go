package rules

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"gatewayctl/broker/mqtt"
)

// A Set is the rules of all upstreams, checked together.
type Set struct {
	mappings map[string][]*Mapping
	siblings map[string][]string
	warnings []*Problem
}

// Compile checks the rules of all upstreams together and returns them ready for use. Its error
// joins every [Problem] that was found, not only the first.
func Compile(upstreams ...Upstream) (*Set, error) {
	problems, warnings, set := check(upstreams)
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, p := range problems {
			errs[i] = p
		}
		return nil, errors.Join(errs...)
	}
	set.warnings = warnings
	set.siblings = make(map[string][]string)
	for _, a := range upstreams {
		for _, b := range upstreams {
			if a.Name == b.Name || a.Broker != "" && a.Broker == b.Broker {
				set.siblings[a.Name] = append(set.siblings[a.Name], b.Name)
			}
		}
	}
	return set, nil
}

// Lint returns everything that [Compile] refuses, and what it accepts but a person should know.
func Lint(upstreams ...Upstream) (problems, warnings []*Problem) {
	problems, warnings, _ = check(upstreams)
	return problems, warnings
}

// Mappings returns the rules of an upstream in their order; nil for an unknown one.
func (s *Set) Mappings(upstream string) []*Mapping { return s.mappings[upstream] }

// Siblings returns the names of the upstreams that lead to the same broker as the named one, and
// its own: what one of them brought down must not go up by another.
func (s *Set) Siblings(upstream string) []string { return s.siblings[upstream] }

// Warnings returns what is allowed but worth knowing.
func (s *Set) Warnings() []*Problem { return s.warnings }

// checked is one rule on its way through the checks. It is sound once its own text is in order,
// and only sound ones are compared with each other.
type checked struct {
	*Mapping
	upstream *Upstream
	index    int
}

func (c checked) problem(field, format string, args ...any) *Problem {
	return &Problem{Upstream: c.upstream.Name, Index: c.index, Rule: c.rule.Name, Field: field, Text: fmt.Sprintf(format, args...)}
}

func check(upstreams []Upstream) (problems, warnings []*Problem, set *Set) {
	set = &Set{mappings: make(map[string][]*Mapping)}
	var sound []checked
	names := make(map[string]bool)
	for i := range upstreams {
		u := &upstreams[i]
		if text := badUpstreamName(u.Name); text != "" {
			problems = append(problems, &Problem{Upstream: u.Name, Index: -1, Field: "name", Text: text})
		}
		if names[u.Name] {
			problems = append(problems, &Problem{Upstream: u.Name, Index: -1, Field: "name", Text: "another upstream has this name: names must differ"})
		}
		names[u.Name] = true
		if len(u.Rules) == 0 {
			warnings = append(warnings, &Problem{Upstream: u.Name, Index: -1, Field: "rules", Text: "has no rules and so nothing to do"})
		}
		ruleNames := make(map[string]bool)
		for j, r := range u.Rules {
			if r.Name == "" {
				r.Name = fmt.Sprintf("%s%s %s", r.LocalPrefix, r.Local, r.Direction)
			}
			c := checked{&Mapping{rule: r, downPrefix: r.RemotePrefix}, u, j}
			if r.Direction == Both && r.RemotePrefixDown != "" {
				c.downPrefix = r.RemotePrefixDown
			}
			bad := c.checkAlone()
			if ruleNames[r.Name] {
				bad = append(bad, c.problem("name", "another rule of this upstream has this name: give each rule a name of its own"))
			}
			ruleNames[r.Name] = true
			problems = append(problems, bad...)
			if len(bad) > 0 {
				continue
			}
			warnings = append(warnings, c.warnAlone()...)
			sound = append(sound, c)
			set.mappings[u.Name] = append(set.mappings[u.Name], c.Mapping)
		}
	}
	p, w := checkTogether(sound)
	return append(problems, p...), append(warnings, w...), set
}

// checkAlone returns what is wrong with a rule whatever stands beside it.
func (c checked) checkAlone() (bad []*Problem) {
	r := c.rule
	if !utf8.ValidString(r.Name) || len(r.Name) > 256 || strings.ContainsFunc(r.Name, unicode.IsControl) {
		bad = append(bad, c.problem("name", "the name must be at most 256 bytes of printable text"))
	}
	if !r.Direction.up() && !r.Direction.down() {
		if r.Direction == "" {
			bad = append(bad, c.problem("direction", "the direction is missing: write up, down or both"))
		} else {
			bad = append(bad, c.problem("direction", "direction %q is unknown: write up, down or both", string(r.Direction)))
		}
	}
	if r.QoS > mqtt.QoS1 {
		bad = append(bad, c.problem("qos", "qos %d is not offered, because the bridge sends again after an outage: write 1, which loses nothing", r.QoS))
	}
	if r.RemotePrefixDown != "" && r.Direction != Both {
		bad = append(bad, c.problem("remote_prefix_down", "only direction both has a second remote prefix: write remote_prefix"))
	}
	prefixes := len(bad)
	for _, p := range []struct{ field, text string }{
		{"remote_prefix", r.RemotePrefix}, {"remote_prefix_down", r.RemotePrefixDown}, {"local_prefix", r.LocalPrefix},
	} {
		if text := badPrefix(p.field, p.text); text != "" {
			bad = append(bad, c.problem(p.field, "%s", text))
		}
	}
	prefixes = len(bad) - prefixes
	if _, err := mqtt.ParseFilter(string(r.Local), 0); err != nil {
		return append(bad, c.problem("local", "%v", err))
	}
	if strings.HasPrefix(string(r.Local), "$share/") {
		bad = append(bad, c.problem("local", "filter %q is shared: a rule has its own queue already, write the filter after the share name", string(r.Local)))
	}
	if prefixes > 0 {
		return bad
	}
	for _, side := range []struct {
		field, what string
		filter      string
		publishes   bool
	}{
		{"remote_prefix", "upstream", r.RemotePrefix + string(r.Local), r.Direction.up()},
		{"remote_prefix", "upstream", c.downPrefix + string(r.Local), false},
		{"local_prefix", "locally", r.LocalPrefix + string(r.Local), r.Direction.down()},
	} {
		if len(side.filter) > mqtt.MaxStringBytes {
			bad = append(bad, c.problem(side.field, "prefix and filter have %d bytes together: at most %d are allowed", len(side.filter), mqtt.MaxStringBytes))
		}
		if side.publishes && (side.filter == "$SYS" || strings.HasPrefix(side.filter, "$SYS/")) {
			bad = append(bad, c.problem(side.field, "would publish %s to %q, which belongs to the broker itself: use another prefix", side.what, side.filter))
		}
	}
	return bad
}

// warnAlone returns what is allowed in a rule but worth knowing.
func (c checked) warnAlone() (warn []*Problem) {
	r := c.rule
	if r.QoS == mqtt.QoS0 {
		warn = append(warn, c.problem("qos", "qos 0 loses what is on its way when the connection breaks: write 1 unless that does not matter"))
	}
	if local := r.LocalPrefix + string(r.Local); strings.HasPrefix(local, "$aws/") {
		warn = append(warn, c.problem("local", "%q is a conversation between a device and a service: replaying it after an outage is rarely what is wanted", local))
	}
	return warn
}

func badUpstreamName(s string) string {
	if s == "" {
		return "the name is missing"
	}
	ok := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
	}
	if len(s) > 64 || strings.ContainsFunc(s, func(c rune) bool { return !ok(c) }) {
		return "the name must be 1 to 64 of the characters a-z A-Z 0-9 _ - ."
	}
	return ""
}

func badPrefix(field, s string) string {
	switch {
	case s == "":
		return ""
	case strings.ContainsAny(s, "+#"):
		return fmt.Sprintf("%s %q has a wildcard: a prefix is plain text, wildcards go into local", field, s)
	case strings.HasPrefix(s, "$share/"):
		return fmt.Sprintf("%s %q would make shared subscriptions: a rule has its own queue already, leave it out", field, s)
	case !strings.HasSuffix(s, "/"):
		return fmt.Sprintf("%s %q would be glued to the first level of the topic: write %q", field, s, s+"/")
	}
	if err := mqtt.ValidateTopic(s, 0); err != nil {
		return fmt.Sprintf("%s: %v", field, err)
	}
	return ""
}

package rules

import (
	"fmt"
	"strings"

	"gatewayctl/broker/mqtt"
)

// checkTogether compares sound rules with each other. A rule of which everything would come back
// is refused; what only partly comes back is kept from going up. What may loop beyond what can be
// seen from here, and what doubles messages, gets a warning.
func checkTogether(all []checked) (problems, warnings []*Problem) {
	for i, a := range all {
		for j, b := range all {
			switch {
			case !a.echoes(b):
			case covers(b.RemoteFilter(), a.sends()):
				problems = append(problems, a.echoProblem(b))
			default:
				a.Mapping.echoes = append(a.Mapping.echoes, b.RemoteFilter())
				warnings = append(warnings, a.echoWarning(b))
			}
			if i < j {
				warnings = append(warnings, a.doubles(b)...)
			}
		}
	}
	if len(problems) == 0 {
		warnings = append(warnings, ring(all)...)
	}
	return problems, warnings
}

// echoes reports whether something that up sends comes down again by down.
func (up checked) echoes(down checked) bool {
	switch {
	case !up.rule.Direction.up() || !down.rule.Direction.down():
		return false
	case up.upstream == down.upstream:
		if up.upstream.NoLocal { // the connection never hears itself [MQTT-3.8.3-3]
			return false
		}
	case up.upstream.Broker == "" || up.upstream.Broker != down.upstream.Broker:
		return false
	}
	return overlap(up.sends(), down.RemoteFilter())
}

// sends returns a filter of all topics that the rule publishes upstream.
func (c checked) sends() mqtt.Filter { return mqtt.Filter(c.rule.RemotePrefix) + c.rule.Local }

// makes returns a filter of all topics that the rule publishes locally.
func (c checked) makes() mqtt.Filter { return mqtt.Filter(c.rule.LocalPrefix) + c.rule.Local }

func (up checked) echoProblem(down checked) *Problem {
	if up.Mapping == down.Mapping {
		return up.problem("direction",
			"direction both would bring every message that it sends straight back, because the upstream speaks MQTT 3.1.1, which has no No Local: "+
				"give the way down a prefix of its own, such as remote_prefix: %q with remote_prefix_down: %q, or write two rules, one up and one down, with these prefixes",
			up.rule.RemotePrefix+"up/", up.rule.RemotePrefix+"down/")
	}
	return up.problem("remote_prefix", "everything that it sends to %q comes back by %s from %q: %s",
		string(up.sends()), down.named(up), string(down.RemoteFilter()), up.remedy(down))
}

func (up checked) echoWarning(down checked) *Problem {
	return up.problem("remote_prefix", "some of what matches %q would come back by %s from %q and so is not sent; to send it, %s",
		string(up.sends()), down.named(up), string(down.RemoteFilter()), up.remedy(down))
}

// named names a rule as seen from another.
func (c checked) named(from checked) string {
	if c.upstream == from.upstream {
		return fmt.Sprintf("rule %q", c.rule.Name)
	}
	return fmt.Sprintf("rule %q of upstream %q, which is the same broker,", c.rule.Name, c.upstream.Name)
}

func (up checked) remedy(down checked) string {
	return fmt.Sprintf("give the two rules remote prefixes of which none begins with the other, such as %q and %q",
		up.rule.RemotePrefix+"up/", down.downPrefix+"down/")
}

// doubles warns of two rules that forward the same message to the same topic.
func (a checked) doubles(b checked) (warn []*Problem) {
	if a.upstream != b.upstream || !overlap(a.rule.Local, b.rule.Local) || a.rule.LocalPrefix != b.rule.LocalPrefix {
		return nil
	}
	if a.rule.Direction.up() && b.rule.Direction.up() && a.rule.RemotePrefix == b.rule.RemotePrefix {
		warn = append(warn, b.problem("local", "what matches %q and rule %q's %q is sent up twice", string(b.rule.Local), a.rule.Name, string(a.rule.Local)))
	}
	if a.rule.Direction.down() && b.rule.Direction.down() && a.downPrefix == b.downPrefix {
		warn = append(warn, b.problem("local", "what matches %q and rule %q's %q may come down twice", string(b.rule.Local), a.rule.Name, string(a.rule.Local)))
	}
	return warn
}

// ring warns of upstreams that feed each other: a message would go round for ever if their
// brokers were one, or were bridged to each other, which cannot be seen from here. The bridge
// stops such a message by its hop counter where the protocol carries one.
//
// Rules are nodes. An up rule leads to each down rule that hears, on such a joint broker, what it
// sends; a down rule leads to each up rule of another upstream that takes what it publishes.
func ring(all []checked) []*Problem {
	type node struct {
		rule int
		up   bool
	}
	next := func(n node) (to []node) {
		a := all[n.rule]
		for i, b := range all {
			switch {
			case a.upstream == b.upstream:
			case n.up && b.rule.Direction.down() && overlap(a.sends(), b.RemoteFilter()):
				to = append(to, node{i, false})
			case !n.up && b.rule.Direction.up() && overlap(a.makes(), b.LocalFilter()):
				to = append(to, node{i, true})
			}
		}
		return to
	}
	const (
		onPath = iota + 1
		done
	)
	state := make(map[node]int)
	var path []node
	var found []node
	var visit func(n node) bool
	visit = func(n node) bool {
		state[n] = onPath
		path = append(path, n)
		for _, m := range next(n) {
			if state[m] == onPath {
				for i, p := range path {
					if p == m {
						found = path[i:]
					}
				}
				return true
			}
			if state[m] == 0 && visit(m) {
				return true
			}
		}
		state[n] = done
		path = path[:len(path)-1]
		return false
	}
	for i, c := range all {
		if n := (node{i, true}); c.rule.Direction.up() && state[n] == 0 && visit(n) {
			var names []string
			for _, n := range found {
				names = append(names, fmt.Sprintf("%s/%s", all[n.rule].upstream.Name, all[n.rule].rule.Name))
			}
			return []*Problem{all[found[0].rule].problem("remote_prefix",
				"these rules feed each other: %s; messages go round if the brokers behind them are bridged to each other", strings.Join(names, " → "))}
		}
	}
	return nil
}

// overlap reports whether some topic matches both filters (MQTT 5.0 §4.7). It may say true where
// a prefix makes that impossible, never false where it is possible.
func overlap(f, g mqtt.Filter) bool {
	a, b := strings.Split(string(f), "/"), strings.Split(string(g), "/")
	if dollar(a[0]) && wildcard(b[0]) || dollar(b[0]) && wildcard(a[0]) { // [MQTT-4.7.2-1]
		return false
	}
	for i := 0; ; i++ {
		switch {
		case i < len(a) && a[i] == "#", i < len(b) && b[i] == "#": // "a/#" includes its parent "a"
			return true
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i] != b[i] && a[i] != "+" && b[i] != "+":
			return false
		}
	}
}

// covers reports whether every topic that matches g matches f too. It may say false where a prefix
// makes it so, never true where it is not.
func covers(f, g mqtt.Filter) bool {
	a, b := strings.Split(string(f), "/"), strings.Split(string(g), "/")
	if dollar(b[0]) && wildcard(a[0]) { // [MQTT-4.7.2-1]
		return false
	}
	for i := 0; ; i++ {
		switch {
		case i < len(a) && a[i] == "#":
			return true
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case b[i] == "#", a[i] != b[i] && a[i] != "+":
			return false
		}
	}
}

func dollar(level string) bool   { return strings.HasPrefix(level, "$") }
func wildcard(level string) bool { return level == "+" || level == "#" }

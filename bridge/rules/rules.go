// Package rules maps local topics to topics of an upstream and back, and refuses sets of rules
// that would make a message come back to where it came from. It is pure: it does no I/O and
// keeps no state.
//
// # Mapping
//
// A rule has one local filter. On the way up a local topic LocalPrefix+x, where x matches the
// filter, becomes RemotePrefix+x. On the way down the subscription upstream is
// RemotePrefix+filter, and a topic RemotePrefix+x becomes LocalPrefix+x. Prefixes end at a level
// boundary, so a rewrite never joins two levels, and what is left of a topic when its prefix is
// taken off must match the filter again, by the rules of MQTT 5.0 §4.7 and §4.7.2: a topic such
// as `site-1/$SYS/uptime` never becomes `$SYS/uptime`.
//
// # Loops
//
// The bridge never sends what came from a broker back to that broker ([Set.Siblings] tells which
// upstreams are one broker). What is left is the echo: a topic that one rule sends up and another
// rule of the same broker brings down again. [Mapping.Up] does not send such a topic. [Compile]
// refuses a rule of which nothing would be left, and warns where only some topics are concerned.
// So each message visits the gateway and every broker at most once, which a property test checks
// on random sets. No Local (MQTT 5.0 §3.8.3.1) rules the echo out within one connection; MQTT
// 3.1.1 lacks it.
package rules

import (
	"fmt"
	"strings"

	"gatewayctl/broker/mqtt"
)

// A Direction is the way, or the ways, that a rule's messages take.
type Direction string

// The directions.
const (
	Up   Direction = "up"   // from the gateway to the upstream
	Down Direction = "down" // from the upstream to the gateway
	Both Direction = "both"
)

func (d Direction) up() bool   { return d == Up || d == Both }
func (d Direction) down() bool { return d == Down || d == Both }

// A Rule forwards the topics of one filter.
type Rule struct {
	Name         string      // unique within the upstream; "" means the local filter and the direction
	Local        mqtt.Filter // matched against the local topic without LocalPrefix; never shared
	Direction    Direction
	RemotePrefix string // put before the topic upstream, taken off on the way down; "" or ends with "/"
	// RemotePrefixDown replaces RemotePrefix on the way down of a rule for both ways, which
	// needs two disjoint ones on an upstream without No Local; "" means RemotePrefix.
	RemotePrefixDown string
	LocalPrefix      string // before the filter and the topic on the local side, unknown upstream; "" or ends with "/"
	// QoS is the quality of service that every message of this rule is published with upstream,
	// whatever it came with, and the maximum that is asked for on the way down: 1 is lossless; 0
	// gives up what is on its way when the connection breaks. 2 is refused: the bridge sends
	// again after an outage, so "exactly once" would be an empty promise.
	QoS mqtt.QoS
}

// An Upstream is one connection to another broker, as far as loops are concerned.
type Upstream struct {
	Name    string // 1 to 64 of a-z A-Z 0-9 _ - .
	Broker  string // names the broker behind it, such as host:port; upstreams with equal ones share topics
	NoLocal bool   // whether subscriptions can leave out what the same connection published
	Rules   []Rule
}

// A Problem is one thing that is wrong with a set of rules, or that is worth a warning.
type Problem struct {
	Upstream string // its name
	Index    int    // of the rule within the upstream; -1 when the upstream itself is meant
	Rule     string // its name; "" when the upstream itself is meant
	Field    string // the configuration key that is to blame, such as "remote_prefix"; may be ""
	Text     string // what is wrong and what to write instead
}

// Error says where the problem is and what it is.
func (p *Problem) Error() string {
	if p.Index < 0 {
		return fmt.Sprintf("upstream %q: %s", p.Upstream, p.Text)
	}
	return fmt.Sprintf("upstream %q, rule %q: %s", p.Upstream, p.Rule, p.Text)
}

// A Mapping is one rule that was checked, ready for use; [Compile] makes it. Its methods are safe
// for concurrent use and do not allocate but for the topic they return.
type Mapping struct {
	rule       Rule
	downPrefix string
	echoes     []mqtt.Filter // what rules of the same broker would bring straight back
}

// Name returns the name of the rule, never "".
func (m *Mapping) Name() string { return m.rule.Name }

// Rule returns the rule, with its name and its prefix on the way down filled in.
func (m *Mapping) Rule() Rule { return m.rule }

// LocalFilter returns what to subscribe to locally for the way up, "" if the rule has no such way.
func (m *Mapping) LocalFilter() mqtt.Filter {
	if !m.rule.Direction.up() {
		return ""
	}
	return mqtt.Filter(m.rule.LocalPrefix) + m.rule.Local
}

// RemoteFilter returns what to subscribe to upstream for the way down, "" if the rule has no such way.
func (m *Mapping) RemoteFilter() mqtt.Filter {
	if !m.rule.Direction.down() {
		return ""
	}
	return mqtt.Filter(m.downPrefix) + m.rule.Local
}

// Up returns the upstream's name for a local topic, or false if the rule does not send it up.
// topic must be valid.
func (m *Mapping) Up(topic string) (remote string, ok bool) {
	remote, ok = m.up(topic)
	if ok && m.comesBack(remote) {
		return "", false
	}
	return remote, ok
}

// Echo reports whether the rule would send a local topic up if it did not come straight back.
func (m *Mapping) Echo(topic string) bool {
	remote, ok := m.up(topic)
	return ok && m.comesBack(remote)
}

func (m *Mapping) up(topic string) (remote string, ok bool) {
	if !m.rule.Direction.up() {
		return "", false
	}
	return m.move(topic, m.rule.LocalPrefix, m.rule.RemotePrefix)
}

func (m *Mapping) comesBack(remote string) bool {
	for _, f := range m.echoes {
		if f.Match(remote) {
			return true
		}
	}
	return false
}

// Down returns the local name for a topic of the upstream, or false if the rule does not bring
// it down. topic must be valid.
func (m *Mapping) Down(topic string) (local string, ok bool) {
	if !m.rule.Direction.down() {
		return "", false
	}
	return m.move(topic, m.downPrefix, m.rule.LocalPrefix)
}

func (m *Mapping) move(topic, from, to string) (string, bool) {
	x, ok := strings.CutPrefix(topic, from)
	if !ok || !m.rule.Local.Match(x) || len(to)+len(x) > mqtt.MaxStringBytes { // [MQTT-4.7.3-3]
		return "", false
	}
	return to + x, true
}

package acl

import (
	"fmt"
	"strings"
)

// An Effect is the outcome of a decision. The zero value refuses.
type Effect byte

// The outcomes, in the order of their strength.
const (
	ImplicitDeny Effect = iota // nothing allows it
	Allow
	ExplicitDeny // a Deny statement matches
)

// String returns AWS's word for e: IMPLICIT_DENY, ALLOWED or EXPLICIT_DENY.
func (e Effect) String() string {
	switch e {
	case Allow:
		return "ALLOWED"
	case ExplicitDeny:
		return "EXPLICIT_DENY"
	}
	return "IMPLICIT_DENY"
}

// A Decision says whether something is allowed and which statement decided.
type Decision struct {
	Effect    Effect
	Policy    string // name of the deciding policy; "" for an implicit deny
	Statement string // its Sid, or "#2" for a second statement without one
}

// Allowed reports whether the request may go on.
func (d Decision) Allowed() bool { return d.Effect == Allow }

// String says it for people, such as "denied by statement NoRPC of policy device".
func (d Decision) String() string {
	switch d.Effect {
	case Allow:
		return fmt.Sprintf("allowed by statement %s of policy %s", d.Statement, d.Policy)
	case ExplicitDeny:
		return fmt.Sprintf("denied by statement %s of policy %s", d.Statement, d.Policy)
	}
	return "no policy allows it"
}

// A Named is a document under the name that decisions show.
type Named struct {
	Name string
	Doc  *Document
}

// A Set is all policies that apply to a principal. Its statements form one set; their order only
// decides which of several that agree is shown. It is immutable and safe for concurrent use.
type Set struct{ statements []named }

type named struct {
	statement
	decision Decision          // when it matches
	mqtt     [mqttActions]bool // which of them it speaks of
}

// Compile joins documents into a Set. Without any, the Set refuses everything.
func Compile(docs ...Named) *Set {
	s := &Set{}
	for _, d := range docs {
		for _, st := range d.Doc.statements {
			n := named{statement: st, decision: Decision{Effect: st.effect, Policy: d.Name, Statement: st.name}}
			for a := range mqttActions {
				n.mqtt[a] = st.acts(a.name())
			}
			s.statements = append(s.statements, n)
		}
	}
	return s
}

// Decide answers one request (reference §5.5): any matching Deny wins, then any matching Allow,
// else it is an implicit deny. The resource is a full ARN, in which nothing is a wildcard. For
// what a connection does over and over, [Set.Bind] is faster.
func (s *Set) Decide(action, resource string, ctx Context) Decision {
	action = strings.ToLower(action)
	v := newValues(ctx)
	var out Decision
	for i := range s.statements {
		st := &s.statements[i]
		if st.effect <= out.Effect { // an Allow changes nothing after an Allow
			continue
		}
		if st.acts(action) && st.covers(resource, v) && st.applies(v) == "" {
			out = st.decision
			if out.Effect == ExplicitDeny {
				break
			}
		}
	}
	return out
}

// acts reports whether the statement speaks of an action, given in lower case.
func (st *statement) acts(action string) bool {
	for i := range st.actions {
		if st.actions[i].match(action) {
			return !st.notAction
		}
	}
	return st.notAction
}

// applies reports why the statement's conditions are not met: "" when they are, conditionFails,
// or the name of an absent variable when that alone is the reason.
func (st *statement) applies(v *values) (why string) {
	for i := range st.conditions {
		ok, absent := st.conditions[i].holds(v)
		switch {
		case absent != "":
			why = absent
		case !ok:
			return conditionFails
		}
	}
	return why
}

// conditionFails tells a condition that is not met from the name of an absent variable.
const conditionFails = "-"

// covers reports whether the statement speaks of a resource, given as a full ARN.
func (st *statement) covers(arn string, v *values) bool {
	hit := false
	for i := range st.resources {
		p := &st.resources[i]
		if p.missing(v) != "" {
			if st.notResource {
				return false
			}
			continue
		}
		hit = hit || p.match(v, arn)
	}
	return hit != st.notResource
}

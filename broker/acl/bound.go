package acl

// A Bound is a [Set] for one connection: variables are substituted, conditions are decided, and
// what remains are patterns of MQTT names. Its methods take such names as they are on the wire,
// which must be valid UTF-8; they allocate nothing and are safe for concurrent use. A nil
// Bound refuses everything.
//
// A Bound answers as [Set.Decide] does for the full ARN. It is a snapshot: when a policy or
// anything in the context changes, bind again and put the new one in its place.
type Bound struct {
	rules      [mqttActions]rules
	unresolved []Unresolved
}

type rules struct{ deny, allow []rule }

// A rule is a statement's resources for one type of resource.
type rule struct {
	globs    []glob
	not      bool      // NotResource
	decision *Decision // owned by the Set
}

type mqttAction byte

const (
	connect mqttAction = iota
	publish
	retainPublish
	subscribe
	receive
	mqttActions
)

func (a mqttAction) name() string {
	return [...]string{"iot:connect", "iot:publish", "iot:retainpublish", "iot:subscribe", "iot:receive"}[a]
}

func (a mqttAction) resource() Resource {
	return [...]Resource{Client, Topic, Topic, TopicFilter, Topic}[a]
}

// An Unresolved is a Deny that, in part or as a whole, cannot take effect because a variable in
// it has no value (reference §5.5). It is worth an event.
type Unresolved struct {
	Policy, Statement string
	Variable          string // in lower case but for an attribute's name
}

// Bind prepares s for a connection with this context. The ARNs of the resources it will ask for
// start with prefix; "" means [LocalPrefix]. With a prefix that [ValidatePrefix] refuses the
// Bound refuses everything.
func (s *Set) Bind(ctx Context, prefix string) *Bound {
	b, v := &Bound{}, newValues(ctx)
	before, err := parsePrefix(prefix)
	if err != nil {
		return b
	}
	for i := range s.statements {
		st := &s.statements[i]
		absent := st.applies(v)
		if absent == conditionFails {
			continue
		}
		if absent == "" {
			absent = b.add(st, v, &before)
		}
		if absent != "" && st.effect == ExplicitDeny {
			b.unresolved = append(b.unresolved, Unresolved{Policy: st.decision.Policy, Statement: st.decision.Statement, Variable: absent})
		}
	}
	return b
}

// add adds the rules of a statement whose conditions hold. It returns a variable that is absent
// in one of the resources, "" if there is none.
func (b *Bound) add(st *named, v *values, prefix *arnPrefix) (absent string) {
	for i := range st.resources {
		if missing := st.resources[i].missing(v); missing != "" {
			absent = missing
		}
	}
	if absent != "" && st.notResource {
		return absent
	}
	var made [resources]struct { // once for all actions on one type
		done  bool
		globs []glob
	}
	for a := range mqttActions {
		if !st.mqtt[a] {
			continue
		}
		m := &made[a.resource()]
		if !m.done {
			m.done, m.globs = true, st.globs(v, prefix, a.resource(), absent != "")
		}
		r := rule{globs: m.globs, not: st.notResource, decision: &st.decision}
		switch {
		case len(r.globs) == 0 && !r.not:
		case st.effect == ExplicitDeny:
			b.rules[a].deny = append(b.rules[a].deny, r)
		default:
			b.rules[a].allow = append(b.rules[a].allow, r)
		}
	}
	return absent
}

// globs compiles, for names of one type, the resources that have all their variables; incomplete
// tells that not all do.
func (st *statement) globs(v *values, prefix *arnPrefix, typ Resource, incomplete bool) []glob {
	room := 0
	for i := range st.resources {
		if p := &st.resources[i]; !p.typed || p.typ == typ {
			room++
		}
	}
	if room == 0 {
		return nil
	}
	globs := make([]glob, 0, room)
	for i := range st.resources {
		if p := &st.resources[i]; !incomplete || p.missing(v) == "" {
			globs = p.under(globs, v, prefix, typ)
		}
	}
	return globs
}

// Unresolved returns the Deny statements that are without effect for this connection.
func (b *Bound) Unresolved() []Unresolved {
	if b == nil {
		return nil
	}
	return append([]Unresolved(nil), b.unresolved...)
}

// Connect decides whether the connection may use a client identifier.
func (b *Bound) Connect(clientID string) Decision { return b.decide(connect, clientID) }

// Publish decides whether the connection may publish to a topic.
func (b *Bound) Publish(topic string) Decision { return b.decide(publish, topic) }

// RetainPublish decides whether the connection may publish with RETAIN to a topic; [Bound.Publish]
// is asked as well.
func (b *Bound) RetainPublish(topic string) Decision { return b.decide(retainPublish, topic) }

// Subscribe decides whether the connection may subscribe to a filter, which is compared as text
// with its $share prefix.
func (b *Bound) Subscribe(filter string) Decision { return b.decide(subscribe, filter) }

// Receive decides whether the connection may be sent a message of a topic.
func (b *Bound) Receive(topic string) Decision { return b.decide(receive, topic) }

func (b *Bound) decide(a mqttAction, name string) Decision {
	if b == nil {
		return Decision{}
	}
	r := &b.rules[a]
	for i := range r.deny {
		if r.deny[i].match(name) {
			return *r.deny[i].decision
		}
	}
	for i := range r.allow {
		if r.allow[i].match(name) {
			return *r.allow[i].decision
		}
	}
	return Decision{}
}

func (r *rule) match(name string) bool {
	for i := range r.globs {
		if r.globs[i].match(name) {
			return !r.not
		}
	}
	return r.not
}

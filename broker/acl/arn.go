package acl

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// LocalPrefix is what the ARNs of a gateway's own resources start with by default.
const LocalPrefix = "arn:aws:iot:local:000000000000:"

// ValidatePrefix says why s cannot stand in front of the type and name of a resource: it must
// have five parts, each ended by a colon, the first of them "arn", such as
// "arn:aws:iot:eu-west-1:123456789012:". "" stands for [LocalPrefix].
func ValidatePrefix(s string) error {
	_, err := parsePrefix(s)
	return err
}

// ARN returns the full name of a resource.
func ARN(prefix string, r Resource, name string) string {
	if prefix == "" {
		prefix = LocalPrefix
	}
	return prefix + r.String() + name
}

// arnParts is the number of parts of an ARN in front of the resource: arn, partition, service,
// region, account.
const arnParts = 5

type arnPrefix struct {
	text  string
	parts [arnParts]string
}

func parsePrefix(s string) (arnPrefix, error) {
	if s == "" {
		s = LocalPrefix
	}
	p := arnPrefix{text: s}
	rest := s
	for i := range p.parts {
		part, after, ok := strings.Cut(rest, ":")
		if !ok {
			return arnPrefix{}, fmt.Errorf("ARN prefix %s has %d of five parts: write one such as %s", quote(s), i, LocalPrefix)
		}
		p.parts[i], rest = part, after
	}
	switch {
	case rest != "" || p.parts[0] != "arn":
		return arnPrefix{}, fmt.Errorf("%s is no ARN prefix: write five parts, each ended by a colon, such as %s", quote(s), LocalPrefix)
	case !utf8.ValidString(s) || strings.ContainsAny(s, "/*?"):
		return arnPrefix{}, fmt.Errorf("ARN prefix %s has a character that is not allowed: write one such as %s", quote(s), LocalPrefix)
	}
	return p, nil
}

// A Resource is a type of resource that actions are checked against.
type Resource byte

// The types of resources of reference §5.1 that one name follows.
const (
	Client      Resource = iota // of Connect, DeleteConnection
	Topic                       // of Publish, RetainPublish, Receive, GetRetainedMessage
	TopicFilter                 // of Subscribe
	Thing                       // of the shadow and job actions; a named shadow's is THING/SHADOW
	resources
)

// String returns the type as it stands in an ARN, with its slash.
func (r Resource) String() string {
	return [...]string{"client/", "topic/", "topicfilter/", "thing/"}[r]
}

// An arnPattern matches ARNs.
//
// A pattern of six parts is compared part by part, so that the star of `arn:aws:iot:*:*:topic/a`
// never reaches into the resource: taken as one text it would also match the topic
// `x:topic/a`, which lies in somebody else's tree. A pattern that is written short, such as `*`,
// `arn:aws:iot:*` or `arn:aws:iot:*:topic/a`, is compared as one text, in which a star runs on
// across colons (IAM). The resource may contain colons either way.
type arnPattern struct {
	split bool
	parts [arnParts]matcher // when split
	rest  matcher           // the resource when split, else everything

	// What follows the type when split and the type is literal, as nearly always.
	typed bool
	typ   Resource
	name  matcher
}

func newARNPattern(t template) arnPattern {
	p := arnPattern{split: true}
	rest := t
	for i := range p.parts {
		at := rest.colon()
		if at.token == len(rest) {
			return arnPattern{rest: newMatcher(t)}
		}
		part := rest[:at.token:at.token]
		if at.offset > 0 {
			part = append(part, token{literal, rest[at.token].text[:at.offset]})
		}
		for _, k := range part {
			if k.kind == literal && strings.Contains(k.text, "/") { // the colon belongs to a resource's name
				return arnPattern{rest: newMatcher(t)}
			}
		}
		p.parts[i], rest = newMatcher(part), rest.from(position{at.token, at.offset + 1})
	}
	p.rest = newMatcher(rest)
	if len(rest) > 0 && rest[0].kind == literal {
		for typ := range resources {
			if strings.HasPrefix(rest[0].text, typ.String()) {
				p.typed, p.typ, p.name = true, typ, newMatcher(rest.from(position{0, len(typ.String())}))
			}
		}
	}
	return p
}

// colon returns where the first colon of a literal stands.
func (t template) colon() position {
	for i, k := range t {
		if k.kind == literal {
			if at := strings.IndexByte(k.text, ':'); at >= 0 {
				return position{i, at}
			}
		}
	}
	return position{token: len(t)}
}

// uses reports whether a variable stands in the pattern.
func (p *arnPattern) uses(name string) bool {
	for _, m := range append([]matcher{p.rest}, p.parts[:]...) {
		for _, k := range m.template {
			if k.kind == variable && k.text == name {
				return true
			}
		}
	}
	return false
}

// missing names a variable of the pattern that is absent, "" if there is none.
func (p *arnPattern) missing(v *values) string {
	for i := range p.parts {
		if absent := p.parts[i].missing(v); absent != "" {
			return absent
		}
	}
	return p.rest.missing(v)
}

// match reports whether the pattern, of which no variable is missing, matches arn.
func (p *arnPattern) match(v *values, arn string) bool {
	if p.split {
		for i := range p.parts {
			part, after, ok := strings.Cut(arn, ":")
			if !ok || !p.parts[i].match(v, part) {
				return false
			}
			arn = after
		}
	}
	return p.rest.match(v, arn)
}

// under appends to globs those that together match exactly the names whose ARN the pattern
// matches. No variable may be missing.
func (p *arnPattern) under(globs []glob, v *values, prefix *arnPrefix, r Resource) []glob {
	if p.typed && p.typ != r {
		return globs
	}
	fixed := r.String()
	if p.split {
		for i := range p.parts {
			if !p.parts[i].match(v, prefix.parts[i]) {
				return globs
			}
		}
	} else {
		fixed = prefix.text + fixed
	}
	if p.typed {
		return append(globs, p.name.bind(v))
	}
	for _, t := range p.rest.resolve(v).after(fixed) {
		globs = append(globs, newGlob(t))
	}
	return globs
}

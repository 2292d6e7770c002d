package acl

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

type tokenKind byte

const (
	literal  tokenKind = iota // text as it is
	one                       // ?: one character
	star                      // *: any run of characters
	variable                  // ${text}
)

type token struct {
	kind tokenKind
	text string // of a literal; canonical name of a variable
}

// A template is the text of a resource or of a condition's value, cut into tokens. No two
// literals and no two stars follow each other.
type template []token

// parseTemplate cuts s into tokens. In documents of before 2012-10-17 variables are plain text
// (reference §5.1).
func parseTemplate(s string, variables bool) (template, error) {
	var t template
	for s != "" {
		switch {
		case s[0] == '*':
			t, s = t.append(token{kind: star}), s[1:]
		case s[0] == '?':
			t, s = t.append(token{kind: one}), s[1:]
		case variables && strings.HasPrefix(s, "${"):
			name, rest, ok := strings.Cut(s[2:], "}")
			name = strings.TrimSpace(name)
			switch {
			case !ok:
				return nil, fmt.Errorf("variable %s has no closing brace", quote(s))
			case name == "":
				return nil, fmt.Errorf("variable %s has no name", quote(s[:len(s)-len(rest)]))
			case name == "*", name == "?", name == "$":
				t = t.append(token{literal, name})
			default:
				t = t.append(token{variable, canonicalKey(name)})
			}
			s = rest
		default:
			n := 1
			for n < len(s) && s[n] != '*' && s[n] != '?' && s[n] != '$' {
				n++
			}
			t, s = t.append(token{literal, s[:n]}), s[n:]
		}
	}
	return t, nil
}

// append adds a token and keeps the template's rule.
func (t template) append(k token) template {
	if n := len(t); n > 0 && t[n-1].kind == k.kind {
		switch k.kind {
		case literal:
			t[n-1].text += k.text
			return t
		case star:
			return t
		}
	}
	return append(t, k)
}

// hasVariables reports whether t must be resolved before it can be matched.
func (t template) hasVariables() bool {
	for _, k := range t {
		if k.kind == variable {
			return true
		}
	}
	return false
}

// missing names the first variable of t that is absent, "" if there is none.
func (t template) missing(v *values) string {
	for _, k := range t {
		if k.kind == variable {
			if _, ok := v.variable(k.text); !ok {
				return k.text
			}
		}
	}
	return ""
}

// resolve puts values in the place of variables, none of which may be missing. A value is
// literal text: what it contains is neither a wildcard nor a variable (reference §5.5).
func (t template) resolve(v *values) template {
	if !t.hasVariables() {
		return t
	}
	out := make(template, 0, len(t))
	for _, k := range t {
		if k.kind == variable {
			k.kind = literal
			k.text, _ = v.variable(k.text)
		}
		out = out.append(k)
	}
	return out
}

// A matcher is a template that is compiled as far as it can be without a context.
type matcher struct {
	template
	variables bool
	compiled  glob // when it has no variables
}

func newMatcher(t template) matcher {
	m := matcher{template: t, variables: t.hasVariables()}
	if !m.variables {
		m.compiled = newGlob(t)
	}
	return m
}

// bind compiles m with the values of its variables, none of which may be missing.
func (m *matcher) bind(v *values) glob {
	if !m.variables {
		return m.compiled
	}
	// Most templates are text with at most one star, at the end.
	text, form := m.template, exactly
	if last := len(text) - 1; text[last].kind == star {
		text, form = text[:last], startWith
	}
	var parts [8]string
	join := parts[:0]
	for _, k := range text {
		switch k.kind {
		case literal:
			join = append(join, k.text)
		case variable:
			value, _ := v.variable(k.text)
			join = append(join, value)
		default:
			return newGlob(m.resolve(v))
		}
	}
	return glob{form: form, text: strings.Join(join, "")}
}

func (m *matcher) match(v *values, s string) bool {
	if !m.variables {
		return m.compiled.match(s)
	}
	g := m.bind(v)
	return g.match(s)
}

// text returns t as plain text, in which * and ? stand for themselves.
func (t template) text() string {
	var b strings.Builder
	for _, k := range t {
		switch k.kind {
		case literal:
			b.WriteString(k.text)
		case one:
			b.WriteByte('?')
		case star:
			b.WriteByte('*')
		}
	}
	return b.String()
}

// canonicalKey returns the form in which names of condition keys and variables are compared.
// They are not case-sensitive (IAM), but for the name of an attribute in brackets.
func canonicalKey(name string) string {
	switch name { // as everybody writes them, without an allocation
	case "iot:ClientId":
		return "iot:clientid"
	case "aws:SourceIp":
		return "aws:sourceip"
	case "iot:DomainName":
		return "iot:domainname"
	case "iot:ConnectAttributes":
		return "iot:connectattributes"
	case "iot:LastWillTopic":
		return "iot:lastwilltopic"
	case "iot:Connection.Thing.ThingName":
		return "iot:connection.thing.thingname"
	case "iot:Connection.Thing.ThingTypeName":
		return "iot:connection.thing.thingtypename"
	case "iot:Connection.Thing.IsAttached":
		return "iot:connection.thing.isattached"
	case "iot:Certificate.Subject.CommonName":
		return "iot:certificate.subject.commonname"
	}
	open := strings.IndexByte(name, '[')
	if open < 0 {
		return strings.ToLower(name)
	}
	end := open + strings.IndexByte(name[open:], ']')
	if end < open {
		end = len(name)
	}
	return strings.ToLower(name[:open]) + name[open:end] + strings.ToLower(name[end:])
}

// values is a request context under canonical names.
type values struct{ byKey map[string][]string }

func newValues(ctx Context) *values {
	v := &values{byKey: make(map[string][]string, len(ctx))}
	var from map[string]string
	for name, list := range ctx {
		key := canonicalKey(name)
		if _, twice := v.byKey[key]; twice {
			// Two spellings of one key: the first in byte order counts, whatever order the map has.
			if from == nil {
				from = firstSpelling(ctx)
			}
			if from[key] != name {
				continue
			}
		}
		v.byKey[key] = list
	}
	return v
}

func firstSpelling(ctx Context) map[string]string {
	first := make(map[string]string, len(ctx))
	for name := range ctx {
		key := canonicalKey(name)
		if have, ok := first[key]; !ok || name < have {
			first[key] = name
		}
	}
	return first
}

// maxVariableLen is the longest certificate attribute that is substituted, in characters.
const maxVariableLen = 1024

// variable returns the text that takes the place of ${key}. A key without a value, with an
// empty one or with several is absent, and so is a certificate's attribute that AWS does not
// substitute (reference §5.3).
func (v *values) variable(key string) (string, bool) {
	list := v.byKey[key]
	if len(list) != 1 || list[0] == "" || !utf8.ValidString(list[0]) {
		return "", false
	}
	s := list[0]
	if !strings.HasPrefix(key, "iot:certificate.") {
		return s, true
	}
	if strings.ContainsAny(s, "*$+?#") || utf8.RuneCountInString(s) > maxVariableLen {
		return "", false
	}
	if !strings.ContainsAny(s, certificateEscaped) {
		return s, true
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(certificateEscaped, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String(), true
}

// certificateEscaped are the characters that a certificate's attribute shows with a backslash.
const certificateEscaped = `,"\+=<>;`

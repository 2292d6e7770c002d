package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Document is one checked policy document. It is immutable.
type Document struct {
	statements []statement
	warnings   []Problem
}

// Warnings returns what is doubtful in the document though it is valid, in the order of its
// text: what probably does not do what its author meant.
func (d *Document) Warnings() []Problem { return append([]Problem(nil), d.warnings...) }

type statement struct {
	name        string // Sid, or "#2" for the second statement
	effect      Effect
	actions     []glob // of lower-case names
	notAction   bool
	resources   []arnPattern
	notResource bool
	conditions  []condition
}

// Parse reads a policy document (reference §5.1). The error is a [*ParseError] that lists every
// problem with its place and remedy. Nothing is skipped in silence: unknown members, operators
// and values of a wrong type are errors, since a Deny that is not understood would fail open.
// A valid document may still have [Document.Warnings].
func Parse(b []byte) (*Document, error) {
	p := &parser{src: b}
	if root, ok := p.readJSON(); ok {
		p.document(root)
	}
	if len(p.problems) > 0 {
		return nil, &ParseError{Problems: p.problems}
	}
	return &Document{statements: p.statements, warnings: p.warnings}, nil
}

type parser struct {
	src        []byte
	variables  bool // the version has them
	statements []statement
	problems   []Problem
	warnings   []Problem
	shaky      []shakyDeny
}

// currentVersion is the version of the policy language that has variables.
const currentVersion = "2012-10-17"

func (p *parser) document(root node) {
	if root.kind != objectKind {
		p.fail(root.at, "the document is "+root.kind.String(), `write {"Version": "2012-10-17", "Statement": [...]}`)
		return
	}
	version, body := (*node)(nil), (*node)(nil)
	for i := range root.members {
		m := &root.members[i]
		switch m.name {
		case "Version":
			version = &m.value
		case "Statement":
			body = &m.value
		case "Id":
			p.text(m, "a string")
		default:
			p.unknown(m, "Version", "Statement", "Id")
		}
	}
	p.version(root.at, version)
	switch {
	case body == nil:
		p.fail(root.at, "the document has no Statement", `add "Statement": [...]`)
	case body.kind == objectKind:
		p.statement(1, *body)
	case body.kind == arrayKind:
		if len(body.items) == 0 {
			p.warn(body.at, "the list of statements is empty", "add one, or the policy grants nothing")
		}
		for i, item := range body.items {
			p.statement(i+1, item)
		}
	default:
		p.fail(body.at, "Statement is "+body.kind.String(), "write an object or a list of objects")
	}
	p.sameSid(body)
	p.lintDenies()
	slices.SortStableFunc(p.warnings, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

func (p *parser) version(at int, v *node) {
	const remedy = `write "Version": "2012-10-17"`
	switch {
	case v == nil:
		p.warn(at, "the document has no Version: variables are plain text in it", remedy)
	case v.kind != stringKind:
		p.fail(v.at, "Version is "+v.kind.String(), remedy)
	case v.text == currentVersion:
		p.variables = true
	case v.text == "2008-10-17":
		p.warn(v.at, "in version 2008-10-17 variables are plain text", remedy)
	default:
		p.fail(v.at, "unknown version "+quote(v.text), remedy)
	}
}

func (p *parser) statement(number int, n node) {
	if n.kind != objectKind {
		p.fail(n.at, "a statement is "+n.kind.String(), "write an object")
		return
	}
	s := statement{name: fmt.Sprintf("#%d", number)}
	var action, resource, condition *member
	for i := range n.members {
		m := &n.members[i]
		switch m.name {
		case "Sid":
			if sid, ok := p.text(m, "a string"); ok && sid != "" {
				s.name = sid
			}
		case "Effect":
			s.effect = p.effect(m)
		case "Action", "NotAction":
			p.oneOf(action, m)
			action, s.notAction = m, m.name == "NotAction"
		case "Resource", "NotResource":
			p.oneOf(resource, m)
			resource, s.notResource = m, m.name == "NotResource"
		case "Condition":
			condition = m
		case "Principal", "NotPrincipal":
			p.fail(m.at, m.name+" is not part of a device policy", "remove it and attach the policy to the thing")
		default:
			p.unknown(m, "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition")
		}
	}
	p.required(n, "Effect", `add "Effect": "Allow" or "Deny"`, "Effect")
	p.required(n, "Action", `add "Action": "iot:..."`, "Action", "NotAction")
	p.required(n, "Resource", `add "Resource": "*" or a list of ARNs`, "Resource", "NotResource")
	if action != nil {
		s.actions = p.actions(action)
	}
	if condition != nil {
		s.conditions = p.conditions(condition, s.effect)
	}
	if resource != nil {
		s.resources = p.resources(resource, &s)
	}
	p.statements = append(p.statements, s)
}

func (p *parser) effect(m *member) Effect {
	switch m.value.text {
	case "Allow":
		return Allow
	case "Deny":
		return ExplicitDeny
	}
	p.fail(m.value.at, "unknown Effect "+quote(m.value.text), "write Allow or Deny")
	return ImplicitDeny
}

func (p *parser) actions(m *member) []glob {
	var out []glob
	for _, item := range p.list(m) {
		name := strings.ToLower(item.text)
		if name != "*" && !strings.Contains(name, ":") {
			p.fail(item.at, fmt.Sprintf("action %s has no service", quote(item.text)), "write it as iot:"+item.text+", or * for every action")
			continue
		}
		t, _ := parseTemplate(name, false)
		g := newGlob(t)
		out = append(out, g)
		p.lintAction(item, &g)
	}
	return out
}

func (p *parser) resources(m *member, s *statement) []arnPattern {
	var out []arnPattern
	for _, item := range p.list(m) {
		t, err := parseTemplate(item.text, p.variables)
		switch {
		case err != nil:
			p.fail(item.at, err.Error(), "close ${...}, or write ${$} for a dollar sign")
			continue
		case len(t) == 0 || t[0].kind != star && !strings.HasPrefix(item.text, "arn:"):
			p.fail(item.at, fmt.Sprintf("resource %s is no ARN", quote(item.text)), "write * or an ARN such as arn:aws:iot:*:*:topic/NAME")
			continue
		}
		pattern := newARNPattern(t)
		out = append(out, pattern)
		p.lintTemplate(item, t, s.effect)
		p.lintResource(item, &pattern, s)
	}
	return out
}

func (p *parser) conditions(m *member, effect Effect) []condition {
	if m.value.kind != objectKind {
		p.fail(m.value.at, "Condition is "+m.value.kind.String(), `write {"OPERATOR": {"KEY": "VALUE"}}`)
		return nil
	}
	var out []condition
	for i := range m.value.members {
		om := &m.value.members[i]
		op, err := parseOperator(om.name)
		if err != nil {
			p.fail(om.at, err.Error(), operatorsForPeople)
			continue
		}
		if om.value.kind != objectKind {
			p.fail(om.value.at, om.name+" is "+om.value.kind.String(), `write {"KEY": "VALUE"}`)
			continue
		}
		for j := range om.value.members {
			km := &om.value.members[j]
			c := op
			c.key = canonicalKey(km.name)
			p.lintKey(km.at, km.name)
			c.values = p.operands(km, c.op.test, effect)
			out = append(out, c)
		}
	}
	return out
}

func (p *parser) operands(m *member, t test, effect Effect) []operand {
	items := m.value.items
	if m.value.kind != arrayKind {
		items = []node{m.value}
	}
	var out []operand
	for _, item := range items {
		if item.kind != stringKind && item.kind != scalarKind {
			p.fail(item.at, "a value of "+quote(m.name)+" is "+item.kind.String(), "write a string or a list of strings")
			continue
		}
		v, err := parseOperand(t, item.text, p.variables)
		if err != nil {
			p.fail(item.at, err.Error(), t.remedy())
			continue
		}
		p.lintTemplate(item, v.text.template, effect)
		out = append(out, v)
	}
	return out
}

// list returns the strings of a member that is a string or a list of at least one.
func (p *parser) list(m *member) []node {
	items := m.value.items
	if m.value.kind != arrayKind {
		items = []node{m.value}
	} else if len(items) == 0 {
		p.fail(m.value.at, m.name+" is an empty list", "write at least one")
	}
	var out []node
	for _, item := range items {
		if item.kind != stringKind {
			p.fail(item.at, "an entry of "+m.name+" is "+item.kind.String(), "write a string")
			continue
		}
		out = append(out, item)
	}
	return out
}

func (p *parser) text(m *member, want string) (string, bool) {
	if m.value.kind != stringKind {
		p.fail(m.value.at, m.name+" is "+m.value.kind.String(), "write "+want)
		return "", false
	}
	return m.value.text, true
}

func (p *parser) oneOf(have, m *member) {
	if have != nil {
		p.fail(m.at, fmt.Sprintf("the statement has %s and %s", have.name, m.name), "keep one of them")
	}
}

func (p *parser) required(n node, what, remedy string, names ...string) {
	for _, m := range n.members {
		for _, name := range names {
			if m.name == name {
				return
			}
		}
	}
	p.fail(n.at, "the statement has no "+what, remedy)
}

func (p *parser) unknown(m *member, known ...string) {
	remedy := "remove it; known are " + strings.Join(known, ", ")
	for _, name := range known {
		if strings.EqualFold(name, m.name) {
			remedy = "write it as " + name
		}
	}
	p.fail(m.at, "unknown member "+quote(m.name), remedy)
}

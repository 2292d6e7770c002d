package acl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

const (
	maxDocumentBytes = 64 << 10 // AWS takes 2048 characters; hand-written local policies may be longer
	maxDepth         = 8        // a condition's value lies 6 deep
)

type kind byte

const (
	objectKind kind = iota
	arrayKind
	stringKind
	scalarKind // number, true, false: kept as written
	nullKind
)

func (k kind) String() string {
	return [...]string{"an object", "a list", "a string", "a number or truth value", "null"}[k]
}

// A node is a JSON value that knows where it stands.
type node struct {
	at      int // byte offset
	kind    kind
	text    string // of a string or scalar
	members []member
	items   []node
}

type member struct {
	name  string
	at    int
	value node
}

// readJSON returns the tree of p.src, or records why there is none.
func (p *parser) readJSON() (node, bool) {
	switch {
	case len(p.src) > maxDocumentBytes:
		p.fail(0, fmt.Sprintf("the document has %d bytes", len(p.src)), fmt.Sprintf("keep it below %d, or split it into several policies", maxDocumentBytes))
		return node{}, false
	case !utf8.Valid(p.src):
		p.fail(invalidUTF8(p.src), "the document is not valid UTF-8", "save it as UTF-8")
		return node{}, false
	}
	// Editors on Windows put a byte order mark in front; blanks keep the offsets right.
	if after, ok := bytes.CutPrefix(p.src, []byte("\uFEFF")); ok {
		p.src = append([]byte("   "), after...)
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(p.src, new(json.RawMessage)); errors.As(err, &syntax) {
		p.fail(max(0, int(syntax.Offset)-1), "not JSON: "+syntax.Error(), "correct it there or just before")
		return node{}, false
	}
	r := reader{parser: p, dec: json.NewDecoder(bytes.NewReader(p.src))}
	r.dec.UseNumber()
	root, err := r.value(0)
	if err != nil {
		p.fail(r.next(), "not JSON: "+err.Error(), "correct it there or just before")
		return node{}, false
	}
	return root, len(p.problems) == 0
}

func invalidUTF8(b []byte) int {
	for at := 0; at < len(b); {
		r, n := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && n == 1 {
			return at
		}
		at += n
	}
	return 0
}

type reader struct {
	*parser
	dec *json.Decoder
}

// next returns where the next token starts.
func (r *reader) next() int {
	at := int(r.dec.InputOffset())
	for at < len(r.src) && bytes.IndexByte([]byte(" \t\r\n,:"), r.src[at]) >= 0 {
		at++
	}
	return at
}

var errDepth = errors.New("nested too deeply for a policy")

func (r *reader) value(depth int) (node, error) {
	n := node{at: r.next()}
	if depth > maxDepth {
		return n, errDepth
	}
	tok, err := r.dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '[' {
			n.kind = arrayKind
			return n, r.items(&n, depth)
		}
		n.kind = objectKind
		return n, r.members(&n, depth)
	case string:
		n.kind, n.text = stringKind, tok
	case json.Number:
		n.kind, n.text = scalarKind, tok.String()
	case bool:
		n.kind, n.text = scalarKind, fmt.Sprint(tok)
	case nil:
		n.kind = nullKind
	}
	return n, nil
}

func (r *reader) items(n *node, depth int) error {
	for r.dec.More() {
		item, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		n.items = append(n.items, item)
	}
	_, err := r.dec.Token()
	return err
}

func (r *reader) members(n *node, depth int) error {
	seen := map[string]bool{}
	for r.dec.More() {
		name, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		value, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		if seen[name.text] { // JSON parsers differ in which one counts
			r.fail(name.at, fmt.Sprintf("%s appears twice in one object", quote(name.text)), "merge the two")
		}
		seen[name.text] = true
		n.members = append(n.members, member{name: name.text, at: name.at, value: value})
	}
	_, err := r.dec.Token()
	return err
}

// problem makes a Problem at a byte offset of the document.
func (p *parser) problem(at int, reason, remedy string) Problem {
	before := p.src[:min(at, len(p.src))]
	line := 1 + bytes.Count(before, []byte("\n"))
	return Problem{
		Line: line, Column: 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]),
		Reason: reason, Remedy: remedy,
	}
}

func (p *parser) fail(at int, reason, remedy string) {
	p.problems = append(p.problems, p.problem(at, reason, remedy))
}

func (p *parser) warn(at int, reason, remedy string) {
	p.warnings = append(p.warnings, p.problem(at, reason, remedy))
}

// quote makes foreign text fit for one line.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	cut := most
	for cut > most-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q…", s[:cut])
}

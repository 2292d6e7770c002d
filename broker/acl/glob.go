package acl

import (
	"strings"
	"unicode/utf8"
)

// A glob is a compiled template without variables. Matching allocates nothing.
type glob struct {
	form   globForm
	text   string  // all of it, or what stands before the only star
	pieces []piece // what stands between the stars
}

type globForm byte

const (
	exactly   globForm = iota // text
	startWith                 // text*
	inPieces                  // anything else
)

// A piece is a run without stars.
type piece struct {
	text   string   // when tokens is nil
	tokens template // literals and ones
	runes  int      // length in characters, when it has tokens
}

func newGlob(t template) glob {
	switch {
	case len(t) == 0:
		return glob{form: exactly}
	case len(t) == 1 && t[0].kind == literal:
		return glob{form: exactly, text: t[0].text}
	case len(t) == 1 && t[0].kind == star:
		return glob{form: startWith}
	case len(t) == 2 && t[0].kind == literal && t[1].kind == star:
		return glob{form: startWith, text: t[0].text}
	}
	stars := 0
	for _, k := range t {
		if k.kind == star {
			stars++
		}
	}
	g := glob{form: inPieces, pieces: make([]piece, 0, stars+1)}
	start := 0
	for i, k := range t {
		if k.kind == star {
			g.pieces = append(g.pieces, newPiece(t[start:i]))
			start = i + 1
		}
	}
	g.pieces = append(g.pieces, newPiece(t[start:]))
	return g
}

func newPiece(t template) piece {
	switch {
	case len(t) == 0:
		return piece{}
	case len(t) == 1 && t[0].kind == literal:
		return piece{text: t[0].text}
	}
	p := piece{tokens: t}
	for _, k := range t {
		if k.kind == one {
			p.runes++
		} else {
			p.runes += utf8.RuneCountInString(k.text)
		}
	}
	return p
}

func (g *glob) match(s string) bool {
	switch g.form {
	case exactly:
		return s == g.text
	case startWith:
		return strings.HasPrefix(s, g.text)
	}
	last := len(g.pieces) - 1
	n, ok := g.pieces[0].at(s)
	if !ok || last == 0 {
		return ok && n == len(s)
	}
	s = s[n:]
	// The leftmost place is the best one for every piece between two stars.
	for i := 1; i < last; i++ {
		end, ok := g.pieces[i].find(s)
		if !ok {
			return false
		}
		s = s[end:]
	}
	return g.pieces[last].ends(s)
}

// at returns how many bytes of s the piece takes at its start.
func (p *piece) at(s string) (int, bool) {
	if p.tokens == nil {
		return len(p.text), strings.HasPrefix(s, p.text)
	}
	n := 0
	for _, k := range p.tokens {
		if k.kind == literal {
			if !strings.HasPrefix(s[n:], k.text) {
				return 0, false
			}
			n += len(k.text)
			continue
		}
		if n == len(s) {
			return 0, false
		}
		_, width := utf8.DecodeRuneInString(s[n:])
		n += width
	}
	return n, true
}

// find returns where the first occurrence of the piece in s ends.
func (p *piece) find(s string) (int, bool) {
	if p.tokens == nil {
		i := strings.Index(s, p.text)
		return i + len(p.text), i >= 0
	}
	for from := 0; from < len(s); {
		if n, ok := p.at(s[from:]); ok {
			return from + n, true
		}
		_, width := utf8.DecodeRuneInString(s[from:])
		from += width
	}
	return 0, false
}

// ends reports whether s ends with the piece.
func (p *piece) ends(s string) bool {
	if p.tokens == nil {
		return strings.HasSuffix(s, p.text)
	}
	start := len(s)
	for range p.runes {
		if start == 0 {
			return false
		}
		_, width := utf8.DecodeLastRuneInString(s[:start])
		start -= width
	}
	n, ok := p.at(s[start:])
	return ok && n == len(s)-start
}

// after returns the templates that match exactly those texts which t matches with fixed in
// front of them. Stars in the part that fixed uses up can make it several.
func (t template) after(fixed string) []template {
	if len(t) > 0 && t[0].kind == literal && len(t[0].text) >= len(fixed) { // nearly always
		if !strings.HasPrefix(t[0].text, fixed) {
			return nil
		}
		return []template{t.from(position{0, len(fixed)})}
	}
	at := []position{{}}
	for fixed != "" {
		_, width := utf8.DecodeRuneInString(fixed)
		char := fixed[:width]
		fixed = fixed[width:]
		var next []position
		for _, p := range t.skipStars(at) {
			if p.token == len(t) {
				continue
			}
			switch k := t[p.token]; {
			case k.kind == star:
				next = addPosition(next, p)
			case k.kind == one:
				next = addPosition(next, position{p.token + 1, 0})
			case strings.HasPrefix(k.text[p.offset:], char):
				p.offset += width
				if p.offset == len(k.text) {
					p = position{p.token + 1, 0}
				}
				next = addPosition(next, p)
			}
		}
		at = next
	}
	out := make([]template, 0, len(at))
	for _, p := range at {
		out = append(out, t.from(p))
	}
	return out
}

// A position is a place within a template.
type position struct{ token, offset int }

// skipStars adds the places that are reached when stars match nothing.
func (t template) skipStars(at []position) []position {
	for i := 0; i < len(at); i++ {
		if p := at[i]; p.token < len(t) && t[p.token].kind == star {
			at = addPosition(at, position{p.token + 1, 0})
		}
	}
	return at
}

func addPosition(list []position, p position) []position {
	for _, have := range list {
		if have == p {
			return list
		}
	}
	return append(list, p)
}

// from returns what follows p.
func (t template) from(p position) template {
	if p.offset == 0 {
		return t[p.token:]
	}
	rest := t[p.token+1:]
	if p.offset == len(t[p.token].text) {
		return rest
	}
	out := make(template, 0, 1+len(rest))
	return append(append(out, token{literal, t[p.token].text[p.offset:]}), rest...)
}

package acl

import (
	"fmt"
	"strings"
)

// A Problem is one remark about a policy document: what is wrong where, and what to do.
type Problem struct {
	Line   int    // of the document, from 1
	Column int    // in characters, from 1
	Reason string // what is wrong
	Remedy string // what to write instead
}

// String returns the problem on one line.
func (p Problem) String() string {
	return fmt.Sprintf("line %d, column %d: %s: %s", p.Line, p.Column, p.Reason, p.Remedy)
}

// A ParseError is everything that is wrong with a document that [Parse] refuses.
type ParseError struct{ Problems []Problem }

// Error returns one line for each problem.
func (e *ParseError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

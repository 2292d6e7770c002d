package firmware

import (
	"cmp"
	"strings"
)

// A Version is the text that an image gives as its version. Any text is one; those that look
// like numbers compare like numbers.
type Version string

// Compare returns a negative number if v is older than w, a positive one if it is newer and 0 if
// neither can be said to be. Runs of digits compare by value and everything else by bytes, a
// leading "v" and what follows a "+" do not count, and a pre-release such as 2.0.0-rc1 is older
// than 2.0.0 (Semantic Versioning 2.0.0 §11, stretched to versions that do not follow it).
func (v Version) Compare(w Version) int {
	a, aPre := v.split()
	b, bPre := w.split()
	if c := compareRuns(a, b); c != 0 {
		return c
	}
	switch {
	case aPre == "" && bPre == "":
		return 0
	case aPre == "":
		return 1
	case bPre == "":
		return -1
	}
	return compareRuns(aPre, bPre)
}

// split takes a version apart into its core and its pre-release.
func (v Version) split() (core, pre string) {
	s, _, _ := strings.Cut(string(v), "+")
	if len(s) > 1 && (s[0] == 'v' || s[0] == 'V') && isDigit(s[1]) {
		s = s[1:]
	}
	core, pre, _ = strings.Cut(s, "-")
	return core, pre
}

// compareRuns compares texts run by run, where a run is as many digits or non-digits as follow
// each other.
func compareRuns(a, b string) int {
	for a != "" && b != "" {
		x, restA := cutRun(a)
		y, restB := cutRun(b)
		a, b = restA, restB
		if !isDigit(x[0]) || !isDigit(y[0]) {
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			continue
		}
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func cutRun(s string) (run, rest string) {
	i := 1
	for i < len(s) && isDigit(s[i]) == isDigit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

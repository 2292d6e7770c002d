package acl

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// A condition is one key of one operator of a Condition block (reference §5.4).
type condition struct {
	op       operator
	over     quantifier
	ifExists bool
	key      string // canonical
	values   []operand
}

type quantifier byte

const (
	single quantifier = iota // any value of the key
	forAll                   // ForAllValues: every value, true without any
	forAny                   // ForAnyValue: at least one, false without any
)

type operator struct {
	test    test
	negated bool // none of the values may match
}

type test byte

const (
	stringEquals test = iota
	stringEqualsFold
	stringLike
	arnLike
	numericEquals
	numericLess
	numericLessEquals
	numericGreater
	numericGreaterEquals
	boolEquals
	inNetwork
	isNull
)

// An operand is a value that stands in the policy.
type operand struct {
	text    matcher     // string and ARN tests
	arn     *arnPattern // ARN tests
	number  float64
	truth   bool // Bool, Null
	network netip.Prefix
}

// parseOperator reads the name of an operator with its prefix and suffix.
func parseOperator(name string) (c condition, err error) {
	base := name
	if rest, ok := strings.CutPrefix(base, "ForAllValues:"); ok {
		base, c.over = rest, forAll
	} else if rest, ok := strings.CutPrefix(base, "ForAnyValue:"); ok {
		base, c.over = rest, forAny
	}
	base, c.ifExists = strings.CutSuffix(base, "IfExists")
	switch base {
	case "StringEquals":
		c.op = operator{stringEquals, false}
	case "StringNotEquals":
		c.op = operator{stringEquals, true}
	case "StringEqualsIgnoreCase":
		c.op = operator{stringEqualsFold, false}
	case "StringNotEqualsIgnoreCase":
		c.op = operator{stringEqualsFold, true}
	case "StringLike":
		c.op = operator{stringLike, false}
	case "StringNotLike":
		c.op = operator{stringLike, true}
	case "ArnEquals", "ArnLike":
		c.op = operator{arnLike, false}
	case "ArnNotEquals", "ArnNotLike":
		c.op = operator{arnLike, true}
	case "NumericEquals":
		c.op = operator{numericEquals, false}
	case "NumericNotEquals":
		c.op = operator{numericEquals, true}
	case "NumericLessThan":
		c.op = operator{numericLess, false}
	case "NumericLessThanEquals":
		c.op = operator{numericLessEquals, false}
	case "NumericGreaterThan":
		c.op = operator{numericGreater, false}
	case "NumericGreaterThanEquals":
		c.op = operator{numericGreaterEquals, false}
	case "Bool":
		c.op = operator{boolEquals, false}
	case "IpAddress":
		c.op = operator{inNetwork, false}
	case "NotIpAddress":
		c.op = operator{inNetwork, true}
	case "Null":
		c.op = operator{isNull, false}
		if c.ifExists || c.over != single {
			return c, fmt.Errorf("operator %s: Null takes neither a prefix nor a suffix", quote(name))
		}
	default:
		return c, fmt.Errorf("unknown condition operator %s", quote(name))
	}
	return c, nil
}

// operatorsForPeople is what a message lists as a remedy.
const operatorsForPeople = "write StringEquals, StringLike, ArnLike, NumericEquals, Bool, IpAddress, Null or one of their variants, in this spelling"

// parseOperand reads one value in the way that the test needs it.
func parseOperand(t test, s string, variables bool) (v operand, err error) {
	switch t {
	case stringEquals, stringEqualsFold, stringLike, arnLike:
		var text template
		if text, err = parseTemplate(s, variables); err != nil {
			return v, err
		}
		v.text = newMatcher(text)
		if t == arnLike {
			p := newARNPattern(text)
			v.arn = &p
		}
	case numericEquals, numericLess, numericLessEquals, numericGreater, numericGreaterEquals:
		var ok bool
		if v.number, ok = parseNumber(s); !ok {
			err = fmt.Errorf("%s is not a number", quote(s))
		}
	case boolEquals, isNull:
		var ok bool
		if v.truth, ok = parseTruth(s); !ok {
			err = fmt.Errorf("%s is neither true nor false", quote(s))
		}
	case inNetwork:
		var ok bool
		if v.network, ok = parseNetwork(s); !ok {
			err = fmt.Errorf("%s is no address or network", quote(s))
		}
	}
	return v, err
}

// remedy says what to write in the place of a value that parseOperand refuses.
func (t test) remedy() string {
	switch t {
	case stringEquals, stringEqualsFold, stringLike, arnLike:
		return "close ${...}, or write ${$} for a dollar sign"
	case boolEquals, isNull:
		return "write true or false"
	case inNetwork:
		return "write one such as 192.168.7.0/24 or fd00::/8"
	}
	return "write one such as 5 or 2.5"
}

func parseNumber(s string) (float64, bool) {
	if strings.Trim(s, "0123456789.eE+-") != "" { // no hexadecimal, no names
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && !math.IsInf(f, 0)
}

func parseTruth(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, false
}

func parseNetwork(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Addr().Is4In6() {
			return netip.Prefix{}, false
		}
		return p.Masked(), true
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return netip.Prefix{}, false
}

// holds reports whether the condition is met. A variable in one of its values that is absent
// makes the statement not match, whatever the operator (reference §5.5); it is then named.
func (c *condition) holds(v *values) (ok bool, absent string) {
	for i := range c.values {
		if absent = c.values[i].missing(v); absent != "" {
			return false, absent
		}
	}
	have := v.byKey[c.key]
	if c.op.test == isNull {
		return matchesNull(c.values, len(have) == 0), ""
	}
	if len(have) == 0 { // a key with an empty list is as good as absent
		switch {
		case c.ifExists, c.over == forAll:
			return true, ""
		case c.over == forAny:
			return false, ""
		}
		return c.op.negated, ""
	}
	hits := 0
	for _, s := range have {
		if c.op.test.matchesAny(c.values, v, s) {
			hits++
		}
	}
	switch c.over {
	case forAll:
		if c.op.negated {
			return hits == 0, ""
		}
		return hits == len(have), ""
	case forAny:
		if c.op.negated {
			return hits < len(have), ""
		}
		return hits > 0, ""
	}
	return (hits > 0) != c.op.negated, ""
}

// missing names a variable of the operand that is absent, "" if there is none.
func (o *operand) missing(v *values) string { return o.text.missing(v) }

func matchesNull(operands []operand, null bool) bool {
	for _, want := range operands {
		if want.truth == null {
			return true
		}
	}
	return false
}

// matchesAny reports whether s passes the test against one of the operands, before negation.
// What is not of the operator's type passes none.
func (t test) matchesAny(operands []operand, v *values, s string) bool {
	for i := range operands {
		if t.matches(&operands[i], v, s) {
			return true
		}
	}
	return false
}

func (t test) matches(want *operand, v *values, s string) bool {
	switch t {
	case stringEquals, stringEqualsFold:
		text := want.text.template
		if want.text.variables {
			text = text.resolve(v)
		}
		if t == stringEqualsFold {
			return strings.EqualFold(text.text(), s)
		}
		return text.text() == s
	case stringLike:
		return want.text.match(v, s)
	case arnLike:
		return want.arn.match(v, s)
	case boolEquals:
		truth, ok := parseTruth(s)
		return ok && truth == want.truth
	case inNetwork:
		a, err := netip.ParseAddr(s)
		return err == nil && want.network.Contains(a.WithZone("").Unmap())
	}
	n, ok := parseNumber(s)
	if !ok {
		return false
	}
	switch t {
	case numericEquals:
		return n == want.number
	case numericLess:
		return n < want.number
	case numericLessEquals:
		return n <= want.number
	case numericGreater:
		return n > want.number
	case numericGreaterEquals:
		return n >= want.number
	}
	return false
}

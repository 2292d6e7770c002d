package acl_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"gatewayctl/broker/acl"
)

// oracle tells reference §5.2 once more, with regular expressions. What ${...} stands for is
// marked with a character that occurs nowhere else.
func oracle(pattern, clientID, text string) bool {
	const mark = "\U0010FFFF"
	if clientID == "" && strings.Contains(pattern, "${iot:ClientId}") {
		return false
	}
	pattern = strings.NewReplacer("${iot:ClientId}", mark+"c", "${*}", mark+"*", "${?}", mark+"?", "${$}", mark+"$").Replace(pattern)
	parts, texts := []string{pattern}, []string{text}
	if p := strings.SplitN(pattern, ":", 6); len(p) == 6 && !strings.Contains(strings.Join(p[:5], ""), "/") {
		parts, texts = p, strings.SplitN(text, ":", 6)
	}
	for i, part := range parts {
		var re strings.Builder
		re.WriteString(`(?s)\A`)
		for part != "" {
			if after, ok := strings.CutPrefix(part, mark); ok {
				literal := after[:1]
				if literal == "c" {
					literal = clientID
				}
				re.WriteString(regexp.QuoteMeta(literal))
				part = after[1:]
				continue
			}
			_, n := utf8.DecodeRuneInString(part)
			switch part[:n] {
			case "*":
				re.WriteString(".*")
			case "?":
				re.WriteString(".")
			default:
				re.WriteString(regexp.QuoteMeta(part[:n]))
			}
			part = part[n:]
		}
		re.WriteString(`\z`)
		if !regexp.MustCompile(re.String()).MatchString(texts[i]) {
			return false
		}
	}
	return true
}

func FuzzPattern(f *testing.F) {
	for _, seed := range [][3]string{
		{"*", "c", "a"}, {"arn:aws:iot:*:*:topic/a*b?c*d", "c", "aXbéc/d"}, {"arn:aws:iot:*:topic/??*", "", "é"}, {"arn:*/${iot:ClientId}", "a?", "a?"},
		{"arn:aws:iot:*:*:topic/${*}${?}${$}*", "c", "*?$x"}, {"arn:a*s:iot:l?cal:*:*", "c", "x"}, {"*:topic/a:b", "c", "a:b"}, {"*t*t*o*?p*?*", "c", "topic"},
		{"arn:aws:iot:*:topic/${iot:ClientId}:a", "c", "c:a"}, {"arn:aws:iot:*:*:t?pic/?*?é", "c", "aéé"}, {"*000000000000:topic/*", "c", "x000000000000:topic/y"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, pattern, clientID, name string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(clientID) || !utf8.ValidString(name) || strings.Contains(pattern+clientID+name, "\U0010FFFF") {
			return
		}
		plain := strings.NewReplacer("${iot:ClientId}", "", "${*}", "", "${?}", "", "${$}", "").Replace(pattern)
		if strings.Contains(plain, "${") || strings.Contains(pattern, "${$}{") || strings.Contains(pattern, "$${") {
			return
		}
		quoted, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := acl.Parse([]byte(statement(`"Effect": "Allow", "Action": "iot:Publish", "Resource": ` + string(quoted))))
		if err != nil {
			return
		}
		set, ctx := acl.Compile(acl.Named{Name: "p", Doc: doc}), acl.Context{"iot:ClientId": {clientID}}
		want := oracle(pattern, clientID, acl.ARN("", acl.Topic, name))
		if got := set.Decide("iot:Publish", acl.ARN("", acl.Topic, name), ctx).Allowed(); got != want {
			t.Errorf("Decide(%q) with %q = %v, want %v", name, pattern, got, want)
		}
		if got := set.Bind(ctx, "").Publish(name).Allowed(); got != want {
			t.Errorf("Publish(%q) with %q = %v, want %v", name, pattern, got, want)
		}
	})
}

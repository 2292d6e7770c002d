package acl_test

import (
	"errors"
	"strings"
	"testing"

	"gatewayctl/broker/acl"
)

// statement wraps the members of one statement into a document.
func statement(members string) string {
	return `{"Version": "2012-10-17", "Statement": [{` + members + `}]}`
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	const rest = `, "Action": "iot:Publish", "Resource": "*"`
	for _, tc := range []struct {
		name, doc string
		want      []string // each problem, or its start
	}{
		{"nothing", ``, []string{"line 1, column 1: not JSON"}},
		{"cut off", "{\n  \"Version\": \"2012-10-17\",", []string{"line 2, column 26: not JSON: unexpected end"}},
		{"a comma too many", "{\n \"Version\": \"2012-10-17\",\n}", []string{"line 3, column 1: not JSON: invalid character '}'"}},
		{"two documents", `{} {}`, []string{"line 1, column 4: not JSON"}},
		{"not UTF-8", "{\"\xff\"}", []string{"line 1, column 3: the document is not valid UTF-8: save it as UTF-8"}},
		{"a list", `[]`, []string{"line 1, column 1: the document is a list: write {"}},
		{"too deep", strings.Repeat("[", 20) + strings.Repeat("]", 20), []string{"line 1, column 10: not JSON: nested too deeply"}},
		{"too long", strings.Repeat(" ", 70000), []string{"line 1, column 1: the document has 70000 bytes"}},
		{"no statement", `{"Version": "2012-10-17"}`, []string{"line 1, column 1: the document has no Statement: add"}},
		{"unknown version", `{"Version": "2020-01-01", "Statement": []}`, []string{`line 1, column 13: unknown version "2020-01-01": write "Version": "2012-10-17"`}},
		{"version of another type", `{"Version": 2, "Statement": []}`, []string{`line 1, column 13: Version is a number`}},
		{"statement of another type", `{"Version": "2012-10-17", "Statement": "x"}`, []string{"line 1, column 40: Statement is a string"}},
		{"statement in the list of another type", `{"Version": "2012-10-17", "Statement": [null]}`, []string{"line 1, column 41: a statement is null"}},
		{"member in another case", `{"version": "2012-10-17", "Statement": []}`, []string{`line 1, column 2: unknown member "version": write it as Version`}},
		{"unknown member", statement(`"Effect": "Allow", "Foo": 1` + rest), []string{`line 1, column 61: unknown member "Foo": remove it; known are Sid, Effect`}},
		{"member twice", statement(`"Effect": "Allow", "Effect": "Deny"` + rest), []string{`line 1, column 61: "Effect" appears twice in one object: merge the two`}},
		{"principal", statement(`"Effect": "Allow", "Principal": "*"` + rest), []string{"line 1, column 61: Principal is not part of a device policy"}},
		{"effect in lower case", statement(`"Effect": "allow"` + rest), []string{`line 1, column 52: unknown Effect "allow": write Allow or Deny`}},
		{"sid of another type", statement(`"Sid": 1, "Effect": "Allow"` + rest), []string{`line 1, column 49: Sid is a number`}},
		{"empty statement", statement(``), []string{
			"line 1, column 41: the statement has no Effect", "line 1, column 41: the statement has no Action", "line 1, column 41: the statement has no Resource",
		}},
		{"Action and NotAction", statement(`"Effect": "Allow", "NotAction": "iot:Connect"` + rest), []string{"line 1, column 89: the statement has NotAction and Action: keep one"}},
		{"no action in the list", statement(`"Effect": "Allow", "Action": [], "Resource": "*"`), []string{"line 1, column 71: Action is an empty list"}},
		{"no resource in the list", statement(`"Effect": "Allow", "Action": "*", "Resource": []`), []string{"line 1, column 88: Resource is an empty list"}},
		{"action of another type", statement(`"Effect": "Allow", "Action": [1], "Resource": "*"`), []string{"line 1, column 72: an entry of Action is a number"}},
		{"action without a service", statement(`"Effect": "Allow", "Action": "Publish", "Resource": "*"`), []string{`line 1, column 71: action "Publish" has no service: write it as iot:Publish`}},
		{"resource that is a topic", statement(`"Effect": "Allow", "Action": "*", "Resource": "a/b"`), []string{`line 1, column 88: resource "a/b" is no ARN: write * or an ARN`}},
		{"empty resource", statement(`"Effect": "Allow", "Action": "*", "Resource": ""`), []string{`line 1, column 88: resource "" is no ARN`}},
		{"open variable", statement(`"Effect": "Allow", "Action": "*", "Resource": "arn:${iot:ClientId"`), []string{`line 1, column 88: variable "${iot:ClientId" has no closing brace: close`}},
		{"variable without a name", statement(`"Effect": "Allow", "Action": "*", "Resource": "arn:${ }"`), []string{`line 1, column 88: variable "${ }" has no name`}},
		{"condition of another type", statement(`"Effect": "Allow", "Condition": []` + rest), []string{"line 1, column 74: Condition is a list"}},
		{"unknown operator", statement(`"Effect": "Allow", "Condition": {"StringMatches": {}}` + rest), []string{`line 1, column 75: unknown condition operator "StringMatches": write StringEquals`}},
		{"operator in another case", statement(`"Effect": "Allow", "Condition": {"stringequals": {}}` + rest), []string{`line 1, column 75: unknown condition operator "stringequals"`}},
		{"date operator", statement(`"Effect": "Allow", "Condition": {"DateLessThan": {}}` + rest), []string{`line 1, column 75: unknown condition operator`}},
		{"NullIfExists", statement(`"Effect": "Allow", "Condition": {"NullIfExists": {}}` + rest), []string{`line 1, column 75: operator "NullIfExists": Null takes neither`}},
		{"operator without keys", statement(`"Effect": "Allow", "Condition": {"Bool": "true"}` + rest), []string{"line 1, column 83: Bool is a string: write"}},
		{"value of another type", statement(`"Effect": "Allow", "Condition": {"Bool": {"iot:ClientId": {}}}` + rest), []string{`line 1, column 100: a value of "iot:ClientId" is an object`}},
		{"no truth value", statement(`"Effect": "Allow", "Condition": {"Bool": {"iot:ClientId": "yes"}}` + rest), []string{`line 1, column 100: "yes" is neither true nor false`}},
		{"no number", statement(`"Effect": "Allow", "Condition": {"NumericLessThan": {"iot:ClientId": "${x}"}}` + rest), []string{`line 1, column 111: "${x}" is not a number`}},
		{"infinity is no number", statement(`"Effect": "Allow", "Condition": {"NumericLessThan": {"iot:ClientId": "Inf"}}` + rest), []string{`line 1, column 111: "Inf" is not a number: write one such as`}},
		{"no network", statement(`"Effect": "Allow", "Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "10.0.0.0/33"]}}` + rest), []string{`line 1, column 120: "10.0.0.0/33" is no address or network: write one such as 192.168.7.0/24`}},
		{"open variable in a condition", statement(`"Effect": "Allow", "Condition": {"StringLike": {"iot:ClientId": "a${b"}}` + rest), []string{`line 1, column 106: variable "${b" has no closing brace`}},
		{
			"every problem is listed, with its line", "{\n\t\"Version\": \"x\",\n\t\"Statement\": [\n\t\t{\"Effect\": \"é\", \"Action\": 1},\n\t\t7\n\t]\n}",
			[]string{
				"line 2, column 13: unknown version", `line 4, column 14: unknown Effect "é"`, "line 4, column 3: the statement has no Resource",
				"line 4, column 29: an entry of Action is a number", "line 5, column 3: a statement is a number",
			},
		},
		{"columns count characters", `{"Version": "2012-10-17", "Statement": {"Sid": "ääääää", "Effect": "x"` + rest + `}}`, []string{"line 1, column 68: unknown Effect"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			doc, err := acl.Parse([]byte(tc.doc))
			var perr *acl.ParseError
			if !errors.As(err, &perr) || doc != nil {
				t.Fatalf("Parse = %v, %v, want a ParseError", doc, err)
			}
			if len(perr.Problems) != len(tc.want) {
				t.Fatalf("problems:\n%v\nwant:\n%s", err, strings.Join(tc.want, "\n"))
			}
			for i, p := range perr.Problems {
				if !strings.HasPrefix(p.String(), tc.want[i]) || p.Remedy == "" {
					t.Errorf("problem %d: %s\nwant %s", i, p, tc.want[i])
				}
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for name, doc := range map[string]string{
		"byte order mark":            "\uFEFF" + statement(`"Effect": "Allow", "Action": "*", "Resource": "*"`),
		"Id":                         `{"Id": "x", "Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}`,
		"empty condition":            statement(`"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {}`),
		"numbers and truth values":   statement(`"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"Bool": {"iot:ClientId": true}, "NumericEquals": {"iot:ClientId": [1, "2.5", -3e2]}}`),
		"a dollar sign alone":        statement(`"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/$aws/$"`),
		"pattern with fewer parts":   statement(`"Effect": "Allow", "Action": "*", "Resource": "arn:*"`),
		"escaped characters in JSON": statement(`"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic\/\u0061"`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if w := parse(t, doc).Warnings(); len(w) > 0 {
				t.Errorf("warnings: %v", w)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	const denyOwn = `"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/${iot:Connection.Thing.ThingName}/rpc"`
	for _, tc := range []struct {
		name, doc string
		want      []string
	}{
		{"no version", `{"Statement": []}`, []string{"line 1, column 1: the document has no Version: variables are plain text", "line 1, column 15: the list of statements is empty"}},
		{"old version", `{"Version": "2008-10-17", "Statement": {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/${iot:ClientId}"}}`, []string{
			"line 1, column 13: in version 2008-10-17 variables are plain text", "line 1, column 97: variables are plain text",
		}},
		{"unknown action", statement(`"Effect": "Allow", "Action": ["iot:Publish", "iot:Publlish"], "Resource": "*"`), []string{`line 1, column 87: no known action matches "iot:Publlish"`}},
		{"unknown condition key", statement(`"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"iot:ClientID2": "x"}}`), []string{`line 1, column 124: unknown condition key "iot:ClientID2"`}},
		{"spelling of keys in another case", statement(`"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"IOT:clientid": "x"}}`), nil},
		{"certificate keys", statement(`"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"iot:Certificate.Subject.Organization.List": "x", "iot:Certificate.Issuer.AlternativeName.DNSName.1": "x", "iot:Connection.Thing.Attributes[a]": "x"}}`), nil},
		{"no such certificate keys", statement(`"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"iot:Certificate.Subject.Foo": "x", "iot:Certificate.Subject.Country.7": "x", "iot:Connection.Thing.Attributes[]": "x"}}`), []string{
			"line 1, column 124: unknown condition key", "line 1, column 160: unknown condition key", "line 1, column 202: unknown condition key",
		}},
		{"unknown variable", statement(`"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/${iot:ThingName}"`), []string{"line 1, column 98: unknown variable ${iot:thingname}"}},
		{"a Deny with a variable", `{"Version": "2012-10-17", "Statement": [{` + denyOwn + `}, {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}`, []string{
			"line 1, column 97: a Deny depends on ${iot:connection.thing.thingname}",
		}},
		{"what it takes from needs the variable too", `{"Version": "2012-10-17", "Statement": [{` + denyOwn + `}, {"Effect": "Allow", "Action": "iot:*", "Resource": "arn:aws:iot:*:*:topic/${iot:Connection.Thing.ThingName}/*"}]}`, nil},
		{"a Deny with a variable in its condition", statement(`"Effect": "Deny", "Action": "iot:Publish", "Resource": "*", "Condition": {"StringEquals": {"iot:ClientId": "${iot:Certificate.Subject.CommonName}"}}},
			{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"`), []string{"line 1, column 149: a Deny depends on"}},
		{"a Deny with a variable that is always there", statement(`"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/${iot:ClientId}"}, {"Effect": "Allow", "Action": "*", "Resource": "*"`), nil},
		{"wrong type of resource", statement(`"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topic/a"`), []string{`line 1, column 100: no action of the statement is checked against "topic/": write topicfilter/ there`}},
		{"MQTT wildcard in a topic", statement(`"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/a/#"`), []string{"line 1, column 98: # and + are plain characters in a topic: write *"}},
		{"MQTT wildcard in a filter", statement(`"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topicfilter/a/#"`), nil},
		{"escape in round brackets", statement(`"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/$(*)"`), []string{"line 1, column 98: $(*) is not an escape: write it with braces: ${*}"}},
		{"same Sid", `{"Version": "2012-10-17", "Statement": [{"Sid": "A", "Effect": "Allow", "Action": "*", "Resource": "*"}, {"Sid": "A", "Effect": "Deny", "Action": "iot:Publish", "Resource": "*"}]}`, []string{`line 1, column 114: two statements have the Sid "A"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := parse(t, tc.doc).Warnings()
			if len(got) != len(tc.want) {
				t.Fatalf("warnings: %v, want %q", got, tc.want)
			}
			for i, w := range got {
				if !strings.HasPrefix(w.String(), tc.want[i]) {
					t.Errorf("warning %d: %s\nwant %s", i, w, tc.want[i])
				}
			}
		})
	}
}

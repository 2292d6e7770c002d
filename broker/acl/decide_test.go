package acl_test

import (
	"strings"
	"testing"

	"gatewayctl/broker/acl"
)

const arn = acl.LocalPrefix

// TestResources is about what a pattern covers, beyond what the vectors say.
func TestResources(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, pattern, topic string
		want                 bool
	}{
		{"star for everything", "*", "a", true},
		{"star at the end of the service runs on", "arn:aws:iot:*", "a/b", true},
		{"star for region and account as one", "arn:aws:iot:*:topic/a", "a", true},
		{"star for the resource", "arn:aws:iot:*:*:*", "a:b", true},
		{"part of the account", "arn:aws:iot:local:0000*:topic/a", "a", true},
		{"question mark in the account", "arn:aws:iot:local:00000000000?:topic/a", "a", true},
		{"another account", "arn:aws:iot:local:1*:topic/a", "a", false},
		{"star for the type", "arn:aws:iot:*:*:*/a", "a", true},
		{"star within the type", "arn:aws:iot:*:*:topic*a", "x/a", true},
		{"topic is no topicfilter", "arn:aws:iot:*:*:topicfilter/*", "a", false},
		{"only the type", "arn:aws:iot:*:*:topic", "a", false},
		{"the account's star stays in its part", "arn:aws:iot:*:*:topic/lamp/*", "other:x:topic/lamp/up", false},
		{"the region's star stays in its part", "arn:aws:iot:*:*:topic/lamp/*", "other:topic/lamp/up", false},
		{"a neighbour's tree with our ARN in its name", "arn:aws:iot:*:*:topic/lamp/*", "other/data:topic/lamp/up", false},
		{"colons in the name", "arn:aws:iot:*:*:topic/a:b:*", "a:b:c/d", true},
		{"short form with a colon in the name", "arn:aws:iot:*:topic/site:4/*", "site:4/up", true},
		{"escaped star", "arn:aws:iot:*:*:topic/${*}", "*", true},
		{"escaped question mark", "arn:aws:iot:*:*:topic/${?}", "?", true},
		{"escaped question mark is no wildcard", "arn:aws:iot:*:*:topic/${?}", "a", false},
		{"escaped dollar sign", "arn:aws:iot:*:*:topic/${$}{a}", "${a}", true},
		{"question mark is a character, not a byte", "arn:aws:iot:*:*:topic/?", "é", true},
		{"question marks at the end", "arn:aws:iot:*:*:topic/*??", "é", false},
		{"question marks between stars", "arn:aws:iot:*:*:topic/*a?c*", "xxabc/d", true},
		{"stars and a tail", "arn:aws:iot:*:*:topic/a*b*c", "a/b/b/c", true},
		{"stars and a tail that overlaps", "arn:aws:iot:*:*:topic/ab*bc", "abc", false},
		{"variable", "arn:aws:iot:*:*:topic/${iot:ClientId}/x", "lamp/x", true},
		{"variable in another case", "arn:aws:iot:*:*:topic/${IOT:CLIENTID}/x", "lamp/x", true},
		{"variable with spaces", "arn:aws:iot:*:*:topic/${ iot:ClientId }/x", "lamp/x", true},
		{"an attribute's name keeps its case", "arn:aws:iot:*:*:topic/${iot:Connection.Thing.Attributes[Site]}", "plant", true},
		{"an attribute's name in another case", "arn:aws:iot:*:*:topic/${iot:Connection.Thing.Attributes[site]}", "plant", false},
		{"variable with a colon", "arn:aws:iot:*:*:topic/${colon}/x", "a:b/x", true},
		{"variable for the account", "arn:aws:iot:*:${account}:topic/a", "a", true},
		{"a value is not searched for variables", "arn:aws:iot:*:*:topic/${nested}", "lamp", false},
		{"a value is not searched for variables: literal", "arn:aws:iot:*:*:topic/${nested}", "${iot:ClientId}", true},
		{"an empty value is absent", "arn:aws:iot:*:*:topic/${empty}*", "anything", false},
		{"a list of one", "arn:aws:iot:*:*:topic/${one}", "1", true},
		{"a list of two is absent", "arn:aws:iot:*:*:topic/${two}", "1", false},
		{"an empty list is absent", "arn:aws:iot:*:*:topic/${none}*", "1", false},
		{"invalid UTF-8 is absent", "arn:aws:iot:*:*:topic/${broken}*", "\xff", false},
		{"certificate with reserved characters", "arn:aws:iot:*:*:topic/${iot:Certificate.Subject.Organization}", `A\=B\, C\\D`, true},
		{"certificate with a wildcard", "arn:aws:iot:*:*:topic/${iot:Certificate.Subject.Country}", "D#", false},
		{"certificate with a long value", "arn:aws:iot:*:*:topic/${iot:Certificate.Subject.Title}", strings.Repeat("é", 1025), false},
		{"certificate with a value just short enough", "arn:aws:iot:*:*:topic/${iot:Certificate.Subject.Surname}", strings.Repeat("é", 1024), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ctx := acl.Context{
				"iot:ClientId": {"lamp"}, "iot:Connection.Thing.Attributes[Site]": {"plant"}, "colon": {"a:b"}, "account": {"000000000000"},
				"nested": {"${iot:ClientId}"}, "empty": {""}, "one": {"1"}, "two": {"1", "2"}, "none": {}, "broken": {"\xff"},
				"iot:Certificate.Subject.Organization": {`A=B, C\D`}, "iot:Certificate.Subject.Country": {"D#"},
				"iot:Certificate.Subject.Title": {strings.Repeat("é", 1025)}, "iot:Certificate.Subject.Surname": {strings.Repeat("é", 1024)},
			}
			for _, effect := range []string{"Allow", "Deny"} {
				set := acl.Compile(acl.Named{Name: "p", Doc: parse(t, statement(`"Effect": "`+effect+`", "Action": "iot:Publish", "Resource": "`+tc.pattern+`"`))})
				got := set.Decide("iot:Publish", arn+"topic/"+tc.topic, ctx)
				if (got.Effect != acl.ImplicitDeny) != tc.want {
					t.Errorf("%s: %v, want a match = %v", effect, got.Effect, tc.want)
				}
				if b := set.Bind(ctx, "").Publish(tc.topic); b != got {
					t.Errorf("%s: Bind answers %v, Decide %v", effect, b, got)
				}
			}
		})
	}
}

// TestConditions is about every operator of reference §5.4.
func TestConditions(t *testing.T) {
	t.Parallel()
	ctx := acl.Context{
		"iot:ClientId": {"Lamp-1"}, "aws:SourceIp": {"192.168.7.20"}, "iot:Connection.Thing.IsAttached": {"true"},
		"iot:LastWillTopic": {arn + "topic/lamp/will"}, "iot:ConnectAttributes": {"PersistentConnect", "LastWill"},
		"iot:Connection.Thing.Attributes[n]": {"5"}, "iot:Connection.Thing.Attributes[f]": {"-2.5e1"}, "iot:Connection.Thing.Attributes[none]": {},
		"v6": {"fd00::1"}, "mapped": {"::ffff:10.1.2.3"}, "zone": {"fe80::1%eth0"}, "star": {"a*"}, "empty": {""}, "name": {"lamp"},
	}
	for _, tc := range []struct {
		condition string
		want      bool
	}{
		{`"StringEquals": {"iot:ClientId": "Lamp-1"}`, true},
		{`"StringEquals": {"iot:ClientId": "lamp-1"}`, false},
		{`"StringEquals": {"iot:ClientId": ["x", "Lamp-1"]}`, true},
		{`"StringEquals": {"iot:ClientId": []}`, false},
		{`"StringEquals": {"star": "a*"}`, true},
		{`"StringEquals": {"star": "${*}"}`, false},
		{`"StringEquals": {"star": "a${*}"}`, true},
		{`"StringEquals": {"empty": ""}`, true},
		{`"StringEquals": {"absent": ""}`, false},
		{`"StringEquals": {"iot:ClientId": "Lamp-1", "absent": "x"}`, false},
		{`"StringEquals": {"IOT:clientID": "Lamp-1"}`, true},
		{`"StringNotEquals": {"iot:ClientId": "x"}`, true},
		{`"StringNotEquals": {"iot:ClientId": ["x", "Lamp-1"]}`, false},
		{`"StringNotEquals": {"absent": "x"}`, true},
		{`"StringNotEquals": {"iot:ConnectAttributes": "LastWill"}`, false},
		{`"StringEqualsIgnoreCase": {"iot:ClientId": "lAMP-1"}`, true},
		{`"StringEqualsIgnoreCase": {"iot:ClientId": "lamp"}`, false},
		{`"StringNotEqualsIgnoreCase": {"iot:ClientId": "lAMP-1"}`, false},
		{`"StringLike": {"iot:ClientId": "Lamp-?"}`, true},
		{`"StringLike": {"iot:ClientId": "L*1"}`, true},
		{`"StringLike": {"iot:ClientId": "l*"}`, false},
		{`"StringLike": {"star": "a${*}"}`, true},
		{`"StringLike": {"name": "a${*}"}`, false},
		{`"StringNotLike": {"iot:ClientId": ["mos-*", "L*"]}`, false},
		{`"StringNotLike": {"iot:ClientId": "mos-*"}`, true},
		{`"StringNotLike": {"absent": "*"}`, true},
		{`"StringLike": {"absent": "*"}`, false},
		{`"StringEquals": {"name": "${name}"}`, true},
		{`"StringLike": {"iot:LastWillTopic": "*${name}*"}`, true},
		{`"StringNotEquals": {"iot:ClientId": "${absent}"}`, false},     // absent variable: no match, whatever the operator
		{`"StringNotEquals": {"absent": ["x", "${absent}"]}`, false},    // even when the key is absent too
		{`"StringEqualsIfExists": {"absent": "${absent}"}`, false},      // and with IfExists
		{`"StringEquals": {"iot:ClientId": ["Lamp-1", "${x}"]}`, false}, // and when another value matches
		{`"StringEqualsIfExists": {"absent": "x"}`, true},
		{`"StringEqualsIfExists": {"iot:ClientId": "x"}`, false},
		{`"StringEqualsIfExists": {"iot:Connection.Thing.Attributes[none]": "x"}`, true},
		{`"StringNotEqualsIfExists": {"iot:ClientId": "Lamp-1"}`, false},
		{`"ArnEquals": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/lamp/*"}`, true},
		{`"ArnLike": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/${name}/will"}`, true},
		{`"ArnLike": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/x"}`, false},
		{`"ArnNotEquals": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/lamp/*"}`, false},
		{`"ArnNotLike": {"absent": "*"}`, true},
		{`"NumericEquals": {"iot:Connection.Thing.Attributes[n]": "5.0"}`, true},
		{`"NumericEquals": {"iot:Connection.Thing.Attributes[f]": -25}`, true},
		{`"NumericNotEquals": {"iot:Connection.Thing.Attributes[n]": 5}`, false},
		{`"NumericLessThan": {"iot:Connection.Thing.Attributes[n]": 5}`, false},
		{`"NumericLessThan": {"iot:Connection.Thing.Attributes[n]": 6}`, true},
		{`"NumericLessThanEquals": {"iot:Connection.Thing.Attributes[n]": 5}`, true},
		{`"NumericGreaterThan": {"iot:Connection.Thing.Attributes[n]": 5}`, false},
		{`"NumericGreaterThan": {"iot:Connection.Thing.Attributes[n]": 4}`, true},
		{`"NumericGreaterThanEquals": {"iot:Connection.Thing.Attributes[n]": [9, 5]}`, true},
		{`"NumericEquals": {"iot:ClientId": 0}`, false},
		{`"NumericNotEquals": {"iot:ClientId": 0}`, true},
		{`"Bool": {"iot:Connection.Thing.IsAttached": "TRUE"}`, true},
		{`"Bool": {"iot:Connection.Thing.IsAttached": false}`, false},
		{`"Bool": {"iot:ClientId": false}`, false},
		{`"BoolIfExists": {"absent": true}`, true},
		{`"IpAddress": {"aws:SourceIp": "192.168.7.20"}`, true},
		{`"IpAddress": {"aws:SourceIp": "192.168.7.1/24"}`, true},
		{`"IpAddress": {"aws:SourceIp": "::/0"}`, false},
		{`"IpAddress": {"v6": "fd00::/8"}`, true},
		{`"IpAddress": {"mapped": "10.0.0.0/8"}`, true},
		{`"IpAddress": {"zone": "fe80::/10"}`, true},
		{`"IpAddress": {"iot:ClientId": "0.0.0.0/0"}`, false},
		{`"NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.168.0.0/16"]}`, false},
		{`"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}`, true},
		{`"NotIpAddress": {"absent": "10.0.0.0/8"}`, true},
		{`"Null": {"absent": true}`, true},
		{`"Null": {"absent": false}`, false},
		{`"Null": {"iot:ClientId": "false"}`, true},
		{`"Null": {"iot:ClientId": "true"}`, false},
		{`"Null": {"iot:Connection.Thing.Attributes[none]": true}`, true},
		{`"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["LastWill", "PersistentConnect", "x"]}`, true},
		{`"ForAllValues:StringLike": {"iot:ConnectAttributes": "L*"}`, false},
		{`"ForAllValues:StringEquals": {"absent": "x"}`, true},
		{`"ForAllValues:StringNotEquals": {"iot:ConnectAttributes": "LastWill"}`, false},
		{`"ForAllValues:StringNotEquals": {"iot:ConnectAttributes": "x"}`, true},
		{`"ForAllValues:StringNotEquals": {"absent": "x"}`, true},
		{`"ForAnyValue:StringEquals": {"iot:ConnectAttributes": "LastWill"}`, true},
		{`"ForAnyValue:StringEquals": {"iot:ConnectAttributes": "x"}`, false},
		{`"ForAnyValue:StringEquals": {"absent": "x"}`, false},
		{`"ForAnyValue:StringEqualsIfExists": {"absent": "x"}`, true},
		{`"ForAnyValue:StringNotEquals": {"iot:ConnectAttributes": "LastWill"}`, true},
		{`"ForAnyValue:StringNotEquals": {"iot:ConnectAttributes": ["LastWill", "PersistentConnect"]}`, false},
		{`"ForAnyValue:StringNotEquals": {"absent": "x"}`, false},
		{`"StringEquals": {"iot:ClientId": "Lamp-1"}, "Bool": {"iot:Connection.Thing.IsAttached": "true"}`, true},
		{`"StringEquals": {"iot:ClientId": "x"}, "Bool": {"iot:Connection.Thing.IsAttached": "true"}`, false},
	} {
		t.Run(tc.condition, func(t *testing.T) {
			t.Parallel()
			for _, effect := range []string{"Allow", "Deny"} {
				doc := parse(t, statement(`"Effect": "`+effect+`", "Action": "*", "Resource": "*", "Condition": {`+tc.condition+`}`))
				set := acl.Compile(acl.Named{Name: "p", Doc: doc})
				got := set.Decide("iot:Receive", arn+"topic/a", ctx)
				if (got.Effect != acl.ImplicitDeny) != tc.want {
					t.Errorf("%s: %v, want met = %v", effect, got.Effect, tc.want)
				}
				if b := set.Bind(ctx, "").Receive("a"); b != got {
					t.Errorf("%s: Bind answers %v, Decide %v", effect, b, got)
				}
			}
		})
	}
}

func TestNotResource(t *testing.T) {
	t.Parallel()
	doc := `"Effect": "Allow", "Action": "iot:*", "NotResource": ["arn:aws:iot:*:*:topic/secret/*", "arn:aws:iot:*:*:topic/${name}"]`
	set := acl.Compile(acl.Named{Name: "p", Doc: parse(t, statement(doc))})
	b := set.Bind(acl.Context{"name": {"own"}}, "")
	for topic, want := range map[string]bool{"a": true, "secret/a": false, "own": false, "own/a": true} {
		if got := b.Publish(topic).Allowed(); got != want {
			t.Errorf("Publish(%q) = %v, want %v", topic, got, want)
		}
	}
	if !b.Connect("anyone").Allowed() {
		t.Error("NotResource of topics says nothing of clients, which are then covered")
	}
	if d := set.Bind(acl.Context{}, "").Publish("a"); d.Allowed() {
		t.Errorf("with an absent variable in NotResource the statement matches: %v", d)
	}
}

func TestDecisionNamesTheStatement(t *testing.T) {
	t.Parallel()
	first := parse(t, `{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/a"},
		{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}]}`)
	second := parse(t, statement(`"Sid": "NoSecrets", "Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/secret"`))
	b := acl.Compile(acl.Named{Name: "first", Doc: first}, acl.Named{Name: "second", Doc: second}).Bind(nil, "")
	for _, tc := range []struct {
		topic string
		want  acl.Decision
		text  string
	}{
		{"a", acl.Decision{Effect: acl.Allow, Policy: "first", Statement: "#1"}, "allowed by statement #1 of policy first"},
		{"b", acl.Decision{Effect: acl.Allow, Policy: "first", Statement: "#2"}, "allowed by statement #2 of policy first"},
		{"secret", acl.Decision{Effect: acl.ExplicitDeny, Policy: "second", Statement: "NoSecrets"}, "denied by statement NoSecrets of policy second"},
	} {
		if got := b.Publish(tc.topic); got != tc.want || got.String() != tc.text {
			t.Errorf("Publish(%q) = %+v (%s), want %+v (%s)", tc.topic, got, got, tc.want, tc.text)
		}
	}
	if got := b.Subscribe("a"); got != (acl.Decision{}) || got.Allowed() || got.String() != "no policy allows it" {
		t.Errorf("Subscribe = %+v (%s)", got, got)
	}
}

func TestNothingAllowsNothing(t *testing.T) {
	t.Parallel()
	all := acl.Compile(acl.Named{Name: "p", Doc: parse(t, statement(`"Effect": "Allow", "Action": "*", "Resource": "*"`))})
	for name, b := range map[string]*acl.Bound{
		"nil": nil, "empty set": acl.Compile().Bind(nil, ""), "bad prefix": all.Bind(nil, "arn:aws:iot:"),
	} {
		for _, d := range []acl.Decision{b.Connect("a"), b.Publish("a"), b.RetainPublish("a"), b.Subscribe("a"), b.Receive("a")} {
			if d.Allowed() {
				t.Errorf("%s: %v", name, d)
			}
		}
		if b.Unresolved() != nil {
			t.Errorf("%s: Unresolved = %v", name, b.Unresolved())
		}
	}
}

func TestUnresolved(t *testing.T) {
	t.Parallel()
	doc := parse(t, `{"Version": "2012-10-17", "Statement": [
		{"Sid": "InAResource", "Effect": "Deny", "Action": "*", "Resource": ["arn:aws:iot:*:*:topic/${iot:Connection.Thing.ThingName}", "arn:aws:iot:*:*:topic/b"]},
		{"Sid": "InACondition", "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"StringNotEquals": {"iot:ClientId": "${iot:Connection.Thing.ThingName}"}}},
		{"Sid": "ConditionFails", "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"iot:ClientId": ["x", "${iot:DomainName}"]}, "Bool": {"iot:ClientId": true}}},
		{"Sid": "Allows", "Effect": "Allow", "Action": "*", "Resource": "arn:aws:iot:*:*:topic/${iot:Connection.Thing.ThingName}"}]}`)
	b := acl.Compile(acl.Named{Name: "p", Doc: doc}).Bind(acl.Context{"iot:ClientId": {"c"}}, "")
	want := []acl.Unresolved{
		{Policy: "p", Statement: "InAResource", Variable: "iot:connection.thing.thingname"},
		{Policy: "p", Statement: "InACondition", Variable: "iot:connection.thing.thingname"},
	}
	got := b.Unresolved()
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("Unresolved = %v, want %v", got, want)
	}
	if d := b.Publish("b"); d.Effect != acl.ExplicitDeny {
		t.Errorf("the other resource of the statement counts no more: %v", d)
	}
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	for prefix, ok := range map[string]bool{
		"": true, acl.LocalPrefix: true, "arn:aws-cn:iot:eu-west-1:123456789012:": true, "arn:::::": true, "arn::::": false, "arn:a:b:c:d:": true,
		"arn:aws:iot:local:0": false, "arn:aws:iot:local:0:topic/": false, "x:aws:iot:local:0:": false, "arn:aws:iot:*:*:": false, "arn:aws:iot:\xff:0:": false,
	} {
		if err := acl.ValidatePrefix(prefix); (err == nil) != ok {
			t.Errorf("ValidatePrefix(%q) = %v, want valid = %v", prefix, err, ok)
		}
	}
	if got, want := acl.ARN("", acl.Thing, "lamp/cfg"), "arn:aws:iot:local:000000000000:thing/lamp/cfg"; got != want {
		t.Errorf("ARN = %s, want %s", got, want)
	}
	// Documents from the cloud name its account; bound under it they work unchanged.
	set := acl.Compile(acl.Named{Name: "p", Doc: parse(t, statement(`"Effect": "Allow", "Action": "*", "Resource": "arn:aws:iot:eu-west-1:123456789012:topic/a"`))})
	if !set.Bind(nil, "arn:aws:iot:eu-west-1:123456789012:").Publish("a").Allowed() || set.Bind(nil, "").Publish("a").Allowed() {
		t.Error("region and account of the prefix do not count")
	}
}

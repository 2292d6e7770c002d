package acl_test

import (
	"testing"

	"gatewayctl/broker/acl"
)

// typical is a document of five statements as people write them for a device.
const typical = `{"Version": "2012-10-17", "Statement": [
	{"Sid": "Connect", "Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}", "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}},
	{"Sid": "Publish", "Effect": "Allow", "Action": ["iot:Publish", "iot:RetainPublish"], "Resource": ["arn:aws:iot:*:*:topic/$aws/things/${iot:Connection.Thing.ThingName}/*", "arn:aws:iot:*:*:topic/site/*/${iot:Connection.Thing.ThingName}/data/*"]},
	{"Sid": "Subscribe", "Effect": "Allow", "Action": "iot:Subscribe", "Resource": ["arn:aws:iot:*:*:topicfilter/$aws/things/${iot:Connection.Thing.ThingName}/*", "arn:aws:iot:*:*:topicfilter/site/*/${iot:Connection.Thing.ThingName}/*"]},
	{"Sid": "Receive", "Effect": "Allow", "Action": "iot:Receive", "Resource": ["arn:aws:iot:*:*:topic/$aws/things/${iot:Connection.Thing.ThingName}/*", "arn:aws:iot:*:*:topic/site/*/${iot:Connection.Thing.ThingName}/*"]},
	{"Sid": "NoSecrets", "Effect": "Deny", "Action": ["iot:Publish", "iot:Receive"], "Resource": ["arn:aws:iot:*:*:topic/site/secret/*", "arn:aws:iot:*:*:topic/*/private"]}
]}`

func typicalContext() acl.Context {
	return acl.Context{
		"iot:ClientId": {"pump-7"}, "aws:SourceIp": {"192.168.7.20"}, "iot:DomainName": {"gw.lan"},
		"iot:Connection.Thing.ThingName": {"pump-7"}, "iot:Connection.Thing.IsAttached": {"true"},
		"iot:Certificate.Subject.CommonName": {"pump-7"}, "iot:ConnectAttributes": {"PersistentConnect"},
	}
}

func typicalSet(t testing.TB) *acl.Set {
	return acl.Compile(acl.Named{Name: "typical", Doc: parse(t, typical)})
}

func TestBoundAllocatesNothing(t *testing.T) {
	b := typicalSet(t).Bind(typicalContext(), "")
	n := testing.AllocsPerRun(100, func() {
		for _, d := range []acl.Decision{
			b.Connect("pump-7"), b.Publish("site/hall-3/pump-7/data/temperature"), b.RetainPublish("site/hall-3/pump-7/data/x"),
			b.Subscribe("site/+/pump-7/#"), b.Receive("$aws/things/pump-7/shadow/update/delta"),
		} {
			if !d.Allowed() {
				panic(d.String())
			}
		}
		for _, d := range []acl.Decision{b.Publish("site/secret/pump-7/data/x"), b.Receive("site/hall-3/pump-8/x"), b.Connect("pump-8")} {
			if d.Allowed() {
				panic(d.String())
			}
		}
	})
	if n != 0 {
		t.Errorf("eight decisions allocate %v times", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	bound := typicalSet(b).Bind(typicalContext(), "")
	b.ReportAllocs()
	for b.Loop() {
		if !bound.Publish("site/hall-3/pump-7/data/temperature").Allowed() {
			b.Fatal("refused")
		}
	}
}

func BenchmarkReceiveRefused(b *testing.B) {
	bound := typicalSet(b).Bind(typicalContext(), "")
	b.ReportAllocs()
	for b.Loop() {
		if bound.Receive("site/hall-3/pump-8/data/temperature").Allowed() {
			b.Fatal("allowed")
		}
	}
}

func BenchmarkBind(b *testing.B) {
	set, ctx := typicalSet(b), typicalContext()
	b.ReportAllocs()
	for b.Loop() {
		set.Bind(ctx, "")
	}
}

func BenchmarkDecide(b *testing.B) {
	set, ctx := typicalSet(b), typicalContext()
	b.ReportAllocs()
	for b.Loop() {
		set.Decide("iot:Publish", acl.LocalPrefix+"topic/site/hall-3/pump-7/data/temperature", ctx)
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := acl.Parse([]byte(typical)); err != nil {
			b.Fatal(err)
		}
	}
}

package configs_test

import (
	"io/fs"
	"strings"
	"testing"

	"gatewayctl/broker/acl"
	"gatewayctl/broker/mqtt"
	"gatewayctl/configs"
	"gatewayctl/pki/identity"
)

// policy loads a shipped policy, which must be without any warning.
func policy(t *testing.T, name string) *acl.Set {
	t.Helper()
	b, err := fs.ReadFile(configs.Policies, "policies/"+name+".json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := acl.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if w := doc.Warnings(); len(w) > 0 {
		t.Errorf("%s: %v", name, w)
	}
	return acl.Compile(acl.Named{Name: name, Doc: doc})
}

func TestEveryPolicyIsKnown(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(configs.Policies, "policies/*")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(files, " "), "policies/admin.json policies/device.json policies/local.json"; got != want {
		t.Errorf("the binary holds %s, the tests know %s", got, want)
	}
}

// connection is that of a device under a client identifier; "" for one without a thing.
func connection(t *testing.T, thing, clientID string) acl.Connection {
	t.Helper()
	c := acl.Connection{ClientID: clientID}
	if thing != "" {
		id, err := identity.ParseDeviceID(thing)
		if err != nil {
			t.Fatal(err)
		}
		c.Thing = id
	}
	return c
}

// checks are names that an action is asked for.
type checks struct{ connect, publish, retain, subscribe, receive []string }

func (c checks) run(t *testing.T, b *acl.Bound, allowed bool) {
	t.Helper()
	for _, q := range []struct {
		action string
		names  []string
		ask    func(string) acl.Decision
	}{
		{"Connect", c.connect, b.Connect}, {"Publish", c.publish, b.Publish}, {"RetainPublish", c.retain, b.RetainPublish},
		{"Subscribe", c.subscribe, b.Subscribe}, {"Receive", c.receive, b.Receive},
	} {
		for _, name := range q.names {
			if d := q.ask(name); d.Allowed() != allowed {
				t.Errorf("%s %q: %v", q.action, name, d)
			}
		}
	}
}

func TestDevicePolicy(t *testing.T) {
	t.Parallel()
	own := []string{"lamp", "lamp/data", "lamp/a/b/c", "lamp/online", "lamp/rpc-resp/mos-1/rpc", "lamp/rpc-resp/x", "lamp/rpcs", "lamp/data/rpc"}
	requests := []string{"lamp/rpc", "lamp/rpc/Sys.GetInfo", "lamp/rpc/"}
	asks := []string{
		"$aws/things/lamp/shadow/get", "$aws/things/lamp/shadow/update", "$aws/things/lamp/shadow/delete",
		"$aws/things/lamp/shadow/name/cfg/get", "$aws/things/lamp/shadow/name/cfg/update", "$aws/things/lamp/shadow/name/cfg/delete",
		"$aws/things/lamp/jobs/get", "$aws/things/lamp/jobs/start-next", "$aws/things/lamp/jobs/$next/get", "$aws/things/lamp/jobs/ota-1/get", "$aws/things/lamp/jobs/ota-1/update",
	}
	answers := []string{
		"$aws/things/lamp/shadow/get/accepted", "$aws/things/lamp/shadow/update/delta", "$aws/things/lamp/shadow/update/documents",
		"$aws/things/lamp/shadow/name/cfg/update/delta", "$aws/things/lamp/jobs/notify", "$aws/things/lamp/jobs/notify-next", "$aws/things/lamp/jobs/ota-1/update/accepted",
	}
	ownFilters := []string{
		"lamp", "lamp/#", "lamp/+", "lamp/+/x", "lamp/rpc", "lamp/rpc/#", "lamp/rpc-resp/mos-1/rpc", "lamp/command/+",
		"$aws/things/lamp/shadow/get/+", "$aws/things/lamp/shadow/update/delta", "$aws/things/lamp/shadow/name/cfg/update/accepted", "$aws/things/lamp/shadow/#",
		"$aws/things/lamp/jobs/notify-next", "$aws/things/lamp/jobs/+/update/+", "$aws/things/lamp/jobs/$next/get/accepted", "$aws/things/lamp/jobs/#",
	}
	foreign := []string{
		"lamp2", "lamp2/x", "lam", "lam/p", "Lamp/x", "/lamp/x", "other/lamp/x", "lampx/rpc-resp/y", "lamp2/rpc", "lamp-2/rpc/Sys.Reboot", "lamp2/rpc-resp/mos-1/rpc",
		"other/x:topic/lamp/y", "x:topic/lamp/y", "shellies/announce", "$SYS/uptime", "$aws/things/lamp2/shadow/update", "$aws/things/lamp2/jobs/get",
		"$aws/things/lam/shadow/update", "$aws/things/lamp2/jobs/x/update", "$aws/things/other/x/lamp/shadow/update", "$aws/things/lamp", "$aws/events/presence/connected/lamp",
		"$aws/certificates/create/json", "$aws/provisioning-templates/t/provision/json", "$aws/rules/r/lamp/x", "$share/g/lamp/x",
	}
	foreignFilters := []string{
		"#", "+", "+/#", "+/rpc", "+/rpc/#", "+/rpc-resp/#", "+/lamp/#", "/lamp/#", "lamp2", "lamp2/#", "lamp+/x", "lam+/#", "lamp#", "other/lamp/#",
		"$aws/#", "$aws/things/#", "$aws/things/+/shadow/#", "$aws/things/+/jobs/notify", "$aws/things/lamp2/shadow/#", "$aws/things/lamp/#", "$aws/things/lamp/+/x",
		"$aws/events/#", "$aws/certificates/create/json/accepted", "$SYS/#", "$share/g/#", "$share/g/lamp/#", "$share/g/+/lamp/#", "$share/lamp/x/#",
		"x:topicfilter/lamp/#", "+/x:topicfilter/lamp/#",
	}
	set := policy(t, "device")
	for _, tc := range []struct {
		name, thing, clientID string
		allowed, refused      checks
	}{
		{
			"the device itself", "lamp", "lamp",
			checks{connect: []string{"lamp"}, publish: append(append([]string(nil), own...), asks...), retain: []string{"lamp", "lamp/data", "lamp/online"}, subscribe: ownFilters, receive: append(append(append([]string(nil), own...), requests...), answers...)},
			checks{
				connect: []string{"lamp2", "lam", "Lamp", "#", "+", "*", "mos", "other#1", "lamp/x", ""},
				publish: append(append(append([]string(nil), foreign...), requests...), answers...),
				retain:  append(append(append(append([]string(nil), foreign...), requests...), asks...), "lamp/rpc-resp/mos-1/rpc"), subscribe: foreignFilters, receive: foreign,
			},
		},
		{
			"a second client of the device, or one with an assigned identifier", "lamp", "lamp#9f86d081",
			checks{connect: []string{"lamp#9f86d081", "lamp#"}, publish: own, retain: []string{"lamp/online"}, subscribe: ownFilters, receive: own},
			checks{connect: []string{"lamp2#1"}, publish: append(append([]string(nil), requests...), foreign...), subscribe: foreignFilters, receive: foreign},
		},
		{
			"the mos tool with the device's credentials", "lamp", "mos-1804289383",
			checks{connect: []string{"mos-1804289383", "mos-"}, publish: append(append([]string(nil), own...), requests...), subscribe: ownFilters, receive: own},
			checks{connect: []string{"mos", "mosquitto", "Mos-1"}, publish: foreign, retain: append(append([]string(nil), foreign...), requests...), subscribe: foreignFilters, receive: foreign},
		},
		{
			"a thing whose name has colons", "site:4:lamp", "site:4:lamp",
			checks{connect: []string{"site:4:lamp"}, publish: []string{"site:4:lamp/data", "$aws/things/site:4:lamp/shadow/update"}, subscribe: []string{"site:4:lamp/#"}},
			checks{connect: []string{"lamp"}, publish: []string{"lamp/data", "site/data", "site:4:lamp/rpc/x"}, subscribe: []string{"lamp/#", "site:4/#"}},
		},
		{
			"a certificate that is attached to nothing", "", "lamp",
			checks{},
			checks{
				connect: []string{"lamp", "mos-1", "#x", ""}, publish: append(append([]string{"", "/", "/x"}, own...), asks...),
				subscribe: append(append([]string{"/#"}, ownFilters...), foreignFilters...), receive: own,
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := set.Bind(connection(t, tc.thing, tc.clientID).Context(""), "")
			tc.allowed.run(t, b, true)
			tc.refused.run(t, b, false)
		})
	}
}

// TestDeviceSeesOnlyItself asks every filter that the policy grants for every topic of a
// neighbour: none may match, whatever Receive says on top.
func TestDeviceSeesOnlyItself(t *testing.T) {
	t.Parallel()
	b := policy(t, "device").Bind(connection(t, "lamp", "lamp").Context(""), "")
	levels := []string{"lamp", "lamp2", "other", "+", "#", "$aws", "things", "shadow", "jobs", "rpc", "$share", "g", "x:topicfilter", ""}
	topics := []string{"other/lamp", "other/rpc/x", "lamp2/data", "$aws/things/other/shadow/update", "$aws/things/lamp2/jobs/notify", "x/lamp/shadow", "other"}
	granted := 0
	var walk func(filter string, depth int)
	walk = func(filter string, depth int) {
		if f, err := mqtt.ParseFilter(filter, 0); err == nil && b.Subscribe(filter).Allowed() {
			granted++
			for _, topic := range topics {
				if f.Match(topic) {
					t.Errorf("filter %q is granted and matches %q", filter, topic)
				}
			}
		}
		if depth == 4 {
			return
		}
		for _, l := range levels {
			walk(filter+"/"+l, depth+1)
		}
	}
	for _, l := range levels {
		walk(l, 1)
	}
	if granted < 100 {
		t.Errorf("only %d filters were granted: the walk sees too little", granted)
	}
}

func TestDevicePolicyOverHTTPS(t *testing.T) {
	t.Parallel()
	set, ctx := policy(t, "device"), connection(t, "lamp", "").Context("")
	for _, tc := range []struct {
		action   string
		resource acl.Resource
		name     string
		want     bool
	}{
		{"iot:GetThingShadow", acl.Thing, "lamp", true},
		{"iot:UpdateThingShadow", acl.Thing, "lamp/cfg", true},
		{"iot:DeleteThingShadow", acl.Thing, "lamp2", false},
		{"iot:ListNamedShadowsForThing", acl.Thing, "lamp", true},
		{"iotjobsdata:UpdateJobExecution", acl.Thing, "lamp", true},
		{"iotjobsdata:UpdateJobExecution", acl.Thing, "other", false},
		{"iot:Publish", acl.Topic, "lamp/data", true},
		{"iot:Publish", acl.Topic, "lamp/rpc/Sys.Reboot", false}, // no client identifier: not the mos tool
		{"iot:Publish", acl.Topic, "other/data", false},
		{"iot:GetRetainedMessage", acl.Topic, "lamp/online", true},
		{"iot:GetRetainedMessage", acl.Topic, "other/online", false},
		{"iot:DeleteConnection", acl.Client, "lamp", false},
	} {
		if d := set.Decide(tc.action, acl.ARN("", tc.resource, tc.name), ctx); d.Allowed() != tc.want {
			t.Errorf("%s %s%s: %v", tc.action, tc.resource, tc.name, d)
		}
	}
}

// Documents and accounts of another partition do not change what the policies say.
func TestPoliciesHoldUnderAnyPrefix(t *testing.T) {
	t.Parallel()
	const prefix = "arn:aws:iot:eu-west-1:123456789012:"
	b := policy(t, "device").Bind(connection(t, "lamp", "lamp").Context(prefix), prefix)
	if !b.Publish("lamp/data").Allowed() || b.Publish("lamp2/data").Allowed() || b.Publish("lamp/rpc").Allowed() {
		t.Error("the device policy depends on region and account")
	}
}

func TestLocalPolicy(t *testing.T) {
	t.Parallel()
	b := policy(t, "local").Bind(connection(t, "", "mosq-1").Context(""), "")
	topics := []string{"a", "lamp/rpc/Sys.GetInfo", "$aws/things/lamp/shadow/update", "$aws/rules/r/x", "$aws/certificatesx", "x/$aws/certificates/create/json", "$SYS/x"}
	provisioning := []string{"$aws/certificates/create/json", "$aws/certificates/create-from-csr/json/accepted", "$aws/provisioning-templates/t/provision/json", "$aws/certificates/"}
	checks{connect: []string{"x", "", "a/b", "#"}, publish: topics, retain: topics, receive: topics, subscribe: []string{"#", "+/rpc", "$aws/#", "$share/g/a/#", "$SYS/#"}}.run(t, b, true)
	checks{publish: provisioning, retain: provisioning, receive: provisioning, subscribe: append(provisioning, "$aws/certificates/#", "$aws/provisioning-templates/+/provision/json/accepted")}.run(t, b, false)
	if d := b.Receive("$aws/certificates/create/json/accepted"); d.Effect != acl.ExplicitDeny || d.Statement != "NoProvisioning" || d.Policy != "local" {
		t.Errorf("Receive = %+v", d)
	}
}

func TestAdminPolicy(t *testing.T) {
	t.Parallel()
	set := policy(t, "admin")
	b := set.Bind(connection(t, "", "x").Context(""), "")
	topics := []string{"a", "$aws/certificates/create/json", "$SYS/x", "lamp/rpc"}
	checks{connect: []string{"x", ""}, publish: topics, retain: topics, receive: topics, subscribe: []string{"#", "$aws/#", "$share/g/#"}}.run(t, b, true)
	if !set.Decide("iot:DeleteConnection", acl.ARN("", acl.Client, "lamp"), nil).Allowed() {
		t.Error("an administrator may not close a connection")
	}
}

func BenchmarkDevicePolicy(b *testing.B) {
	raw, err := fs.ReadFile(configs.Policies, "policies/device.json")
	if err != nil {
		b.Fatal(err)
	}
	doc, err := acl.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	id, err := identity.ParseDeviceID("lamp")
	if err != nil {
		b.Fatal(err)
	}
	set, ctx := acl.Compile(acl.Named{Name: "device", Doc: doc}), acl.Connection{ClientID: "lamp", Thing: id}.Context("")
	b.Run("Bind", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			set.Bind(ctx, "")
		}
	})
	bound := set.Bind(ctx, "")
	b.Run("Publish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			bound.Publish("lamp/data/temperature")
		}
	})
	b.Run("Receive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			bound.Receive("$aws/things/lamp/shadow/update/delta")
		}
	})
}

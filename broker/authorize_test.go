package broker

import (
	"bytes"
	"strings"
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

func TestSubscribeRefused(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxTopicLevels: 5, MaxSubscriptions: 3})
	b.auth.policies = map[string]string{"lamp": policy("Subscribe", "topicfilter/lamp/*", "Receive", "topic/lamp/*", "Publish", "topic/*")}
	versions(t, func(t *testing.T, version byte) {
		c := dialPlain(t, b.plain, version).connected("lamp", user("lamp"))
		c.send(&plane.Subscribe{PacketID: 7, Subscriptions: []plane.Subscription{
			{Filter: "lamp/a", QoS: mqtt.QoS1}, {Filter: "#"}, {Filter: "lamp/1/2/3/4/5"}, {Filter: "lamp/#", QoS: mqtt.QoS2},
			{Filter: "lamp/c"}, {Filter: "lamp/d"},
		}})
		want := []byte{1, 0x87, 0x8f, 2, 0, 0x97}
		if version == plane.V311 {
			want = []byte{1, 0x80, 0x80, 2, 0, 0x80}
		}
		if p := c.read(plane.SUBACK); p.id != 7 || !bytes.Equal(p.codes, want) {
			t.Errorf("SUBACK %x, want %x", p.codes, want)
		}
		c.flush() // the connection stays
		e := b.events.await(t, "refused", func(e Event) bool { return e.Kind == SubscribeRefused && e.Topic == "#" })
		if e.Device.String() != "lamp" || e.ClientID != "lamp" || e.Code != mqtt.NotAuthorized || e.Reason != "no policy allows it" {
			t.Errorf("event %+v", e)
		}
		_ = c.nc.Close()
		b.gone(t, "lamp")
	})
}

func TestPublishRefused(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxTopicLevels: 5})
	b.auth.policies = map[string]string{"lamp": strings.Replace(policy("Publish", "topic/*", "RetainPublish", "topic/lamp/*"),
		`"Statement":[`, `"Statement":[{"Sid":"NoRPC","Effect":"Deny","Action":"iot:Publish","Resource":"arn:aws:iot:*:*:topic/*/rpc"},`, 1)}
	b.consume(t, 1, "#", nil)
	dialPlain(t, b.plain, plane.V5).connected("shadow").subscribe("$aws/#", mqtt.QoS0)
	watcher := dialPlain(t, b.plain, plane.V5).connected("watcher").subscribe("#", mqtt.QoS2)
	for _, tc := range []struct {
		topic     string
		retain    bool
		want      mqtt.ReasonCode
		statement string
	}{
		{"pump/rpc", false, mqtt.NotAuthorized, "NoRPC"},
		{"pump/x", true, mqtt.NotAuthorized, ""},          // RetainPublish is missing
		{"lamp/rpc/Reboot", true, mqtt.NotAuthorized, ""}, // retained calls are refused for everyone
		{"a/b/c/d/e/f", false, mqtt.TopicNameInvalid, ""}, // too many levels
		{"$SYS/broker", false, mqtt.TopicNameInvalid, ""}, // the broker's own
		{"lamp/" + strings.Repeat("x", 10), false, 0, ""}, // fine
		{"lamp/" + strings.Repeat("y", 10), true, 0, ""},  // fine
		{"lamp/rpc-resp/" + "1", true, mqtt.Success, ""},  // not an RPC topic
		{"shelly/rpcs", false, mqtt.Success, ""},          // nor this
		{"rpc", true, mqtt.NotAuthorized, ""},             // RetainPublish is missing
		{"lamp/rpc", true, mqtt.NotAuthorized, "NoRPC"},   // denied before
		{"$aws/things/lamp/shadow/get", false, 0, ""},     // $ topics are not special
	} {
		send := func(c *client, qos mqtt.QoS) {
			c.send(&plane.Publish{Message: mqtt.Message{Topic: tc.topic, Payload: []byte("p"), QoS: qos, Retain: tc.retain}, PacketID: uint16(qos)})
		}
		c := dialPlain(t, b.plain, plane.V5).connected("lamp", user("lamp"))
		send(c, mqtt.QoS0)
		send(c, mqtt.QoS1)
		if p := c.read(plane.PUBACK); mqtt.ReasonCode(p.codes[0]) != tc.want {
			t.Errorf("%s: PUBACK %x, want %v", tc.topic, p.codes, tc.want)
		}
		send(c, mqtt.QoS2)
		if p := c.read(plane.PUBREC); mqtt.ReasonCode(p.codes[0]) != tc.want {
			t.Errorf("%s: PUBREC %x, want %v", tc.topic, p.codes, tc.want)
		}
		c.flush() // the connection stays
		if !tc.want.Failed() {
			for range 3 {
				if tc.topic[0] != '$' { // which # does not match
					watcher.settle()
				}
			}
			continue
		}
		e := b.events.await(t, "refused", func(e Event) bool { return e.Kind == PublishRefused && e.Topic == tc.topic })
		if e.Statement != tc.statement || tc.statement != "" && e.Policy != "policy-lamp" || e.Code != tc.want {
			t.Errorf("%s: event %+v", tc.topic, e)
		}
		for _, qos := range []mqtt.QoS{mqtt.QoS0, mqtt.QoS1, mqtt.QoS2} { // 3.1.1 is closed
			c := dialPlain(t, b.plain, plane.V311).connected("lamp3", user("lamp"))
			send(c, qos)
			c.closed()
		}
	}
	watcher.flush() // nothing that was refused has arrived
	if n := len(b.log.messages(t)); n != 12 {
		t.Errorf("%d messages in the log, want 12", n)
	}
}

// settle reads a PUBLISH and acknowledges it.
func (c *client) settle() reply {
	c.t.Helper()
	p := c.read(plane.PUBLISH)
	switch p.qos {
	case mqtt.QoS1:
		c.send(&plane.Ack{Type: plane.PUBACK, PacketID: p.id})
	case mqtt.QoS2:
		c.send(&plane.Ack{Type: plane.PUBREC, PacketID: p.id})
		for { // other deliveries may come first
			r, err := c.tryReadNew()
			if err != nil {
				c.t.Fatalf("waiting for the PUBREL of %d: %v", p.id, err)
			}
			if r.typ == plane.PUBREL && r.id == p.id {
				break
			}
			c.later = append(c.later, r)
		}
		c.send(&plane.Ack{Type: plane.PUBCOMP, PacketID: p.id})
	}
	return p
}

// A publish that has only an alias is judged by the topic behind it.
func TestAliasIsAuthorized(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.auth.policies = map[string]string{"lamp": policy("Publish", "topic/lamp/*")}
	watcher := dialPlain(t, b.plain, plane.V5).connected("watcher").subscribe("#", mqtt.QoS0)
	c := dialPlain(t, b.plain, plane.V5).connected("lamp", user("lamp"))
	alias := func(topic string, alias uint16) byte {
		c.send(&plane.Publish{Message: mqtt.Message{Topic: topic, Payload: []byte("p"), QoS: mqtt.QoS1}, PacketID: 1, TopicAlias: alias})
		return c.read(plane.PUBACK).codes[0]
	}
	for i, got := range []byte{alias("lamp/a", 1), alias("pump/a", 2), alias("", 1), alias("", 2), alias("lamp/b", 2), alias("", 2)} {
		if want := []byte{0, 0x87, 0, 0x87, 0, 0}[i]; got != want {
			t.Errorf("publish %d: PUBACK %#x, want %#x", i, got, want)
		}
	}
	for _, want := range []string{"lamp/a", "lamp/a", "lamp/b", "lamp/b"} {
		if p := watcher.read(plane.PUBLISH); p.topic != want {
			t.Errorf("delivered %s, want %s", p.topic, want)
		}
	}
}

func TestReceiveIsAuthorized(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.auth.policies = map[string]string{"lamp": policy("Subscribe", "topicfilter/*", "Receive", "topic/lamp/*")}
	c := dialPlain(t, b.plain, plane.V5).connected("lamp", user("lamp"))
	admin := dialPlain(t, b.plain, plane.V5).connected("admin")
	admin.send(&plane.Publish{Message: mqtt.Message{Topic: "pump/kept", Payload: []byte("secret"), Retain: true}})
	admin.flush()
	c.subscribe("#", mqtt.QoS1)
	for _, topic := range []string{"pump/a", "lamp/a", "pump/b", "lamp/b"} {
		admin.publish(topic, "x", mqtt.QoS1, 1)
		admin.read(plane.PUBACK)
	}
	if p := c.settle(); p.topic != "lamp/a" {
		t.Errorf("received %s", p.topic)
	}
	if p := c.settle(); p.topic != "lamp/b" {
		t.Errorf("received %s", p.topic)
	}
	if n := b.Stats().Dropped["not-permitted"]; n != 3 {
		t.Errorf("%d deliveries were not permitted, want 3", n)
	}
}

func TestWillIsAuthorized(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.auth.policies = map[string]string{"lamp": policy("Publish", "topic/lamp/*", "RetainPublish", "topic/lamp/kept")}
	versions(t, func(t *testing.T, version byte) {
		for _, tc := range []struct {
			topic  string
			retain bool
			ok     bool
		}{
			{"lamp/a", false, true}, {"lamp/kept", true, true}, {"lamp/a", true, false}, {"pump/a", false, false}, {"lamp/rpc", true, false},
		} {
			c := dialPlain(t, b.plain, version)
			p := c.connect("lamp", user("lamp"), func(c *plane.Connect) {
				c.Will = &plane.Will{Message: mqtt.Message{Topic: tc.topic, Retain: tc.retain}}
			})
			if tc.ok != (p.codes[1] == 0) {
				t.Errorf("will %+v: CONNACK %x", tc, p.codes)
			}
			if !tc.ok {
				refusedWith(t, c, p, mqtt.NotAuthorized, 5)
			}
		}
	})
	e := b.events.await(t, "refused", func(e Event) bool { return e.Kind == ConnectRefused && e.Topic == "pump/a" })
	if !strings.HasPrefix(e.Reason, "will: ") {
		t.Errorf("event %+v", e)
	}
}

// What a policy forbids after a message was queued is not sent.
func TestPolicyChangeWhileOffline(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dialPlain(t, b.plain, plane.V5).connected("lamp", user("lamp"), staying).subscribe("#", mqtt.QoS1)
	_ = c.nc.Close()
	b.gone(t, "lamp")
	for _, topic := range []string{"pump/a", "lamp/a"} {
		if err := b.Publish(t.Context(), mqtt.Message{Topic: topic, QoS: mqtt.QoS1}); err != nil {
			t.Fatal(err)
		}
	}
	b.auth.set(func(a *testAuthority) { a.policies = map[string]string{"lamp": policy("Receive", "topic/lamp/*")} })
	c = dialPlain(t, b.plain, plane.V5).connected("lamp", user("lamp"), staying)
	if p := c.settle(); p.topic != "lamp/a" {
		t.Errorf("received %s", p.topic)
	}
}

package broker

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

func TestQoSMatrix(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, from := range []byte{plane.V311, plane.V5} {
		for _, to := range []byte{plane.V311, plane.V5} {
			pub := dialPlain(t, b.plain, from).connected(fmt.Sprint("pub", from, to))
			for granted := range mqtt.QoS(3) {
				topic := fmt.Sprint("a/", from, to, granted)
				sub := dialPlain(t, b.plain, to).connected("sub"+topic).subscribe(topic, granted)
				for qos := range mqtt.QoS(3) {
					pub.publish(topic, fmt.Sprint(qos), qos, uint16(qos))
					switch qos {
					case mqtt.QoS1:
						pub.read(plane.PUBACK)
					case mqtt.QoS2:
						pub.read(plane.PUBREC)
						pub.send(&plane.Ack{Type: plane.PUBREL, PacketID: 2})
						pub.read(plane.PUBCOMP)
					}
					p := sub.settle()
					if p.topic != topic || p.text != fmt.Sprint(qos) || p.qos != min(qos, granted) || p.dup || p.retain {
						t.Errorf("published at %d, granted %d: received %+v", qos, granted, p)
					}
				}
				sub.flush()
			}
		}
	}
	s := b.Stats()
	if s.MessagesIn != 36 || s.MessagesOut != 36 || s.BytesIn == 0 || s.BytesOut == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	m := mqtt.Message{
		Topic: "a", Payload: []byte("x"), QoS: mqtt.QoS1, PayloadIsUTF8: true, ExpirySeconds: 100, ContentType: "text/plain",
		ResponseTopic: "r", CorrelationData: []byte{1, 2}, UserProperties: []mqtt.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
	}
	got := make(chan mqtt.Message, 1)
	cancel, err := b.Subscribe("a", func(m mqtt.Message) { got <- m })
	if err != nil {
		t.Fatal(err)
	}
	sub := dialPlain(t, b.plain, plane.V5).connected("sub")
	sub.send(&plane.Subscribe{PacketID: 1, ID: 300, Subscriptions: []plane.Subscription{{Filter: "#", QoS: mqtt.QoS1}}})
	sub.read(plane.SUBACK)
	sub.send(&plane.Subscribe{PacketID: 1, ID: 2, Subscriptions: []plane.Subscription{{Filter: "a", QoS: mqtt.QoS0}}})
	sub.read(plane.SUBACK)
	pub := dialPlain(t, b.plain, plane.V5).connected("lamp#1", user("lamp"))
	pub.send(&plane.Publish{Message: m, PacketID: 1})
	p := sub.read(plane.PUBLISH) // once, with the highest QoS and both identifiers
	if p.qos != mqtt.QoS1 || !bytes.Contains(p.props, []byte{0x0b, 0xac, 0x02}) || !bytes.Contains(p.props, []byte{0x0b, 2}) {
		t.Errorf("received %+v", p)
	}
	m.Payload = nil
	want := (&plane.Publish{Message: m, PacketID: p.id}).Append(nil, plane.V5)
	if props := want[2+3+2+1:]; !bytes.HasSuffix(p.props, props) || len(p.props) != len(props)+5 {
		t.Errorf("properties %q do not end like those of %q", p.props, props)
	}
	pub.read(plane.PUBACK)
	sub.flush() // and not twice
	m.Publisher = mqtt.Publisher{ClientID: "lamp#1"}
	h := <-got
	if h.Publisher.ClientID != "lamp#1" || h.Publisher.Device.String() != "lamp" || h.ContentType != m.ContentType || string(h.Payload) != "x" || len(h.UserProperties) != 3 {
		t.Errorf("handler got %+v", h)
	}
	cancel()
	pub.publish("a", "y", mqtt.QoS0, 0)
	pub.flush()
	if len(got) != 0 {
		t.Error("a cancelled handler was called")
	}
}

func TestRetained(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := dialPlain(t, b.plain, plane.V5).connected("pub")
	keep := func(topic, text string, change ...func(*mqtt.Message)) {
		m := mqtt.Message{Topic: topic, Payload: []byte(text), QoS: mqtt.QoS1, Retain: true}
		for _, f := range change {
			f(&m)
		}
		pub.send(&plane.Publish{Message: m, PacketID: 1})
		pub.read(plane.PUBACK)
	}
	live := dialPlain(t, b.plain, plane.V5).connected("live").subscribe("#", mqtt.QoS0)
	for _, topic := range []string{"a", "a/b", "$x/y"} {
		keep(topic, topic)
	}
	keep("short", "x", func(m *mqtt.Message) { m.ExpirySeconds = 1 })
	for _, want := range []string{"a", "a/b", "short"} {
		if p := live.read(plane.PUBLISH); p.topic != want || p.retain { // [MQTT-3.3.1-12]
			t.Errorf("live subscription got %+v, want %s", p, want)
		}
	}
	versions(t, func(t *testing.T, version byte) {
		id := fmt.Sprint("sub", version)
		c := dialPlain(t, b.plain, version).connected(id)
		got := func(filter string, options ...func(*plane.Subscription)) string {
			s := plane.Subscription{Filter: mqtt.Filter(filter), QoS: mqtt.QoS2}
			for _, f := range options {
				f(&s)
			}
			c.send(&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{s}})
			c.read(plane.SUBACK)
			c.send(&plane.Ping{})
			topics := map[string]bool{}
			for {
				p, err := c.tryRead()
				if err != nil {
					t.Fatal(err)
				}
				if p.typ == plane.PINGRESP {
					break
				}
				if !p.retain || p.qos != mqtt.QoS1 {
					t.Errorf("retained message %+v", p)
				}
				c.send(&plane.Ack{Type: plane.PUBACK, PacketID: p.id})
				topics[p.topic] = true
			}
			delete(topics, "short")
			c.send(&plane.Unsubscribe{PacketID: 2, Filters: []mqtt.Filter{"gone"}})
			c.read(plane.UNSUBACK)
			list := ""
			for _, topic := range []string{"a", "a/b", "$x/y", "new"} {
				if topics[topic] {
					list += topic + " "
				}
			}
			return strings.TrimSpace(list)
		}
		for filter, want := range map[string]string{
			"#": "a a/b", "a/#": "a a/b", "+": "a", "+/+": "a/b", "$x/#": "$x/y", "a": "a", "b": "", "$share/g/#": "",
		} {
			if list := got(filter); list != want {
				t.Errorf("subscribing to %s gave %q, want %q", filter, list, want)
			}
		}
		if version != plane.V5 {
			return
		}
		handling := func(n byte) func(*plane.Subscription) {
			return func(s *plane.Subscription) { s.RetainHandling = n }
		}
		if list := got("a/b", handling(2)); list != "" {
			t.Errorf("retain handling 2 gave %q", list)
		}
		if list := got("a/b", handling(1)); list != "" {
			t.Errorf("retain handling 1 of a known subscription gave %q", list)
		}
		if list := got("a/+", handling(1)); list != "a/b" {
			t.Errorf("retain handling 1 of a new subscription gave %q", list)
		}
	})

	handled := map[string]bool{}
	if _, err := b.Subscribe("#", func(m mqtt.Message) { handled[m.Topic] = m.Retain && m.Publisher.ClientID == "pub" }); err != nil {
		t.Fatal(err)
	}
	if !handled["a"] || !handled["a/b"] || handled["$x/y"] {
		t.Errorf("handler got %v", handled)
	}

	keep("a", "") // removes
	b.retained.sweep(time.Now().Add(time.Minute))
	if s := b.Stats(); s.Retained != 2 {
		t.Errorf("%d retained messages, want 2", s.Retained)
	}
	for _, topic := range []string{"a/b", "$x/y"} {
		keep(topic, "")
	}
	if s := b.Stats(); s.Retained != 0 || s.RetainedBytes != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestSubscriptionOptions(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dialPlain(t, b.plain, plane.V5).connected("c")
	c.send(&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{
		{Filter: "own", NoLocal: true}, {Filter: "kept", RetainAsPublished: true}, {Filter: "plain"},
	}})
	c.read(plane.SUBACK)
	other := dialPlain(t, b.plain, plane.V5).connected("other")
	c.publish("own", "mine", mqtt.QoS0, 0)
	c.flush()
	other.publish("own", "theirs", mqtt.QoS0, 0)
	if p := c.read(plane.PUBLISH); p.text != "theirs" {
		t.Errorf("no local delivered %q", p.text)
	}
	for _, topic := range []string{"kept", "plain"} {
		other.send(&plane.Publish{Message: mqtt.Message{Topic: topic, Payload: []byte("x"), Retain: true}})
		if p := c.read(plane.PUBLISH); p.retain != (topic == "kept") {
			t.Errorf("%s was delivered with retain %v", topic, p.retain)
		}
	}
	c.send(&plane.Unsubscribe{PacketID: 2, Filters: []mqtt.Filter{"own", "never"}})
	if p := c.read(plane.UNSUBACK); !bytes.Equal(p.codes, []byte{0, byte(mqtt.NoSubscriptionExisted)}) {
		t.Errorf("UNSUBACK %x", p.codes)
	}
	other.publish("own", "x", mqtt.QoS0, 0)
	other.flush()
	c.flush()
}

func TestSharedSubscriptions(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := dialPlain(t, b.plain, plane.V5).connected("pub")
	send := func(topic string, n int) {
		for i := range n {
			pub.publish(topic, fmt.Sprint(i), mqtt.QoS1, 1)
			pub.read(plane.PUBACK)
		}
	}
	members := []*client{}
	for i, version := range []byte{plane.V311, plane.V5, plane.V5} {
		members = append(members, dialPlain(t, b.plain, version).connected(fmt.Sprint("m", i), staying).subscribe("$share/g/jobs/#", mqtt.QoS1))
	}
	whole := dialPlain(t, b.plain, plane.V5).connected("whole").subscribe("#", mqtt.QoS1)
	send("jobs/x", 30)
	for _, m := range members { // each a third
		for range 10 {
			m.settle()
		}
		m.flush()
	}
	for range 30 {
		whole.settle()
	}
	// Members that are away are passed over while others are here.
	for i, m := range members[1:] {
		_ = m.nc.Close()
		b.gone(t, fmt.Sprint("m", i+1))
	}
	send("jobs", 6)
	for range 6 {
		members[0].settle()
	}
	_ = members[0].nc.Close()
	b.gone(t, "m0")
	send("jobs/y", 3) // kept for whoever comes back
	got := 0
	for i := range members {
		m := dialPlain(t, b.plain, plane.V5)
		if p := m.connect(fmt.Sprint("m", i), staying); p.codes[0] != 1 {
			t.Errorf("no session for member %d", i)
		}
		m.send(&plane.Ping{})
		for {
			p, err := m.tryRead()
			if err != nil {
				t.Fatal(err)
			}
			if p.typ == plane.PINGRESP {
				break
			}
			m.send(&plane.Ack{Type: plane.PUBACK, PacketID: p.id})
			got++
		}
	}
	if got != 3 {
		t.Errorf("%d messages after the members came back, want 3", got)
	}
	if n := b.Stats().Subscriptions; n != 4 {
		t.Errorf("%d subscriptions", n)
	}
}

func TestWills(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.consume(t, 1, "#", nil)
	var mu sync.Mutex
	handled := []string{}
	if _, err := b.Subscribe("#", func(m mqtt.Message) {
		mu.Lock()
		defer mu.Unlock()
		handled = append(handled, m.Topic+" by "+m.Publisher.ClientID)
	}); err != nil {
		t.Fatal(err)
	}
	watcher := dialPlain(t, b.plain, plane.V5).connected("watcher").subscribe("#", mqtt.QoS1)
	connect := func(version byte, id string, with ...func(*plane.Connect)) *client {
		return dialPlain(t, b.plain, version).connected(id, append(with, func(c *plane.Connect) {
			c.Will = &plane.Will{Message: mqtt.Message{Topic: "will/" + id, Payload: []byte("gone"), QoS: mqtt.QoS1}}
			if version == plane.V5 {
				c.Will.Message.ContentType = "text/x-will"
			}
		})...)
	}
	expect := func(id string) {
		t.Helper()
		if p := watcher.settle(); p.topic != "will/"+id {
			t.Errorf("will %s, want that of %s", p.topic, id)
		}
	}
	versions(t, func(t *testing.T, version byte) {
		v := fmt.Sprint(version)
		_ = connect(version, "lost"+v).nc.Close()
		expect("lost" + v)

		c := connect(version, "leave"+v)
		c.send(&plane.Disconnect{})
		c.closed()

		c = connect(version, "bad"+v)
		c.write([]byte{0})
		expect("bad" + v)

		c = connect(version, "over"+v)
		connect(version, "over"+v).send(&plane.Disconnect{})
		c.disconnected(mqtt.SessionTakenOver)
		expect("over" + v)

		connect(version, "cut"+v)
		b.Disconnect(func(s Session) bool { return s.ClientID == "cut"+v }, mqtt.NotAuthorized)
		expect("cut" + v)
	})
	c := connect(plane.V5, "four")
	c.send(&plane.Disconnect{Reason: mqtt.DisconnectWithWillMessage})
	expect("four")

	// An empty will removes what is retained.
	c = dialPlain(t, b.plain, plane.V311).connected("status", func(c *plane.Connect) {
		c.Will = &plane.Will{Message: mqtt.Message{Topic: "will/status", Retain: true, QoS: mqtt.QoS1}}
	})
	c.send(&plane.Publish{Message: mqtt.Message{Topic: "will/status", Payload: []byte("on"), Retain: true}})
	expect("status")
	_ = c.nc.Close()
	expect("status")
	if n := b.Stats().Retained; n != 0 {
		t.Errorf("%d retained", n)
	}

	// A delayed will waits, is forgotten when the client returns in time, and is published with
	// the end of the session.
	delayed := func(c *plane.Connect) { c.CleanStart, c.SessionExpirySeconds = false, 3600 }
	wait := func(seconds uint32) func(*plane.Connect) {
		return func(c *plane.Connect) { c.Will.DelaySeconds = seconds }
	}
	dial := func(id string, seconds uint32) *client {
		return dialPlain(t, b.plain, plane.V5).connected(id, delayed, func(c *plane.Connect) {
			c.Will = &plane.Will{Message: mqtt.Message{Topic: "will/" + id, QoS: mqtt.QoS1}}
		}, wait(seconds))
	}
	_ = dial("back", 3600).nc.Close()
	b.gone(t, "back")
	dial("back", 3600).send(&plane.Disconnect{})
	_ = dial("clean", 3600).nc.Close()
	b.gone(t, "clean")
	dialPlain(t, b.plain, plane.V5).connected("clean") // clean start ends the session
	expect("clean")
	_ = dial("later", 1).nc.Close()
	expect("later")
	_ = dial("stop", 3600).nc.Close()
	b.gone(t, "stop")
	b.stop()
	mu.Lock()
	defer mu.Unlock()
	last := handled[len(handled)-1]
	if last != "will/stop by stop" {
		t.Errorf("the last will is %q", last)
	}
	if n := len(b.log.messages(t)); n != len(handled) {
		t.Errorf("%d wills in the log, handlers got %d", n, len(handled))
	}
	for _, m := range b.log.messages(t) {
		if m.Topic == "will/lost5" && m.ContentType != "text/x-will" {
			t.Errorf("will %+v lost its properties", m)
		}
	}
}

func TestMaximumPacketSize(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dialPlain(t, b.plain, plane.V5).connected("small", func(c *plane.Connect) { c.MaximumPacketSize = 100 }).subscribe("#", mqtt.QoS1)
	for i, text := range []string{"1", strings.Repeat("x", 200), "2"} {
		for _, qos := range []mqtt.QoS{mqtt.QoS0, mqtt.QoS1} {
			if err := b.Publish(t.Context(), mqtt.Message{Topic: fmt.Sprint(i), Payload: []byte(text), QoS: qos}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, want := range []string{"1", "1", "2", "2"} {
		if p := c.settle(); p.text != want {
			t.Errorf("received %q, want %q", p.text, want)
		}
	}
	if n := b.Stats().Dropped["too-large"]; n != 2 {
		t.Errorf("%d dropped", n)
	}
}

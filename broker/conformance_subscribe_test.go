package broker

import (
	"fmt"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// asks sends a SUBSCRIBE with one filter and its options, and reads the SUBACK.
func (s *scene) asks(id string, sub plane.Subscription, subscriptionID ...uint32) {
	s.t.Helper()
	p := &plane.Subscribe{PacketID: 100, Subscriptions: []plane.Subscription{sub}}
	if len(subscriptionID) > 0 {
		p.ID = subscriptionID[0]
	}
	s.send(id, p)
	s.want(id, subAck{100, []mqtt.ReasonCode{mqtt.ReasonCode(sub.QoS)}})
}

func TestConformSubscribe(t *testing.T) {
	perform(t, []play{
		{"SUBACK with the identifier and a code for each filter in order, MQTT-3.8.4-1, -2, -5, -6, MQTT-3.9.3-1", 0, Options{MaxTopicLevels: 3}, func(s *scene) {
			s.auth.policies = map[string]string{"lamp": policy("Subscribe", "topicfilter/a*", "Receive", "topic/*")}
			s.open("a", user("lamp"))
			s.send("a", &plane.Subscribe{PacketID: 65_535, Subscriptions: []plane.Subscription{
				{Filter: "a", QoS: 2}, {Filter: "b", QoS: 1}, {Filter: "a/1/2/3", QoS: 1}, {Filter: "a/1", QoS: 1}, {Filter: "a/2", QoS: 0},
			}})
			s.want("a", subAck{65_535, []mqtt.ReasonCode{2, mqtt.NotAuthorized, mqtt.TopicFilterInvalid, 1, 0}}) // 0x80 in 3.1.1
		}},
		{"the lower QoS, MQTT-3.8.4-8", 0, Options{}, func(s *scene) {
			s.open("sub")
			for granted := range mqtt.QoS(3) {
				s.subscribes("sub", granted, "t")
				for qos := range mqtt.QoS(3) {
					s.publishes(mqtt.Message{Topic: "t", QoS: qos})
					p := s.clients["sub"].settle()
					if p.qos != min(qos, granted) {
						s.t.Errorf("published with %d, granted %d: delivered with %d", qos, granted, p.qos)
					}
				}
			}
		}},
		{"the same filter again replaces, MQTT-3.8.4-3 and -4", 0, Options{}, func(s *scene) {
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("kept"), Retain: true, QoS: mqtt.QoS2})
			s.open("sub")
			s.subscribes("sub", mqtt.QoS2, "t")
			s.want("sub", pub("t", "kept", 2, 1, retain))
			s.subscribes("sub", mqtt.QoS0, "t")
			s.want("sub", pub("t", "kept", 0, 0, retain))
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("live"), QoS: mqtt.QoS1})
			s.want("sub", pub("t", "live", 0, 0))
			if n := s.Stats().Subscriptions; n != 1 {
				s.t.Errorf("%d subscriptions", n)
			}
		}},
		{"overlapping filters, MQTT-3.3.4-2", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#", "t/+")
			s.subscribes("sub", mqtt.QoS2, "+/u")
			s.subscribes("sub", mqtt.QoS1, "t/u")
			s.publishes(mqtt.Message{Topic: "t/u", QoS: mqtt.QoS2})
			s.want("sub", pub("t/u", "", 2, 1)) // once, with the highest
			s.quiet("sub")
		}},
		{"subscription identifiers, MQTT-3.3.4-3", plane.V5, Options{}, func(s *scene) {
			s.open("sub", expiry(60))
			s.asks("sub", plane.Subscription{Filter: "t/#"}, 268_435_455)
			s.asks("sub", plane.Subscription{Filter: "t/u", QoS: 1}, 1)
			s.asks("sub", plane.Subscription{Filter: "+/u"})
			s.publishes(mqtt.Message{Topic: "t/u", QoS: mqtt.QoS1})
			p := s.clients["sub"].read(plane.PUBLISH)
			if got := string(p.props); got != "\x0b\xff\xff\xff\x7f\x0b\x01" && got != "\x0b\x01\x0b\xff\xff\xff\x7f" || p.qos != 1 {
				s.t.Errorf("received %+v", p)
			}
			s.send("sub", ackOf(plane.PUBACK, p.id))
			s.publishes(mqtt.Message{Topic: "v/u"})
			s.want("sub", pub("v/u", "", 0, 0))
			s.asks("sub", plane.Subscription{Filter: "t/#"}) // replaced by one without
			s.asks("sub", plane.Subscription{Filter: "t/u", QoS: 1}, 2)
			s.drop("sub")
			s.publishes(mqtt.Message{Topic: "t/u", QoS: mqtt.QoS1})
			s.open("sub", expiry(60)) // kept with the session
			s.want("sub", pub("t/u", "", 1, 2, subscriptionIDs(2)))
		}},
		{"no local, MQTT-3.8.3-3", plane.V5, Options{}, func(s *scene) {
			s.open("a")
			s.open("b")
			s.send("a", pub("t", "mine", 0, 0, retain))
			s.asks("a", plane.Subscription{Filter: "t", NoLocal: true}) // not even what is retained
			s.subscribes("a", mqtt.QoS0, "u")
			s.send("a", pub("t", "mine", 0, 0), pub("u", "mine", 0, 0))
			s.send("b", pub("t", "yours", 0, 0, retain))
			s.want("a", pub("u", "mine", 0, 0), pub("t", "yours", 0, 0))
			s.asks("a", plane.Subscription{Filter: "t", NoLocal: true})
			s.want("a", pub("t", "yours", 0, 0, retain))
		}},
		{"$ topics, MQTT-4.7.2-1", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#", "+/x", "+/#", "$share/g/#", "$share/g/+/x")
			s.publishes(mqtt.Message{Topic: "$aws/x", Retain: true, Payload: []byte("1")})
			s.quiet("sub")
			s.subscribes("sub", mqtt.QoS0, "#", "+/x")
			s.quiet("sub")
			s.subscribes("sub", mqtt.QoS0, "$aws/#")
			s.want("sub", pub("$aws/x", "1", 0, 0, retain))
			s.publishes(mqtt.Message{Topic: "$aws/x", Payload: []byte("2")})
			s.want("sub", pub("$aws/x", "2", 0, 0))
			s.publishes(mqtt.Message{Topic: "a/$b", Payload: []byte("3")})
			if got := s.drain("sub"); len(got) != 2 { // "#" and its like once, the share once
				s.t.Errorf("received %d messages", len(got))
			}
		}},
		{"nobody publishes to $SYS, §4.7.2", 0, Options{}, func(s *scene) {
			s.open("a")
			s.send("a", pub("$SYS/broker/uptime", "", 1, 1))
			if s.version == plane.V311 {
				s.ended("a", mqtt.TopicNameInvalid)
				return
			}
			s.want("a", ackOf(plane.PUBACK, 1, mqtt.TopicNameInvalid))
		}},
		{"topics are compared byte by byte, MQTT-4.7.3-4, MQTT-1.5.4-3", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "ä", "/", "a/", "\ufeffbom")
			for _, topic := range []string{"a\u0308", "Ä", "", "a", "/a", "bom", "//"} {
				if topic != "" {
					s.publishes(mqtt.Message{Topic: topic})
				}
			}
			s.quiet("sub")
			for _, topic := range []string{"ä", "/", "a/", "\ufeffbom"} {
				s.publishes(mqtt.Message{Topic: topic})
				s.want("sub", pub(topic, "", 0, 0))
			}
		}},
		{"unsubscribe, MQTT-3.10.4-1, -2, -4 to -6, MQTT-3.11.3-1", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "t/u", "t/+", "$share/g/t")
			s.send("sub", &plane.Unsubscribe{PacketID: 9, Filters: []mqtt.Filter{"t/+", "t/#", "t/u", "t/u", "t", "$share/g/t"}})
			none := mqtt.NoSubscriptionExisted
			s.want("sub", unsubAck{9, []mqtt.ReasonCode{0, none, 0, none, none, 0}}) // without codes in 3.1.1
			s.send("sub", &plane.Unsubscribe{PacketID: 10, Filters: []mqtt.Filter{"t"}})
			s.want("sub", unsubAck{10, []mqtt.ReasonCode{none}})
			s.publishes(mqtt.Message{Topic: "t/u"})
			s.publishes(mqtt.Message{Topic: "t"})
			s.quiet("sub")
		}},
		{"what was on its way is still delivered, MQTT-3.10.4-3", 0, Options{Window: 1}, func(s *scene) {
			s.open("sub", expiry(60), func(c *plane.Connect) { c.ReceiveMaximum = 1 })
			s.subscribes("sub", mqtt.QoS1, "t")
			for _, text := range []string{"1", "2"} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(text), QoS: mqtt.QoS1})
			}
			s.want("sub", pub("t", "1", 1, 1))
			s.send("sub", &plane.Unsubscribe{PacketID: 9, Filters: []mqtt.Filter{"t"}})
			s.want("sub", unsubAck{9, []mqtt.ReasonCode{0}})
			s.drop("sub")
			s.open("sub", expiry(60), func(c *plane.Connect) { c.ReceiveMaximum = 1 })
			s.want("sub", pub("t", "1", 1, 1, dup))
			s.send("sub", ackOf(plane.PUBACK, 1))
			s.want("sub", pub("t", "2", 1, 2))
		}},
	})
}

// drain returns what the broker has sent to a client up to now, with QoS 0.
func (s *scene) drain(id string) (list []reply) {
	s.t.Helper()
	s.send(id, &plane.Ping{})
	for {
		p, err := s.clients[id].tryRead()
		if err != nil {
			s.t.Fatal(err)
		}
		if p.typ == plane.PINGRESP {
			return list
		}
		list = append(list, p)
	}
}

func TestConformRetained(t *testing.T) {
	perform(t, []play{
		{"the last message of a topic is kept, MQTT-3.3.1-5 and -8", 0, Options{}, func(s *scene) {
			s.open("a")
			s.send("a", pub("t", "1", 0, 0, retain), pub("t", "2", 1, 1, retain), pub("t", "3", 0, 0))
			s.open("sub")
			s.subscribes("sub", mqtt.QoS2, "t")
			s.want("sub", pub("t", "2", 1, 1, retain))
		}},
		{"an empty one removes it, MQTT-3.3.1-6 and -7", 0, Options{}, func(s *scene) {
			s.open("live")
			s.subscribes("live", mqtt.QoS0, "t")
			s.open("a")
			s.send("a", pub("t", "1", 0, 0, retain), pub("t", "", 0, 0, retain), pub("u", "", 0, 0, retain))
			s.want("live", pub("t", "1", 0, 0), pub("t", "", 0, 0)) // is an ordinary message for who is there
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.quiet("sub")
		}},
		{"many come in the order of their topics, before anything newer", 0, Options{}, func(s *scene) {
			for _, topic := range []string{"c", "a/b", "b", "a"} {
				s.publishes(mqtt.Message{Topic: topic, Payload: []byte(topic), Retain: true})
			}
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.publishes(mqtt.Message{Topic: "a", Payload: []byte("new")})
			s.want("sub", pub("a", "a", 0, 0, retain), pub("a/b", "a/b", 0, 0, retain), pub("b", "b", 0, 0, retain), pub("c", "c", 0, 0, retain),
				pub("a", "new", 0, 0))
		}},
		{"retain handling, MQTT-3.3.1-9 to -11", plane.V5, Options{}, func(s *scene) {
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("x"), Retain: true})
			s.open("sub", expiry(60))
			kept := pub("t", "x", 0, 0, retain)
			s.asks("sub", plane.Subscription{Filter: "t", RetainHandling: 2})
			s.quiet("sub")
			s.asks("sub", plane.Subscription{Filter: "t", RetainHandling: 1}) // exists
			s.quiet("sub")
			s.asks("sub", plane.Subscription{Filter: "t"})
			s.want("sub", kept)
			s.asks("sub", plane.Subscription{Filter: "+", RetainHandling: 1}) // is new
			s.want("sub", kept)
			s.drop("sub")
			s.open("sub", expiry(60))
			s.asks("sub", plane.Subscription{Filter: "t", RetainHandling: 1}) // still exists
			s.quiet("sub")
			s.send("sub", &plane.Unsubscribe{PacketID: 1, Filters: []mqtt.Filter{"t"}})
			s.want("sub", unsubAck{1, []mqtt.ReasonCode{0}})
			s.asks("sub", plane.Subscription{Filter: "t", RetainHandling: 1})
			s.want("sub", kept)
		}},
		{"a resumed session gets none", 0, Options{}, func(s *scene) {
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("x"), Retain: true})
			s.open("sub", expiry(60))
			s.subscribes("sub", mqtt.QoS0, "t")
			s.want("sub", pub("t", "x", 0, 0, retain))
			s.drop("sub")
			s.open("sub", expiry(60))
			s.quiet("sub")
		}},
		{"retain as published, MQTT-3.3.1-12 and -13", plane.V5, Options{}, func(s *scene) {
			s.open("sub")
			s.asks("sub", plane.Subscription{Filter: "as", RetainAsPublished: true})
			s.asks("sub", plane.Subscription{Filter: "+"})
			for _, topic := range []string{"as", "not"} {
				s.publishes(mqtt.Message{Topic: topic, Payload: []byte("1"), Retain: true})
				s.publishes(mqtt.Message{Topic: topic, Payload: []byte("2")})
			}
			s.want("sub", pub("as", "1", 0, 0, retain), pub("as", "2", 0, 0), pub("not", "1", 0, 0), pub("not", "2", 0, 0))
		}},
		{"3.1.1 never sees retain on what is live, MQTT-3.3.1-9", plane.V311, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "t")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("1"), Retain: true})
			s.want("sub", pub("t", "1", 0, 0))
		}},
		{"with the identifier of the subscription and what is left of its expiry, MQTT-3.3.2-6", plane.V5, Options{}, func(s *scene) {
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("x"), Retain: true, ExpirySeconds: 100})
			s.publishes(mqtt.Message{Topic: "u", Payload: []byte("x"), Retain: true, ExpirySeconds: 10})
			s.passes(40 * time.Second)
			s.open("sub")
			s.asks("sub", plane.Subscription{Filter: "+"}, 7)
			s.want("sub", pub("t", "x", 0, 0, retain, expiresIn(60), subscriptionIDs(7)))
			s.quiet("sub")
			s.passes(61 * time.Second)
			s.asks("sub", plane.Subscription{Filter: "t"})
			s.quiet("sub")
		}},
		{"none for a shared subscription, §4.8.2", 0, Options{}, func(s *scene) {
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("x"), Retain: true})
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "$share/g/t")
			s.quiet("sub")
		}},
	})
}

func TestConformShared(t *testing.T) {
	perform(t, []play{
		{"one of the group gets it, in turn, with its own QoS, MQTT-4.8.2-3", 0, Options{}, func(s *scene) {
			s.open("a")
			s.open("b")
			s.subscribes("a", mqtt.QoS0, "$share/g/t/+")
			s.subscribes("b", mqtt.QoS1, "$share/g/t/+")
			s.open("c")
			s.subscribes("c", mqtt.QoS0, "$share/other/t/+")
			for i := range 4 {
				s.publishes(mqtt.Message{Topic: "t/u", Payload: []byte(fmt.Sprint(i)), QoS: mqtt.QoS2})
			}
			s.want("a", pub("t/u", "0", 0, 0), pub("t/u", "2", 0, 0))
			s.want("b", pub("t/u", "1", 1, 1), pub("t/u", "3", 1, 2))
			s.want("c", pub("t/u", "0", 0, 0), pub("t/u", "1", 0, 0), pub("t/u", "2", 0, 0), pub("t/u", "3", 0, 0))
		}},
		{"beside a subscription of one's own, each with its identifier, §4.8.2", plane.V5, Options{}, func(s *scene) {
			s.open("a")
			s.asks("a", plane.Subscription{Filter: "t"}, 1)
			s.asks("a", plane.Subscription{Filter: "$share/g/t"}, 2)
			s.publishes(mqtt.Message{Topic: "t"})
			s.want("a", pub("t", "", 0, 0, subscriptionIDs(1)), pub("t", "", 0, 0, subscriptionIDs(2)))
		}},
		{"who is away gets nothing while others are here", 0, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.open("b", expiry(60))
			for _, id := range []string{"a", "b"} {
				s.subscribes(id, mqtt.QoS1, "$share/g/t")
			}
			s.drop("a")
			for i := range 3 {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(fmt.Sprint(i)), QoS: mqtt.QoS1})
			}
			s.want("b", pub("t", "0", 1, 1), pub("t", "1", 1, 2), pub("t", "2", 1, 3))
		}},
		{"QoS 2 is completed with the same member, MQTT-4.8.2-4", 0, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.subscribes("a", mqtt.QoS2, "$share/g/t")
			s.open("b")
			s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS2})
			s.want("a", pub("t", "", 2, 1))
			s.subscribes("b", mqtt.QoS2, "$share/g/t")
			s.drop("a")
			s.quiet("b")
			s.open("a", expiry(60))
			s.want("a", pub("t", "", 2, 1, dup))
		}},
		{"QoS 2 that was sent ends with the session, what waits does not, MQTT-4.8.2-5", 0, Options{Window: 1}, func(s *scene) {
			s.open("b")
			s.open("a", func(c *plane.Connect) { c.ReceiveMaximum = 1 })
			s.subscribes("a", mqtt.QoS2, "$share/g/t")
			for _, text := range []string{"1", "2", "3"} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(text), QoS: mqtt.QoS2})
			}
			s.want("a", pub("t", "1", 2, 1))
			s.subscribes("b", mqtt.QoS1, "$share/g/t")
			s.drop("a")
			s.want("b", pub("t", "2", 1, 1))
			s.send("b", ackOf(plane.PUBACK, 1))
			s.want("b", pub("t", "3", 1, 2))
		}},
		{"QoS 1 goes to another member when the connection is lost, §4.8.2", 0, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.subscribes("a", mqtt.QoS1, "$share/g/t", "u")
			s.open("b")
			for _, text := range []string{"1", "2", "3"} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(text), QoS: mqtt.QoS1})
			}
			s.publishes(mqtt.Message{Topic: "u", QoS: mqtt.QoS1})
			s.want("a", pub("t", "1", 1, 1), pub("t", "2", 1, 2), pub("t", "3", 1, 3), pub("u", "", 1, 4))
			s.send("a", ackOf(plane.PUBACK, 2))
			s.subscribes("b", mqtt.QoS1, "$share/g/t")
			s.quiet("b")
			s.drop("a")
			s.want("b", pub("t", "1", 1, 1), pub("t", "3", 1, 2))
			s.open("a", expiry(60)) // keeps what is its own
			s.want("a", pub("u", "", 1, 4, dup))
			s.quiet("a", "b")
		}},
		{"QoS 1 waits for its member while nobody else is here, §4.8.2", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.open("b", expiry(3600))
			for _, id := range []string{"a", "b"} {
				s.subscribes(id, mqtt.QoS1, "$share/g/t")
			}
			s.drop("b")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("1"), QoS: mqtt.QoS1, ExpirySeconds: 1000})
			s.want("a", pub("t", "1", 1, 1, expiresIn(1000)))
			s.drop("a")
			s.passes(30 * time.Second)
			s.open("a", expiry(60))
			s.want("a", pub("t", "1", 1, 1, expiresIn(970), dup))
			s.drop("a")
			s.passes(61 * time.Second) // the session is over: b's gets it
			s.open("b", expiry(3600))
			s.want("b", pub("t", "1", 1, 1, expiresIn(909)))
			s.leave("b")
			if n := s.Stats().Queued; n != 0 {
				s.t.Errorf("%d messages wait", n)
			}
		}},
		{"a refused message is not tried elsewhere, MQTT-4.8.2-6", plane.V5, Options{}, func(s *scene) {
			s.open("a")
			s.subscribes("a", mqtt.QoS2, "$share/g/t")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("1"), QoS: mqtt.QoS1})
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("2"), QoS: mqtt.QoS2})
			s.want("a", pub("t", "1", 1, 1), pub("t", "2", 2, 2))
			s.open("b")
			s.subscribes("b", mqtt.QoS2, "$share/g/t")
			s.send("a", ackOf(plane.PUBACK, 1, mqtt.UnspecifiedError), ackOf(plane.PUBREC, 2, mqtt.UnspecifiedError))
			s.leave("a")
			s.quiet("b")
		}},
	})
}

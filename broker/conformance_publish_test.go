package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// What clients publish.
func TestConformInbound(t *testing.T) {
	perform(t, []play{
		{"QoS 0 gets no answer, MQTT-4.3.1-1", 0, Options{}, func(s *scene) {
			s.open("a")
			s.send("a", pub("t", "", mqtt.QoS0, 0))
			s.quiet("a")
		}},
		{"QoS 1 gets a PUBACK each time, MQTT-4.3.2-4 and -5", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "t")
			s.open("a")
			s.send("a", pub("t", "1", mqtt.QoS1, 7), pub("t", "1", mqtt.QoS1, 7, dup), pub("t", "2", mqtt.QoS1, 65_535))
			s.want("a", ackOf(plane.PUBACK, 7), ackOf(plane.PUBACK, 7), ackOf(plane.PUBACK, 65_535)) // [MQTT-4.6.0-2]
			s.want("sub", pub("t", "1", 0, 0), pub("t", "1", 0, 0), pub("t", "2", 0, 0))
		}},
		{"QoS 2 is taken once, MQTT-4.3.3-8 to -12", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.open("a")
			s.send("a", pub("t", "1", mqtt.QoS2, 7), pub("t", "1", mqtt.QoS2, 7, dup), pub("u", "2", mqtt.QoS2, 7))
			s.want("a", ackOf(plane.PUBREC, 7), ackOf(plane.PUBREC, 7), ackOf(plane.PUBREC, 7))
			s.send("a", ackOf(plane.PUBREL, 7), pub("t", "3", mqtt.QoS2, 7), ackOf(plane.PUBREL, 7))
			s.want("a", ackOf(plane.PUBCOMP, 7), ackOf(plane.PUBREC, 7), ackOf(plane.PUBCOMP, 7))
			s.want("sub", pub("t", "1", 0, 0), pub("t", "3", 0, 0))
			s.quiet("sub", "a")
		}},
		{"QoS 2 is taken once across connections, MQTT-4.3.3-10", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.open("a", expiry(60))
			s.send("a", pub("t", "1", mqtt.QoS2, 7), pub("t", "2", mqtt.QoS2, 8))
			s.want("a", ackOf(plane.PUBREC, 7), ackOf(plane.PUBREC, 8))
			s.drop("a")
			s.open("a", expiry(60))
			s.send("a", pub("t", "1", mqtt.QoS2, 7, dup), ackOf(plane.PUBREL, 8))
			s.want("a", ackOf(plane.PUBREC, 7), ackOf(plane.PUBCOMP, 8))
			s.want("sub", pub("t", "1", 0, 0), pub("t", "2", 0, 0))
			s.quiet("sub")
			s.drop("a")
			s.open("a") // another session
			s.send("a", pub("t", "1", mqtt.QoS2, 7, dup))
			s.want("a", ackOf(plane.PUBREC, 7))
			s.want("sub", pub("t", "1", 0, 0))
		}},
		{"PUBREL of nothing, MQTT-4.3.3-11", 0, Options{}, func(s *scene) {
			s.open("a")
			s.send("a", ackOf(plane.PUBREL, 9))
			s.want("a", ackOf(plane.PUBCOMP, 9, mqtt.PacketIdentifierNotFound))
			s.send("a", ackOf(plane.PUBREL, 10, mqtt.PacketIdentifierNotFound))
			s.want("a", ackOf(plane.PUBCOMP, 10, mqtt.PacketIdentifierNotFound))
		}},
		{"the identifiers of both directions are apart, §2.2.1", 0, Options{}, func(s *scene) {
			s.open("a")
			s.subscribes("a", mqtt.QoS2, "t")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("in"), QoS: mqtt.QoS2})
			s.want("a", pub("t", "in", mqtt.QoS2, 1))
			s.send("a", pub("u", "out", mqtt.QoS2, 1))
			s.want("a", ackOf(plane.PUBREC, 1))
			s.send("a", ackOf(plane.PUBREC, 1))
			s.want("a", ackOf(plane.PUBREL, 1))
			s.send("a", ackOf(plane.PUBREL, 1))
			s.want("a", ackOf(plane.PUBCOMP, 1))
			s.subscribes("a", mqtt.QoS0, "v")
			s.send("a", &plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: "w"}}})
			s.want("a", subAck{1, []mqtt.ReasonCode{0}})
			s.send("a", ackOf(plane.PUBCOMP, 1))
			s.quiet("a")
		}},
		{"nobody is subscribed, §3.4.2.1", 0, Options{}, func(s *scene) {
			s.open("a")
			s.send("a", pub("t", "", mqtt.QoS1, 1), pub("t", "", mqtt.QoS2, 2))
			s.want("a", ackOf(plane.PUBACK, 1, mqtt.NoMatchingSubscribers), ackOf(plane.PUBREC, 2))
			s.consume(s.t, 1, "t", nil)
			s.send("a", pub("t", "", mqtt.QoS1, 3), pub("u", "", mqtt.QoS1, 4))
			s.want("a", ackOf(plane.PUBACK, 3), ackOf(plane.PUBACK, 4, mqtt.NoMatchingSubscribers))
		}},
		{"a failed PUBREC frees the identifier, MQTT-4.3.3-9", plane.V5, Options{}, func(s *scene) {
			s.auth.policies = map[string]string{"lamp": policy("Publish", "topic/mine")}
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.open("a", user("lamp"))
			s.send("a", pub("yours", "1", mqtt.QoS2, 7), pub("mine", "2", mqtt.QoS2, 7))
			s.want("a", ackOf(plane.PUBREC, 7, mqtt.NotAuthorized), ackOf(plane.PUBREC, 7))
			s.want("sub", pub("mine", "2", 0, 0))
		}},
		{"receive maximum of the server, MQTT-3.3.4-7", plane.V5, Options{ReceiveMaximum: 2}, func(s *scene) {
			p := s.open("a")
			if !strings.HasPrefix(string(p.props), "\x21\x00\x02") {
				s.t.Errorf("CONNACK properties %x", p.props)
			}
			s.send("a", pub("t", "", mqtt.QoS2, 1), pub("t", "", mqtt.QoS2, 2), pub("t", "", mqtt.QoS0, 0), pub("t", "", mqtt.QoS2, 1, dup))
			s.want("a", ackOf(plane.PUBREC, 1), ackOf(plane.PUBREC, 2), ackOf(plane.PUBREC, 1))
			s.send("a", ackOf(plane.PUBREL, 1), pub("t", "", mqtt.QoS2, 1))
			s.want("a", ackOf(plane.PUBCOMP, 1), ackOf(plane.PUBREC, 1))
			s.send("a", pub("t", "", mqtt.QoS1, 3))
			s.ended("a", mqtt.ReceiveMaximumExceeded)
		}},
		{"aliases, MQTT-3.3.2-12", plane.V5, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.open("a")
			s.send("a", pub("one", "1", 0, 0, alias(1)), pub("two", "2", 0, 0, alias(32)), pub("", "1", 0, 0, alias(1)),
				pub("three", "3", 0, 0, alias(1)), pub("", "3", 0, 0, alias(1)), pub("", "2", 0, 0, alias(32)), pub("one", "1", 0, 0))
			for _, want := range []string{"one 1", "two 2", "one 1", "three 3", "three 3", "two 2", "one 1"} {
				topic, text, _ := strings.Cut(want, " ")
				s.want("sub", pub(topic, text, 0, 0))
			}
			s.send("a", pub("t", "", 0, 0, alias(33)))
			s.ended("a", mqtt.TopicAliasInvalid) // [MQTT-3.3.2-9]
		}},
		{"aliases end with their connection, MQTT-3.3.2-7", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.send("a", pub("one", "", 0, 0, alias(1)))
			s.drop("a")
			s.open("a", expiry(60))
			s.send("a", pub("", "", 0, 0, alias(1)))
			s.ended("a", mqtt.ProtocolError)
		}},
		{"what comes after a DISCONNECT does not count, MQTT-3.14.4-1", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "#")
			s.open("a")
			frames := pub("t", "1", 0, 0).Append(nil, s.version)
			frames = pub("t", "2", 0, 0).Append((&plane.Disconnect{}).Append(frames, s.version), s.version)
			s.clients["a"].write(frames)
			s.clients["a"].closed()
			s.want("sub", pub("t", "1", 0, 0))
			s.quiet("sub")
		}},
	})
}

// What clients get.
func TestConformOutbound(t *testing.T) {
	perform(t, []play{
		{"DUP is ours, MQTT-3.3.1-3", 0, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS1, "t")
			s.open("a")
			s.send("a", pub("t", "", mqtt.QoS1, 9, dup))
			s.want("sub", pub("t", "", mqtt.QoS1, 1))
		}},
		{"QoS 1 until its PUBACK, MQTT-4.3.2-3, MQTT-4.4.0-1, MQTT-3.3.1-1", 0, Options{}, func(s *scene) {
			s.open("sub", expiry(60))
			s.subscribes("sub", mqtt.QoS1, "t")
			for _, text := range []string{"1", "2", "3"} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(text), QoS: mqtt.QoS1})
			}
			s.want("sub", pub("t", "1", 1, 1), pub("t", "2", 1, 2), pub("t", "3", 1, 3))
			s.send("sub", ackOf(plane.PUBACK, 2))
			s.passes(time.Hour)
			s.quiet("sub") // not again on this connection
			s.drop("sub")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("4"), QoS: mqtt.QoS1})
			s.open("sub", expiry(60))
			s.want("sub", pub("t", "1", 1, 1, dup), pub("t", "3", 1, 3, dup), pub("t", "4", 1, 4)) // [MQTT-4.6.0-1]
			s.send("sub", ackOf(plane.PUBACK, 1), ackOf(plane.PUBACK, 3), ackOf(plane.PUBACK, 4), ackOf(plane.PUBACK, 4), ackOf(plane.PUBACK, 99))
			s.drop("sub")
			s.open("sub", expiry(60))
			s.quiet("sub")
		}},
		{"QoS 2 in all its states, MQTT-4.3.3-3 to -6", 0, Options{}, func(s *scene) {
			s.open("sub", expiry(60))
			s.subscribes("sub", mqtt.QoS2, "t")
			for _, text := range []string{"1", "2", "3"} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(text), QoS: mqtt.QoS2})
			}
			s.want("sub", pub("t", "1", 2, 1), pub("t", "2", 2, 2), pub("t", "3", 2, 3))
			s.send("sub", ackOf(plane.PUBREC, 2), ackOf(plane.PUBREC, 1))
			s.want("sub", ackOf(plane.PUBREL, 2), ackOf(plane.PUBREL, 1)) // [MQTT-4.6.0-4]
			s.send("sub", ackOf(plane.PUBREC, 2), ackOf(plane.PUBCOMP, 1))
			s.want("sub", ackOf(plane.PUBREL, 2))
			s.drop("sub")
			s.open("sub", expiry(60))
			s.want("sub", ackOf(plane.PUBREL, 2), pub("t", "3", 2, 3, dup))
			s.send("sub", ackOf(plane.PUBCOMP, 2), ackOf(plane.PUBREC, 3))
			s.want("sub", ackOf(plane.PUBREL, 3))
			s.send("sub", ackOf(plane.PUBCOMP, 3))
			s.drop("sub")
			s.open("sub", expiry(60))
			s.quiet("sub")
			s.send("sub", ackOf(plane.PUBREC, 2))
			s.want("sub", ackOf(plane.PUBREL, 2, mqtt.PacketIdentifierNotFound)) // §3.6.2.1
			s.send("sub", ackOf(plane.PUBCOMP, 2))
			s.quiet("sub")
		}},
		{"a failed PUBACK or PUBREC ends the delivery, MQTT-4.4.0-2, MQTT-4.3.3-4", plane.V5, Options{}, func(s *scene) {
			s.open("sub", expiry(60), func(c *plane.Connect) { c.ReceiveMaximum = 1 })
			s.subscribes("sub", mqtt.QoS2, "t")
			for _, qos := range []mqtt.QoS{1, 2, 2} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte("x"), QoS: qos})
			}
			s.want("sub", pub("t", "x", 1, 1))
			s.send("sub", ackOf(plane.PUBACK, 1, mqtt.QuotaExceeded))
			s.want("sub", pub("t", "x", 2, 2))
			s.send("sub", ackOf(plane.PUBREC, 2, mqtt.UnspecifiedError))
			s.want("sub", pub("t", "x", 2, 3)) // and no PUBREL
			s.send("sub", ackOf(plane.PUBREC, 99, mqtt.UnspecifiedError))
			s.quiet("sub")
		}},
		{"acknowledgments out of order, §4.13", 0, Options{}, func(s *scene) {
			for _, tc := range []struct {
				qos  mqtt.QoS
				acks []plane.Type
			}{
				{1, []plane.Type{plane.PUBREC}},
				{1, []plane.Type{plane.PUBCOMP}},
				{2, []plane.Type{plane.PUBACK}},
				{2, []plane.Type{plane.PUBCOMP}},
				{2, []plane.Type{plane.PUBREC, plane.PUBACK}},
			} {
				s.open("sub")
				s.subscribes("sub", mqtt.QoS2, "t")
				s.publishes(mqtt.Message{Topic: "t", QoS: tc.qos})
				s.want("sub", pub("t", "", tc.qos, 1))
				for i, ack := range tc.acks {
					s.send("sub", ackOf(ack, 1))
					if i+1 < len(tc.acks) {
						s.want("sub", ackOf(plane.PUBREL, 1))
					}
				}
				s.ended("sub", mqtt.ProtocolError)
			}
		}},
		{"receive maximum of the client, MQTT-3.3.4-9, MQTT-4.9.0-1 to -3", plane.V5, Options{}, func(s *scene) {
			s.open("sub", expiry(60), func(c *plane.Connect) { c.ReceiveMaximum = 2 })
			s.subscribes("sub", mqtt.QoS2, "t")
			for i, qos := range []mqtt.QoS{1, 2, 2, 1, 0} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(fmt.Sprint(i)), QoS: qos})
			}
			s.want("sub", pub("t", "0", 1, 1), pub("t", "1", 2, 2), pub("t", "4", 0, 0)) // QoS 0 is not held up
			s.subscribes("sub", mqtt.QoS0, "u")                                          // nor is anything else [MQTT-3.3.4-10]
			s.send("sub", ackOf(plane.PUBREC, 2))
			s.want("sub", ackOf(plane.PUBREL, 2)) // which frees nothing yet
			s.quiet("sub")
			s.send("sub", ackOf(plane.PUBCOMP, 2))
			s.want("sub", pub("t", "2", 2, 3))
			s.send("sub", ackOf(plane.PUBACK, 1), ackOf(plane.PUBACK, 1)) // once
			s.want("sub", pub("t", "3", 1, 4))
			s.quiet("sub")
			s.drop("sub")
			s.open("sub", expiry(60), func(c *plane.Connect) { c.ReceiveMaximum = 1 }) // for the redelivery, too
			s.want("sub", pub("t", "2", 2, 3, dup))
			s.quiet("sub")
			s.send("sub", ackOf(plane.PUBREC, 3, mqtt.QuotaExceeded))
			s.want("sub", pub("t", "3", 1, 4, dup))
		}},
		{"the window of 3.1.1", plane.V311, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS1, "t")
			for i := range uint16(23) {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(fmt.Sprint(i + 1)), QoS: mqtt.QoS1})
			}
			for i := range uint16(20) {
				s.want("sub", pub("t", fmt.Sprint(i+1), 1, i+1))
			}
			s.quiet("sub")
			s.send("sub", ackOf(plane.PUBACK, 20), ackOf(plane.PUBACK, 1))
			s.want("sub", pub("t", "21", 1, 21), pub("t", "22", 1, 22))
			s.quiet("sub")
		}},
		{"identifiers in use are passed over, MQTT-2.2.1-4", 0, Options{}, func(s *scene) {
			s.open("sub", expiry(60))
			s.subscribes("sub", mqtt.QoS1, "t")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("first"), QoS: mqtt.QoS1})
			s.want("sub", pub("t", "first", 1, 1))
			sess := s.sessions["sub"]
			sess.mu.Lock()
			sess.lastID = 65_534
			sess.mu.Unlock()
			for range 2 {
				s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS1})
			}
			s.want("sub", pub("t", "", 1, 65_535), pub("t", "", 1, 2)) // neither 0 nor 1
		}},
		{"message expiry counts while queued, MQTT-3.3.2-5 and -6", plane.V5, Options{}, func(s *scene) {
			s.open("sub", expiry(3600))
			s.subscribes("sub", mqtt.QoS1, "t")
			s.drop("sub")
			for _, seconds := range []uint32{10, 100, 0} {
				s.publishes(mqtt.Message{Topic: "t", Payload: []byte(fmt.Sprint(seconds)), QoS: mqtt.QoS1, ExpirySeconds: seconds})
			}
			s.passes(11 * time.Second)
			s.open("sub", expiry(3600))
			s.want("sub", pub("t", "100", 1, 1, expiresIn(89)), pub("t", "0", 1, 2))
			s.drop("sub")
			s.passes(200 * time.Second)
			s.open("sub", expiry(3600)) // what was sent once is not dropped [MQTT-4.3.3-7]
			s.want("sub", pub("t", "100", 1, 1, expiresIn(1), dup), pub("t", "0", 1, 2, dup))
		}},
		{"message expiry of an immediate delivery", plane.V5, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "t")
			s.open("a")
			s.send("a", pub("t", "", 0, 0, expiresIn(100)))
			s.want("sub", pub("t", "", 0, 0, expiresIn(100)))
		}},
		{"properties unaltered and in order, MQTT-3.3.2-4, -15 to -18 and -20", plane.V5, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS0, "t")
			s.open("a")
			users := []mqtt.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: ""}, {Key: "b", Value: "1"}, {Key: "", Value: "\n"}}
			for _, change := range []func(*plane.Publish){
				func(p *plane.Publish) { p.Message.PayloadIsUTF8 = true },
				func(p *plane.Publish) { p.Message.PayloadIsBytes = true },
				func(p *plane.Publish) {
					p.Message.ContentType, p.Message.UserProperties = "text/plain; charset=utf-8", users
				},
				func(p *plane.Publish) { p.Message.ResponseTopic, p.Message.CorrelationData = "r/t", []byte{0, 0xff} },
				func(p *plane.Publish) { p.Message.CorrelationData = []byte{} },
			} {
				s.send("a", pub("t", "x", 0, 0, change))
				s.want("sub", pub("t", "x", 0, 0, change))
			}
			s.openAs(plane.V311, "old")
			s.subscribes("old", mqtt.QoS0, "t")
			s.send("a", pub("t", "x", 0, 0, func(p *plane.Publish) { p.Message.UserProperties = users }))
			s.want("old", pub("t", "x", 0, 0)) // without properties
		}},
		{"aliases to the client, MQTT-3.1.2-26", plane.V5, Options{}, func(s *scene) {
			s.open("sub", expiry(60), func(c *plane.Connect) { c.TopicAliasMaximum = 2 })
			s.subscribes("sub", mqtt.QoS1, "#")
			for _, topic := range []string{"a", "b", "a", "c", "b"} {
				s.publishes(mqtt.Message{Topic: topic, Payload: []byte(topic)})
			}
			s.publishes(mqtt.Message{Topic: "a", Payload: []byte("a"), QoS: mqtt.QoS1})
			s.want("sub", pub("a", "a", 0, 0, alias(1)), pub("b", "b", 0, 0, alias(2)), pub("", "a", 0, 0, alias(1)),
				pub("c", "c", 0, 0), pub("", "b", 0, 0, alias(2)), pub("", "a", 1, 1, alias(1)))
			s.drop("sub")
			s.open("sub", expiry(60), func(c *plane.Connect) { c.TopicAliasMaximum = 2 })
			s.want("sub", pub("a", "a", 1, 1, alias(1), dup)) // [MQTT-3.3.2-7]
		}},
		{"no aliases to a client that wants none, MQTT-3.1.2-27", plane.V5, Options{}, func(s *scene) {
			s.open("sub")
			s.subscribes("sub", mqtt.QoS1, "#")
			for range 2 {
				s.publishes(mqtt.Message{Topic: "a"})
			}
			s.want("sub", pub("a", "", 0, 0), pub("a", "", 0, 0))
		}},
		{"an alias counts only if its packet was sent", plane.V5, Options{}, func(s *scene) {
			s.open("sub", func(c *plane.Connect) { c.TopicAliasMaximum, c.MaximumPacketSize = 2, 20 })
			s.subscribes("sub", mqtt.QoS0, "#")
			s.publishes(mqtt.Message{Topic: "a", Payload: make([]byte, 20)}) // too large
			s.publishes(mqtt.Message{Topic: "a", Payload: []byte("12345678901234")})
			s.want("sub", pub("a", "12345678901234", 0, 0)) // no room for the alias
			s.publishes(mqtt.Message{Topic: "a", Payload: []byte("12345678901")})
			s.want("sub", pub("a", "12345678901", 0, 0, alias(1)))
			s.publishes(mqtt.Message{Topic: "a", Payload: []byte("123456789012")})
			s.want("sub", pub("", "123456789012", 0, 0, alias(1)))
		}},
		{"a shutdown says so, MQTT-3.14.4-2", 0, Options{}, func(s *scene) {
			s.open("a")
			go s.stop()
			s.ended("a", mqtt.ServerShuttingDown) // nothing to a client of 3.1.1
		}},
	})
}

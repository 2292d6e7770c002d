package broker

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

func TestConformConnect(t *testing.T) {
	perform(t, []play{
		{"first packet is not a CONNECT, MQTT-3.1.0-1", plane.V5, Options{}, func(s *scene) {
			for _, frame := range []hexFrame{"30 ff ff 7f", "40", "82 06 0001", "c0 00", "e0 00", "f0 00", "00 00", "20 02 00 00"} {
				c := s.dial(plane.V5)
				c.send(frame) // the type is enough, whatever the rest may be
				c.closed()
			}
		}},
		{"second CONNECT, MQTT-3.1.0-2", 0, Options{}, func(s *scene) {
			s.open("a")
			s.send("a", &plane.Connect{Version: s.version, ClientID: "a"})
			s.ended("a", mqtt.ProtocolError)
		}},
		{"protocol name, MQTT-3.1.2-1", 0, Options{}, func(s *scene) {
			c := s.dial(s.version)
			c.send(hexFrame("10 0c 0004 6d717474 04 02 003c 0000")) // mqtt
			c.closed()
		}},
		{"protocol version, MQTT-3.1.2-2", plane.V5, Options{}, func(s *scene) {
			for frame, want := range map[hexFrame]hexFrame{
				"10 0c 0004 4d515454 06 02 003c 0000":       "20 03 00 84 00",
				"10 0c 0004 4d515454 02 02 003c 0000":       "20 03 00 84 00",
				"10 0c 0004 4d515454 03 02 003c 0000":       "20 02 00 01",
				"10 0e 0006 4d5149736470 03 02 003c 0000":   "20 02 00 01",
				"10 0c 0004 4d515454 84 02 003c 0000":       "20 02 00 01", // of a bridge
				"10 0e 0004 4d515454 ff 02 003c 0001 61 00": "20 02 00 01",
			} {
				s.clients["x"] = s.dial(plane.V5)
				s.send("x", frame)
				s.want("x", want)
				s.clients["x"].closed()
			}
		}},
		{"reserved flag, MQTT-3.1.2-3", plane.V5, Options{}, func(s *scene) {
			s.refused("10 0d 0004 4d515454 05 03 003c 00 0000", mqtt.MalformedPacket)
		}},
		{"will flags without a will, MQTT-3.1.2-11 and -13", plane.V5, Options{}, func(s *scene) {
			s.refused("10 0d 0004 4d515454 05 0a 003c 00 0000", mqtt.MalformedPacket)
			s.refused("10 0d 0004 4d515454 05 22 003c 00 0000", mqtt.MalformedPacket)
		}},
		{"will of QoS 3, MQTT-3.1.2-12", plane.V5, Options{}, func(s *scene) {
			s.refused("10 14 0004 4d515454 05 1e 003c 00 0000 00 0001 61 0001 62", mqtt.MalformedPacket)
		}},
		{"flags that promise more than there is, MQTT-3.1.2-17 and -19", plane.V5, Options{}, func(s *scene) {
			s.refused("10 0d 0004 4d515454 05 82 003c 00 0000", mqtt.MalformedPacket)
			s.refused("10 0d 0004 4d515454 05 42 003c 00 0000", mqtt.MalformedPacket)
		}},
		{"password without a user name, 3.1.1 MQTT-3.1.2-22", plane.V311, Options{}, func(s *scene) {
			c := s.dial(s.version)
			c.send(hexFrame("10 0f 0004 4d515454 04 42 003c 0000 0001 61"))
			c.closed()
		}},
		{"identifiers that every server takes, MQTT-3.1.3-5", 0, Options{}, func(s *scene) {
			for _, id := range []string{"0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"} {
				s.open(id)
			}
		}},
		{"assigned identifier, MQTT-3.1.3-6 and -7, MQTT-3.2.2-16", plane.V5, Options{}, func(s *scene) {
			seen := map[string]bool{}
			for range 10 {
				p := s.open("")
				n := int(p.props[2])
				if p.props[0] != 0x12 || seen[string(p.props[3:3+n])] || n < 16 {
					s.t.Fatalf("CONNACK properties %q", p.props)
				}
				seen[string(p.props[3:3+n])] = true
			}
		}},
		{"no identifier for a session that stays, 3.1.1 MQTT-3.1.3-8", plane.V311, Options{}, func(s *scene) {
			s.clients["x"] = s.dial(s.version)
			s.send("x", &plane.Connect{Version: s.version})
			s.want("x", hexFrame("20 02 00 02"))
			s.clients["x"].closed()
		}},
		{"rejected identifier, MQTT-3.1.3-8", 0, Options{}, func(s *scene) {
			s.clients["x"] = s.dial(s.version)
			s.send("x", &plane.Connect{Version: s.version, CleanStart: true, ClientID: strings.Repeat("x", 1000)})
			s.want("x", map[byte]hexFrame{plane.V311: "20 02 00 02", plane.V5: "20 03 00 85 00"}[s.version])
			s.clients["x"].closed()
		}},
		{"authentication method, MQTT-4.12.0-1", plane.V5, Options{}, func(s *scene) {
			s.refused("10 11 0004 4d515454 05 02 003c 04 150001 6d 0000", mqtt.BadAuthenticationMethod)
		}},
		{"nothing before the CONNACK, and only one, MQTT-3.2.0-1 and -2", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.subscribes("a", mqtt.QoS1, "t")
			s.drop("a")
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte("x"), QoS: mqtt.QoS1})
			s.open("a", expiry(60))
			s.want("a", pub("t", "x", mqtt.QoS1, 1))
			s.quiet("a")
		}},
		{"request problem information 0, MQTT-3.1.2-29", plane.V5, Options{MaxTopicLevels: 2}, func(s *scene) {
			s.open("a", func(c *plane.Connect) { c.NoProblemInfo = true })
			s.send("a", pub("1/2/3", "x", mqtt.QoS1, 1))
			s.want("a", hexFrame("40 03 0001 90")) // without a reason string
		}},
		{"no response information, MQTT-3.1.2-28", plane.V5, Options{}, func(s *scene) {
			for _, asked := range []bool{false, true} {
				p := s.open("a", func(c *plane.Connect) { c.RequestResponseInfo = asked })
				if strings.Contains(string(p.props), "\x1a") {
					s.t.Errorf("CONNACK properties %q", p.props)
				}
			}
		}},
		{"PINGRESP, MQTT-3.12.4-1", 0, Options{}, func(s *scene) {
			s.open("a")
			s.quiet("a", "a", "a")
		}},
	})
}

// refused sends a CONNECT of MQTT 5.0 that is answered with reason and the end.
func (s *scene) refused(frame hexFrame, reason mqtt.ReasonCode) {
	s.t.Helper()
	c := s.dial(plane.V5)
	c.send(frame)
	if p := c.read(plane.CONNACK); len(p.body) != 3 || p.body[0] != 0 || mqtt.ReasonCode(p.body[1]) != reason { // [MQTT-3.2.2-6]
		s.t.Errorf("CONNACK %x to %s, want %v", p.body, frame, reason)
	}
	c.closed() // [MQTT-3.2.2-7]
}

func TestConformSession(t *testing.T) {
	perform(t, []play{
		{"clean start discards, MQTT-3.1.2-4, MQTT-3.2.2-2", 0, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.subscribes("a", mqtt.QoS1, "t")
			s.drop("a")
			s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS1})
			s.present(false, s.open("a"))
			s.quiet("a")
			s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS1})
			s.quiet("a")
		}},
		{"no clean start resumes, MQTT-3.1.2-5, MQTT-3.2.2-3", 0, Options{}, func(s *scene) {
			s.present(false, s.open("a", expiry(60)))
			s.subscribes("a", mqtt.QoS2, "t")
			s.drop("a")
			s.present(true, s.open("a", expiry(60)))
			s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS0})
			s.want("a", pub("t", "", mqtt.QoS0, 0))
		}},
		{"session expiry, MQTT-3.1.2-23, MQTT-4.1.0-2", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.drop("a")
			s.passes(59 * time.Second)
			s.present(true, s.open("a", expiry(60))) // counted from the end of each connection
			s.passes(30 * time.Second)
			s.drop("a")
			s.passes(59 * time.Second)
			s.present(true, s.open("a", expiry(60)))
			s.drop("a")
			s.passes(61 * time.Second)
			s.present(false, s.open("a", expiry(60)))
		}},
		{"session expiry that does not end, §3.1.2.11.2", plane.V5, Options{}, func(s *scene) {
			p := s.open("a", expiry(1<<32-1))
			if want := "\x11" + "\x00\x4f\x1a\x00"; !strings.HasPrefix(string(p.props), want) { // ours is 60 days, and is said so
				s.t.Errorf("CONNACK properties %x", p.props)
			}
			s.drop("a")
			s.passes(59 * 24 * time.Hour)
			s.present(true, s.open("a", expiry(1<<32-1)))
		}},
		{"session that is over with its connection, MQTT-4.1.0-1", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(0))
			s.subscribes("a", mqtt.QoS1, "t")
			s.passes(time.Hour - time.Second)
			s.quiet("a")
			s.drop("a")
			s.present(false, s.open("a", expiry(0)))
		}},
		{"DISCONNECT changes the session expiry, §3.14.2.2.2", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(10))
			s.send("a", &plane.Disconnect{HasSessionExpiry: true, SessionExpirySeconds: 100})
			s.passes(50 * time.Second)
			s.present(true, s.open("a", expiry(10)))
			s.send("a", &plane.Disconnect{HasSessionExpiry: true})
			s.present(false, s.open("a", expiry(10)))
		}},
		{"DISCONNECT cannot make a session stay, §3.14.2.2.2", plane.V5, Options{}, func(s *scene) {
			s.open("a", expiry(0))
			s.send("a", &plane.Disconnect{HasSessionExpiry: true, SessionExpirySeconds: 1})
			s.ended("a", mqtt.ProtocolError)
			s.present(false, s.open("a", expiry(10)))
		}},
		{"versions share a session", 0, Options{}, func(s *scene) {
			other := plane.V311 + plane.V5 - s.version
			s.open("a", expiry(60))
			s.subscribes("a", mqtt.QoS2, "t")
			s.drop("a")
			s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS2})
			s.present(true, s.openAs(other, "a", expiry(60)))
			s.want("a", pub("t", "", mqtt.QoS2, 1))
			s.drop("a")
			s.open("a", expiry(60))
			s.want("a", pub("t", "", mqtt.QoS2, 1, dup))
		}},
		{"takeover, MQTT-3.1.4-3", 0, Options{}, func(s *scene) {
			s.open("a", expiry(60))
			s.subscribes("a", mqtt.QoS1, "t")
			s.send("a", pub("t", "1", mqtt.QoS1, 1))
			old := s.clients["a"]
			s.present(true, s.open("a", expiry(60)))
			s.want("a", pub("t", "1", mqtt.QoS1, 1, dup))
			s.clients["old"] = old
			s.want("old", pub("t", "1", mqtt.QoS1, 1), ackOf(plane.PUBACK, 1))
			s.ended("old", mqtt.SessionTakenOver)
			s.quiet("a")
		}},
		{"takeover of a session that is over with its connection", 0, Options{}, func(s *scene) {
			s.open("a")
			s.subscribes("a", mqtt.QoS1, "t")
			s.clients["old"] = s.clients["a"]
			s.present(false, s.open("a", expiry(60)))
			s.ended("old", mqtt.SessionTakenOver)
			s.publishes(mqtt.Message{Topic: "t", QoS: mqtt.QoS1})
			s.quiet("a")
		}},
		{"a client that says goodbye and is back at once is not taken over", 0, Options{}, func(s *scene) {
			s.open("watcher")
			s.subscribes("watcher", mqtt.QoS1, "#")
			s.open("a", will("gone"))
			s.clients["old"] = s.clients["a"]
			again := s.dial(s.version)
			again.send(&plane.Connect{Version: s.version, ClientID: "a", CleanStart: true})
			synctest.Wait() // it waits for the old connection
			s.clients["old"].write(append(pub("t", "last words", mqtt.QoS0, 0).Append(nil, s.version), 0xe0, 0))
			again.read(plane.CONNACK)
			s.want("watcher", pub("t", "last words", mqtt.QoS0, 0))
			s.quiet("watcher")
		}},
	})
}

func (s *scene) present(want bool, p reply) {
	s.t.Helper()
	if got := p.codes[0] == 1; got != want {
		s.t.Fatalf("session present is %v, want %v", got, want)
	}
}

func TestConformKeepAlive(t *testing.T) {
	seconds := func(n uint16) func(*plane.Connect) { return func(c *plane.Connect) { c.KeepAlive = n } }
	perform(t, []play{
		{"silence ends the connection after one and a half times, MQTT-3.1.2-22", 0, Options{}, func(s *scene) {
			s.open("a", seconds(10))
			for range 3 {
				s.passes(14900 * time.Millisecond)
				s.quiet("a")
			}
			s.passes(14900 * time.Millisecond)
			s.send("a", pub("t", "", mqtt.QoS0, 0)) // any packet counts
			s.passes(15100 * time.Millisecond)
			s.ended("a", mqtt.KeepAliveTimeout)
		}},
		{"keep alive 0 turns it off, §3.1.2.10", 0, Options{}, func(s *scene) {
			s.open("a", seconds(0))
			s.passes(100 * time.Hour)
			s.quiet("a")
		}},
		{"the longest, which overflows mochi", 0, Options{}, func(s *scene) {
			s.open("a", seconds(65_535))
			s.passes(98_000 * time.Second)
			s.quiet("a")
			s.passes(98_303 * time.Second)
			s.ended("a", mqtt.KeepAliveTimeout)
		}},
		{"server keep alive, MQTT-3.2.2-22", plane.V5, Options{MaxKeepAlive: time.Minute}, func(s *scene) {
			for asked, want := range map[uint16]string{0: "\x13\x00\x3c", 61: "\x13\x00\x3c", 60: "", 1: ""} {
				p := s.open("a", seconds(asked))
				if said := strings.Contains(string(p.props), "\x13\x00"); said != (want != "") || !strings.Contains(string(p.props), want) {
					s.t.Errorf("keep alive %d: CONNACK properties %x", asked, p.props)
				}
			}
			s.open("a", seconds(1000))
			s.passes(89 * time.Second)
			s.quiet("a")
			s.passes(91 * time.Second)
			s.ended("a", mqtt.KeepAliveTimeout)
		}},
		{"3.1.1 cannot be told of a shorter one", plane.V311, Options{MaxKeepAlive: time.Minute}, func(s *scene) {
			s.open("a", seconds(1000))
			s.passes(1400 * time.Second)
			s.quiet("a")
		}},
		{"half a packet is none", 0, Options{}, func(s *scene) {
			s.open("a", seconds(10))
			s.send("a", hexFrame("c0"))
			s.passes(15100 * time.Millisecond)
			s.ended("a", mqtt.KeepAliveTimeout)
		}},
	})
}

func TestConformMaximumPacketSize(t *testing.T) {
	maximum := func(n uint32) func(*plane.Connect) { return func(c *plane.Connect) { c.MaximumPacketSize = n } }
	perform(t, []play{
		{"no room for a CONNACK, MQTT-3.1.2-24", plane.V5, Options{}, func(s *scene) {
			for _, n := range []uint32{1, 4} {
				c := s.dial(plane.V5)
				c.send(&plane.Connect{Version: plane.V5, ClientID: "a", MaximumPacketSize: n})
				c.closed()
			}
			s.refused("10 13 0004 4d515454 05 02 003c 05 27 0000000f 0001 61", mqtt.PacketTooLarge)
			s.open("a", maximum(16))
		}},
		{"a refusal must have room, too", plane.V5, Options{}, func(s *scene) {
			c := s.dial(plane.V5)
			c.send(&plane.Connect{Version: plane.V5, ClientID: strings.Repeat("x", 1000), MaximumPacketSize: 4})
			c.closed()
		}},
		{"a PUBLISH that is larger is as good as sent, MQTT-3.1.2-25", plane.V5, Options{Window: 1}, func(s *scene) {
			s.open("a", maximum(40), func(c *plane.Connect) { c.ReceiveMaximum = 1 })
			s.subscribes("a", mqtt.QoS2, "t")
			for _, qos := range []mqtt.QoS{2, 1, 0} {
				s.publishes(mqtt.Message{Topic: "t", Payload: make([]byte, 40), QoS: qos})
			}
			fits := strings.Repeat("x", 32) // 2 header, 3 topic, 2 identifier, 1 properties
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte(fits + "x"), QoS: 2})
			s.publishes(mqtt.Message{Topic: "t", Payload: []byte(fits), QoS: 2})
			p := s.clients["a"].read(plane.PUBLISH) // the window is open
			if p.text != fits || p.qos != 2 {
				s.t.Errorf("received %+v", p)
			}
			s.quiet("a")
		}},
		{"a SUBACK that is larger ends the connection", plane.V5, Options{}, func(s *scene) {
			s.open("a", maximum(16))
			p := &plane.Subscribe{PacketID: 1}
			for range 11 {
				p.Subscriptions = append(p.Subscriptions, plane.Subscription{Filter: "t"})
			}
			s.send("a", p)
			s.want("a", subAck{1, make([]mqtt.ReasonCode, 11)}) // 16 bytes
			p.Subscriptions = append(p.Subscriptions, plane.Subscription{Filter: "t"})
			s.send("a", p)
			s.ended("a", mqtt.PacketTooLarge)
		}},
		{"larger than the server accepts, §3.2.2.3.6", 0, Options{MaxPacketBytes: 100}, func(s *scene) {
			s.open("a")
			s.send("a", pub("t", strings.Repeat("x", 90), mqtt.QoS0, 0))
			s.quiet("a")
			s.send("a", hexFrame("30 64")) // 102 bytes: the rest is not waited for
			s.ended("a", mqtt.PacketTooLarge)
		}},
	})
}

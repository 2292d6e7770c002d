package broker

import (
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// watch connects a client that sees the wills, with QoS 0.
func (s *scene) watch() {
	s.t.Helper()
	s.open("watcher")
	s.subscribes("watcher", mqtt.QoS0, "will")
}

func (s *scene) willIs(text string) {
	s.t.Helper()
	s.want("watcher", pub("will", text, 0, 0))
	s.quiet("watcher")
}

func TestConformWill(t *testing.T) {
	perform(t, []play{
		{"published when the connection is lost, MQTT-3.1.2-8", 0, Options{}, func(s *scene) {
			s.watch()
			s.open("a", will("gone"))
			s.quiet("watcher")
			s.drop("a")
			s.willIs("gone")
		}},
		{"once, MQTT-3.1.2-10", 0, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(60), will("gone"))
			s.drop("a")
			s.willIs("gone")
			s.open("a", expiry(60)) // without a will
			s.drop("a")
			s.passes(time.Hour)
			s.quiet("watcher")
		}},
		{"not after a DISCONNECT, MQTT-3.14.4-3", 0, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(10), will("gone"))
			s.leave("a")
			s.passes(time.Hour)
			s.quiet("watcher")
		}},
		{"after a DISCONNECT with any other reason, §3.14.2.1", plane.V5, Options{}, func(s *scene) {
			s.watch()
			for _, reason := range []mqtt.ReasonCode{mqtt.DisconnectWithWillMessage, mqtt.UnspecifiedError, mqtt.QuotaExceeded} {
				s.open("a", will("gone"))
				s.send("a", &plane.Disconnect{Reason: reason})
				s.willIs("gone")
			}
		}},
		{"after a protocol error, and after silence", 0, Options{}, func(s *scene) {
			s.watch()
			s.open("a", will("bad"))
			s.send("a", hexFrame("00 00"))
			s.ended("a", mqtt.ProtocolError)
			s.willIs("bad")
			s.open("b", will("silent"), func(c *plane.Connect) { c.KeepAlive = 10 })
			s.passes(16 * time.Second)
			s.ended("b", mqtt.KeepAliveTimeout)
			s.willIs("silent")
		}},
		{"when the gateway cuts the connection", 0, Options{}, func(s *scene) {
			s.watch()
			s.open("a", will("cut"))
			s.Disconnect(func(x Session) bool { return x.ClientID == "a" }, mqtt.AdministrativeAction)
			s.ended("a", mqtt.AdministrativeAction)
			s.willIs("cut")
		}},
		{"when the client is taken over, §3.1.4", 0, Options{}, func(s *scene) {
			s.watch()
			s.open("a", will("first"))
			s.open("a", will("second"))
			s.willIs("first")
		}},
		{"with its QoS and retained, MQTT-3.1.2-14 and -15", 0, Options{}, func(s *scene) {
			s.watch()
			for _, retained := range []bool{false, true} {
				s.open("a", will("gone", func(w *plane.Will) { w.Message.Retain, w.Message.QoS = retained, mqtt.QoS2 }))
				s.drop("a")
				s.willIs("gone")
				s.open("b")
				s.subscribes("b", mqtt.QoS2, "will")
				if retained {
					s.want("b", pub("will", "gone", 2, 1, retain))
				}
				s.quiet("b")
			}
			s.open("a", will("", func(w *plane.Will) { w.Message.Retain = true })) // empty: removes
			s.drop("a")
			s.open("b")
			s.subscribes("b", mqtt.QoS2, "will")
			s.quiet("b")
		}},
		{"with its properties, MQTT-3.1.3-10", plane.V5, Options{}, func(s *scene) {
			s.watch()
			m := mqtt.Message{
				Topic: "will", Payload: []byte("gone"), PayloadIsBytes: true, ExpirySeconds: 100, ContentType: "c", ResponseTopic: "r",
				CorrelationData: []byte{0}, UserProperties: []mqtt.UserProperty{{Key: "b"}, {Key: "a"}, {Key: "b"}},
			}
			s.open("a", expiry(3600), func(c *plane.Connect) { c.Will = &plane.Will{Message: m, DelaySeconds: 60} })
			s.drop("a")
			s.passes(61 * time.Second)
			s.want("watcher", &plane.Publish{Message: m}) // the expiry counts from its publication
		}},
		{"after its delay, §3.1.3.2.2", plane.V5, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(3600), will("gone", delay(60)))
			s.drop("a")
			s.passes(59 * time.Second)
			s.quiet("watcher")
			s.passes(2 * time.Second)
			s.willIs("gone")
		}},
		{"not if the client is back in time, MQTT-3.1.3-9", plane.V5, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(3600), will("gone", delay(60)))
			s.drop("a")
			s.passes(59 * time.Second)
			s.open("a", expiry(3600))
			s.passes(time.Hour)
			s.quiet("watcher")
		}},
		{"not if the client takes itself over within its delay, MQTT-3.1.3-9", plane.V5, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(3600), will("gone", delay(60)))
			s.open("a", expiry(3600))
			s.passes(time.Hour)
			s.quiet("watcher")
		}},
		{"with the end of the session, whichever is first, §3.1.3.2.2", plane.V5, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(10), will("expired", delay(60)))
			s.drop("a")
			s.passes(11 * time.Second)
			s.willIs("expired")
			s.open("a", expiry(0), will("at once", delay(60)))
			s.drop("a")
			s.willIs("at once")
			s.open("a", expiry(3600), will("clean start", delay(60)))
			s.drop("a")
			s.quiet("watcher")
			s.open("a", func(c *plane.Connect) { c.CleanStart = true })
			s.willIs("clean start")
			s.open("a", expiry(3600), will("shortened", delay(60)))
			s.send("a", &plane.Disconnect{Reason: mqtt.DisconnectWithWillMessage, HasSessionExpiry: true})
			s.willIs("shortened")
		}},
		{"an expiry that is over before the delay", plane.V5, Options{}, func(s *scene) {
			s.watch()
			s.open("a", expiry(3600), will("gone", delay(60), func(w *plane.Will) { w.Message.ExpirySeconds = 1 }))
			s.drop("a")
			s.passes(61 * time.Second)
			s.want("watcher", pub("will", "gone", 0, 0, expiresIn(1)))
		}},
		{"a refused CONNECT leaves none", 0, Options{}, func(s *scene) {
			s.watch()
			s.auth.policies = map[string]string{"lamp": policy("Publish", "topic/other")}
			c := s.dial(s.version)
			p := c.connect("a", user("lamp"), will("gone"))
			refusedWith(s.t, c, p, mqtt.NotAuthorized, 5)
			s.quiet("watcher")
		}},
		{"a will of its own topic does not reach its session on this connection", 0, Options{}, func(s *scene) {
			s.open("a", expiry(60), will("gone"))
			s.subscribes("a", mqtt.QoS1, "will")
			s.drop("a")
			s.open("a", expiry(60))
			s.want("a", pub("will", "gone", 1, 1)) // but its session, afterwards
		}},
	})
}

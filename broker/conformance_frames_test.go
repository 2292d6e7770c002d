package broker

import (
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// Frames that no client may send end its connection: with the reason in MQTT 5.0, without a word
// in 3.1.1. Nobody else notices.
func TestConformFrames(t *testing.T) {
	const malformed, protocol = mqtt.MalformedPacket, mqtt.ProtocolError
	rows := []struct {
		name    string
		version byte // 0 is both
		frame   hexFrame
		want    mqtt.ReasonCode
	}{
		{"UTF-8 of a surrogate, MQTT-1.5.4-1", 0, "30 06 0003 eda080 00", malformed},
		{"NUL in a string, MQTT-1.5.4-2", 0, "30 04 0001 00 00", malformed},
		{"length that is longer than needed, MQTT-1.5.5-1", 0, "c0 80 00", malformed},
		{"length of five bytes, §1.5.5", 0, "30 80 80 80 80 01", malformed},
		{"reserved flags, MQTT-2.1.3-1", 0, "c1 00", malformed},
		{"reserved type, §2.1.2", 0, "00 00", protocol},
		{"packet of a server, CONNACK", 0, "20 02 00 00", protocol},
		{"packet of a server, SUBACK", 0, "90 03 0001 00", protocol},
		{"packet of a server, UNSUBACK", 0, "b0 02 0001", protocol},
		{"packet of a server, PINGRESP", 0, "d0 00", protocol},
		{"PUBLISH with identifier 0, MQTT-2.2.1-3", plane.V5, "32 06 0001 61 0000 00", protocol},
		{"PUBLISH with identifier 0, 3.1.1 MQTT-2.3.1-1", plane.V311, "32 05 0001 61 0000", protocol},
		{"PUBLISH with DUP and QoS 0, MQTT-3.3.1-2", 0, "38 04 0001 61 00", malformed},
		{"PUBLISH with QoS 3, MQTT-3.3.1-4", 0, "36 06 0001 61 0001 00", malformed},
		{"PUBLISH to a filter, MQTT-3.3.2-2", 0, "30 04 0001 2b 00", malformed},
		{"PUBLISH to #, MQTT-3.3.2-2", 0, "30 06 0003 612f23 00", malformed},
		{"PUBLISH without a topic, §3.3.2.1", plane.V5, "30 03 0000 00", protocol},
		{"PUBLISH without a topic, 3.1.1 MQTT-4.7.3-1", plane.V311, "30 02 0000", malformed},
		{"PUBLISH with alias 0, MQTT-3.3.2-8", plane.V5, "30 07 0001 61 03 230000", mqtt.TopicAliasInvalid},
		{"PUBLISH with an alias that was never set", plane.V5, "30 06 0000 03 230001", protocol},
		{"PUBLISH with a response topic that is a filter, MQTT-3.3.2-14", plane.V5, "30 08 0001 61 04 0800012b", protocol},
		{"PUBLISH with a subscription identifier, MQTT-3.3.4-6", plane.V5, "30 06 0001 61 02 0b01", protocol},
		{"PUBLISH with a property twice, §2.2.2.2", plane.V5, "30 08 0001 61 04 0101 0101", protocol},
		{"PUBLISH with a property of CONNECT, §2.2.2.2", plane.V5, "30 07 0001 61 03 210001", malformed},
		{"PUBLISH with an unknown property, §2.2.2.2", plane.V5, "30 06 0001 61 02 0400", malformed},
		{"PUBLISH with properties that go on, §2.2.2.1", plane.V5, "30 04 0001 61 05", malformed},
		{"PUBLISH that ends in its topic", 0, "30 03 0002 61", malformed},
		{"PUBACK of identifier 0", 0, "40 02 0000", protocol},
		{"PUBACK that is too short", 0, "40 01 00", malformed},
		{"PUBACK with a reason of its own, MQTT-3.4.2-1", plane.V5, "40 03 0001 01", protocol},
		{"PUBREC with the reason of a PUBREL, MQTT-3.5.2-1", plane.V5, "50 03 0001 92", protocol},
		{"PUBREL without its flags, MQTT-3.6.1-1", 0, "60 02 0001", malformed},
		{"PUBREL with the reason of a PUBREC, MQTT-3.6.2-1", plane.V5, "62 03 0001 80", protocol},
		{"PUBCOMP with the reason of a PUBREC, MQTT-3.7.2-1", plane.V5, "70 03 0001 80", protocol},
		{"SUBSCRIBE without its flags, MQTT-3.8.1-1", 0, "80 06 0001 0001 61 00", malformed},
		{"SUBSCRIBE without a filter, MQTT-3.8.3-2", plane.V5, "82 03 0001 00", protocol},
		{"SUBSCRIBE without a filter, 3.1.1 MQTT-3.8.3-3", plane.V311, "82 02 0001", protocol},
		{"SUBSCRIBE with reserved options, MQTT-3.8.3-5", plane.V5, "82 07 0001 00 0001 61 80", malformed},
		{"SUBSCRIBE with options of 5.0, 3.1.1 MQTT-3.8.3-4", plane.V311, "82 06 0001 0001 61 04", malformed},
		{"SUBSCRIBE with QoS 3, §3.8.3.1", plane.V5, "82 07 0001 00 0001 61 03", protocol},
		{"SUBSCRIBE with retain handling 3, §3.8.3.1", plane.V5, "82 07 0001 00 0001 61 30", protocol},
		{"SUBSCRIBE with no local to a share, MQTT-3.8.3-4", plane.V5, "82 10 0001 00 000a 2473686172652f672f61 04", protocol},
		{"SUBSCRIBE with identifier 0, §3.8.2.1.2", plane.V5, "82 09 0001 02 0b00 0001 61 00", protocol},
		{"SUBSCRIBE that ends before its options, which panics mochi", plane.V5, "82 06 0001 00 0001 61", malformed},
		{"SUBSCRIBE to a#, MQTT-4.7.1-1", plane.V311, "82 07 0001 0002 6123 00", malformed},
		{"SUBSCRIBE to #/a, MQTT-4.7.1-1", plane.V311, "82 08 0001 0003 232f61 00", malformed},
		{"SUBSCRIBE to a+, MQTT-4.7.1-2", plane.V311, "82 07 0001 0002 612b 00", malformed},
		{"SUBSCRIBE to an empty filter, MQTT-4.7.3-1", plane.V311, "82 05 0001 0000 00", malformed},
		{"SUBSCRIBE to a share without a name, MQTT-4.8.2-1", plane.V311, "82 0e 0001 0009 2473686172652f2f61 00", protocol},
		{"SUBSCRIBE to a share with a wildcard, MQTT-4.8.2-2", plane.V311, "82 0f 0001 000a 2473686172652f2b2f61 00", protocol},
		{"UNSUBSCRIBE without its flags, MQTT-3.10.1-1", 0, "a0 05 0001 0001 61", malformed},
		{"UNSUBSCRIBE without a filter, MQTT-3.10.3-2", plane.V5, "a2 03 0001 00", protocol},
		{"PINGREQ with a body, §3.12.2", 0, "c0 01 00", malformed},
		{"DISCONNECT with flags, MQTT-3.14.1-1", 0, "e2 00", malformed},
		{"DISCONNECT with a reason of servers, MQTT-3.14.2-1", plane.V5, "e0 01 8b", protocol},
		{"DISCONNECT with a body, 3.1.1", plane.V311, "e0 01 00", malformed},
		{"AUTH with flags, MQTT-3.15.1-1", plane.V5, "f1 00", malformed},
		{"AUTH without a method, §4.12", plane.V5, "f0 00", protocol},
		{"AUTH of 3.1.1", plane.V311, "f0 00", protocol},
	}
	plays := make([]play, len(rows))
	for i, row := range rows {
		plays[i] = play{row.name, row.version, Options{}, func(s *scene) {
			s.open("well")
			s.subscribes("well", mqtt.QoS2, "#")
			s.open("bad")
			s.send("bad", row.frame, pub("late", "", mqtt.QoS0, 0)) // what comes later does not count
			s.ended("bad", row.want)
			s.quiet("well")
		}}
	}
	perform(t, plays)
}

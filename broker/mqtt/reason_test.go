package mqtt_test

import (
	"strings"
	"testing"

	"gatewayctl/broker/mqtt"
)

func TestReasonCodeNames(t *testing.T) {
	t.Parallel()
	defined := []byte{ // MQTT 5.0 §2.4, table 2-6
		0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19,
		0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F,
		0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F,
		0xA0, 0xA1, 0xA2,
	}
	names := map[string]byte{}
	for _, c := range defined {
		name := mqtt.ReasonCode(c).String()
		if other, twice := names[name]; twice || strings.HasPrefix(name, "reason code") {
			t.Errorf("ReasonCode(%#02x).String() = %q, which is no name or also that of %#02x", c, name, other)
		}
		names[name] = c
	}
	for c := range 256 {
		name := mqtt.ReasonCode(c).String()
		if _, known := names[name]; !known && !strings.HasPrefix(name, "reason code 0x") {
			t.Errorf("ReasonCode(%#02x).String() = %q", c, name)
		}
		if got, want := mqtt.ReasonCode(c).Failed(), c >= 0x80; got != want {
			t.Errorf("ReasonCode(%#02x).Failed() = %v, want %v", c, got, want)
		}
	}
	for code, name := range map[mqtt.ReasonCode]string{
		mqtt.NotAuthorized: "not authorized", mqtt.SessionTakenOver: "session taken over", mqtt.PacketTooLarge: "packet too large",
		mqtt.GrantedQoS0: "success", mqtt.ReasonCode(0x77): "reason code 0x77",
	} {
		if got := code.String(); got != name {
			t.Errorf("ReasonCode(%#02x).String() = %q, want %q", byte(code), got, name)
		}
	}
}

func TestConnectReturnCode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		reason mqtt.ReasonCode
		want   mqtt.ConnectReturnCode
		sent   bool
	}{
		{"accepted", mqtt.Success, 0, true},
		{"protocol version, 3.1.1 [MQTT-3.1.2-2]", mqtt.UnsupportedProtocolVersion, 1, true},
		{"identifier, 3.1.1 [MQTT-3.1.3-9]", mqtt.ClientIdentifierNotValid, 2, true},
		{"unavailable", mqtt.ServerUnavailable, 3, true},
		{"busy", mqtt.ServerBusy, 3, true},
		{"shutting down", mqtt.ServerShuttingDown, 3, true},
		{"too many connections", mqtt.QuotaExceeded, 3, true},
		{"too fast", mqtt.ConnectionRateExceeded, 3, true},
		{"credentials", mqtt.BadUserNameOrPassword, 4, true},
		{"not authorized", mqtt.NotAuthorized, 5, true},
		{"banned", mqtt.Banned, 5, true},
		{"malformed: closed without CONNACK, 3.1.1 [MQTT-3.2.2-6]", mqtt.MalformedPacket, 0, false},
		{"protocol error: closed without CONNACK, 3.1.1 [MQTT-3.2.2-6]", mqtt.ProtocolError, 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got, sent := tc.reason.ConnectReturnCode(); got != tc.want || sent != tc.sent {
				t.Errorf("%v.ConnectReturnCode() = %d, %v, want %d, %v", tc.reason, got, sent, tc.want, tc.sent)
			}
		})
	}
}

func TestSubscribeReturnCode(t *testing.T) {
	t.Parallel()
	for reason, want := range map[mqtt.ReasonCode]byte{
		mqtt.GrantedQoS0: 0, mqtt.GrantedQoS1: 1, mqtt.GrantedQoS2: 2,
		mqtt.NotAuthorized: 0x80, mqtt.TopicFilterInvalid: 0x80, mqtt.QuotaExceeded: 0x80, // MQTT 3.1.1 [MQTT-3.9.3-2]
	} {
		if got := reason.SubscribeReturnCode(); got != want {
			t.Errorf("%v.SubscribeReturnCode() = %#x, want %#x", reason, got, want)
		}
	}
}

func TestQoS(t *testing.T) {
	t.Parallel()
	for q, want := range map[mqtt.QoS]string{mqtt.QoS0: "0", mqtt.QoS1: "1", mqtt.QoS2: "2"} {
		if q.String() != want || !q.Valid() {
			t.Errorf("QoS %s is %v", q, q.Valid())
		}
	}
	if mqtt.QoS(3).Valid() { // [MQTT-3.3.1-4]
		t.Error("QoS 3 is valid")
	}
	if got := mqtt.QoS2.Min(mqtt.QoS1); got != mqtt.QoS1 { // [MQTT-3.8.4-8]
		t.Errorf("QoS2.Min(QoS1) = %v", got)
	}
}

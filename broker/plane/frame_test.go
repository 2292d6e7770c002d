package plane

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gatewayctl/broker/mqtt"
)

// parseFrame reads one whole frame.
func parseFrame(version byte, frame []byte) (Packet, error) {
	h, ok, err := ParseHeader(frame, 0)
	if err != nil {
		return nil, err
	}
	if !ok || len(frame) < h.Size {
		return nil, errors.New("frame is short")
	}
	return Parse(version, h, frame[h.Start:h.Size])
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// everything has one packet of each type with every field set.
func everything() []Packet {
	users := []mqtt.UserProperty{{Key: "a", Value: "1"}, {Key: "", Value: ""}, {Key: "a", Value: "2"}}
	m := mqtt.Message{
		Topic: "a/b", Payload: []byte("payload"), QoS: mqtt.QoS2, Retain: true, PayloadIsUTF8: true, ExpirySeconds: 7,
		ContentType: "text/plain", ResponseTopic: "r/t", CorrelationData: []byte{}, UserProperties: users,
	}
	return []Packet{
		&Connect{
			Version: V5, CleanStart: true, KeepAlive: 30, ClientID: "lamp", Will: &Will{DelaySeconds: 5, Message: m},
			HasUserName: true, UserName: "u", HasPassword: true, Password: Secret("p"), SessionExpirySeconds: 1 << 31,
			ReceiveMaximum: 10, MaximumPacketSize: 1000, TopicAliasMaximum: 3, RequestResponseInfo: true,
			NoProblemInfo: true, HasAuthMethod: true, AuthMethod: "m", AuthData: Secret("d"), UserProperties: users,
		},
		&Publish{Message: m, Dup: true, PacketID: 65535, TopicAlias: 9},
		&Publish{Message: mqtt.Message{Topic: "a", Payload: []byte{0xff}, PayloadIsBytes: true}},
		&Ack{Type: PUBACK, PacketID: 1, Reason: mqtt.QuotaExceeded, ReasonString: "why", UserProperties: users},
		&Ack{Type: PUBREC, PacketID: 2, Reason: mqtt.NotAuthorized},
		&Ack{Type: PUBREL, PacketID: 3, Reason: mqtt.PacketIdentifierNotFound, UserProperties: users},
		&Ack{Type: PUBCOMP, PacketID: 4},
		&Subscribe{PacketID: 5, ID: 268_435_455, UserProperties: users, Subscriptions: []Subscription{
			{Filter: "a/+/#", QoS: mqtt.QoS1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
			{Filter: "$share/g/a", QoS: mqtt.QoS2},
		}},
		&Unsubscribe{PacketID: 6, UserProperties: users, Filters: []mqtt.Filter{"a", "$share/g/#"}},
		&Ping{},
		&Disconnect{Reason: mqtt.DisconnectWithWillMessage, HasSessionExpiry: true, SessionExpirySeconds: 3, ReasonString: "why", UserProperties: users},
		&Auth{Reason: mqtt.ReAuthenticate, AuthMethod: "m", AuthData: Secret("d"), ReasonString: "why", UserProperties: users},
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range everything() {
		frame := want.Append([]byte("before"), V5)[len("before"):]
		got, err := parseFrame(V5, frame)
		if err != nil {
			t.Errorf("%T: %v", want, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%T changed on the way:\n%s", want, diff)
		}
		for n := range frame {
			if _, err := parseFrame(V5, frame[:n]); err == nil {
				t.Errorf("%T cut to %d of %d bytes was accepted", want, n, len(frame))
			}
			// The same cut with a fixed header that fits: a truncated packet rather than a short read.
			h, _, err := ParseHeader(frame, 0)
			if err != nil || n < h.Start {
				continue
			}
			if _, err := Parse(V5, h, frame[h.Start:n]); err == nil && h.Type != PUBLISH && !prefixIsValid(h.Type, n-h.Start) {
				t.Errorf("%T with a body of %d bytes instead of %d was accepted", want, n-h.Start, h.Size-h.Start)
			}
		}
	}
}

// prefixIsValid says where the standard lets a packet end early.
func prefixIsValid(t Type, body int) bool {
	switch t {
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return body == 2 || body == 3
	case DISCONNECT, AUTH:
		return body == 0 || body == 1
	case SUBSCRIBE, UNSUBSCRIBE:
		return true // after any whole filter
	}
	return false
}

func TestLengths(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 100, 127, 128, 129, 16_383, 16_384, 16_400, 2_097_151, 2_097_160} {
		want := &Publish{Message: mqtt.Message{Topic: "t", Payload: bytes.Repeat([]byte{'x'}, size)}}
		frame := want.Append(nil, V311)
		got, err := parseFrame(V311, frame)
		if err != nil {
			t.Errorf("payload of %d bytes: %v", size, err)
			continue
		}
		p := got.(*Publish)
		if p.Message.Topic != "t" || !bytes.Equal(p.Message.Payload, want.Message.Payload) {
			t.Errorf("payload of %d bytes changed", size)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	const (
		v4 = "00 04 4d515454 04"
		v5 = "00 04 4d515454 05"
	)
	for _, tc := range []struct {
		name    string
		version byte
		frame   string
		want    mqtt.ReasonCode
	}{
		{"packet type 0", V5, "00 00", mqtt.ProtocolError},
		{"CONNACK from a client", V5, "20 02 00 00", mqtt.ProtocolError},
		{"PINGRESP from a client with reserved flags", V5, "d1 00", mqtt.MalformedPacket},
		{"reserved flags of CONNECT", V5, "11 00", mqtt.MalformedPacket},
		{"reserved flags of SUBSCRIBE", V5, "80 00", mqtt.MalformedPacket},
		{"remaining length of five bytes", V5, "30 ffffffff7f", mqtt.MalformedPacket},
		{"remaining length longer than needed", V5, "c0 8000", mqtt.MalformedPacket},
		{"PINGREQ with a body", V5, "c0 01 00", mqtt.MalformedPacket},

		{"CONNECT of MQTT 3.1", 0, "10 0e 0006 4d5149736470 03 02 003c 0000", mqtt.UnsupportedProtocolVersion},
		{"CONNECT of MQTT 6", 0, "10 0c 0004 4d515454 06 02 003c 0000", mqtt.UnsupportedProtocolVersion},
		{"CONNECT of another protocol", 0, "10 0c 0004 4d515455 04 02 003c 0000", mqtt.MalformedPacket},
		{"CONNECT with the reserved flag", 0, "10 0c" + v4 + "03 003c 0000", mqtt.MalformedPacket},
		{"CONNECT with will QoS 3", 0, "10 12" + v4 + "1e 003c 0000 0001 61 0001 62", mqtt.MalformedPacket},
		{"CONNECT with will retain but no will", 0, "10 0c" + v4 + "22 003c 0000", mqtt.MalformedPacket},
		{"CONNECT with a password only, 3.1.1", 0, "10 0f" + v4 + "42 003c 0000 0001 61", mqtt.MalformedPacket},
		{"CONNECT with invalid UTF-8", 0, "10 0d" + v4 + "02 003c 0001 ff", mqtt.MalformedPacket},
		{"CONNECT with NUL in its identifier", 0, "10 0d" + v4 + "02 003c 0001 00", mqtt.MalformedPacket},
		{"CONNECT with DEL in its identifier, 3.1.1", 0, "10 0d" + v4 + "02 003c 0001 7f", mqtt.MalformedPacket},
		{"CONNECT with DEL in its identifier, 5.0", 0, "10 0e" + v5 + "02 003c 00 0001 7f", mqtt.ClientIdentifierNotValid},
		{"CONNECT with a control character in its user name", 0, "10 0f" + v4 + "82 003c 0000 0001 1f", mqtt.MalformedPacket},
		{"CONNECT with a control character in its will topic", 0, "10 12" + v4 + "06 003c 0000 0001 0a 0001 62", mqtt.MalformedPacket},
		{"CONNECT with bytes behind it", 0, "10 0d" + v4 + "02 003c 0000 00", mqtt.MalformedPacket},
		{"CONNECT with a will topic that is a filter", 0, "10 12" + v4 + "06 003c 0000 0001 23 0001 62", mqtt.MalformedPacket},
		{"CONNECT with a will without a topic", 0, "10 11" + v4 + "06 003c 0000 0000 0001 62", mqtt.ProtocolError},
		{"CONNECT with receive maximum 0", 0, "10 10" + v5 + "02 003c 03 210000 0000", mqtt.ProtocolError},
		{"CONNECT with maximum packet size 0", 0, "10 12" + v5 + "02 003c 05 2700000000 0000", mqtt.ProtocolError},
		{"CONNECT with a property given twice", 0, "10 13" + v5 + "02 003c 06 210001 210001 0000", mqtt.ProtocolError},
		{"CONNECT with a property of PUBLISH", 0, "10 10" + v5 + "02 003c 03 230001 0000", mqtt.MalformedPacket},
		{"CONNECT with an unknown property", 0, "10 10" + v5 + "02 003c 03 7f0001 0000", mqtt.MalformedPacket},
		{"CONNECT with authentication data only", 0, "10 11" + v5 + "02 003c 04 16000161 0000", mqtt.ProtocolError},
		{"CONNECT with request problem information 2", 0, "10 0f" + v5 + "02 003c 02 1702 0000", mqtt.ProtocolError},

		{"PUBLISH with QoS 3", V5, "36 05 0001 61 0001 00", mqtt.MalformedPacket},
		{"PUBLISH with DUP at QoS 0", V5, "38 04 0001 61 00", mqtt.MalformedPacket},
		{"PUBLISH with packet identifier 0", V5, "32 06 0001 61 0000 00", mqtt.ProtocolError},
		{"PUBLISH to a filter", V311, "30 03 0001 2b", mqtt.MalformedPacket},
		{"PUBLISH without topic", V311, "30 02 0000", mqtt.MalformedPacket},
		{"PUBLISH without topic and alias", V5, "30 03 0000 00", mqtt.ProtocolError},
		{"PUBLISH with topic alias 0", V5, "30 07 0001 61 03 230000", mqtt.TopicAliasInvalid},
		{"PUBLISH with a subscription identifier", V5, "30 06 0001 61 02 0b01", mqtt.ProtocolError},
		{"PUBLISH with a response topic that is a filter", V5, "30 08 0001 61 04 08000123", mqtt.ProtocolError},
		{"PUBLISH with half a subscription identifier", V5, "30 06 0001 61 02 0b80", mqtt.MalformedPacket},
		{"PUBLISH to U+0001", V5, "30 04 0001 01 00", mqtt.MalformedPacket},
		{"PUBLISH to U+009F", V5, "30 05 0002 c29f 00", mqtt.MalformedPacket},
		{"PUBLISH to U+FFFE", V311, "30 05 0003 efbfbe", mqtt.MalformedPacket},
		{"PUBLISH to U+FDD0", V311, "30 05 0003 efb790", mqtt.MalformedPacket},
		{"PUBLISH to U+1FFFF", V311, "30 06 0004 f09fbfbf", mqtt.MalformedPacket},
		{"PUBLISH to a surrogate", V311, "30 05 0003 eda080", mqtt.MalformedPacket},
		{"PUBLISH to a long topic with DEL", V311, "30 0c 000a 6162636465 66677f6162", mqtt.MalformedPacket},
		{"PUBLISH to a long topic with NUL", V311, "30 0c 000a 6162636465 6600676869", mqtt.MalformedPacket},
		{"PUBLISH with a control character in its response topic", V5, "30 08 0001 61 04 08000101", mqtt.MalformedPacket},
		{"PUBLISH with truncated properties", V5, "30 05 0001 61 04 08", mqtt.MalformedPacket},
		{"PUBLISH with an overlong property length", V5, "30 05 0001 61 8000", mqtt.MalformedPacket},
		{"PUBLISH with payload format 2", V5, "30 06 0001 61 02 0102", mqtt.ProtocolError},

		{"PUBACK with a reason of CONNACK", V5, "40 03 0001 85", mqtt.ProtocolError},
		{"PUBREL with a reason of PUBACK", V5, "62 03 0001 10", mqtt.ProtocolError},
		{"PUBACK of 3.1.1 with a reason", V311, "40 03 0001 00", mqtt.MalformedPacket},

		{"SUBSCRIBE that ends before its options", V5, "82 06 0001 00 0001 61", mqtt.MalformedPacket},
		{"SUBSCRIBE without a filter", V5, "82 03 0001 00", mqtt.ProtocolError},
		{"SUBSCRIBE with packet identifier 0", V311, "82 06 0000 0001 61 00", mqtt.ProtocolError},
		{"SUBSCRIBE with reserved options", V5, "82 07 0001 00 0001 61 40", mqtt.MalformedPacket},
		{"SUBSCRIBE of 3.1.1 with options of 5.0", V311, "82 06 0001 0001 61 04", mqtt.MalformedPacket},
		{"SUBSCRIBE with QoS 3", V5, "82 07 0001 00 0001 61 03", mqtt.ProtocolError},
		{"SUBSCRIBE with retain handling 3", V5, "82 07 0001 00 0001 61 30", mqtt.ProtocolError},
		{"SUBSCRIBE to a#", V5, "82 08 0001 00 0002 6123 00", mqtt.MalformedPacket},
		{"SUBSCRIBE with no local to a share", V5, "82 10 0001 00 000a 24736861 72652f67 2f61 04", mqtt.ProtocolError},
		{"SUBSCRIBE to a share without a name", V311, "82 0e 0001 0009 24736861 72652f2f 61 00", mqtt.ProtocolError},
		{"SUBSCRIBE to a share with a wildcard in its name", V311, "82 0f 0001 000a 24736861 72652f2b 2f61 00", mqtt.ProtocolError},
		{"SUBSCRIBE to a share without a filter", V311, "82 0d 0001 0008 24736861 72652f67 00", mqtt.ProtocolError},
		{"SUBSCRIBE to a share of an invalid filter", V311, "82 10 0001 000b 24736861 72652f67 2f6123 00", mqtt.MalformedPacket},
		{"SUBSCRIBE to U+007F", V5, "82 07 0001 00 0001 7f 00", mqtt.MalformedPacket},
		{"UNSUBSCRIBE from U+0001", V5, "a2 06 0001 00 0001 01", mqtt.MalformedPacket},
		{"SUBSCRIBE with subscription identifier 0", V5, "82 09 0001 02 0b00 0001 61 00", mqtt.ProtocolError},
		{"UNSUBSCRIBE without a filter", V5, "a2 03 0001 00", mqtt.ProtocolError},

		{"DISCONNECT with a server's reason", V5, "e0 01 8b", mqtt.ProtocolError},
		{"DISCONNECT of 3.1.1 with a body", V311, "e0 01 00", mqtt.MalformedPacket},
		{"AUTH of 3.1.1", V311, "f0 00", mqtt.ProtocolError},
		{"AUTH with another reason", V5, "f0 01 01", mqtt.ProtocolError},
	} {
		_, err := parseFrame(tc.version, unhex(t, tc.frame))
		var e *Error
		if !errors.As(err, &e) || e.Reason != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		version byte
		frame   string
	}{
		{"CONNECT with an empty will payload, §3.1.3.4", 0, "10 11 0004 4d515454 04 06 003c 0000 0001 61 0000"},
		{"CONNECT with a password only, MQTT 5.0 §3.1.2.9", 0, "10 10 0004 4d515454 05 42 003c 00 0000 0001 61"},
		{"PUBACK without reason", V5, "40 02 0001"},
		{"PUBACK with reason and without properties", V5, "40 03 0001 10"},
		{"DISCONNECT without anything", V5, "e0 00"},
		{"DISCONNECT with will", V5, "e0 01 04"},
		{"AUTH without anything", V5, "f0 00"},
		{"PUBLISH to what is not ASCII", V311, "30 0b 0009 c3a4 e29882 f09f9880"},
		{"PUBLISH to printable ASCII from end to end", V311, "30 0b 0009 20217e30 3132333435"},
		{"PUBLISH with a new line in a user property", V5, "30 0b 0001 61 07 26 0001 0a 0001 0d"},
		{"PUBLISH with an alias only", V5, "30 06 0000 03 230001"},
	} {
		if _, err := parseFrame(tc.version, unhex(t, tc.frame)); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestHeaderBounds(t *testing.T) {
	t.Parallel()
	// Too large is said as soon as the length is known, before the body is there.
	_, _, err := ParseHeader([]byte{0x30, 0x80, 0x80, 0x01}, 1000)
	var e *Error
	if !errors.As(err, &e) || e.Reason != mqtt.PacketTooLarge {
		t.Errorf("frame of 16 KiB under a limit of 1000 bytes: %v", err)
	}
	if _, ok, err := ParseHeader([]byte{0x30, 0x80}, 1000); ok || err != nil {
		t.Errorf("half a length: %v, %v, want to read on", ok, err)
	}
	h, ok, err := ParseHeader([]byte{0x30, 0xE6, 0x07}, 1001)
	if !ok || err != nil || h.Size != 3+998 || h.Start != 3 {
		t.Errorf("frame that just fits: %+v, %v, %v", h, ok, err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	c := everything()[0].(*Connect)
	c.Password = Secret("hunter2")
	for _, text := range []string{c.Password.String(), c.Password.GoString(), c.Password.LogValue().String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a password prints as %q", text)
		}
	}
}

func TestParsePublishDoesNotCopyPayloads(t *testing.T) {
	frame := (&Publish{Message: mqtt.Message{Topic: "a/b", Payload: make([]byte, 1000)}}).Append(nil, V5)
	h, _, err := ParseHeader(frame, 0)
	if err != nil {
		t.Fatal(err)
	}
	var p Publish
	if n := testing.AllocsPerRun(100, func() {
		if err := ParsePublish(V5, h.Flags, frame[h.Start:h.Size], &p); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("ParsePublish allocates %v times: more than its topic", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range everything() {
		f.Add(V5, p.Append(nil, V5))
		f.Add(V311, p.Append(nil, V311))
	}
	f.Add(V5, []byte{0x82, 0x06, 0x00, 0x01, 0x00, 0x00, 0x01, 0x61})
	f.Fuzz(func(t *testing.T, version byte, b []byte) {
		if version != V5 {
			version = V311
		}
		p, err := parseFrame(version, b)
		if err != nil {
			return
		}
		if c, ok := p.(*Connect); ok {
			version = c.Version
		}
		frame := p.Append(nil, version)
		again, err := parseFrame(version, frame)
		if err != nil {
			t.Fatalf("%+v was written as %x, which is refused: %v", p, frame, err)
		}
		if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%x changed on the way:\n%s", b, diff)
		}
		if twice := again.Append(nil, version); !bytes.Equal(frame, twice) {
			t.Fatalf("written twice: %x, then %x", frame, twice)
		}
	})
}

package mqttclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

// TestPublishIsWhatOthersRead: our PUBLISH and PUBACK mean to another codec what they mean to us.
func TestPublishIsWhatOthersRead(t *testing.T) {
	t.Parallel()
	for _, m := range []mqtt.Message{
		{Topic: "a"},
		{Topic: "a/b", Payload: []byte("x"), QoS: mqtt.QoS1},
		{Topic: "a", Payload: bytes.Repeat([]byte("y"), 200), QoS: mqtt.QoS1, Retain: true},
		{Topic: strings.Repeat("t", 65535), Payload: make([]byte, 70000), Retain: true},
		{Topic: "big", Payload: make([]byte, 3<<20), QoS: mqtt.QoS1},
	} {
		wire := appendPuback(appendPublish(nil, m, 4711), 815)
		r := bytes.NewReader(wire)
		p, err := packets.ReadPacket(r)
		if err != nil {
			t.Fatalf("topic of %d, payload of %d bytes: %v", len(m.Topic), len(m.Payload), err)
		}
		got := p.(*packets.PublishPacket)
		back := mqtt.Message{Topic: got.TopicName, Payload: got.Payload, QoS: mqtt.QoS(got.Qos), Retain: got.Retain}
		same := bytes.Equal(back.Payload, m.Payload)
		back.Payload, m.Payload = nil, nil
		if !same || !cmp.Equal(m, back) || got.Dup || m.QoS > 0 && got.MessageID != 4711 {
			t.Errorf("topic of %d, payload of %d bytes comes back different: %v", len(m.Topic), len(m.Payload), got.FixedHeader)
		}
		p, err = packets.ReadPacket(r)
		if ack, ok := p.(*packets.PubackPacket); err != nil || !ok || ack.MessageID != 815 || r.Len() > 0 {
			t.Errorf("PUBACK: %v, %v, %d bytes left", p, err, r.Len())
		}
	}
}

// feed lets a connection read bytes as if the broker had sent them.
func feed(wire []byte, s bridge.Session) (*conn, error) {
	cn := &conn{
		client:  &Client{url: &url.URL{Scheme: "mqtt", Host: "broker:1883"}, opts: Options{MaxPacket: 1 << 10}},
		r:       bufio.NewReaderSize(bytes.NewReader(wire), bufferBytes),
		session: s, started: time.Now(), wake: make(chan struct{}, 1),
		pending: map[uint16]func(error){1: func(error) {}}, suback: map[uint16]chan []byte{2: make(chan []byte, 1)},
	}
	return cn, cn.read(context.Background())
}

func TestMalformedPacketsEndTheConnection(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, hex, want string
	}{
		{"nothing", "", "closed the connection"},
		{"cut short", "30", "closed the connection"},
		{"remaining length of five bytes, §2.2.3", "30ffffffff01", "remaining length"},
		{"type 0", "0000", "unsupported packet type"},
		{"a CONNECT", "1000", "malformed"},
		{"a PUBREC", "50020001", "type 5"},
		{"a SUBSCRIBE", "8206000100016100", "type 8"},
		{"a long SUBACK", "90ffff7f", "with 2097151 bytes"},
		{"an empty SUBACK", "9000", "malformed packet: type 9"},
		{"a PUBACK of one byte", "400101", "type 4"},
		{"QoS 2", "340500016100010a", "QoS 2"},
		{"QoS 3", "360500016100010a", "QoS 3"},
		{"topic longer than the packet", "3003000261", "topic of 2 bytes in 3"},
		{"no packet identifier", "3203000161", "malformed PUBLISH"},
		{"empty topic", "30020000", "topic is empty"},
		{"wildcard in the topic [MQTT-3.3.2-2]", "300300012b", "wildcard"},
		{"topic is not UTF-8", "3003000180", "UTF-8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			wire, err := hex.DecodeString(tc.hex)
			if err != nil {
				t.Fatal(err)
			}
			_, err = feed(wire, bridge.Session{Message: func(context.Context, mqtt.Message, func()) { t.Error("a message was delivered") }})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("read = %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestTooLargeMessageIsSkipped(t *testing.T) {
	t.Parallel()
	large := mqtt.Message{Topic: "large", Payload: make([]byte, 1<<20), QoS: mqtt.QoS1}
	small := mqtt.Message{Topic: "small", Payload: []byte("x"), QoS: mqtt.QoS1}
	wire := appendPublish(appendPublish(nil, large, 5), small, 6)
	var got []string
	cn, err := feed(wire, bridge.Session{
		Message:  func(_ context.Context, m mqtt.Message, _ func()) { got = append(got, m.Topic) },
		TooLarge: func(topic string, n int) { got = append(got, "too "+topic) },
	})
	if !errors.Is(err, bridge.ErrClosed) || !errors.Is(err, io.EOF) {
		t.Errorf("read = %v", err)
	}
	if diff := cmp.Diff([]string{"too large", "small"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if want := appendPuback(nil, 5); !bytes.Equal(cn.out, want) {
		t.Errorf("answers % x, want % x: it must not come again", cn.out, want)
	}
}

func TestAcknowledgmentsLeaveInOrder(t *testing.T) {
	t.Parallel()
	var wire []byte
	for id := range uint16(4) {
		wire = appendPublish(wire, mqtt.Message{Topic: "a", QoS: mqtt.QoS1}, 10+id)
	}
	var acks []func()
	cn, _ := feed(wire, bridge.Session{Message: func(_ context.Context, _ mqtt.Message, ack func()) { acks = append(acks, ack) }})
	acks[2]()
	acks[1]()
	if len(cn.out) > 0 {
		t.Errorf("% x leaves before the first is acknowledged", cn.out)
	}
	acks[0]()
	acks[0]()
	acks[3]()
	var want []byte
	for id := range uint16(4) { // [MQTT-4.6.0-2]
		want = appendPuback(want, 10+id)
	}
	if !bytes.Equal(cn.out, want) {
		t.Errorf("PUBACKs % x, want % x", cn.out, want)
	}
}

// TestKeepAlive: an idle connection stays for as long as the broker answers, which hears from us
// more often than in one and a half times the keepalive time [MQTT-3.1.2-24], and ends within that
// time when it answers no more.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const keepAlive = 30 * time.Second
		ours, theirs := net.Pipe()
		var mute atomic.Bool
		var longest time.Duration
		ended := make(chan struct{})
		go func() { // the broker
			defer close(ended)
			for last := time.Now(); ; last = time.Now() {
				p, err := packets.ReadPacket(theirs)
				if err != nil {
					return
				}
				longest = max(longest, time.Since(last))
				if _, ok := p.(*packets.PingreqPacket); !ok {
					t.Errorf("the idle connection sends %v", p)
				}
				if !mute.Load() {
					_ = packets.NewControlPacket(packets.Pingresp).Write(theirs)
				}
			}
		}()
		cn := &conn{
			client: &Client{url: &url.URL{Scheme: "mqtt", Host: "broker:1883"}, opts: Options{KeepAlive: keepAlive, MaxPacket: 1 << 10}},
			nc:     ours, started: time.Now(), wake: make(chan struct{}, 1),
			session: bridge.Session{Connected: func(bridge.Link, []bridge.Grant) {}},
			pending: make(map[uint16]func(error)), suback: make(map[uint16]chan []byte),
		}
		cn.r = bufio.NewReader(hearing{cn})
		result := make(chan error, 1)
		go func() { result <- cn.serve(t.Context(), t.Context()) }()
		select {
		case err := <-result:
			t.Fatalf("the idle connection ends: %v", err)
		case <-time.After(time.Hour):
		}
		mute.Store(true)
		since := time.Now()
		err := <-result
		if took := time.Since(since); err == nil || !strings.Contains(err.Error(), "nothing was heard") || took > keepAlive {
			t.Errorf("serve = %v after %v of silence", err, took)
		}
		if <-ended; longest >= keepAlive {
			t.Errorf("the broker heard nothing for %v", longest)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add(appendPublish(nil, mqtt.Message{Topic: "a/b", Payload: []byte("x"), QoS: mqtt.QoS1}, 7))
	f.Add(appendPuback(nil, 1))
	f.Add([]byte{0x90, 3, 0, 2, 1, 0xD0, 0})
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, 'a'})
	f.Fuzz(func(t *testing.T, wire []byte) {
		_, err := feed(wire, bridge.Session{
			Message: func(_ context.Context, m mqtt.Message, ack func()) {
				if err := mqtt.ValidateTopic(m.Topic, 0); err != nil || m.QoS > mqtt.QoS1 {
					t.Errorf("delivers %+v: %v", m, err)
				}
				ack()
			},
			TooLarge: func(string, int) {},
		})
		if err == nil {
			t.Error("read ends without an error")
		}
	})
}

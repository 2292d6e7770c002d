package simdevice_test

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"gatewayctl/gateway/simdevice"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestConnects(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	p := b.connected(2)
	if want := []string{"esp32_A1B2C3/rpc/#", "esp32_A1B2C3/rpc"}; !slices.Equal(p.filters, want) {
		t.Errorf("subscribes to %q, want %q", p.filters, want)
	}
	c := p.connect
	if c.ProtocolVersion != 4 || c.ClientIdentifier != "esp32_A1B2C3" || !c.CleanSession || c.WillFlag || c.UsernameFlag || c.Keepalive != 60 {
		t.Errorf("CONNECT %+v", c)
	}
}

func TestReconnects(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	b.connected(2).conn.Close()
	b.accept(packets.ErrRefusedNotAuthorised)
	b.accept(packets.ErrRefusedServerUnavailable)
	p := b.connected(2)
	if got := p.call("RPC.Ping", ""); !strings.Contains(got, "channel_info") {
		t.Errorf("after reconnecting: %s", got)
	}
	p.publish("esp32_A1B2C3/rpc/RPC.Ping", strings.Repeat("x", 3072), 0) // more than recv_mbuf_limit
	if p.gone() {
		t.Error("says goodbye when its receive buffer is full")
	}
	b.connected(2)
}

func TestGoodbye(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := simdevice.Config{ID: "esp32_A1B2C3", Address: l.Addr().String()}
	quicken(&cfg)
	b := &bench{t: t, l: l}
	stop := runDevice(t, simdevice.New(cfg))
	p := b.connected(2)
	p.call("RPC.Ping", "")
	stop()
	if !p.gone() {
		t.Error("ends without DISCONNECT")
	}
}

// TestRequests covers what reference §2.1 says of topics and frames.
func TestRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	p := b.connected(2)
	for _, silent := range []struct{ topic, payload string }{
		{"esp32_A1B2C3/rpc", `{"id":1,"method":"GPIO.Toggle","params":{"pin":9}}`}, // no src
		{"esp32_A1B2C3/rpc", `{"id":1,"src":"gw"}`},
		{"esp32_A1B2C3/rpc", `not JSON`},
		{"esp32_A1B2C3/rpc/GPIO.Toggle", `{"id":1,"src":"gw","dst":"other","params":{"pin":9}}`},
		{"esp32_A1B2C3/rpc/GPIO.Toggle", ``},
		{"esp32_A1B2C3/rpc/GPIO.Toggle", `{"id":1,"src":"gw/#","params":{"pin":8}}`}, // no topic to answer to
		{"esp32_A1B2C3/other", `{"id":1,"src":"gw","method":"GPIO.Toggle","params":{"pin":9}}`},
		{"esp32_A1B2C3/rpc", `{"id":1,"src":"gw","result":null}`},
	} {
		p.publish(silent.topic, silent.payload, 1)
	}
	if got := p.call("GPIO.Read", `{"pin":9}`); got != `{"value":0}` {
		t.Errorf("a frame that must be dropped was run: %s", got)
	}
	p.publish("esp32_A1B2C3/rpc/GPIO.Toggle", `{"id":1,"params":{"pin":10}}`, 1) // run, the answer is lost
	p.publish("esp32_A1B2C3/rpc/GPIO.Toggle", `{"src":"gw","params":{"pin":11}}`, 1)
	if got := p.call("GPIO.Read", `{"pin":10}`) + p.call("GPIO.Read", `{"pin":11}`); got != `{"value":1}{"value":1}` {
		t.Errorf("a notification was not run: %s", got)
	}

	// The method of the topic wins, args are params, the tag comes back, a text id of digits becomes a number.
	p.publish("esp32_A1B2C3/rpc/GPIO.Read", `{"id":"12","src":"a/b","dst":"esp32_A1B2C3","method":"Sys.Reboot","args":{"pin":1},"tag":"t"}`, 1)
	if a := p.answered("a/b"); string(a.ID) != "12" || a.Tag != "t" || a.Src != "esp32_A1B2C3" || a.Dst != "a/b" || string(a.Result) != `{"value":0}` {
		t.Errorf("answer %+v", a)
	}
	p.publish("esp32_A1B2C3/rpc/GPIO.Write", `{"id":"x1","src":"gw","params":{"pin":1,"value":1}}`, 2)
	if ack, ok := p.read().(*packets.PubackPacket); !ok || ack.MessageID != 7 {
		t.Errorf("QoS 2 is answered with %v, not with PUBACK", ack)
	}
	if a := p.answered("gw"); string(a.ID) != `"x1"` || string(a.Result) != "null" {
		t.Errorf("answer %+v", a)
	}
	if got := p.call("No.Such", ""); got != "404: No handler for No.Such" {
		t.Errorf("unknown method: %s", got)
	}
}

// TestRunsTwice is defect 1 of reference §9.
func TestRunsTwice(t *testing.T) {
	t.Parallel()
	toggle := `{"id":5,"src":"gw","method":"GPIO.Toggle","params":{"pin":3}}`
	for _, tc := range []struct {
		name string
		once bool
		want string
	}{{"firmware of today", false, `{"value":1}{"value":0}`}, {"old firmware", true, `{"value":1}`}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, simdevice.Config{SingleDelivery: tc.once})
			p := b.connected(2)
			p.publish("esp32_A1B2C3/rpc", toggle, 1)
			got := string(p.answered("gw").Result)
			if !tc.once {
				got += string(p.answered("gw").Result)
			}
			if got != tc.want || len(p.other) > 0 {
				t.Errorf("%s and %d more messages, want %s", got, len(p.other), tc.want)
			}
			p.publish("esp32_A1B2C3/rpc/GPIO.Toggle", toggle, 1)
			p.answered("gw")
			if again := p.call("GPIO.ReadOut", `{"pin":3}`); again != map[bool]string{false: `{"value":1}`, true: `{"value":0}`}[tc.once] {
				t.Errorf("a request on rpc/<Method> did not run once: %s", again)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	p := b.connected(2)
	ping := func() { p.publish("esp32_A1B2C3/rpc/GPIO.Toggle", `{"id":50,"src":"gw","params":{"pin":3}}`, 1) }

	b.dev.SetFaults(simdevice.Faults{WrongID: true})
	ping()
	if a := p.answered("gw"); string(a.ID) == "50" {
		t.Error("the id is right")
	}
	b.dev.SetFaults(simdevice.Faults{Garbage: true})
	ping()
	if m := p.message(); m.TopicName != "gw/rpc" || json.Valid(m.Payload) {
		t.Errorf("%s is no garbage", m.Payload)
	}
	b.dev.SetFaults(simdevice.Faults{Silent: true})
	ping()
	b.dev.SetFaults(simdevice.Faults{})
	// Faults are looked at when the answer leaves: the silent call may have been answered if it came late.
	p.call("RPC.Ping", "")

	b.dev.SetFaults(simdevice.Faults{Slow: 50 * time.Millisecond})
	start := time.Now()
	ping()
	if p.answered("gw"); time.Since(start) < 50*time.Millisecond {
		t.Errorf("slow answer after %v", time.Since(start))
	}
}

func TestTelemetry(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{Telemetry: 5 * time.Millisecond})
	p := b.connected(2)
	for want := 1; want <= 3; want++ {
		m := p.message()
		var got struct {
			ID  string
			Seq int
		}
		if err := json.Unmarshal(m.Payload, &got); err != nil || m.TopicName != "esp32_A1B2C3/data" || got.ID != "esp32_A1B2C3" || want == 1 && got.Seq > 5 {
			t.Errorf("message %s on %s", m.Payload, m.TopicName)
		}
	}
}

func TestConfigRefused(t *testing.T) {
	t.Parallel()
	for _, cfg := range []simdevice.Config{
		{},
		{ID: "a/b", Address: "127.0.0.1:1"},
		{ID: "a", Address: "127.0.0.1"},
		{ID: "a", Address: "127.0.0.1:1", Kind: "toaster"},
	} {
		if err := simdevice.New(cfg).Run(t.Context()); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestReboot(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	p := b.connected(2)
	p.call("GPIO.Write", `{"pin":4,"value":1}`)
	p.call("FS.Put", `{"filename":"kept.txt","data":"aGk="}`)
	if got := p.call("Sys.Reboot", `{"delay_ms":20}`); got != "null" {
		t.Errorf("Sys.Reboot: %s", got)
	}
	if p.gone() {
		t.Error("a device that restarts says goodbye")
	}
	p = b.connected(2)
	if got := p.call("GPIO.Read", `{"pin":4}`); got != `{"value":0}` {
		t.Errorf("RAM survives a reset: %s", got)
	}
	if got := p.field("FS.Get", `{"filename":"kept.txt"}`, "data"); got != "aGk=" {
		t.Errorf("flash does not survive a reset: %s", got)
	}
}

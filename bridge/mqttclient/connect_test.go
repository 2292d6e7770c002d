package mqttclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatewayctl/bridge"
	"gatewayctl/bridge/mqttclient"
	"gatewayctl/bridge/mqttclient/mosquittotest"
	"gatewayctl/broker/mqtt"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	junk, empty := file("junk", "junk"), file("empty", "\n")
	missing := filepath.Join(dir, "missing")
	for _, tc := range []struct {
		name, url, id string
		opts          mqttclient.Options
		want          string
	}{
		{"AWS", "aws://x-ats.iot.eu-central-1.amazonaws.com", "id", mqttclient.Options{}, "AWS IoT Core is not offered as an upstream yet"},
		{"another scheme", "http://x", "id", mqttclient.Options{}, "write mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"},
		{"no scheme", "broker:1883", "id", mqttclient.Options{}, "write mqtt://HOST"},
		{"no URL", "mqtt://%zz", "id", mqttclient.Options{}, "invalid URL escape"},
		{"no host", "mqtt://:1883", "id", mqttclient.Options{}, "has no host"},
		{"credentials", "mqtt://joe:secret@x", "id", mqttclient.Options{}, "write it as username"},
		{"path", "mqtt://x/y", "id", mqttclient.Options{}, "more than a host and a port"},
		{"no client id", "mqtt://x", "", mqttclient.Options{}, "client_id"},
		{"long keepalive", "mqtt://x", "id", mqttclient.Options{KeepAlive: time.Minute}, "write 1s to 30s"},
		{"ca without TLS", "mqtt://x", "id", mqttclient.Options{CA: junk}, "write mqtts://"},
		{"ca missing", "mqtts://x", "id", mqttclient.Options{CA: missing}, "ca: open " + missing},
		{"ca is junk", "mqtts://x", "id", mqttclient.Options{CA: junk}, "holds no certificate"},
		{"cert without key", "mqtts://x", "id", mqttclient.Options{Cert: junk}, "one of them is missing"},
		{"cert is junk", "mqtts://x", "id", mqttclient.Options{Cert: junk, Key: junk}, "cert " + junk},
		{"password missing", "mqtt://x", "id", mqttclient.Options{Username: "u", PasswordFile: missing}, "password_file: open"},
		{"password empty", "mqtt://x", "id", mqttclient.Options{Username: "u", PasswordFile: empty}, "0 bytes"},
		{"password without user", "mqtt://x", "id", mqttclient.Options{PasswordFile: junk}, "needs a username"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := mqttclient.New(tc.url, tc.id, tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("New = %v, want %q in it", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bridge.Description{
		"mqtt://Broker":         {Address: "mqtt://Broker:1883", Broker: "broker:1883"},
		"mqtts://broker/":       {Address: "mqtts://broker:8883", Broker: "broker:8883"},
		"mqtts://[2001:db8::1]": {Address: "mqtts://[2001:db8::1]:8883", Broker: "[2001:db8::1]:8883"},
		"mqtt://broker:1":       {Address: "mqtt://broker:1", Broker: "broker:1"},
	} {
		if got := newClient(t, url, mqttclient.Options{}).Describe(); got != want {
			t.Errorf("Describe of %s = %+v, want %+v", url, got, want)
		}
	}
}

// script is a broker that does to its first connection what the test says.
func script(t *testing.T, serve func(c net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		serve(c)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "mqtt://" + l.Addr().String()
}

// answer reads the CONNECT and answers with bytes.
func answer(c net.Conn, wire ...byte) {
	_, _ = c.Read(make([]byte, 1024))
	_, _ = c.Write(wire)
}

func runOnce(t *testing.T, url string, opts mqttclient.Options, s bridge.Session) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.Connected == nil {
		s.Connected = func(bridge.Link, []bridge.Grant) {}
	}
	err := newClient(t, url, opts).Run(ctx, s)
	if err == nil {
		t.Fatal("Run does not end within a minute")
	}
	return err
}

func TestConnectFails(t *testing.T) {
	t.Parallel()
	const silent = time.Second
	wait := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	for _, tc := range []struct {
		name   string
		serve  func(net.Conn)
		tls    bool
		want   string
		silent bool // the broker does not say what is waited for
	}{
		{"protocol version", func(c net.Conn) { answer(c, 0x20, 2, 0, 1) }, false, "does not speak MQTT 3.1.1", false},
		{"client id", func(c net.Conn) { answer(c, 0x20, 2, 0, 2) }, false, "set client_id", false},
		{"unavailable", func(c net.Conn) { answer(c, 0x20, 2, 0, 3) }, false, "not available", false},
		{"credentials", func(c net.Conn) { answer(c, 0x20, 2, 0, 4) }, false, "check username and password_file", false},
		{"not authorized", func(c net.Conn) { answer(c, 0x20, 2, 0, 5) }, false, "not authorized", false},
		{"a code of AWS", func(c net.Conn) { answer(c, 0x20, 2, 0, 7) }, false, "return code 7", false},
		{"something else", func(c net.Conn) { answer(c, []byte("HTTP/1.1 400\r\n")...) }, false, "is this an MQTT broker?", false},
		{"hangs up", func(c net.Conn) { answer(c) }, false, "instead of answering CONNECT", false},
		{"says nothing", wait, false, "no answer within 1s", true},
		{"says nothing to TLS", wait, true, "no answer within 1s", true},
		{"does not speak TLS", func(c net.Conn) { answer(c, []byte("HTTP/1.1 400 Bad Request\r\n")...) }, true, "mqtt:// for none", false},
		{"no SUBACK", func(c net.Conn) { answer(c, 0x20, 2, 0, 0); wait(c) }, false, "subscribe at", true},
		{"too many codes in the SUBACK", func(c net.Conn) {
			answer(c, 0x20, 2, 0, 0)
			answer(c, 0x90, 4, 0, 1, 1, 1)
			wait(c)
		}, false, "2 answers to 1 filters", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			url := script(t, tc.serve)
			if tc.tls {
				url = strings.Replace(url, "mqtt:", "mqtts:", 1)
			}
			opts := mqttclient.Options{}
			if tc.silent {
				opts.Timeout = silent
			}
			err := runOnce(t, url, opts, bridge.Session{
				Subscriptions: []bridge.Subscription{{Filter: "a", QoS: mqtt.QoS1}},
			})
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), url) {
				t.Errorf("Run = %v, want %q and the url in it", err, tc.want)
			}
			if errors.Is(err, bridge.ErrClosed) {
				t.Errorf("Run = %v: the connection never was up", err)
			}
		})
	}
}

// TestSilenceIsNoticed: a broker that stops answering without closing the connection, while the
// writer is stuck. How soon it is noticed is TestKeepAlive's business.
func TestSilenceIsNoticed(t *testing.T) {
	t.Parallel()
	b := mosquittotest.Start(t, mosquittotest.Config{})
	err := runOnce(t, b.URL(), mqttclient.Options{KeepAlive: time.Second}, bridge.Session{
		Connected: func(l bridge.Link, _ []bridge.Grant) {
			b.Freeze()
			for range 16 { // more than the socket takes, so that the writer is stuck as well
				l.Publish(mqtt.Message{Topic: "a", Payload: make([]byte, 1<<20), QoS: mqtt.QoS1}, func(error) {})
			}
		},
	})
	if !strings.Contains(err.Error(), "nothing was heard") || errors.Is(err, bridge.ErrClosed) {
		t.Errorf("Run = %v, want that nothing was heard", err)
	}
}

// TestRenewedFilesAreUsed: the password is read again for every connection.
func TestRenewedFilesAreUsed(t *testing.T) {
	t.Parallel()
	b := mosquittotest.Start(t, mosquittotest.Config{Users: map[string]string{"u": "right"}})
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	c := newClient(t, b.URL(), mqttclient.Options{Username: "u", PasswordFile: file})
	run := func() error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		return c.Run(ctx, bridge.Session{Connected: func(bridge.Link, []bridge.Grant) { cancel() }})
	}
	if err := run(); err == nil || strings.Contains(fmt.Sprint(err), "wrong,") {
		t.Errorf("Run with the wrong password = %v", err)
	}
	write("right\r\n")
	if err := run(); err != nil {
		t.Errorf("Run with the renewed password = %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "password_file") {
		t.Errorf("Run without the password file = %v", err)
	}
}

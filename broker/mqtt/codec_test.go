package mqtt_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/broker/mqtt"
	"gatewayctl/pki/identity"
)

var update = flag.Bool("update", false, "rewrite the golden records")

func device(t testing.TB, name string) identity.DeviceID {
	t.Helper()
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func records(t testing.TB) map[string]mqtt.Message {
	return map[string]mqtt.Message{
		"bare":  {Topic: "a"},
		"qos1":  {Topic: "pump-7/data", Payload: []byte("42"), QoS: mqtt.QoS1, Publisher: mqtt.Publisher{ClientID: "pump-7", Device: device(t, "pump-7")}},
		"flags": {Topic: "pump-7/online", Payload: []byte("true"), QoS: mqtt.QoS2, Retain: true, PayloadIsUTF8: true},
		"bytes": {Topic: "a", Payload: []byte{0xFF}, PayloadIsBytes: true}, // said, as apart from left open
		"empty-correlation": {
			Topic: "a", CorrelationData: []byte{}, // present though empty, §3.3.2.3.6
		},
		"bridge": {Topic: "site/cmd", Payload: []byte{0, 0xFF}, Publisher: mqtt.Publisher{Origin: "bridge:cloud"}},
		"everything": {
			Topic: "Zähler/温度", Payload: []byte(`{"t":21}`), QoS: mqtt.QoS1, Retain: true, PayloadIsUTF8: true,
			ExpirySeconds: 0xFFFFFFFF, ContentType: "application/json", ResponseTopic: "gw/rpc-resp/1", CorrelationData: []byte{1, 2, 3},
			UserProperties: []mqtt.UserProperty{{Key: "b", Value: "2"}, {Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {}},
			Publisher:      mqtt.Publisher{ClientID: "pump-7#2", Device: device(t, "pump-7"), Origin: "rpc"},
		},
		"long": {Topic: strings.Repeat("x", 300), Payload: bytes.Repeat([]byte{7}, 300)},
	}
}

// TestRecordFormat keeps the bytes on disk as they are: a record written by an older version
// must stay readable.
func TestRecordFormat(t *testing.T) {
	t.Parallel()
	for name, m := range records(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("testdata", "records", name)
			got := mqtt.AppendMessage(nil, m)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("AppendMessage(%+v) =\n%x, want\n%x", m, got, want)
			}
			if back, err := mqtt.ParseMessage(want); err != nil || !cmp.Equal(back, m) {
				t.Errorf("ParseMessage: %v\n%s", err, cmp.Diff(m, back))
			}
		})
	}
}

func TestRecordByteByByte(t *testing.T) {
	t.Parallel()
	m := mqtt.Message{
		Topic: "t/1", Payload: []byte("pay"), QoS: mqtt.QoS1, Retain: true, ExpirySeconds: 60,
		UserProperties: []mqtt.UserProperty{{Key: "k", Value: ""}}, Publisher: mqtt.Publisher{Device: device(t, "d")},
	}
	want := "\x01" + "\x15" + "\x05" + "\x03t/1" + "\x00\x00\x00\x3c" + "\x01\x01k\x00" + "\x01d" + "pay"
	if got := string(mqtt.AppendMessage(nil, m)); got != want {
		t.Errorf("AppendMessage = %x, want %x", got, want)
	}
	if got := string(mqtt.AppendMessage([]byte("before"), m)); got != "before"+want {
		t.Errorf("AppendMessage does not append: %q", got)
	}
}

func TestParseMessageRefuses(t *testing.T) {
	t.Parallel()
	for name, record := range map[string]string{
		"nothing":                       "",
		"header cut":                    "\x01\x00",
		"version 0":                     "\x00\x00\x00\x01a",
		"version of a newer program":    "\x02\x00\x00\x01a",
		"QoS 3":                         "\x01\x03\x00\x01a",
		"reserved flag":                 "\x01\x00\x20\x01a",
		"payload formats 0 and 1":       "\x01\x08\x10\x01a",
		"no topic":                      "\x01\x00\x00",
		"topic cut":                     "\x01\x00\x00\x05a",
		"length not in shortest form":   "\x01\x00\x00\x81\x00a",
		"length beyond 64 bits":         "\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
		"length beyond the record":      "\x01\x00\x00\xff\xff\xff\xff\x0f",
		"expiry cut":                    "\x01\x10\x00\x01a\x00\x00",
		"expiry 0":                      "\x01\x10\x00\x01a\x00\x00\x00\x00",
		"empty content type":            "\x01\x20\x00\x01a\x00",
		"no user properties":            "\x01\x00\x01\x01a\x00",
		"user properties cut":           "\x01\x00\x01\x01a\x02\x01k\x01v",
		"more properties than bytes":    "\x01\x00\x01\x01a\xff\xff\x03xx",
		"device that is no device name": "\x01\x00\x04\x01a\x02a/",
		"empty origin":                  "\x01\x00\x08\x01a\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if m, err := mqtt.ParseMessage([]byte(record)); !errors.Is(err, mqtt.ErrRecord) {
				t.Errorf("ParseMessage(%x) = %+v, %v, want ErrRecord", record, m, err)
			}
		})
	}
}

func addSeeds(f *testing.F, dir string) {
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds in %s: %v", dir, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

func FuzzParseMessage(f *testing.F) {
	addSeeds(f, "testdata/records")
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := mqtt.ParseMessage(b)
		if err != nil {
			if !cmp.Equal(m, mqtt.Message{}) {
				t.Errorf("ParseMessage(%x) fails with %v and still returns %+v", b, err, m)
			}
			return
		}
		if again := mqtt.AppendMessage(nil, m); !bytes.Equal(again, b) {
			t.Errorf("ParseMessage(%x) is written back as %x", b, again)
		}
	})
}

func BenchmarkAppendMessage(b *testing.B) {
	m, buf := records(b)["qos1"], make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = mqtt.AppendMessage(buf[:0], m)
	}
}

func BenchmarkParseMessage(b *testing.B) {
	record := mqtt.AppendMessage(nil, records(b)["qos1"])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := mqtt.ParseMessage(record); err != nil {
			b.Fatal(err)
		}
	}
}

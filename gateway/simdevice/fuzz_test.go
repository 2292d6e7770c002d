package simdevice

import (
	"bytes"
	"context"
	"testing"

	"gatewayctl/firmware"
)

// FuzzInstall compares the device's reader of bundles with the gateway's: what the gateway takes
// for fit to be sent, a device installs, and as the version that the gateway expects.
func FuzzInstall(f *testing.F) {
	good, err := firmware.BuildBundle(firmware.BundleSpec{Name: "demo", Platform: "esp32", Version: "2.0.0", BuildID: "b2",
		Parts: []firmware.BundlePart{{Name: "app", Data: []byte("app")}, {Name: "fs", Type: "fs", Data: []byte("fs")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &bundleReader{r: bytes.NewReader(data), arch: "esp32", progress: func(string, int) {}}
		s, err := r.install()
		b, gatewayErr := firmware.OpenBundle(bytes.NewReader(data), int64(len(data)), firmware.Limits{MaxUnpackedBytes: 1 << 20})
		if gatewayErr != nil || !b.Streamable() || b.Manifest.Platform != "esp32" {
			return
		}
		if err != nil || s.version != b.Manifest.Version || s.buildID != b.Manifest.BuildID {
			t.Errorf("the device reads version %q build %q (%v), the gateway %+v", s.version, s.buildID, err, b.Manifest)
		}
	})
}

// FuzzRequest gives a device any message on its topics.
func FuzzRequest(f *testing.F) {
	for _, seed := range []struct{ method, payload string }{
		{"", `{"id":7,"src":"gw","method":"Config.Get","params":{"key":"device"}}`},
		{"Config.Set", `{"id":"7","src":"gw","params":{"config":{"debug":{"level":3}},"save":true}}`},
		{"Config.Set", `{"id":7,"src":"gw","params":{"key":"mqtt.enable","value":false}}`},
		{"FS.Put", `{"id":7,"src":"gw","args":{"filename":"a","data":"aGk=","offset":1}}`},
		{"FS.Get", `{"id":7,"src":"gw","params":{"filename":"ca.pem","offset":1,"len":1}}`},
		{"I2C.WriteRegW", `{"id":7,"src":"gw","params":{"addr":72,"reg":255,"value":1}}`},
		{"OTA.Begin", `{"id":7,"src":"gw","params":{"timeout":600}}`},
		{"OTA.Write", `{"id":7,"src":"gw","params":{"data":"UEsDBA=="}}`},
		{"OTA.End", `{"id":7,"src":"gw"}`},
		{"Sys.Reboot", `{"id":7,"src":"gw","params":{"delay_ms":5}}`},
	} {
		f.Add(seed.method, []byte(seed.payload))
	}
	f.Fuzz(func(t *testing.T, method string, payload []byte) {
		d := New(Config{ID: "lamp", Address: "127.0.0.1:1"})
		ctx, cancel := context.WithCancelCause(context.Background())
		b := d.boot()
		b.reset = cancel
		b.handle(ctx, method, payload)
		b.handle(ctx, "OTA.End", []byte(`{"id":1,"src":"gw"}`))
		b.handle(ctx, "Config.Save", []byte(`{"id":1,"src":"gw"}`))
		cancel(nil)
		b.wg.Wait()
		if d.boot() == nil {
			t.Error("the device does not boot any more")
		}
	})
}

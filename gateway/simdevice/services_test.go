package simdevice_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"gatewayctl/gateway/simdevice"
)

// step is a call and its answer; a want that ends in … is a beginning.
type step struct{ method, params, want string }

func (p *peer) steps(steps []step) {
	p.t.Helper()
	for _, s := range steps {
		got := p.call(s.method, s.params)
		if prefix, ok := strings.CutSuffix(s.want, "…"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != s.want {
			p.t.Errorf("%s %s = %s, want %s", s.method, s.params, got, s.want)
		}
	}
}

func TestSys(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{App: "lamp", Arch: "esp8266", Version: "1.2.3", BuildID: "b1", MAC: "A0B1C2A1B2C3"})
	p := b.connected(2)
	var info map[string]any
	if err := json.Unmarshal([]byte(p.call("Sys.GetInfo", "")), &info); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{"id": "esp32_A1B2C3", "app": "lamp", "arch": "esp8266", "fw_version": "1.2.3", "fw_id": "b1", "mac": "A0B1C2A1B2C3"} {
		if info[k] != want {
			t.Errorf("Sys.GetInfo: %s = %v, want %v", k, info[k], want)
		}
	}
	var names []string
	if err := json.Unmarshal([]byte(p.call("RPC.List", "")), &names); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"RPC.List", "RPC.Describe", "RPC.Ping", "Sys.GetInfo", "Sys.Reboot", "Sys.SetDebug", "Config.Get", "Config.Set", "Config.Save",
		"FS.List", "FS.ListExt", "FS.Get", "FS.Put", "FS.Remove", "FS.Rename", "GPIO.Read", "GPIO.ReadOut", "GPIO.Write", "GPIO.Toggle", "GPIO.Blink",
		"GPIO.SetIntHandler", "I2C.Scan", "OTA.Status", "OTA.Begin", "OTA.Write", "OTA.End", "OTA.Update", "OTA.Commit", "OTA.Revert", "OTA.GetBootState"} {
		if !slices.Contains(names, want) {
			t.Errorf("RPC.List has no %s", want)
		}
	}
	p.steps([]step{
		{"RPC.Describe", `{"name":"GPIO.Read"}`, `{"args_fmt":"{pin: %d}","name":"GPIO.Read"}`},
		{"RPC.Describe", `{"name":"No.Such"}`, `404: name not found`},
		{"Sys.SetDebug", `{"level":3}`, `null`},
		{"Sys.Reboot", `{"delay_ms":"x"}`, `400: invalid arguments`},
		{"GPIO.Read", `[]`, `400: invalid arguments`},
	})
}

func TestGPIO(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	b.connected(2).steps([]step{
		{"GPIO.Read", `{"pin":2}`, `{"value":0}`},
		{"GPIO.Write", `{"pin":2,"value":1}`, `null`},
		{"GPIO.ReadOut", `{"pin":2}`, `{"value":1}`},
		{"GPIO.Toggle", `{"pin":2}`, `{"value":0}`},
		{"GPIO.Toggle", `{"pin":2}`, `{"value":1}`},
		{"GPIO.Blink", `{"pin":2,"on_ms":3600000,"off_ms":1}`, `null`},
		{"GPIO.Read", `{"pin":2}`, `{"value":1}`},
		{"GPIO.Blink", `{"pin":2,"on_ms":0,"off_ms":0}`, `null`},
		{"GPIO.Read", `{}`, `400: pin is required`},
		{"GPIO.Write", `{"pin":2}`, `400: pin and value are required`},
		{"GPIO.Write", `{"pin":2,"value":2}`, `400: invalid value`},
		{"GPIO.Read", `{"pin":99}`, `400: invalid pin`},
		{"GPIO.SetIntHandler", `{"pin":2,"edge":"any","pull":"up"}`, `null`},
		{"GPIO.SetIntHandler", `{"pin":2,"edge":"sideways"}`, `400: invalid edge`},
		{"GPIO.RemoveIntHandler", `{"pin":2}`, `null`},
		{"I2C.Scan", ``, `[72,104]`},
		{"I2C.WriteRegW", `{"addr":72,"reg":1,"value":4660}`, `null`},
		{"I2C.ReadRegW", `{"addr":72,"reg":1}`, `{"value":4660}`},
		{"I2C.ReadRegB", `{"addr":72,"reg":2}`, `{"value":52}`},
		{"I2C.ReadRegB", `{"addr":1,"reg":2}`, `503: I2C read failed`},
		{"I2C.WriteRegB", `{"addr":72,"reg":2,"value":256}`, `400: invalid value`},
	})
}

func TestFS(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	p := b.connected(2)
	p.steps([]step{
		{"FS.List", ``, `["ca.pem","index.html"]`},
		{"FS.Put", `{"filename":"a.txt","data":"aGVsbG8g"}`, `null`},
		{"FS.Put", `{"filename":"a.txt","data":"d29ybGQ=","append":true,"offset":6}`, `null`},
		{"FS.Put", `{"filename":"a.txt","data":"d29ybGQ=","append":true,"offset":6}`, `null`}, // repeated: harmless
		{"FS.Get", `{"filename":"a.txt"}`, `{"data":"aGVsbG8gd29ybGQ=","left":0}`},
		{"FS.Get", `{"filename":"/a.txt","offset":6,"len":2}`, `{"data":"d28=","left":3}`},
		{"FS.Get", `{"filename":"a.txt","offset":600}`, `{"data":"","left":0}`},
		{"FS.Put", `{"filename":"a.txt","data":"IQ==","append":true}`, `null`},
		{"FS.Rename", `{"src":"a.txt","dst":"b.txt"}`, `null`},
		{"FS.ListExt", ``, `[{"name":"b.txt","size":12},{"name":"ca.pem","size":0},{"name":"index.html","size":14}]`},
		{"FS.Put", `{"filename":"b.txt","data":"","offset":0}`, `null`}, // truncates
		{"FS.Get", `{"filename":"b.txt"}`, `{"data":"","left":0}`},
		{"FS.Remove", `{"filename":"b.txt"}`, `null`},
		{"FS.Remove", `{"filename":"b.txt"}`, `500: remove failed`},
		{"FS.Get", `{"filename":"b.txt"}`, `400: failed to open file "b.txt"`},
		{"FS.Put", `{"filename":"b.txt","data":"IQ==","offset":5}`, `400: failed to open file "b.txt"`},
		{"FS.Put", `{"filename":"b.txt","data":"?"}`, `400: data is required`},
		{"FS.Rename", `{"src":"b.txt","dst":"c.txt"}`, `500: rename failed`},
		{"FS.Put", `{"filename":"ca.pem","data":"IQ==","offset":200000}`, `null`},
		{"FS.Put", `{"filename":"ca.pem","data":"IQ==","offset":233681}`, `500: write failed: no space left`},
		{"FS.Put", `{"filename":"ca.pem","data":"IQ==","offset":2000000000}`, `500: seek failed`},
		{"FS.Get", `{"filename":"ca.pem","offset":200000}`, `{"data":"IQ==","left":0}`},
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	b := newBench(t, simdevice.Config{})
	p := b.connected(2)
	p.steps([]step{
		{"Config.Get", ``, `{"aws":…`},
		{"Config.Get", `{"key":"wifi.sta.pass"}`, `"not-a-real-password"`}, // in clear
		{"Config.Get", `{"key":"no.such"}`, `404: invalid config key`},
		{"Config.Get", `{"key":"rpc.mqtt"}`, `{"enable":true,"pub_topic":"%.*s/rpc","qos":1,"sub_topic":"%.*s/rpc","sub_wc":true}`},
		{"Config.Set", `{"config":{"debug":{"level":3},"nonsense":{"x":1}}}`, `{"saved":false}`}, // unknown keys are ignored
		{"Config.Get", `{"key":"debug.level"}`, `3`},
		{"Config.Get", `{"key":"debug.level","level":0}`, `2`},
		{"Config.Get", `{"key":"debug.level","level":9}`, `2`}, // not saved
		{"Config.Set", `{"config":{"debug":{"level":4,"udp_log_addr":7,"file_level":"x"}}}`, `400: invalid config value: [debug.udp_log_addr] is not a string`},
		{"Config.Get", `{"key":"debug.level"}`, `4`}, // what came before the mistake stays
		{"Config.Get", `{"key":"debug.file_level"}`, `""`},
		{"Config.Set", `{"config":{"debug":{"level":"88"}}}`, `400: invalid config value: [debug.level] is not a number`},
		{"Config.Set", `{"config":{"mqtt":{"enable":"true"}}}`, `400: invalid config value: [mqtt.enable] is not a boolean`},
		{"Config.Set", `{"config":{"mqtt":true}}`, `400: invalid config value: [mqtt] is not an object`},
		{"Config.Set", `{"key":"sys.tz_spec","value":"CET-1CEST"}`, `{"saved":false}`},
		{"Config.Get", `{"key":"sys.tz_spec"}`, `"CET-1CEST"`},
		{"Config.Set", `{"key":"no.such","value":1}`, `404: invalid config key`},
		{"Config.Set", `{"config":{},"level":0}`, `400: not allowed`},
		{"Config.Set", `{}`, `400: config is required`},
		{"Config.Set", `{"config":{"board":{"led1":{"pin":5}}},"level":5,"save":true}`, `{"saved":true}`},
		{"Config.Set", `{"config":{"debug":{"level":2}},"save":true}`, `{"saved":true}`}, // the default again: not in the file
		{"FS.List", ``, `["ca.pem","conf5.json","conf9.json","index.html"]`},
	})
	if got := p.field("FS.Get", `{"filename":"conf9.json"}`, "data"); got != "ewogICJzeXMiOiB7CiAgICAidHpfc3BlYyI6ICJDRVQtMUNFU1QiCiAgfQp9Cg==" { // only sys.tz_spec
		t.Errorf("conf9.json = %s", got)
	}
	p.steps([]step{{"Config.Set", `{"config":{"sntp":{"server":"192.0.2.1"}},"try_once":true,"reboot":true}`, `{"saved":true}`}, {"RPC.Ping", ``, `418: rebooting`}})
	p.gone()
	p = b.connected(2)
	p.steps([]step{
		{"Config.Get", `{"key":"sntp.server"}`, `"192.0.2.1"`},
		{"Config.Get", `{"key":"board.led1.pin"}`, `5`},
		{"Config.Get", `{"key":"sys.tz_spec"}`, `"CET-1CEST"`},
		{"Sys.Reboot", `{"delay_ms":1}`, `null`},
	})
	p.gone()
	p = b.connected(2)
	p.steps([]step{
		{"Config.Get", `{"key":"sntp.server"}`, `"time.google.com"`}, // it was tried once
		{"Config.Set", `{"config":{"rpc":{"mqtt":{"sub_wc":false}}}}`, `{"saved":false}`},
		{"Config.Save", `{"reboot":true}`, `{"saved":true}`},
	})
	p.gone()
	if p = b.connected(1); !slices.Equal(p.filters, []string{"esp32_A1B2C3/rpc"}) {
		t.Errorf("without sub_wc it subscribes to %q", p.filters)
	}
}

package simdevice_test

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/gateway/simdevice"
)

func bundle(t testing.TB, platform string) []byte {
	t.Helper()
	b, err := firmware.BuildBundle(firmware.BundleSpec{
		Name: "demo", Platform: platform, Version: "2.0.0", BuildID: "build-2",
		Parts: []firmware.BundlePart{{Name: "app", Data: bytes.Repeat([]byte("new firmware "), 5000)}, {Name: "fs", Type: "fs", Data: make([]byte, 3000)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve offers b over plain HTTP at every path.
func serve(t testing.TB, b []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/fw.zip", http.StatusFound)
			return
		}
		if want := "esp32_A1B2C3 A0B1C2A1B2C3"; r.Header.Get("X-MGOS-Device-ID") != want {
			t.Errorf("X-MGOS-Device-ID: %q, want %q", r.Header.Get("X-MGOS-Device-ID"), want)
		}
		if want := "esp32 1.0.0 build-1"; r.Header.Get("X-MGOS-FW-Version") != want {
			t.Errorf("X-MGOS-FW-Version: %q, want %q", r.Header.Get("X-MGOS-FW-Version"), want)
		}
		if want := "demo/1.0.0 (MongooseOS/2.20.0; ESP32)"; r.UserAgent() != want {
			t.Errorf("User-Agent: %q, want %q", r.UserAgent(), want)
		}
		switch r.URL.Path {
		case "/chunked":
			w.(http.Flusher).Flush()
		case "/same":
			w.WriteHeader(http.StatusNotModified)
			return
		case "/missing":
			http.NotFound(w, r)
			return
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		_, _ = w.Write(b)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func otaBench(t *testing.T, f simdevice.Faults) *bench {
	t.Helper()
	b := newBench(t, simdevice.Config{Version: "1.0.0", BuildID: "build-1", MAC: "A0B1C2A1B2C3"})
	b.dev.SetFaults(f)
	return b
}

func update(url string, commitTimeout float64) string {
	return fmt.Sprintf(`{"url":%q,"commit_timeout":%v}`, url, commitTimeout)
}

func TestUpdateIsCommitted(t *testing.T) {
	t.Parallel()
	url := serve(t, bundle(t, "esp32"))
	b := otaBench(t, simdevice.Faults{})
	p := b.connected(2)
	p.steps([]step{
		{"OTA.Status", ``, `{"commit_timeout":0,"is_committed":true,"msg":"idle","partition":"app_0","progress_percent":0,"state":0}`},
		{"OTA.Commit", ``, `-1: already committed`},
		{"OTA.Revert", ``, `-1: nothing to revert to`},
		{"FS.Put", `{"filename":"conf9.json","data":"e30="}`, `null`},
		{"OTA.Update", update(url+"/moved", 60), `null`},
	})
	p.gone()
	p = b.connected(2)
	p.steps([]step{
		{"OTA.GetBootState", ``, `{"active_slot":1,"commit_timeout":60,"is_committed":false,"revert_slot":0}`},
		{"OTA.Update", update(url, 60), `-1: current firmware is not committed`},
		{"OTA.Commit", ``, `null`},
		{"OTA.Commit", ``, `-1: already committed`},
		{"FS.Get", `{"filename":"conf9.json"}`, `{"data":"e30=","left":0}`}, // files of the old slot are taken over
		{"Sys.Reboot", `{"delay_ms":1}`, `null`},
	})
	p.gone()
	p = b.connected(2)
	if v, id := p.field("Sys.GetInfo", ``, "fw_version"), p.field("Sys.GetInfo", ``, "fw_id"); v != "2.0.0" || id != "build-2" {
		t.Errorf("after the update: version %s, id %s", v, id)
	}
	p.steps([]step{{"OTA.Revert", ``, `null`}})
	p.gone()
	p = b.connected(2)
	if v := p.field("Sys.GetInfo", ``, "fw_version"); v != "1.0.0" {
		t.Errorf("after OTA.Revert: version %s", v)
	}
}

// TestUpdateGoesBack covers each way in which new firmware does not stay.
func TestUpdateGoesBack(t *testing.T) {
	t.Parallel()
	url := serve(t, bundle(t, "esp32"))
	for _, tc := range []struct {
		name    string
		faults  simdevice.Faults
		timeout float64
		then    func(*peer)
	}{
		{"nobody commits", simdevice.Faults{}, 0.2, func(*peer) {}},
		{"restart before the commit", simdevice.Faults{}, 60, func(p *peer) { p.call("Sys.Reboot", `{"delay_ms":1}`) }},
		{"revert before the commit", simdevice.Faults{}, 60, func(p *peer) { p.call("OTA.Revert", ``) }},
		{"crash", simdevice.Faults{BootFails: true}, 60, nil},
		{"crash without a commit timeout", simdevice.Faults{BootFails: true}, 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := otaBench(t, tc.faults)
			p := b.connected(2)
			p.steps([]step{{"OTA.Update", update(url, tc.timeout), `null`}})
			p.gone()
			if tc.then != nil {
				p = b.connected(2)
				tc.then(p)
				p.gone()
			}
			p = b.connected(2)
			p.steps([]step{{"OTA.GetBootState", ``, `{"active_slot":0,"commit_timeout":0,"is_committed":true,"revert_slot":1}`}})
			if v := p.field("Sys.GetInfo", ``, "fw_version"); v != "1.0.0" {
				t.Errorf("version %s", v)
			}
		})
	}
}

func TestUpdateWithoutTimeoutCommitsItself(t *testing.T) {
	t.Parallel()
	b := otaBench(t, simdevice.Faults{UpdateAnswer: simdevice.AnswerErrorZero, FalseVersion: "9.9"})
	p := b.connected(2)
	p.steps([]step{{"OTA.Update", update(serve(t, bundle(t, "esp32")), 0), `0: Update applied, finalizing`}})
	p.gone()
	p = b.connected(2)
	p.steps([]step{{"OTA.GetBootState", ``, `{"active_slot":1,"commit_timeout":0,"is_committed":true,"revert_slot":0}`}})
	if v := p.field("Sys.GetInfo", ``, "fw_version"); v != "9.9" {
		t.Errorf("a lying device tells %s", v)
	}
}

func TestUpdateFails(t *testing.T) {
	t.Parallel()
	good := bundle(t, "esp32")
	flipped := bytes.Clone(good)
	flipped[bytes.Index(flipped, []byte("new firmware"))+100] ^= 1
	var descriptors bytes.Buffer
	z := zip.NewWriter(&descriptors)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "manifest.json", Method: zip.Store})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	renamed := bytes.Replace(good, []byte("manifest.json"), []byte("Manifest.json"), 1)
	for _, tc := range []struct {
		name, path string
		bundle     []byte
		want       string
	}{
		{"other platform", "/", bundle(t, "esp8266"), "wrong platform: want esp32, got esp8266"},
		{"damaged", "/", flipped, "invalid CRC of app.bin"},
		{"truncated", "/", good[:len(good)/2], "the file ended too soon"},
		{"manifest later", "/", renamed, "the manifest is not the first file"},
		{"data descriptors", "/", descriptors.Bytes(), "malformed .zip: no size in the local header"},
		{"no bundle", "/", []byte("hello, world"), "malformed .zip: bad signature"},
		{"chunked", "/chunked", good, "no Content-Length"},
		{"not modified", "/same", good, "no update available"},
		{"not found", "/missing", good, "HTTP status 404"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := otaBench(t, simdevice.Faults{})
			p := b.connected(2)
			got := p.call("OTA.Update", update(serve(t, tc.bundle)+tc.path, 60))
			if !strings.HasPrefix(got, "-1: ") || !strings.Contains(got, tc.want) {
				t.Errorf("OTA.Update: %s, want %s", got, tc.want)
			}
			if s := p.field("OTA.Status", ``, "state"); s != "2" {
				t.Errorf("state %s after a failure", s)
			}
		})
	}
}

// TestPush is the update as the mos tool does it.
func TestPush(t *testing.T) {
	t.Parallel()
	b := otaBench(t, simdevice.Faults{})
	p := b.connected(2)
	image := bundle(t, "esp32")
	p.steps([]step{
		{"OTA.Write", `{"offset":0,"data":"UEs="}`, `-1: no update in progress`},
		{"OTA.End", ``, `-1: no update in progress`},
		{"OTA.Begin", fmt.Sprintf(`{"timeout":600,"commit_timeout":300,"size":%d}`, len(image)), `null`},
		{"OTA.Begin", `{"timeout":600}`, `-1: update already in progress`},
		{"OTA.Write", `{"offset":0,"data":"UEs="}`, `null`},
		{"OTA.Write", `{"offset":0,"data":"UEs="}`, `-1: unexpected offset 0, want 2`}, // such as a second execution
		{"OTA.Status", ``, `{"commit_timeout":0,"is_committed":true,"msg":"Update started"…`},
		{"OTA.End", ``, `-1: the file ended too soon`},
		{"OTA.Begin", `{"timeout":0}`, `400: invalid timeout`},
		{"OTA.Begin", `{"timeout":600}`, `null`},
		{"OTA.Write", `{"data":"bm8gWklQ"}`, `-1: malformed .zip: bad signature`},
	})
	if got := p.call("OTA.Write", `{"data":"bm8gWklQ"}`); !strings.HasPrefix(got, "-1: ") {
		t.Errorf("OTA.Write after a mistake: %s", got)
	}
	p.steps([]step{{"OTA.Begin", fmt.Sprintf(`{"commit_timeout":300,"size":%d}`, len(image)), `null`}})
	const chunk = 2048
	for at := 0; at < len(image); at += chunk {
		data := base64.StdEncoding.EncodeToString(image[at:min(at+chunk, len(image))])
		if got := p.call("OTA.Write", fmt.Sprintf(`{"offset":%d,"data":%q}`, at, data)); got != "null" {
			t.Fatalf("OTA.Write at %d: %s", at, got)
		}
	}
	if s := p.field("OTA.Status", ``, "progress_percent"); s != "99" {
		t.Errorf("%s percent before the end", s)
	}
	p.steps([]step{{"OTA.End", ``, `null`}})
	p.gone()
	p = b.connected(2)
	if v := p.field("Sys.GetInfo", ``, "fw_version"); v != "2.0.0" {
		t.Errorf("version %s", v)
	}
}

// TestPushTimesOut leaves an update alone, and switches the device off during another.
func TestPushTimesOut(t *testing.T) {
	t.Parallel()
	b := otaBench(t, simdevice.Faults{})
	p := b.connected(2)
	p.steps([]step{{"OTA.Begin", `{"timeout":0.02}`, `null`}})
	deadline := time.Now().Add(patience)
	for p.field("OTA.Status", ``, "msg") != "update timed out" {
		if time.Now().After(deadline) {
			t.Fatal("the update does not time out")
		}
	}
	p.steps([]step{{"OTA.Begin", `{"timeout":600}`, `null`}})
}

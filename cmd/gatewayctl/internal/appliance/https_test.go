package appliance_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
)

// Every operation that the API has is for administrators: a device's certificate gets 403, none
// gets 401, whatever the path and the method.
func TestWhoMayAdminister(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	lamp := gw.Enroll(t, "lamp", api.CredentialsRequest{})
	admin, gateway := administrator(t, gw, "admin"), administrator(t, gw, "gateway")
	code, text := appliancetest.Get(t, gw.Socket(t), "http://gateway/openapi.json")
	var document struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(text), &document); code != http.StatusOK || err != nil {
		t.Fatal(code, err)
	}
	document.Paths["/openapi.json"] = map[string]any{"get": nil}
	document.Paths["/api/v1/nothing"] = map[string]any{"get": nil, "post": nil}
	document.Paths["/"] = map[string]any{"get": nil}
	public := []string{"/healthz", "/readyz"}
	asked := 0
	for who, tc := range map[string]struct {
		client *http.Client
		want   int
	}{
		"nobody":    {gw.HTTPS(t), http.StatusUnauthorized},
		"a device":  {gw.HTTPS(t, lamp.Cert), http.StatusForbidden},
		"a gateway": {gw.HTTPS(t, gateway), http.StatusForbidden},
	} {
		for path, methods := range document.Paths {
			for method := range methods {
				method = strings.ToUpper(method)
				want := tc.want
				if slices.Contains(public, path) {
					want = http.StatusOK
				}
				got := do(t, tc.client, method, strings.NewReplacer("{", "", "}", "").Replace(path))
				if asked++; got != want {
					t.Errorf("%s: %s %s: %d, want %d", who, method, path, got, want)
				}
			}
		}
	}
	if asked < 60 {
		t.Errorf("only %d requests were made", asked)
	}
	as := gw.HTTPS(t, admin)
	for _, path := range []string{"/api/v1/status", "/api/v1/devices", "/metrics", "/openapi.json", "/healthz"} {
		if got := do(t, as, http.MethodGet, path); got != http.StatusOK {
			t.Errorf("an administrator: GET %s: %d", path, got)
		}
	}
	if got := do(t, as, http.MethodDelete, "/api/v1/devices/lamp"); got != http.StatusOK {
		t.Errorf("an administrator: DELETE of a device: %d", got)
	}
	if code, text := appliancetest.Get(t, gw.HTTPS(t), "https://gateway/healthz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("GET /healthz: %d %q, want nothing but ok", code, text)
	}
}

func administrator(t *testing.T, gw *appliancetest.Gateway, profile string) tls.Certificate {
	t.Helper()
	c, err := gw.API.Issue(appliancetest.Context(t), api.IssueRequest{Profile: profile, CommonName: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	return appliancetest.Pair(t, c)
}

func do(t *testing.T, c *http.Client, method, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://gateway"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

// The metrics are Prometheus' text, in base units, under our prefix, and nothing that a client
// makes up becomes a label.
func TestMetrics(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, withPlain, withRule)
	lamp := gw.Device(t, "lamp")
	lamp.MustSubscribe(t, "lamp/odd-filter", mqtt.QoS1)
	lamp.MustPublish(t, "lamp/odd-topic/data", "x", mqtt.QoS1)
	refusedPublish(t, lamp.Client, "odd-neighbour/x")
	local, err := appliancetest.Dial(gw.Address(t, "plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if ack, err := local.Hello(plane.Connect{ClientID: "odd-client"}); err != nil || ack.Reason() != 0 {
		t.Fatal(ack.Reason(), err)
	}

	code, text := appliancetest.Get(t, gw.HTTPS(t, administrator(t, gw, "admin")), "https://gateway/metrics")
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatalf("not Prometheus' text format: %v", err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	labels := []string{"listener", "reason", "upstream", "rule", "certificate", "version", "quantile", "le"}
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if !strings.HasPrefix(line, "gatewayctl_") {
			t.Errorf("without the prefix: %s", line)
		}
		for _, l := range label.FindAllStringSubmatch(line, -1) {
			if !slices.Contains(labels, l[1]) || strings.Contains(l[2], "odd-") {
				t.Errorf("label %s in %s", l[0], line)
			}
		}
	}
	appliancetest.Eventually(t, "the bridge is connected", func() bool {
		return gw.Metrics(t)[`gatewayctl_bridge_connected{upstream="cloud"}`] == 1
	})
	m := gw.Metrics(t)
	for name, want := range map[string]float64{
		`gatewayctl_mqtt_connections{listener="mqtt"}`:     1,
		`gatewayctl_mqtt_connections{listener="plain"}`:    1,
		`gatewayctl_mqtt_refused_total{reason="publish"}`:  1,
		`gatewayctl_mqtt_messages_received_total`:          2,
		`gatewayctl_devices_online`:                        1,
		`gatewayctl_https_connections{listener="https"}`:   1,
		`gatewayctl_clock_trusted`:                         1,
		`gatewayctl_build_info{version="0.0.0-test"}`:      1,
		`gatewayctl_https_refused_total{listener="https"}`: 0,
		`gatewayctl_mqtt_subscriptions`:                    1,
		`gatewayctl_mqtt_panics_total`:                     0,
		`gatewayctl_mqtt_retained_messages`:                0,
		`gatewayctl_mqtt_connections_accepted_total`:       2,
		`gatewayctl_devices`:                               1,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
}

// A firmware image is served to whom an update is under way for, and to nobody else.
func TestDownloadNeedsAGrant(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	lamp := gw.Enroll(t, "lamp", api.CredentialsRequest{})
	img, err := gw.API.AddImage(appliancetest.Context(t), "fw.zip", bytes.NewReader(bundle(t)), -1)
	if err != nil {
		t.Fatal(err)
	}
	path := "/firmware/" + img.SHA256
	for who, tc := range map[string]struct {
		client *http.Client
		path   string
		want   int
	}{
		"nobody":                         {gw.HTTPS(t), path, http.StatusUnauthorized},
		"an administrator":               {gw.HTTPS(t, administrator(t, gw, "admin")), path, http.StatusUnauthorized},
		"a device without an update":     {gw.HTTPS(t, lamp.Cert), path, http.StatusForbidden},
		"a token that was made up":       {gw.HTTPS(t), path + "?token=abcdefghijklmnopqrstuvwxyz", http.StatusForbidden},
		"a device with such a token":     {gw.HTTPS(t, lamp.Cert), path + "?token=abcdefghijklmnopqrstuvwxyz", http.StatusForbidden},
		"an image that is not there":     {gw.HTTPS(t, lamp.Cert), "/firmware/0123", http.StatusForbidden},
		"the directory":                  {gw.HTTPS(t, lamp.Cert), "/firmware/", http.StatusForbidden},
		"another way to write a path":    {gw.HTTPS(t), "/firmware/%2e%2e/" + img.SHA256, http.StatusUnauthorized},
		"something that is not firmware": {gw.HTTPS(t), "/gatewayctl.db", http.StatusUnauthorized},
	} {
		if got := do(t, tc.client, http.MethodGet, tc.path); got != tc.want {
			t.Errorf("%s: GET %s: %d, want %d", who, tc.path, got, tc.want)
		}
	}
}

// bundle makes a small Mongoose OS bundle.
func bundle(t *testing.T) []byte {
	t.Helper()
	app := []byte("the firmware")
	manifest := fmt.Sprintf(`{"name": "demo", "platform": "esp32", "version": "1.0.0", "build_id": "20260101-000000/1", "parts":
		{"app": {"type": "app", "src": "app.bin", "size": %d, "cs_sha1": "%x", "cs_sha256": "%x"}}}`, len(app), sha1.Sum(app), sha256.Sum256(app))
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range map[string][]byte{"manifest.json": []byte(manifest), "app.bin": app} {
		f, err := w.CreateRaw(&zip.FileHeader{
			Name: name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(data), CompressedSize64: uint64(len(data)), UncompressedSize64: uint64(len(data)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Connections of one address are bounded here as well.
func TestTooManyHTTPSConnections(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) { s.Config.Limits.MaxPerAddress = 2 })
	var open []*tls.Conn
	for range 2 {
		c, err := tls.Dial("tcp", gw.Address(t, "https"), gw.TLS())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	if c, err := tls.Dial("tcp", gw.Address(t, "https"), gw.TLS()); err == nil {
		c.Close()
		t.Error("one connection more than the limit was let in")
	}
	gw.Event(t, func(e events.Event) bool {
		return e.Kind == "limit.reached" && strings.Contains(e.Text, "2 HTTPS connections")
	})
	if n := gw.Metrics(t)[`gatewayctl_https_refused_total{listener="https"}`]; n != 1 {
		t.Errorf("%v refusals are counted, want 1", n)
	}
	open[0].Close()
	appliancetest.Eventually(t, "the place is free", func() bool {
		c, err := tls.Dial("tcp", gw.Address(t, "https"), gw.TLS())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

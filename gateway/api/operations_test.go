package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/broker/mqtt"
	"gatewayctl/firmware/repository"
	"gatewayctl/gateway"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/discovery"
	"gatewayctl/gateway/jobs"
	"gatewayctl/gateway/provision"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki"
	"gatewayctl/pki/identity"
	"gatewayctl/store"
	"gatewayctl/store/msglog"
)

func TestBadInputIsNamed(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{
		Publish:   func(context.Context, mqtt.Message) error { return nil },
		Subscribe: func(mqtt.Filter, func(mqtt.Message)) (func(), error) { return func() {}, nil },
		Provision: func(context.Context, identity.DeviceID, api.CredentialsRequest) (api.Credentials, error) {
			return api.Credentials{}, nil
		},
		Call:     func(context.Context, string, string, json.RawMessage) (json.RawMessage, error) { return nil, nil },
		Discover: func(context.Context, func(api.Found)) error { return nil },
		Update: func(context.Context, identity.DeviceID, string, func(api.UpdateProgress)) (api.UpdateResult, error) {
			return api.UpdateResult{}, nil
		},
	}, api.Options{})
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		field                    string
	}{
		{"no JSON", "POST", "/api/v1/publish", `{"topic":`, 400, "body"},
		{"no body", "POST", "/api/v1/publish", ``, 400, ""},
		{"a member that is missing", "POST", "/api/v1/publish", `{"qos":1}`, 422, "body"},
		{"a member that is not known", "POST", "/api/v1/publish", `{"topic":"a","retained":true}`, 422, "body.retained"},
		{"a number out of range", "POST", "/api/v1/publish", `{"topic":"a","qos":3}`, 422, "body.qos"},
		{"a wrong type", "POST", "/api/v1/publish", `{"topic":7}`, 422, "body.topic"},
		{"payload not in base64", "POST", "/api/v1/publish", `{"topic":"a","payload":"%"}`, 422, "body.payload"},
		{"a wildcard in a topic", "POST", "/api/v1/publish", `{"topic":"a/#"}`, 422, "body.topic"},
		{"a bad response topic", "POST", "/api/v1/publish", `{"topic":"a","response_topic":"+"}`, 422, "body.response_topic"},
		{"no filter", "GET", "/api/v1/subscribe", ``, 422, "query.filter"},
		{"a bad filter", "GET", "/api/v1/subscribe?filter=a&filter=a%23", ``, 422, "query.filter[1]"},
		{"a parameter that is not known", "GET", "/api/v1/subscribe?filter=a&qos=1", ``, 422, "query.qos"},
		{"a bad device name", "POST", "/api/v1/devices/la%20mp/credentials", `{}`, 422, "path.name"},
		{"a word that is no choice", "POST", "/api/v1/devices/lamp/credentials", `{"existing":"keep"}`, 422, "body.existing"},
		{"a bad duration", "POST", "/api/v1/devices/lamp/credentials", `{"lifetime":"30 days"}`, 422, "body.lifetime"},
		{"a bad duration in the query", "POST", "/api/v1/devices/lamp/rpc/A.B?timeout=soon", ``, 422, "query.timeout"},
		{"a timeout that is too long", "POST", "/api/v1/devices/lamp/rpc/A.B?timeout=11m", ``, 422, "query.timeout"},
		{"a scan that is too long", "GET", "/api/v1/discover?timeout=6m", ``, 422, "query.timeout"},
		{"an update that is too long", "POST", "/api/v1/devices/lamp/update", `{"image":"x","timeout":"3h"}`, 422, "body.timeout"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := s.problem(t, tc.method, tc.path, tc.body)
			if p.Status != tc.status || p.Code != api.CodeInvalid {
				t.Errorf("%d %s %s", p.Status, p.Code, p.Detail)
			}
			if tc.field != "" && (len(p.Fields) == 0 || p.Fields[0].Field != tc.field || !strings.Contains(p.Detail, tc.field)) {
				t.Errorf("fields %+v, detail %q, want %s", p.Fields, p.Detail, tc.field)
			}
		})
	}
	if p := s.problem(t, "POST", "/api/v1/publish", `{"topic":"a"}`, "Content-Type", "text/plain"); p.Status != 415 {
		t.Errorf("a body of another type: %+v", p)
	}
	if p := s.problem(t, "POST", "/api/v1/devices/lamp/credentials", `{"type":"`+strings.Repeat("x", 1<<20)+`"}`); p.Code != api.CodeTooLarge {
		t.Errorf("a body that is too large: %+v", p)
	}
}

func TestErrorsOfServices(t *testing.T) {
	t.Parallel()
	var fails error
	s := start(t, api.Services{
		Call: func(context.Context, string, string, json.RawMessage) (json.RawMessage, error) { return nil, fails },
	}, api.Options{})
	for _, tc := range []struct {
		err    error
		status int
		code   string
	}{
		{rpc.ErrUnknownDevice, 404, api.CodeUnknownDevice},
		{gateway.ErrNotFound, 404, api.CodeUnknownDevice},
		{gateway.ErrExists, 409, api.CodeExists},
		{gateway.ErrInvalid, 422, api.CodeInvalid},
		{rpc.ErrOffline, 503, api.CodeOffline},
		{rpc.ErrTimeout, 504, api.CodeTimeout},
		{context.DeadlineExceeded, 504, api.CodeTimeout},
		{rpc.ErrBusy, 503, api.CodeBusy},
		{rpc.ErrBadAnswer, 502, api.CodeDeviceError},
		{rpc.ErrBadRequest, 422, api.CodeInvalid},
		{&rpc.RemoteError{Code: 404, Message: "No handler"}, 404, api.CodeUnknownMethod},
		{&rpc.RemoteError{Code: 500, Message: "broken"}, 502, api.CodeDeviceError},
		{pki.ErrClock, 409, api.CodeClockUntrusted},
		{pki.ErrProfile, 422, api.CodeInvalid},
		{pki.ErrUnknownCertificate, 404, api.CodeUnknownCertificate},
		{provision.ErrExists, 409, api.CodeExists},
		{provision.ErrDisabled, 409, api.CodeRefused},
		{repository.ErrNotFound, 404, api.CodeUnknownImage},
		{repository.ErrAmbiguous, 422, api.CodeInvalid},
		{jobs.ErrUnsuitable, 409, api.CodeRefused},
		{jobs.ErrBusy, 503, api.CodeBusy},
		{jobs.ErrFailed, 502, api.CodeDeviceError},
		{msglog.ErrTooLarge, 413, api.CodeTooLarge},
		{msglog.ErrFull, 507, api.CodeDiskFull},
		{discovery.ErrNoInterface, 503, api.CodeUnavailable},
		{store.ErrFull, 507, api.CodeDiskFull},
		{store.ErrClosed, 503, api.CodeStopping},
		{api.NewProblem(api.CodeRefused, "no", "ask nicely"), 409, api.CodeRefused},
		{errors.New("something else"), 500, api.CodeInternal},
	} {
		fails = fmt.Errorf("call Sys.GetInfo of lamp: %w", tc.err)
		p := s.problem(t, "POST", "/api/v1/devices/lamp/rpc/Sys.GetInfo", "")
		if p.Status != tc.status || p.Code != tc.code || !strings.Contains(p.Detail, tc.err.Error()) {
			t.Errorf("%v: %d %s %q, want %d %s", tc.err, p.Status, p.Code, p.Detail, tc.status, tc.code)
		}
	}
	fails = &rpc.RemoteError{Code: 7, Message: "valve stuck"}
	p := s.problem(t, "POST", "/api/v1/devices/lamp/rpc/Valve.Open", "")
	if diff := cmp.Diff(&api.DeviceError{Code: 7, Message: "valve stuck"}, p.Device); diff != "" {
		t.Error(diff)
	}
}

func TestCallPassesEverythingOn(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{
		Call: func(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error) {
			deadline, ok := ctx.Deadline()
			if left := time.Until(deadline); !ok || left > 90*time.Second || left < 80*time.Second {
				t.Errorf("deadline in %s", left)
			}
			return json.RawMessage(fmt.Sprintf(`{"d":%q,"m":%q,"p":%s}`, device, method, params)), nil
		},
	}, api.Options{})
	_, got := s.ask(t, "POST", "/api/v1/devices/lamp/rpc/GPIO.Toggle?timeout=90s", `{"pin": 12345678901234567890}`)
	want := `{"result":{"d":"lamp","m":"GPIO.Toggle","p":{"pin":12345678901234567890}}}` + "\n"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The gateway gives up by itself, whatever the client does.
func TestCallEndsWithItsTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{
		Call: func(ctx context.Context, _, _ string, _ json.RawMessage) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}, api.Options{})
	if p := s.problem(t, "POST", "/api/v1/devices/lamp/rpc/Sys.Sleep?timeout=10ms", ""); p.Code != api.CodeTimeout || p.Remedy == "" {
		t.Errorf("problem %+v", p)
	}
}

// A handler that takes longer than a client may take to send its body is not cut short by the
// deadline of the body.
func TestReadDeadlineEndsWithTheBody(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{
		Call: func(ctx context.Context, _, _ string, _ json.RawMessage) (json.RawMessage, error) {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("cut short: %w", context.Cause(ctx))
			case <-time.After(700 * time.Millisecond):
				return json.RawMessage("true"), nil
			}
		},
	}, api.Options{ReadTimeout: 400 * time.Millisecond})
	if res, text := s.ask(t, "POST", "/api/v1/devices/lamp/rpc/A.B", `{"x":1}`); res.StatusCode != 200 {
		t.Errorf("%s %s", res.Status, text)
	}
}

func TestStalledBodyIsGivenUp(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{AddImage: func(_ context.Context, _ string, r io.Reader) (api.Image, error) {
		_, err := io.Copy(io.Discard, r)
		return api.Image{}, err
	}}, api.Options{ReadTimeout: 30 * time.Millisecond})
	for _, path := range []string{"/api/v1/devices/lamp/credentials", "/api/v1/firmware"} {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{", path)
		answer, err := io.ReadAll(conn) // the connection ends, or the rest of the body would be the next request
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") {
			t.Errorf("%s: %v %s", path, err, answer)
		}
		conn.Close()
	}
}

func TestCredentialsAreNotStored(t *testing.T) {
	t.Parallel()
	var got api.CredentialsRequest
	s := start(t, api.Services{
		Provision: func(_ context.Context, name identity.DeviceID, req api.CredentialsRequest) (api.Credentials, error) {
			got = req
			if req.Existing == api.ExistingRefuse {
				return api.Credentials{}, api.NewProblem(api.CodeExists, name.String()+" has a certificate", "Use --replace.")
			}
			return api.Credentials{Device: name.String(), KeyPEM: "secret"}, nil
		},
	}, api.Options{})
	if p := s.problem(t, "POST", "/api/v1/devices/lamp/credentials", `{}`); p.Code != api.CodeExists || p.Remedy != "Use --replace." {
		t.Errorf("problem %+v", p)
	}
	res, text := s.ask(t, "POST", "/api/v1/devices/lamp/credentials", `{"existing":"replace","lifetime":"48h","policies":["p"],"type":"light"}`)
	if res.StatusCode != 200 || res.Header.Get("Cache-Control") != "no-store" || !strings.Contains(text, `"key_pem":"secret"`) {
		t.Errorf("%s %v %s", res.Status, res.Header, text)
	}
	want := api.CredentialsRequest{Existing: "replace", Lifetime: api.Duration(48 * time.Hour), Policies: []string{"p"}, Type: "light"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want2 := []string{"socket | device-provision | lamp | lamp has a certificate", "socket | device-provision | lamp | done"}
	if diff := cmp.Diff(want2, s.audit.all()); diff != "" {
		t.Errorf("audit:\n%s", diff)
	}
}

func TestEveryChangeIsReported(t *testing.T) {
	t.Parallel()
	device := func(_ context.Context, name identity.DeviceID) (api.Device, error) {
		return api.Device{Name: name.String()}, nil
	}
	s := start(t, api.Services{
		Device: device, RemoveDevice: device,
		Devices: func(context.Context, api.DeviceQuery) ([]api.Device, error) { return nil, nil },
		SetDeviceDisabled: func(ctx context.Context, name identity.DeviceID, _ bool) (api.Device, error) {
			return device(ctx, name)
		},
		Call:    func(context.Context, string, string, json.RawMessage) (json.RawMessage, error) { return nil, nil },
		Publish: func(context.Context, mqtt.Message) error { return store.ErrFull },
		AddImage: func(_ context.Context, name string, r io.Reader) (api.Image, error) {
			return api.Image{Name: name, SHA256: "ab"}, nil
		},
		RemoveImage: func(_ context.Context, ref string) (api.Image, error) {
			return api.Image{}, api.NewProblem(api.CodeUnknownImage, "no image "+ref, "")
		},
		Update: func(context.Context, identity.DeviceID, string, func(api.UpdateProgress)) (api.UpdateResult, error) {
			return api.UpdateResult{}, nil
		},
		Revoke: func(context.Context, string, string) ([]api.Certificate, error) { return nil, nil },
		Issue:  func(context.Context, api.IssueRequest) (api.Credentials, error) { return api.Credentials{}, nil },
	}, api.Options{})
	for _, r := range [][3]string{
		{"GET", "/api/v1/devices", ""},
		{"GET", "/api/v1/devices/lamp", ""},
		{"POST", "/api/v1/devices/lamp/disable", ""},
		{"POST", "/api/v1/devices/lamp/enable", ""},
		{"DELETE", "/api/v1/devices/lamp", ""},
		{"POST", "/api/v1/devices/lamp/rpc/Sys.Reboot", ""},
		{"POST", "/api/v1/publish", `{"topic":"a/b"}`},
		{"POST", "/api/v1/firmware?name=fw", "image"},
		{"DELETE", "/api/v1/firmware/fw@1.0", ""},
		{"POST", "/api/v1/devices/lamp/update", `{"image":"fw"}`},
		{"POST", "/api/v1/pki/revoke", `{"target":"lamp","reason":"keyCompromise"}`},
		{"POST", "/api/v1/pki/issue", `{"profile":"admin","common_name":"ann"}`},
		{"DELETE", "/api/v1/devices/la%2Fmp", ""},
	} {
		s.ask(t, r[0], r[1], r[2])
	}
	want := []string{
		"socket | device-disable | lamp | done",
		"socket | device-enable | lamp | done",
		"socket | device-remove | lamp | done",
		"socket | device-call | lamp Sys.Reboot | done",
		"socket | publish | a/b | disk is full",
		"socket | firmware-add | fw ab | done",
		"socket | firmware-remove | fw@1.0 | no image fw@1.0",
		"socket | device-update | lamp fw | done",
		"socket | certificate-revoke | lamp keyCompromise | done",
		"socket | certificate-issue | admin ann | done",
	}
	got := s.audit.all()
	if diff := cmp.Diff(want, got[:len(got)-1]); diff != "" {
		t.Error(diff)
	}
	if last := got[len(got)-1]; !strings.HasPrefix(last, "socket | device-remove | la/mp | path.name: ") {
		t.Errorf("a refused change: %s", last)
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	var got mqtt.Message
	s := start(t, api.Services{Publish: func(_ context.Context, m mqtt.Message) error { got = m; return nil }}, api.Options{})
	res, text := s.ask(t, "POST", "/api/v1/publish", `{"topic":"a/b","payload":"AAEC/w==","qos":2,"retain":true,"expiry_s":60,`+
		`"content_type":"x/y","response_topic":"r","correlation_data":"Ag==","user_properties":[{"key":"k","value":"v"}]}`)
	if res.StatusCode != http.StatusNoContent || text != "" {
		t.Errorf("%s %s", res.Status, text)
	}
	want := mqtt.Message{
		Topic: "a/b", Payload: []byte{0, 1, 2, 255}, QoS: mqtt.QoS2, Retain: true, ExpirySeconds: 60, ContentType: "x/y",
		ResponseTopic: "r", CorrelationData: []byte{2}, UserProperties: []mqtt.UserProperty{{Key: "k", Value: "v"}},
		Publisher: mqtt.Publisher{Origin: "admin"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{Ready: func() error { return errors.New("the store is being checked") }}, api.Options{})
	for _, path := range []string{"/api/v1/status", "/api/v1/devices", "/api/v1/bridge", "/api/v1/pki", "/api/v1/pki/ca.pem", "/api/v1/events/stream", "/metrics"} {
		if p := s.problem(t, "GET", path, ""); p.Status != 501 || p.Code != api.CodeUnavailable {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if p := s.problem(t, "GET", "/readyz", ""); p.Status != 503 || p.Detail != "not ready: the store is being checked" {
		t.Errorf("readyz: %+v", p)
	}
	if res, text := s.ask(t, "GET", "/healthz", ""); res.StatusCode != 200 || text != "ok\n" {
		t.Errorf("healthz: %s %s", res.Status, text)
	}
	if res, _ := s.ask(t, "PUT", "/healthz", ""); res.StatusCode != 405 || res.Header.Get("Allow") == "" {
		t.Errorf("PUT /healthz: %s", res.Status)
	}
}

func TestPanicCostsOneRequest(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{Status: func(context.Context) (api.Status, error) { panic("bug") }}, api.Options{})
	if p := s.problem(t, "GET", "/api/v1/status", ""); p.Code != api.CodeInternal || strings.Contains(p.Detail, "bug") {
		t.Errorf("problem %+v", p)
	}
	if res, _ := s.ask(t, "GET", "/healthz", ""); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

func TestListsAreNeverNull(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{
		Status:       func(context.Context) (api.Status, error) { return api.Status{}, nil },
		Devices:      func(context.Context, api.DeviceQuery) ([]api.Device, error) { return nil, nil },
		Upstreams:    func(context.Context) ([]api.Upstream, error) { return []api.Upstream{{Name: "cloud"}}, nil },
		Images:       func(context.Context) ([]api.Image, error) { return nil, nil },
		Certificates: func(context.Context, api.CertificateQuery) ([]api.Certificate, error) { return nil, nil },
	}, api.Options{})
	for _, path := range []string{"/status", "/devices", "/bridge", "/firmware", "/pki/certificates"} {
		if res, text := s.ask(t, "GET", "/api/v1"+path, ""); res.StatusCode != 200 || strings.Contains(text, "null") {
			t.Errorf("%s: %s %s", path, res.Status, text)
		}
	}
}

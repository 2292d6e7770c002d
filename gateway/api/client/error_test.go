package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki"
	"gatewayctl/pki/pkitest"
)

// code is the code of a client's error, or what it is instead.
func code(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func exit(err error) int {
	var e *client.Error
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}

func TestErrorsKeepWhatTheGatewaySaid(t *testing.T) {
	t.Parallel()
	var fails error
	c := start(t, api.Services{Call: func(context.Context, string, string, json.RawMessage) (json.RawMessage, error) { return nil, fails }})
	for _, tc := range []struct {
		err  error
		code string
		exit int
	}{
		{rpc.ErrUnknownDevice, api.CodeUnknownDevice, 3},
		{rpc.ErrOffline, api.CodeOffline, 4},
		{rpc.ErrTimeout, api.CodeTimeout, 5},
		{&rpc.RemoteError{Code: 404, Message: "No handler"}, api.CodeUnknownMethod, 1},
		{&rpc.RemoteError{Code: -1, Message: "stuck"}, api.CodeDeviceError, 1},
		{pki.ErrClock, api.CodeClockUntrusted, 4},
		{rpc.ErrBadRequest, api.CodeInvalid, 2},
		{api.NewProblem(api.CodeUnknownImage, "no image", ""), api.CodeUnknownImage, 3},
		{api.NewProblem(api.CodeExists, "it is there", "Say --replace."), api.CodeExists, 4},
		{api.NewProblem(api.CodeTooLarge, "too large", ""), api.CodeTooLarge, 2},
		{api.NewProblem(api.CodeDiskFull, "full", ""), api.CodeDiskFull, 1},
		{errors.New("bug"), api.CodeInternal, 1},
	} {
		fails = tc.err
		_, err := c.Call(t.Context(), "lamp", "Sys.GetInfo", nil, 0)
		if code(err) != tc.code || exit(err) != tc.exit || err.Error() != tc.err.Error() {
			t.Errorf("%v: %v, code %s, exit %d, want %s, %d", tc.err, err, code(err), exit(err), tc.code, tc.exit)
		}
	}
	var e *client.Error
	fails = &rpc.RemoteError{Code: -1, Message: "stuck"}
	if _, err := c.Call(t.Context(), "lamp", "A.B", nil, 0); !errors.As(err, &e) || e.Device == nil || *e.Device != (api.DeviceError{Code: -1, Message: "stuck"}) {
		t.Errorf("error %+v", e)
	}
	err := c.Publish(t.Context(), api.Message{Topic: "a", QoS: 3})
	if !errors.As(err, &e) || exit(err) != 4-2 || len(e.Fields) != 1 || e.Fields[0].Field != "body.qos" {
		t.Errorf("error %+v", err)
	}
}

func TestNoGateway(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	dead := filepath.Join(dir, "gatewayctl.sock")
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	for name, opts := range map[string]client.Options{
		"no socket":         {Data: dir},
		"no data directory": {Data: "/nowhere/data"},
		"a named socket":    {Socket: "/nowhere/admin.sock"},
		"nobody at the URL": {URL: "https://" + nobody.Addr().String()},
	} {
		c := newClient(t, opts)
		_, err := c.Status(t.Context())
		var e *client.Error
		if !errors.Is(err, client.ErrNoGateway) || !errors.As(err, &e) || !strings.Contains(e.Remedy, "`gatewayctl serve`") || !strings.Contains(err.Error(), c.Where()) || exit(err) != 1 {
			t.Errorf("%s: %v, remedy %q", name, err, e.Remedy)
		}
	}
	// A gateway that was killed leaves its socket.
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	_, err = newClient(t, client.Options{Data: dir}).Status(t.Context())
	if want := "no gateway answers on " + dead; !errors.Is(err, client.ErrNoGateway) || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err := newClient(t, client.Options{Data: dir}).Subscribe(t.Context(), "a"); !errors.Is(err, client.ErrNoGateway) {
		t.Errorf("a stream: %v", err)
	}
}

// refusing is a transport whose dialer is refused by the kernel; root is never refused really.
func TestPermissionDenied(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	startIn(t, dir, api.Services{})
	if os.Geteuid() != 0 {
		if err := os.Chmod(filepath.Join(dir, "gatewayctl.sock"), 0); err != nil {
			t.Fatal(err)
		}
		_, err := newClient(t, client.Options{Data: dir}).Status(t.Context())
		if code(err) != client.CodePermission || exit(err) != 4 {
			t.Errorf("error %v", err)
		}
	}
	err := client.ExplainTransport("/run/gatewayctl/gatewayctl.sock", &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)})
	if code(err) != client.CodePermission || exit(err) != 4 || !strings.Contains(err.Error(), "/run/gatewayctl/gatewayctl.sock") {
		t.Errorf("error %v", err)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	ready := make(chan struct{})
	done := make(chan error, 1)
	c := newClient(t, client.Options{Data: dir})
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Wait(short); code(err) != api.CodeTimeout || exit(err) != 5 || !strings.Contains(err.Error(), "no gateway answers") {
		t.Errorf("without a gateway: %v", err)
	}
	go func() { done <- c.Wait(t.Context()) }() // before there is a gateway
	startIn(t, dir, api.Services{Ready: func() error {
		select {
		case <-ready:
			return nil
		default:
			return errors.New("starting")
		}
	}})
	short, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Wait(short); code(err) != api.CodeTimeout {
		t.Errorf("before it is ready: %v", err)
	}
	close(ready)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDeadlineAndInterruption(t *testing.T) {
	t.Parallel()
	called := make(chan struct{}, 2)
	c := start(t, api.Services{Status: func(ctx context.Context) (api.Status, error) {
		called <- struct{}{}
		<-ctx.Done()
		return api.Status{}, ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); code(err) != api.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) || exit(err) != 5 {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { <-called; cancel() }()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interruption: %v", err)
	}
}

func TestRemoteGateway(t *testing.T) {
	t.Parallel()
	var got api.Caller
	r := startTLS(t, api.Services{
		Status: func(ctx context.Context) (api.Status, error) {
			got = api.CallerFrom(ctx)
			return api.Status{Health: "ok"}, nil
		},
		CA: func() []byte { return []byte("pem") },
	})
	opts, cert := r.options(t, r.ca, pki.Request{Profile: pki.ProfileAdmin, CommonName: "ann"})
	admin := newClient(t, opts)
	if st, err := admin.Status(t.Context()); err != nil || st.Health != "ok" {
		t.Fatalf("%+v, %v", st, err)
	}
	want := api.Caller{Name: "ann (certificate " + cert.Serial + ")", Role: "admin", Via: api.ViaCertificate, UID: -1}
	if got.Name != want.Name || got.Role != want.Role || got.Via != want.Via || got.UID != want.UID {
		t.Errorf("caller %+v, want %+v", got, want)
	}

	device, _ := r.options(t, r.ca, pki.Request{Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp")})
	other := pkitest.New(t, pkitest.Options{})
	foreign, _ := r.options(t, other, pki.Request{Profile: pki.ProfileAdmin, CommonName: "eve"})
	nobody := client.Options{URL: r.url, CA: opts.CA}
	wrongCA := opts
	wrongCA.CA = r.write(t, "other.crt", other.RootPEM())
	wrongName := opts
	wrongName.URL = strings.Replace(r.url, "127.0.0.1", "localhost.localdomain", 1)
	for _, tc := range []struct {
		name string
		opts client.Options
		code string
	}{
		{"a device's certificate", device, api.CodeForbidden},
		{"no certificate", nobody, api.CodeUnauthenticated},
		{"a certificate of another CA", foreign, client.CodeWrongCertificate},
		{"another CA trusted", wrongCA, client.CodeWrongGateway},
	} {
		if _, err := newClient(t, tc.opts).Status(t.Context()); code(err) != tc.code || exit(err) != 4 {
			t.Errorf("%s: %v (%s), exit %d", tc.name, err, code(err), exit(err))
		}
	}

	if _, err := r.ca.Revoke(t.Context(), cert.Serial, "keyCompromise"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Status(t.Context()); code(err) != api.CodeForbidden || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the open connection after the revocation: %v", err)
	}
	if _, err := newClient(t, opts).Status(t.Context()); code(err) != client.CodeWrongCertificate {
		t.Errorf("a new connection after the revocation: %v", err)
	}
}

func TestSomethingElseAnswers(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	l, err := net.Listen("unix", filepath.Join(dir, "gatewayctl.sock"))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) })}}
	server.Start()
	t.Cleanup(server.Close)
	c := newClient(t, client.Options{Data: dir})
	for name, a := range map[string]http.HandlerFunc{
		"a web page":    http.NotFound,
		"text for JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere/", http.StatusFound)
		},
		"a problem of its own": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(400)
			fmt.Fprint(w, `{"title":"x"}`)
		},
	} {
		answer = a
		if _, err := c.Status(t.Context()); code(err) != client.CodeNotGateway || exit(err) != 1 && name != "a problem of its own" && name != "a web page" {
			t.Errorf("%s: %v (%s)", name, err, code(err))
		}
		if _, err := c.Subscribe(t.Context(), "a"); code(err) != client.CodeNotGateway && code(err) != client.CodeConnectionLost {
			t.Errorf("%s as a stream: %v (%s)", name, err, code(err))
		}
	}
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []client.Options{
		{},
		{URL: "http://hub.local:8443"},
		{URL: "hub.local:8443"},
		{URL: "https://hub.local:8443/dashboard"},
		{URL: "https://user@hub.local"},
		{URL: "https://hub.local", CA: filepath.Join(dir, "absent.pem")},
		{URL: "https://hub.local", CA: empty},
		{URL: "https://hub.local", Key: empty},
		{URL: "https://hub.local", Cert: empty, Key: empty},
	} {
		if _, err := client.New(opts); code(err) != api.CodeInvalid || exit(err) != 2 {
			t.Errorf("%+v: %v", opts, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	got := map[string]int{}
	for _, c := range []string{client.CodeNoGateway, client.CodePermission, client.CodeWrongCertificate, client.CodeWrongGateway, client.CodeConnectionLost, client.CodeNotGateway} {
		got[c] = (&client.Error{Code: c}).ExitCode()
	}
	want := map[string]int{client.CodeNoGateway: 1, client.CodePermission: 4, client.CodeWrongCertificate: 4, client.CodeWrongGateway: 4, client.CodeConnectionLost: 1, client.CodeNotGateway: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

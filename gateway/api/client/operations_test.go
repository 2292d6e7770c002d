package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"
	"gatewayctl/store"
)

// filled returns a T in which every member is set, so that one that is lost on the way shows.
func filled[T any]() T {
	var v T
	fill(reflect.ValueOf(&v).Elem())
	return v
}

func fill(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)))
		return
	case v.Type() == reflect.TypeFor[[]byte]():
		v.SetBytes([]byte{0, 1, 255})
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
		fill(v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		elem := reflect.New(v.Type().Elem()).Elem()
		fill(elem)
		v.SetMapIndex(reflect.ValueOf("key"), elem)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64, reflect.Uint32:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	}
}

// check compares what came with what was sent, and fails on an error.
func check[T any](t *testing.T, what string, want T) func(T, error) {
	return func(got T, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	device, credentials, image, cert := filled[api.Device](), filled[api.Credentials](), filled[api.Image](), filled[api.Certificate]()
	saw := map[string]any{}
	onDevice := func(op string) func(context.Context, identity.DeviceID) (api.Device, error) {
		return func(_ context.Context, id identity.DeviceID) (api.Device, error) {
			saw[op] = id.String()
			return device, nil
		}
	}
	c := start(t, api.Services{
		Status: func(context.Context) (api.Status, error) { return filled[api.Status](), nil },
		Devices: func(_ context.Context, q api.DeviceQuery) ([]api.Device, error) {
			saw["list"] = q
			return []api.Device{device}, nil
		},
		Device: onDevice("show"), RemoveDevice: onDevice("remove"),
		SetDeviceDisabled: func(_ context.Context, id identity.DeviceID, disabled bool) (api.Device, error) {
			saw["disabled"] = disabled
			return device, nil
		},
		Provision: func(_ context.Context, id identity.DeviceID, req api.CredentialsRequest) (api.Credentials, error) {
			saw["provision"] = req
			return credentials, nil
		},
		Call: func(_ context.Context, device, method string, args json.RawMessage) (json.RawMessage, error) {
			saw["call"] = device + " " + method + " " + string(args)
			return json.RawMessage(`{"on":true}`), nil
		},
		Publish:   func(_ context.Context, m mqtt.Message) error { saw["publish"] = m.Topic; return nil },
		Upstreams: func(context.Context) ([]api.Upstream, error) { return filled[[]api.Upstream](), nil },
		Discover: func(_ context.Context, found func(api.Found)) error {
			f := filled[api.Found]()
			f.Gone = false
			found(f)
			return nil
		},
		AddImage: func(_ context.Context, name string, r io.Reader) (api.Image, error) {
			b, err := io.ReadAll(r)
			saw["image"] = name + " " + string(b)
			return image, err
		},
		Images:      func(context.Context) ([]api.Image, error) { return []api.Image{image}, nil },
		RemoveImage: func(_ context.Context, ref string) (api.Image, error) { saw["rm"] = ref; return image, nil },
		PKI:         func(context.Context) (api.PKI, error) { return filled[api.PKI](), nil },
		Certificates: func(_ context.Context, q api.CertificateQuery) ([]api.Certificate, error) {
			saw["certificates"] = q
			return []api.Certificate{cert}, nil
		},
		Revoke: func(_ context.Context, target, reason string) ([]api.Certificate, error) {
			saw["revoke"] = target + " " + reason
			return []api.Certificate{cert}, nil
		},
		Issue: func(_ context.Context, req api.IssueRequest) (api.Credentials, error) {
			saw["issue"] = req
			return credentials, nil
		},
		CA: func() []byte { return []byte("-----BEGIN CERTIFICATE-----\n") },
	})
	query := api.DeviceQuery{Tag: "a b", Type: "t&u", Prefix: "p", Online: "true"}
	provision := api.CredentialsRequest{CSR: "csr", Policies: []string{"p"}, Type: "t", Existing: api.ExistingAdditional, Lifetime: api.Duration(36 * time.Hour)}
	certificates := api.CertificateQuery{Device: "lamp", Profile: "device", Revoked: true}
	issue := api.IssueRequest{Profile: "admin", CommonName: "ann", CSR: "csr", Lifetime: api.Duration(time.Hour)}

	check(t, "Status", filled[api.Status]())(c.Status(ctx))
	if err := c.Ready(ctx); err != nil {
		t.Error(err)
	}
	check(t, "Devices", []api.Device{device})(c.Devices(ctx, query))
	check(t, "Device", device)(c.Device(ctx, "site:lamp_1-a"))
	check(t, "RemoveDevice", device)(c.RemoveDevice(ctx, "lamp"))
	check(t, "EnableDevice", device)(c.EnableDevice(ctx, "lamp"))
	if saw["disabled"] != false {
		t.Error("enable disables")
	}
	check(t, "DisableDevice", device)(c.DisableDevice(ctx, "lamp"))
	check(t, "Provision", credentials)(c.Provision(ctx, "lamp", provision))
	check(t, "Call", json.RawMessage(`{"on":true}`))(c.Call(ctx, "lamp", "Light.Set", json.RawMessage(`{"on":true}`), time.Minute))
	if err := c.Publish(ctx, api.Message{Topic: "a/b", Payload: []byte("x"), QoS: 1}); err != nil {
		t.Error(err)
	}
	check(t, "Bridge", filled[[]api.Upstream]())(c.Bridge(ctx))
	found := filled[api.Found]()
	found.Gone = false
	check(t, "Discover", []api.Found{found})(c.Discover(ctx, time.Second))
	check(t, "AddImage", image)(c.AddImage(ctx, "fw 1", bytes.NewReader([]byte("image")), 5))
	check(t, "AddImage", image)(c.AddImage(ctx, "fw 1", bytes.NewReader([]byte("image")), -1))
	check(t, "Images", []api.Image{image})(c.Images(ctx))
	check(t, "RemoveImage", image)(c.RemoveImage(ctx, "fw/x@1.0"))
	check(t, "PKI", filled[api.PKI]())(c.PKI(ctx))
	check(t, "Certificates", []api.Certificate{cert})(c.Certificates(ctx, certificates))
	check(t, "Revoke", []api.Certificate{cert})(c.Revoke(ctx, api.RevokeRequest{Target: "lamp", Reason: "superseded"}))
	check(t, "Issue", credentials)(c.Issue(ctx, issue))
	check(t, "CA", []byte("-----BEGIN CERTIFICATE-----\n"))(c.CA(ctx))

	want := map[string]any{
		"list": query, "show": "site:lamp_1-a", "remove": "lamp", "disabled": true, "provision": provision,
		"call": `lamp Light.Set {"on":true}`, "publish": "a/b", "image": "fw 1 image", "rm": "fw/x@1.0",
		"certificates": certificates, "revoke": "lamp superseded", "issue": issue,
	}
	if diff := cmp.Diff(want, saw); diff != "" {
		t.Errorf("what the services saw:\n%s", diff)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	log := events.New(events.Options{})
	c := start(t, api.Services{Events: log})
	log.Add(events.Event{Kind: "device.connected", Device: "lamp", Data: map[string]string{"a": "b"}})
	log.Add(events.Event{Kind: "publish.refused", Device: "lamp", Severity: events.Warn, Topic: "x", Text: "no"})
	q := api.EventQuery{After: 1, Since: time.Now().Add(-time.Hour), Kind: "publish", Device: "lamp", Severity: events.Warn, Limit: 5}
	check(t, "Events", log.Since(1, events.Filter{}))(c.Events(t.Context(), q))

	s, err := c.FollowEvents(t.Context(), api.EventQuery{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log.Add(events.Event{Kind: "device.disconnected"})
	var kinds []string
	for e, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if kinds = append(kinds, e.Kind); len(kinds) == 2 {
			break
		}
	}
	if diff := cmp.Diff([]string{"publish.refused", "device.disconnected"}, kinds); diff != "" {
		t.Error(diff)
	}
}

func TestWatchDiscoverEndsInOrder(t *testing.T) {
	t.Parallel()
	c := start(t, api.Services{Discover: func(ctx context.Context, found func(api.Found)) error {
		found(api.Found{Instance: "a"})
		<-ctx.Done()
		return nil
	}})
	s, err := c.WatchDiscover(t.Context(), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for f, err := range s.All() {
		if err != nil || f.Instance != "a" {
			t.Error(f, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d found", n)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	var fails error
	c := start(t, api.Services{
		Update: func(_ context.Context, id identity.DeviceID, image string, progress func(api.UpdateProgress)) (api.UpdateResult, error) {
			progress(api.UpdateProgress{Step: "offer"})
			progress(api.UpdateProgress{Step: "download"})
			return api.UpdateResult{Device: id.String(), To: image}, fails
		},
	})
	var steps []string
	progress := func(p api.UpdateProgress) { steps = append(steps, p.Step) }
	check(t, "Update", api.UpdateResult{Device: "lamp", To: "fw"})(c.Update(t.Context(), "lamp", api.UpdateRequest{Image: "fw"}, progress))
	if diff := cmp.Diff([]string{"offer", "download"}, steps); diff != "" {
		t.Error(diff)
	}
	fails = rpc.ErrOffline
	if _, err := c.Update(t.Context(), "lamp", api.UpdateRequest{Image: "fw"}, nil); code(err) != api.CodeOffline {
		t.Errorf("error %v", err)
	}
}

// zeros is an endless image.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What the gateway says about an upload arrives, although the client has not sent everything.
func TestUploadThatIsRefused(t *testing.T) {
	t.Parallel()
	read := 0
	c := start(t, api.Services{AddImage: func(_ context.Context, _ string, r io.Reader) (api.Image, error) {
		io.CopyN(io.Discard, r, int64(read))
		return api.Image{}, store.ErrFull
	}})
	for _, read = range []int{0, 1, 10 << 20} {
		if _, err := c.AddImage(t.Context(), "fw", io.LimitReader(zeros{}, 1<<30), 1<<30); code(err) != api.CodeDiskFull {
			t.Errorf("after %d bytes: %v", read, err)
		}
	}
}

package gateway_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gatewayctl/gateway"
	"gatewayctl/pki/identity"
	"gatewayctl/pki/pkitest"
	"gatewayctl/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDB(t testing.TB, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(filepath.Join(dir, "gateway.db"), []store.Schema{gateway.Schema()}, store.Options{NoSync: true})
	must(t, err)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// fixture is a registry at a clock that the test sets, and what its hooks said.
type fixture struct {
	*gateway.Registry
	db  *store.DB
	mu  sync.Mutex
	now time.Time
	log []string
}

func start(t testing.TB, db *store.DB) *fixture {
	t.Helper()
	f := &fixture{db: db, now: noon}
	hook := func(what string) func(identity.DeviceID) {
		return func(id identity.DeviceID) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.log = append(f.log, what+" "+id.String())
		}
	}
	r, err := gateway.NewRegistry(db, gateway.RegistryOptions{
		Now:       func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now },
		OnDisable: hook("disable"), OnRemove: hook("remove"), OnChange: hook("change"),
	})
	must(t, err)
	f.Registry = r
	return f
}

// said returns what the hooks said since the last call.
func (f *fixture) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.log = nil }()
	return strings.Join(f.log, ", ")
}

func (f *fixture) pass(d time.Duration) { f.mu.Lock(); defer f.mu.Unlock(); f.now = f.now.Add(d) }

func TestDeviceLifecycle(t *testing.T) {
	t.Parallel()
	db := openDB(t, t.TempDir())
	f := start(t, db)
	lamp := pkitest.Name(t, "lamp")
	given := gateway.Device{
		Name: lamp, Type: "light", Attributes: map[string]string{"site": "north"},
		Tags: []string{"b", "a", "b"}, Policies: []string{"p"}, Certificates: []string{"c1"},
	}
	must(t, f.Create(t.Context(), given))
	want := given
	want.Tags, want.Created, want.Changed = []string{"a", "b"}, noon, noon
	check := func(r *gateway.Registry) {
		t.Helper()
		got, err := r.Get(lamp)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	check(f.Registry)
	if got := f.said(); got != "change lamp" {
		t.Errorf("hooks after Create: %s", got)
	}

	f.pass(time.Hour)
	must(t, f.Update(t.Context(), lamp, func(d *gateway.Device) error {
		d.Name, d.Created, d.Changed = pkitest.Name(t, "other"), time.Time{}, time.Time{} // not theirs to change
		d.Info.FirmwareVersion = "1.2\x1b[31m\n" + strings.Repeat("x", 400)
		return nil
	}))
	want.Info.FirmwareVersion = "1.2[31m" + strings.Repeat("x", 256-9)
	want.Changed = noon.Add(time.Hour)
	check(f.Registry)
	if got := f.said(); got != "change lamp" {
		t.Errorf("hooks after Update: %s", got)
	}

	f.pass(time.Hour)
	must(t, f.Update(t.Context(), lamp, func(*gateway.Device) error { return nil }))
	check(f.Registry) // nothing changed, nothing was written
	boom := errors.New("boom")
	err := f.Update(t.Context(), lamp, func(d *gateway.Device) error { d.Type = "x"; return boom })
	if !errors.Is(err, boom) {
		t.Errorf("Update: %v", err)
	}
	check(f.Registry)
	if got := f.said(); got != "" {
		t.Errorf("hooks after changes of nothing: %s", got)
	}

	for range 2 {
		must(t, f.SetDisabled(t.Context(), lamp, true))
	}
	want.Disabled, want.Changed = true, noon.Add(2*time.Hour)
	check(f.Registry)
	check(start(t, db).Registry)
	if got := f.said(); got != "disable lamp, change lamp" {
		t.Errorf("hooks after disabling twice: %s", got)
	}
	must(t, f.SetDisabled(t.Context(), lamp, false))
	f.said()

	was, err := f.Remove(t.Context(), lamp)
	must(t, err)
	if was.Name != lamp || !slices.Equal(was.Certificates, []string{"c1"}) {
		t.Errorf("Remove returned %+v", was)
	}
	if got := f.said(); got != "remove lamp, change lamp" {
		t.Errorf("hooks after Remove: %s", got)
	}
	for _, r := range []*gateway.Registry{f.Registry, start(t, db).Registry} {
		if _, err := r.Get(lamp); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("Get of a removed device: %v", err)
		}
		if _, ok := r.ByCertificate("c1"); ok || r.Has("lamp") {
			t.Error("a removed device can still be found")
		}
	}
	if _, err := f.Remove(t.Context(), lamp); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("Remove again: %v", err)
	}
	if err := f.SetDisabled(t.Context(), lamp, true); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("disabling a removed device: %v", err)
	}
	must(t, f.Create(t.Context(), given)) // the name and the certificate are free again
}

// TestReadersGetCopies changes whatever a reader gets.
func TestReadersGetCopies(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	lamp := pkitest.Name(t, "lamp")
	must(t, f.Create(t.Context(), gateway.Device{Name: lamp, Tags: []string{"a"}, Attributes: map[string]string{"k": "v"}, Certificates: []string{"c"}}))
	before, err := f.Get(lamp)
	must(t, err)
	byCert, _ := f.ByCertificate("c")
	for _, d := range append(f.List(gateway.Query{}), byCert) {
		d.Tags[0], d.Certificates[0] = "changed", "changed"
		d.Attributes["k"] = "changed"
	}
	after, err := f.Get(lamp)
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

func TestCertificateNamesOneDevice(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	lamp, pump := pkitest.Name(t, "lamp"), pkitest.Name(t, "pump")
	must(t, f.Create(t.Context(), gateway.Device{Name: lamp, Certificates: []string{"c1"}}))
	must(t, f.Create(t.Context(), gateway.Device{Name: pump}))
	attach := func(id identity.DeviceID, cert string, policies ...string) error {
		err := f.db.Update(t.Context(), func(tx *store.Tx) error { return f.AttachTx(tx, id, cert, policies) })
		if err == nil {
			return f.Reload(id)
		}
		return err
	}
	if err := attach(pump, "c1"); !errors.Is(err, gateway.ErrAttached) || !strings.Contains(err.Error(), "lamp") {
		t.Errorf("attaching lamp's certificate to pump: %v", err)
	}
	if err := f.Create(t.Context(), gateway.Device{Name: pkitest.Name(t, "thief"), Certificates: []string{"c1"}}); !errors.Is(err, gateway.ErrAttached) {
		t.Errorf("creating a device with lamp's certificate: %v", err)
	}
	if f.Has("thief") {
		t.Error("the thief is registered")
	}
	must(t, attach(lamp, "c1"))
	must(t, attach(lamp, "c2", "p", "o"))
	if d, ok := f.ByCertificate("c2"); !ok || d.Name != lamp || !slices.Equal(d.Certificates, []string{"c1", "c2"}) || !slices.Equal(d.Policies, []string{"o", "p"}) {
		t.Errorf("ByCertificate(c2) = %+v, %v", d, ok)
	}
	must(t, f.Update(t.Context(), lamp, func(d *gateway.Device) error { d.Certificates = []string{"c2"}; return nil }))
	if _, ok := f.ByCertificate("c1"); ok {
		t.Error("a certificate that was taken off still names a device")
	}
	must(t, attach(pump, "c1"))
	if d, ok := f.ByCertificate("c1"); !ok || d.Name != pump {
		t.Errorf("ByCertificate(c1) = %+v, %v", d, ok)
	}
	if err := attach(pkitest.Name(t, "nobody"), "c3"); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("attaching to nobody: %v", err)
	}
	if err := attach(pump, ""); !errors.Is(err, gateway.ErrInvalid) {
		t.Errorf("attaching nothing: %v", err)
	}
}

func TestInvalidDescriptions(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	many := make([]string, 60)
	attributes := map[string]string{}
	for i := range many {
		many[i] = fmt.Sprint("x", i)
		attributes[many[i]] = ""
	}
	lamp := pkitest.Name(t, "lamp")
	must(t, f.Create(t.Context(), gateway.Device{Name: lamp}))
	for name, d := range map[string]gateway.Device{
		"type":             {Type: "a b"},
		"long type":        {Type: strings.Repeat("x", 129)},
		"empty tag":        {Tags: []string{""}},
		"tag":              {Tags: []string{"a\nb"}},
		"policy":           {Policies: []string{"../device"}},
		"attribute name":   {Attributes: map[string]string{"a b": "x"}},
		"no attribute":     {Attributes: map[string]string{"": "x"}},
		"attribute value":  {Attributes: map[string]string{"a": "${x}"}},
		"long value":       {Attributes: map[string]string{"a": strings.Repeat("x", 801)}},
		"many tags":        {Tags: many},
		"many policies":    {Policies: many},
		"many attributes":  {Attributes: attributes},
		"no name at all":   {Name: identity.DeviceID{}},
		"policy with star": {Policies: []string{"*"}},
	} {
		if name != "no name at all" {
			err := f.Update(t.Context(), lamp, func(old *gateway.Device) error { *old = d; return nil })
			if !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%s: Update: %v", name, err)
			}
			d.Name = pkitest.Name(t, "new")
		}
		if err := f.Create(t.Context(), d); !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%s: Create: %v", name, err)
		}
	}
	if err := f.Create(t.Context(), gateway.Device{Name: lamp}); !errors.Is(err, gateway.ErrExists) {
		t.Errorf("creating a device that exists: %v", err)
	}
	if devices, _ := f.Count(); devices != 1 {
		t.Errorf("%d devices", devices)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	for _, d := range []gateway.Device{
		{Name: pkitest.Name(t, "sim-2"), Type: "sim", Tags: []string{"x", "y"}},
		{Name: pkitest.Name(t, "sim-1"), Type: "sim"},
		{Name: pkitest.Name(t, "lamp"), Tags: []string{"x"}},
	} {
		must(t, f.Create(t.Context(), d))
	}
	f.Connected(pkitest.Name(t, "lamp"), gateway.Presence{ClientID: "lamp"})
	yes, no := true, false
	for _, tc := range []struct {
		query gateway.Query
		want  string
	}{
		{gateway.Query{}, "lamp sim-1 sim-2"},
		{gateway.Query{Tag: "x"}, "lamp sim-2"},
		{gateway.Query{Type: "sim"}, "sim-1 sim-2"},
		{gateway.Query{Prefix: "sim-"}, "sim-1 sim-2"},
		{gateway.Query{Prefix: "sim-", Tag: "x", Type: "sim"}, "sim-2"},
		{gateway.Query{Online: &yes}, "lamp"},
		{gateway.Query{Online: &no}, "sim-1 sim-2"},
		{gateway.Query{Tag: "z"}, ""},
	} {
		var got []string
		for _, d := range f.List(tc.query) {
			got = append(got, d.Name.String())
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("List(%+v) = %v, want %s", tc.query, got, tc.want)
		}
	}
	if devices, online := f.Count(); devices != 3 || online != 1 {
		t.Errorf("Count() = %d, %d", devices, online)
	}
}

// TestConcurrentChanges lets many change one device; the memory must end where the store does.
func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	lamp := pkitest.Name(t, "lamp")
	must(t, f.Create(t.Context(), gateway.Device{Name: lamp}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				tag := fmt.Sprintf("%d-%d", i, j)
				err := f.Update(t.Context(), lamp, func(d *gateway.Device) error {
					d.Tags = append(d.Tags[max(0, len(d.Tags)-20):], tag)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if d, err := f.Get(lamp); err != nil || len(d.Tags) == 0 {
					t.Error(d, err)
				}
				f.Connected(lamp, gateway.Presence{ClientID: tag})
				f.List(gateway.Query{})
				f.Disconnected(lamp, tag, "")
			}
		})
	}
	wg.Wait()
	memory, err := f.Get(lamp)
	must(t, err)
	disk, err := start(t, f.db).Get(lamp)
	must(t, err)
	memory.LastSeen = time.Time{}
	if diff := cmp.Diff(disk, memory); diff != "" {
		t.Errorf("store and memory differ: %s", diff)
	}
	if f.Online(lamp) {
		t.Error("online though all have left")
	}
}

// TestHasDoesNotAllocate is not parallel, because it counts allocations.
func TestHasDoesNotAllocate(t *testing.T) {
	f := start(t, openDB(t, t.TempDir()))
	lamp := pkitest.Name(t, "lamp")
	must(t, f.Create(t.Context(), gateway.Device{Name: lamp}))
	if n := testing.AllocsPerRun(100, func() { f.Has("lamp"); f.Online(lamp) }); n != 0 {
		t.Errorf("Has and Online allocate %v times", n)
	}
}

func BenchmarkOpenWith10000Devices(b *testing.B) {
	db := openDB(b, b.TempDir())
	f := start(b, db)
	must(b, db.Update(b.Context(), func(tx *store.Tx) error {
		for i := range 10000 {
			name := fmt.Sprintf("device-%05d", i)
			err := f.CreateTx(tx, gateway.Device{Name: pkitest.Name(b, name), Type: "sensor", Tags: []string{"a"}, Certificates: []string{"cert-" + name}})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	for b.Loop() {
		if devices, _ := start(b, db).Count(); devices != 10000 {
			b.Fatalf("%d devices", devices)
		}
	}
}

func BenchmarkByCertificate(b *testing.B) {
	f := start(b, openDB(b, b.TempDir()))
	must(b, f.Create(b.Context(), gateway.Device{Name: pkitest.Name(b, "lamp"), Certificates: []string{"c"}}))
	b.ReportAllocs()
	for b.Loop() {
		f.ByCertificate("c")
	}
}

package repository

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/store"
	"gatewayctl/store/storetest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spec(name, platform, version string) firmware.BundleSpec {
	return firmware.BundleSpec{Name: name, Platform: platform, Version: version, BuildID: "b-" + version,
		Parts: []firmware.BundlePart{{Name: "app", Data: []byte("app " + version)}}}
}

func bundle(t testing.TB, name, platform, version string) []byte {
	t.Helper()
	b, err := firmware.BuildBundle(spec(name, platform, version))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// repack makes a bundle that devices cannot install: compressed, with data descriptors, in another order.
func repack(t testing.TB, b []byte) []byte {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for i := range r.File {
		f := r.File[len(r.File)-1-i]
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		e, err := w.Create(f.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(e, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// shelf is a repository on a disk of its own that can be opened again.
type shelf struct {
	t       testing.TB
	dir     string
	db      *store.DB
	minutes atomic.Int64
}

func newShelf(t testing.TB) *shelf {
	dir := filepath.Join(t.TempDir(), "firmware")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &shelf{t: t, dir: dir, db: storetest.Open(t, Schema())}
}

func (s *shelf) open(opts Options) *Repository {
	s.t.Helper()
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { root.Close() })
	opts.Now = func() time.Time { // a minute later each time
		return time.Date(2026, 5, 1, 0, int(s.minutes.Add(1)), 0, 0, time.UTC)
	}
	r, err := Open(root, s.db, opts)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// files returns what lies in the directory.
func (s *shelf) files() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func add(t testing.TB, r *Repository, name string, b []byte) firmware.Image {
	t.Helper()
	img, err := r.Add(t.Context(), name, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func read(t testing.TB, r *Repository, sha string) []byte {
	t.Helper()
	f, _, err := r.Open(sha)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAdd(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	r := s.open(Options{})
	good := bundle(t, "demo", "esp32", "2.0.0")
	sum := sha256.Sum256(good)
	want := firmware.Image{SHA256: hex.EncodeToString(sum[:]), Kind: firmware.KindMongooseOS, Name: "demo", File: "fw.zip", Version: "2.0.0",
		BuildID: "b-2.0.0", Platform: "esp32", SizeBytes: int64(len(good)), Added: time.Date(2026, 5, 1, 0, 1, 0, 0, time.UTC)}
	if diff := cmp.Diff(want, add(t, r, "fw.zip", good)); diff != "" {
		t.Errorf("Add (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, add(t, r, "other.zip", good)); diff != "" {
		t.Errorf("the same again (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, add(t, r, "repacked.zip", repack(t, good))); diff != "" {
		t.Errorf("the same in another form (-want +got):\n%s", diff)
	}
	if !bytes.Equal(read(t, r, want.SHA256), good) {
		t.Error("other bytes come back")
	}
	opaque := add(t, r, "tasmota.bin@14.2.0", []byte{0xe9, 0, 1})
	if opaque.Kind != firmware.KindOpaque || opaque.Ref() != "tasmota.bin@14.2.0" || opaque.File != "tasmota.bin" {
		t.Errorf("opaque image %+v", opaque)
	}
	if got := s.files(); len(got) != 2 {
		t.Errorf("files %q", got)
	}
	info, err := os.Stat(filepath.Join(s.dir, want.SHA256))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	again := s.open(Options{})
	if diff := cmp.Diff(r.List(), again.List()); diff != "" || len(again.List()) != 2 {
		t.Errorf("after a restart:\n%s", diff)
	}
	removed, err := again.Remove(t.Context(), "demo")
	if err != nil || removed.SHA256 != want.SHA256 || len(again.List()) != 1 || len(s.files()) != 1 {
		t.Errorf("Remove: %+v, %v; files %q", removed, err, s.files())
	}
	if _, _, err := again.Open(want.SHA256); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open of a removed image: %v", err)
	}
	if _, err := again.Remove(t.Context(), "demo"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove of a removed image: %v", err)
	}
}

func TestRewrittenIsWhatDevicesNeed(t *testing.T) {
	t.Parallel()
	r := newShelf(t).open(Options{})
	img := add(t, r, "fw.zip", repack(t, bundle(t, "demo", "esp32", "2.0.0")))
	b := read(t, r, img.SHA256)
	opened, err := firmware.OpenBundle(bytes.NewReader(b), int64(len(b)), firmware.Limits{})
	sum := sha256.Sum256(b)
	if err != nil || !opened.Streamable() || hex.EncodeToString(sum[:]) != img.SHA256 || int64(len(b)) != img.SizeBytes {
		t.Errorf("stored image %+v: %v", img, err)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	r := newShelf(t).open(Options{})
	v1 := add(t, r, "lamp.zip", bundle(t, "lamp", "esp32", "1.9.0"))
	v2 := add(t, r, "lamp.zip", bundle(t, "lamp", "esp32", "1.10.0"))
	add(t, r, "pump-a.zip", bundle(t, "pump", "esp32", "1.0.0"))
	b := add(t, r, "pump-b.zip", bundle(t, "pump", "esp8266", "1.0.0"))
	for _, tc := range []struct {
		ref  string
		want string
		err  error
	}{
		{"lamp", v2.SHA256, nil},
		{"lamp.zip", v2.SHA256, nil},
		{"lamp@1.9.0", v1.SHA256, nil},
		{v1.SHA256, v1.SHA256, nil},
		{v1.SHA256[:12], v1.SHA256, nil},
		{strings.ToUpper(v1.SHA256[:6]), v1.SHA256, nil},
		{v1.SHA256[:5], "", ErrNotFound},
		{"lamp@3", "", ErrNotFound},
		{"", "", ErrNotFound},
		{"@", "", ErrNotFound},
		{"pump", "", ErrAmbiguous},
		{"pump@1.0.0", "", ErrAmbiguous},
		{"pump-b.zip", b.SHA256, nil},
	} {
		got, err := r.Get(tc.ref)
		if got.SHA256 != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("Get(%q) = %s, %v; want %s, %v", tc.ref, got.Ref(), err, tc.want, tc.err)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	r := s.open(Options{MaxBytes: 10_000})
	broken := bundle(t, "demo", "esp32", "2.0.0")
	broken[60] ^= 1
	lost := errors.New("connection lost")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		name string
		ctx  context.Context
		src  io.Reader
		want error
	}{
		{"too large", t.Context(), bytes.NewReader(make([]byte, 10_001)), ErrTooLarge},
		{"broken", t.Context(), bytes.NewReader(broken), firmware.ErrInvalid},
		{"empty", t.Context(), bytes.NewReader(nil), firmware.ErrInvalid},
		{"upload cut off", t.Context(), io.MultiReader(strings.NewReader("half"), iotestErr{lost}), lost},
		{"client gone", canceled, strings.NewReader("x"), context.Canceled},
	} {
		if _, err := r.Add(tc.ctx, tc.name, tc.src); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	add(t, r, "fits", make([]byte, 10_000))
	if len(s.files()) != 1 || len(r.List()) != 1 {
		t.Errorf("files %q, images %v", s.files(), r.List())
	}
}

type iotestErr struct{ err error }

func (r iotestErr) Read([]byte) (int, error) { return 0, r.err }

func TestConcurrentAdds(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	r := s.open(Options{})
	good := bundle(t, "demo", "esp32", "2.0.0")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b := good
			if i%2 == 0 {
				b = repack(t, good)
			}
			if _, err := r.Add(t.Context(), "fw.zip", bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(r.List()) != 1 || len(s.files()) != 1 {
		t.Errorf("%d images, files %q", len(r.List()), s.files())
	}
}

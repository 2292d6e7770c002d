package pki_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gatewayctl/pki"
	"gatewayctl/pki/keystore"
	"gatewayctl/pki/pkitest"
	"gatewayctl/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	day  = 24 * time.Hour
	year = 365 * day
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// wall is a clock that a test sets.
type wall struct {
	mu sync.Mutex
	t  time.Time
}

func at(t time.Time) *wall { return &wall{t: t} }

func (w *wall) now() time.Time      { w.mu.Lock(); defer w.mu.Unlock(); return w.t }
func (w *wall) set(t time.Time)     { w.mu.Lock(); defer w.mu.Unlock(); w.t = t }
func (w *wall) add(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.t = w.t.Add(d) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that err is target and that its text has all words.
func wantError(t *testing.T, err, target error, words ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestFirstRunMakesTheAuthority(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{Now: at(noon).now})
	for _, tc := range []struct {
		cert     *x509.Certificate
		lifetime time.Duration
		pathLen  int
		usages   []x509.ExtKeyUsage
	}{
		{ca.Root(), 20 * year, -1, nil},
		{ca.Intermediate(), 10 * year, 0, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
	} {
		c := tc.cert
		if !c.IsCA || !c.BasicConstraintsValid || c.MaxPathLen != tc.pathLen || c.KeyUsage&x509.KeyUsageCertSign == 0 || c.KeyUsage&x509.KeyUsageCRLSign == 0 {
			t.Errorf("%s: CA %v, path length %d, usage %b", c.Subject, c.IsCA, c.MaxPathLen, c.KeyUsage)
		}
		if c.NotAfter.Sub(c.NotBefore) != tc.lifetime || !c.NotBefore.Equal(noon.Add(-day)) {
			t.Errorf("%s: valid from %v to %v", c.Subject, c.NotBefore, c.NotAfter)
		}
		if c.PublicKeyAlgorithm != x509.ECDSA || c.SerialNumber.BitLen() < 96 {
			t.Errorf("%s: key %v, serial number %x", c.Subject, c.PublicKeyAlgorithm, c.SerialNumber)
		}
		if diff := cmp.Diff(tc.usages, c.ExtKeyUsage); diff != "" {
			t.Errorf("%s: usages %s", c.Subject, diff)
		}
	}
	must(t, ca.Intermediate().CheckSignatureFrom(ca.Root()))
	if len(ca.RootFingerprint()) != 64 {
		t.Errorf("fingerprint %q", ca.RootFingerprint())
	}
	files, err := filepath.Glob(filepath.Join(ca.Dir, "keys", "*"))
	must(t, err)
	if len(files) != 2 {
		t.Errorf("keys: %v", files)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
}

func TestTwoGatewaysHaveDifferentNames(t *testing.T) {
	t.Parallel()
	a, b := pkitest.New(t, pkitest.Options{}), pkitest.New(t, pkitest.Options{})
	if a.Root().Subject.CommonName == b.Root().Subject.CommonName {
		t.Errorf("both roots are called %q: a client with both would mix them up", a.Root().Subject.CommonName)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	_, cert := ca.Device(t, "lamp")
	_, gone := ca.Device(t, "lamp")
	_, err := ca.Revoke(t.Context(), gone.Serial, "keyCompromise")
	must(t, err)
	before := ca.List()
	ca.Close(t)
	again := pkitest.New(t, pkitest.Options{Dir: ca.Dir})
	if again.RootFingerprint() != ca.RootFingerprint() {
		t.Error("another root after a restart")
	}
	if diff := cmp.Diff(before, again.List()); diff != "" {
		t.Errorf("certificates after a restart: %s", diff)
	}
	for _, name := range []string{cert.ID, cert.Serial, strings.ToUpper(cert.Serial), "0" + cert.Serial, strings.ToUpper(cert.ID)} {
		if got, ok := again.Lookup(name); !ok || got.ID != cert.ID {
			t.Errorf("Lookup(%q) = %v, %v", name, got, ok)
		}
	}
	if _, ok := again.Lookup(""); ok {
		t.Error(`Lookup("") found something`)
	}
	if got := again.ForDevice(pkitest.Name(t, "lamp")); len(got) != 2 {
		t.Errorf("ForDevice has %d certificates", len(got))
	}
}

// keyFile returns the file of the root's or intermediate's key.
func keyFile(t *testing.T, ca *pkitest.CA, prefix string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(ca.Dir, "keys", prefix+"-*.key"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	return files[0]
}

func TestDamagedKeysStopTheStart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, key string
		damage    func(t *testing.T, file string)
		want      error // nil: any
		says      []string
	}{
		{"no intermediate key", "intermediate", func(t *testing.T, f string) { must(t, os.Remove(f)) }, fs.ErrNotExist, []string{"restore"}},
		{"world-readable intermediate key", "intermediate", func(t *testing.T, f string) { must(t, os.Chmod(f, 0o644)) }, keystore.ErrPermission, []string{"chmod 600"}},
		{"truncated intermediate key", "intermediate", func(t *testing.T, f string) { must(t, os.Truncate(f, 50)) }, keystore.ErrInvalid, []string{"restore"}},
		{"world-readable root key", "root", func(t *testing.T, f string) { must(t, os.Chmod(f, 0o644)) }, keystore.ErrPermission, []string{"chmod 600"}},
		{"truncated root key", "root", func(t *testing.T, f string) { must(t, os.Truncate(f, 50)) }, keystore.ErrInvalid, nil},
		{"key of another CA", "intermediate", func(t *testing.T, f string) {
			other, err := os.ReadFile(keyFile(t, pkitest.New(t, pkitest.Options{}), "intermediate"))
			must(t, err)
			must(t, os.WriteFile(f, other, 0o600))
		}, nil, []string{"does not belong", "same backup"}},
		{"root key of another CA", "root", func(t *testing.T, f string) {
			other, err := os.ReadFile(keyFile(t, pkitest.New(t, pkitest.Options{}), "root"))
			must(t, err)
			must(t, os.WriteFile(f, other, 0o600))
		}, nil, []string{"does not belong"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ca := pkitest.New(t, pkitest.Options{})
			file := keyFile(t, ca, tc.key)
			ca.Close(t)
			tc.damage(t, file)
			_, err := pkitest.Open(t, pkitest.Options{Dir: ca.Dir})
			if err == nil {
				t.Fatal("the authority opened")
			}
			if tc.want == nil {
				tc.want = err
			}
			wantError(t, err, tc.want, append(tc.says, file)...)
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line: %q", err)
			}
		})
	}
}

func TestRootKeyMayBeElsewhere(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	ca.Close(t)
	must(t, os.Remove(keyFile(t, ca, "root")))
	again := pkitest.New(t, pkitest.Options{Dir: ca.Dir})
	again.Device(t, "lamp")
}

func TestLostStoreIsNotReplacedSilently(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	ca.Close(t)
	must(t, os.Remove(filepath.Join(ca.Dir, "gateway.db")))
	_, err := pkitest.Open(t, pkitest.Options{Dir: ca.Dir})
	if err == nil {
		t.Fatal("a new authority took the place of one whose devices are in the field")
	}
	wantError(t, err, err, filepath.Join(ca.Dir, "keys"), "restore the store", "move the key directory away")
}

// TestFirstRunCutOff leaves what a power cut can leave between the first write and the last.
func TestFirstRunCutOff(t *testing.T) {
	t.Parallel()
	for _, made := range [][]string{nil, {"root-0a"}, {"root-0a", "intermediate-0a"}} {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "keys"), 0o700))
		db, err := store.Open(filepath.Join(dir, "gateway.db"), []store.Schema{pki.Schema()}, store.Options{NoSync: true})
		must(t, err)
		must(t, db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Bucket("pki", "state").Put([]byte("making"), []byte(`{"keys":["root-0a","intermediate-0a"]}`))
		}))
		must(t, db.Close())
		root, err := os.OpenRoot(filepath.Join(dir, "keys"))
		must(t, err)
		keys, err := keystore.Open(root)
		must(t, err)
		for _, name := range made {
			_, err := keys.Create(name)
			must(t, err)
		}
		must(t, root.Close())
		ca := pkitest.New(t, pkitest.Options{Dir: dir})
		ca.Device(t, "lamp")
		if files, err := filepath.Glob(filepath.Join(dir, "keys", "*")); err != nil || len(files) != 2 {
			t.Errorf("after %v were made: %v, %v", made, files, err)
		}
	}
}

func TestFirstRunWithoutClock(t *testing.T) {
	t.Parallel()
	clock, dir := at(time.Date(1970, 1, 1, 0, 0, 12, 0, time.UTC)), t.TempDir()
	ca, err := pkitest.Open(t, pkitest.Options{Dir: dir, Now: clock.now, Build: noon})
	wantError(t, err, pki.ErrClock, "1970-01-01 00:00:12", "2026-07-01 12:00:00", "timedatectl", "start again")
	if files, _ := filepath.Glob(filepath.Join(dir, "keys", "*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
	ca.Close(t)
	clock.set(noon.Add(time.Hour))
	pkitest.New(t, pkitest.Options{Dir: dir, Now: clock.now, Build: noon})
}

func BenchmarkOpenWith10000Certificates(b *testing.B) {
	ca := pkitest.New(b, pkitest.Options{})
	_, cert := ca.Device(b, "lamp")
	err := ca.DB.Update(b.Context(), func(tx *store.Tx) error {
		for i := range 10000 {
			c := *cert
			c.ID, c.Serial = cert.ID[:56]+hex8(i), cert.Serial[:20]+hex8(i)
			if err := store.PutJSON(tx.Bucket("pki", "certificates"), c.ID, &c); err != nil {
				return err
			}
			if err := tx.Bucket("pki", "der").Put([]byte(c.ID), c.DER); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		again, err := pki.Open(b.Context(), ca.DB, ca.Keys, ca.Clock, pki.Options{})
		if err != nil || len(again.List()) != 10001 {
			b.Fatal(err)
		}
	}
}

func hex8(i int) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 8)
	for j := range b {
		b[7-j] = digits[i>>(4*j)&15]
	}
	return string(b)
}

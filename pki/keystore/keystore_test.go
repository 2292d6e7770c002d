package keystore_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"crypto/ecdsa"

	"gatewayctl/pki/keystore"
)

// open returns a store and its directory.
func open(t *testing.T) (*keystore.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	s, err := keystore.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestCreateThenLoad(t *testing.T) {
	t.Parallel()
	s, dir := open(t)
	made, err := s.Create("root")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("root.key has mode %v, want 0600", info.Mode())
	}
	loaded, err := s.Load("root")
	if err != nil {
		t.Fatal(err)
	}
	if !made.Public().(*ecdsa.PublicKey).Equal(loaded.Public()) {
		t.Error("the loaded key is not the key that was made")
	}
	sum := sha256.Sum256([]byte("message"))
	sig, err := loaded.Sign(rand.Reader, sum[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(made.Public().(*ecdsa.PublicKey), sum[:], sig) {
		t.Error("the loaded key's signature does not verify")
	}
	if _, err := s.Create("root"); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("a second Create of the same name: %v, want ErrExists", err)
	}
	if names, err := s.List("ro"); err != nil || len(names) != 1 || names[0] != "root" {
		t.Errorf(`List("ro") = %v, %v`, names, err)
	}
	if err := s.Remove("root"); err != nil {
		t.Error(err)
	}
	if err := s.Remove("root"); err != nil {
		t.Errorf("removing a key that is not there: %v", err)
	}
	if _, err := s.Load("root"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load after Remove: %v, want fs.ErrNotExist", err)
	}
}

func TestDamagedKeys(t *testing.T) {
	t.Parallel()
	ec := "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n"
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, file string)
		want   error
		says   string
	}{
		{"missing", func(t *testing.T, f string) { must(t, os.Remove(f)) }, fs.ErrNotExist, "restore it from a backup"},
		{"readable by all", func(t *testing.T, f string) { must(t, os.Chmod(f, 0o644)) }, keystore.ErrPermission, "chmod 600"},
		{"readable by the group", func(t *testing.T, f string) { must(t, os.Chmod(f, 0o640)) }, keystore.ErrPermission, "mode 0640"},
		{"truncated", func(t *testing.T, f string) { must(t, os.Truncate(f, 100)) }, keystore.ErrInvalid, "cut off"},
		{"empty", func(t *testing.T, f string) { must(t, os.Truncate(f, 0)) }, keystore.ErrInvalid, "empty"},
		{"another format", func(t *testing.T, f string) { must(t, os.WriteFile(f, []byte(ec), 0o600)) }, keystore.ErrInvalid, "EC PRIVATE KEY"},
		{"endless", func(t *testing.T, f string) { must(t, os.Truncate(f, 1<<20)) }, keystore.ErrInvalid, "too long"},
		{"a directory", func(t *testing.T, f string) { must(t, os.Remove(f)); must(t, os.Mkdir(f, 0o700)) }, keystore.ErrInvalid, "regular"},
		{"two keys", func(t *testing.T, f string) {
			b, err := os.ReadFile(f)
			must(t, err)
			must(t, os.WriteFile(f, append(b, b...), 0o600))
		}, keystore.ErrInvalid, "follows"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, dir := open(t)
			if _, err := s.Create("root"); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "root.key")
			tc.damage(t, file)
			_, err := s.Load("root")
			if !errors.Is(err, tc.want) {
				t.Fatalf("Load: %v, want %v", err, tc.want)
			}
			var typed *keystore.Error
			if !errors.As(err, &typed) || typed.Path != file || typed.Remedy == "" {
				t.Errorf("Load: %#v does not name %s and a remedy", err, file)
			}
			if !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("Load: %q does not say %q and the file", err, tc.says)
			}
		})
	}
}

func TestDirectoryOthersMayWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	if _, err := keystore.Open(root); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
		t.Errorf("Open of a world-writable directory: %v", err)
	}
}

func TestNamesStayInTheDirectory(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	for _, name := range []string{"", "..", "../x", "a/b", "a b", "-x", "A", "ä", strings.Repeat("a", 101)} {
		if _, err := s.Create(name); err == nil {
			t.Errorf("Create(%q) succeeded", name)
		}
		if _, err := s.Load(name); err == nil {
			t.Errorf("Load(%q) succeeded", name)
		}
		if err := s.Remove(name); err == nil {
			t.Errorf("Remove(%q) succeeded", name)
		}
	}
}

// TestKeysDoNotPrint looks for the private scalar in every way a key may reach a log.
func TestKeysDoNotPrint(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	key, err := s.Create("root")
	must(t, err)
	want := key.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, key); got != want {
			t.Errorf("%s prints %q", verb, got)
		}
		if got := fmt.Sprintf(verb, struct{ K any }{key}); !strings.Contains(got, "redacted") {
			t.Errorf("%s inside a struct prints %q", verb, got)
		}
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", key, "in", struct{ K *keystore.Key }{key})
	if strings.Count(out.String(), "redacted") != 2 {
		t.Errorf("logged as %s", out.String())
	}
	if b, err := json.Marshal(key); err != nil || !bytes.Contains(b, []byte("redacted")) {
		t.Errorf("marshals as %s, %v", b, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

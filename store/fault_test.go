package store_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"gatewayctl/store"
)

// sample makes a closed database with a few pages of content.
func sample(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gateway.db")
	db, err := store.Open(path, nil, store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			for j := range 30 {
				if err := tx.Bucket("things", fmt.Sprint(i%3)).Put(fmt.Appendf(nil, "%d/%d", i, j), make([]byte, 100*(j%12))); err != nil {
					return err
				}
			}
			return tx.Bucket("big").Put([]byte("k"), make([]byte, 1000*i))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	rewrite := func(f func([]byte) []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		want  error
		says  string
	}{
		{"empty", rewrite(func([]byte) []byte { return nil }), store.ErrCorrupt, "empty"},
		{"short", rewrite(func(b []byte) []byte { return b[:100] }), store.ErrCorrupt, "restore"},
		{"half", rewrite(func(b []byte) []byte { return b[:len(b)/2/4096*4096-5] }), store.ErrCorrupt, "restore"},
		{"text", rewrite(func([]byte) []byte { return []byte(strings.Repeat("hello world\n", 2000)) }), store.ErrForeign, "untouched"},
		{"zeros", rewrite(func(b []byte) []byte { clear(b); return b }), store.ErrForeign, "untouched"},
		{"metas", rewrite(func(b []byte) []byte { b[40] ^= 1; b[4096+40] ^= 1; return b }), store.ErrCorrupt, "meta"},
		{"another bbolt file", func(t *testing.T, path string) {
			os.Remove(path)
			b, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
			if err != nil {
				t.Fatal(err)
			}
			err = b.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })
			if err := errors.Join(err, b.Close()); err != nil {
				t.Fatal(err)
			}
		}, store.ErrForeign, "untouched"},
		{"directory", func(t *testing.T, path string) { os.Remove(path); os.Mkdir(path, 0o700) }, store.ErrCorrupt, "regular"},
		{"newer format", func(t *testing.T, path string) {
			b, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = b.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("_store")).Put([]byte("format"), []byte("gatewayctl store 2"))
			})
			if err := errors.Join(err, b.Close()); err != nil {
				t.Fatal(err)
			}
		}, store.ErrNewer, "install"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := sample(t)
			tc.spoil(t, path)
			before, _ := os.ReadFile(path)
			db, err := store.Open(path, nil, store.Options{NoSync: true})
			if err == nil {
				db.Close()
			}
			if !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), path) || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error = %v, want %v with %q and %q", err, tc.want, path, tc.says)
			}
			if n := strings.Count(fmt.Sprint(err), path); n != 1 {
				t.Errorf("the file is named %d times: %v", n, err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
			if db, err := store.Open(path, nil, store.Options{LockTimeout: time.Millisecond}); errors.As(err, new(*store.LockedError)) {
				t.Error("the lock is still held:", err)
			} else if err == nil {
				db.Close()
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	if _, err := store.Open(filepath.Join(t.TempDir(), "missing", "gateway.db"), nil, store.Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "data directory") {
		t.Errorf("missing directory: %v", err)
	}
	if os.Geteuid() == 0 {
		return // root may read and write everything
	}
	path := sample(t)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(path, nil, store.Options{}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "chown") {
		t.Errorf("unreadable file: %v", err)
	}
}

// TestDamageNeverPanics changes bytes anywhere: the file opens and works, or is refused as
// damaged. Seeded, so that a failure can be had again.
func TestDamageNeverPanics(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	const rounds = 400
	path := filepath.Join(t.TempDir(), "gateway.db")
	for seed := range uint64(rounds) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		bad := append([]byte{}, good...)
		for range 1 + rnd.IntN(4) {
			switch at := rnd.IntN(len(bad) - 16); rnd.IntN(4) {
			case 0:
				bad[at] ^= 1 << rnd.IntN(8)
			case 1: // page headers and elements are where it hurts
				at = at/4096*4096 + rnd.IntN(64)
				binary.LittleEndian.PutUint32(bad[at:], rnd.Uint32())
			case 2:
				at = at / 512 * 512
				clear(bad[at : at+512])
			case 3: // a sector from elsewhere
				copy(bad[at/512*512:], good[rnd.IntN(len(good)/512)*512:][:512])
			}
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := use(t, path); err != nil {
			refused++
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrForeign) && !errors.Is(err, store.ErrNewer) {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
	}
	if refused < rounds/10 {
		t.Errorf("only %d of %d damaged files were refused: the damage misses", refused, rounds)
	}
}

// use opens the database, reads all of it and writes to it.
func use(t *testing.T, path string) error {
	db, err := store.Open(path, nil, store.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer db.Close()
	err = db.View(func(tx *store.Tx) error {
		for i := range 3 {
			tx.Bucket("things", fmt.Sprint(i)).Len()
		}
		return nil
	})
	for i := range 5 {
		err = errors.Join(err, db.Update(t.Context(), func(tx *store.Tx) error {
			return errors.Join(tx.Bucket("things", "1").Put(fmt.Appendf(nil, "new %d", i), make([]byte, 500)), tx.Bucket("big").DeleteAll())
		}))
	}
	return errors.Join(err, db.Check())
}

// TestDamageWhileOpen overwrites pages under an open database.
func TestDamageWhileOpen(t *testing.T) {
	t.Parallel()
	path := sample(t)
	db, err := store.Open(path, nil, store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := int64(2); page < db.Size()/4096; page++ {
		if _, err := f.WriteAt([]byte(strings.Repeat("\xee", 4096)), page*4096); err != nil {
			t.Fatal(err)
		}
	}
	err = db.View(func(tx *store.Tx) error { tx.Bucket("things", "1").Len(); return nil })
	if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("View: %v", err)
	}
	for range 2 {
		err = db.Update(t.Context(), func(tx *store.Tx) error { return tx.Bucket("things", "1").Put([]byte("k"), nil) })
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("Update: %v", err)
		}
	}
	if err := db.Check(); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Check: %v", err)
	}
}

// TestPowerCutInsideACommit relies on what bbolt promises: it writes data pages, syncs, writes
// one meta page, syncs. Any subset of the sectors of one step must give the old state or the new.
func TestPowerCutInsideACommit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	db, err := store.Open(path, nil, store.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cut := filepath.Join(t.TempDir(), "gateway.db")
	put(t, db, "b", "n", "0")
	old, _ := os.ReadFile(path)
	for round := 1; round <= 40; round++ {
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			tx.Bucket("b").Put(fmt.Appendf(nil, "k%d", round%7), make([]byte, 700*(round%5)))
			return tx.Bucket("b").Put([]byte("n"), fmt.Append(nil, round))
		}); err != nil {
			t.Fatal(err)
		}
		now, _ := os.ReadFile(path)
		rnd := rand.New(rand.NewPCG(uint64(round), 2))
		for range 4 {
			image := append(append([]byte{}, old...), make([]byte, len(now)-len(old))...)
			metaStep := rnd.IntN(2) == 0 // data is synced: the meta page is on its way
			for at := 0; at < len(now); at += 512 {
				if isMeta := at < 2*4096; isMeta && metaStep && rnd.IntN(2) == 0 || !isMeta && (metaStep || rnd.IntN(2) == 0) {
					copy(image[at:at+512], now[at:at+512])
				}
			}
			if err := os.WriteFile(cut, image, 0o600); err != nil {
				t.Fatal(err)
			}
			after, err := store.Open(cut, nil, store.Options{NoSync: true})
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if n := get(t, after, "b", "n"); n != fmt.Sprint(round) && n != fmt.Sprint(round-1) {
				t.Errorf("round %d: the file holds state %s", round, n)
			}
			if err := errors.Join(after.Check(), after.Close()); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		old = now
	}
}

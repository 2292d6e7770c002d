package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gatewayctl/store"
	"gatewayctl/store/storetest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("STORE_TEST_ROLE"); role != "" {
		os.Exit(play(role, os.Getenv("STORE_TEST_PATH")))
	}
	goleak.VerifyTestMain(m)
}

func put(t testing.TB, db *store.DB, bucket, key, value string) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error {
		return tx.Bucket(bucket).Put([]byte(key), []byte(value))
	}); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, db *store.DB, bucket, key string) string {
	t.Helper()
	var v []byte
	if err := db.View(func(tx *store.Tx) error {
		v = tx.Bucket(bucket).Get([]byte(key))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func TestBuckets(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		a, b := tx.Bucket("things"), tx.Bucket("things", "lamp", "shadow")
		if a.Len() != 0 || b.Get([]byte("x")) != nil || b.Delete([]byte("x")) != nil || b.DeleteAll() != nil {
			t.Error("a missing bucket does not read as empty")
		}
		for _, k := range []string{"b", "a", "ab", "c"} {
			if err := a.Put([]byte(k), []byte("v"+k)); err != nil {
				return err
			}
		}
		if err := a.Put([]byte("empty"), nil); err != nil {
			return err
		}
		if err := b.Put([]byte("x"), []byte("1")); err != nil {
			return err
		}
		return a.Delete([]byte("c"))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *store.Tx) error {
		a := tx.Bucket("things")
		var all []string
		scan := func(prefix string) {
			all = nil
			if err := a.Scan([]byte(prefix), func(k, v []byte) error {
				all = append(all, string(k)+"="+string(v))
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		scan("")
		if diff := cmp.Diff([]string{"a=va", "ab=vab", "b=vb", "empty="}, all); diff != "" {
			t.Errorf("ForEach (-want +got):\n%s", diff)
		}
		scan("a")
		if diff := cmp.Diff([]string{"a=va", "ab=vab"}, all); diff != "" {
			t.Errorf("Scan (-want +got):\n%s", diff)
		}
		if a.Len() != 4 {
			t.Errorf("Len = %d, want 4", a.Len())
		}
		if v := a.Get([]byte("empty")); v == nil || len(v) != 0 {
			t.Errorf("an empty value reads as %v", v)
		}
		n := 0
		if err := a.ForEach(func(k, v []byte) error { n++; return store.ErrStop }); err != nil || n != 1 {
			t.Errorf("ErrStop: %d calls, %v", n, err)
		}
		if err := a.Put([]byte("k"), nil); err == nil {
			t.Error("Put in a View succeeds")
		}
		if err := tx.Bucket("new").Put([]byte("k"), nil); err == nil {
			t.Error("Put into a new bucket in a View succeeds")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(t.Context(), func(tx *store.Tx) error {
		inner := tx.Bucket("things", "lamp", "shadow")
		if got := inner.Get([]byte("x")); string(got) != "1" {
			t.Errorf("nested value = %q", got)
		}
		if err := tx.Bucket("things").DeleteAll(); err != nil {
			return err
		}
		if inner.Len() != 0 || tx.Bucket("things").Len() != 0 {
			t.Error("DeleteAll leaves something")
		}
		return inner.Put([]byte("again"), []byte("2"))
	})
	if err != nil || get(t, db, "things", "a") != "" {
		t.Error("DeleteAll:", err)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	type row struct{ A, B string }
	db := storetest.Open(t)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		b := tx.Bucket("rows")
		if _, ok, err := store.GetJSON[row](b, "x"); ok || err != nil {
			t.Errorf("missing row: %v, %v", ok, err)
		}
		if err := store.PutJSON(b, "x", row{"1", "2"}); err != nil {
			return err
		}
		if got, ok, err := store.GetJSON[row](b, "x"); !ok || err != nil || got != (row{"1", "2"}) {
			t.Errorf("GetJSON = %v, %v, %v", got, ok, err)
		}
		if err := b.Put([]byte("bad"), []byte("{")); err != nil {
			return err
		}
		if _, _, err := store.GetJSON[row](b, "bad"); err == nil || !strings.Contains(err.Error(), `"bad" in bucket rows`) {
			t.Errorf("bad row: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTxEndsWithItsFunction(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	var kept *store.Bucket
	db.View(func(tx *store.Tx) error { kept = tx.Bucket("b"); return nil })
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "after its end") {
			t.Errorf("recovered %v", r)
		}
	}()
	kept.Get([]byte("k"))
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	var ran []string
	step := func(name string, err error) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			ran = append(ran, name)
			return errors.Join(err, tx.Bucket("log").Put([]byte(name), nil))
		}
	}
	open := func(schemas ...store.Schema) error {
		ran = nil
		db, err := store.Open(path, schemas, store.Options{NoSync: true})
		if err != nil {
			return err
		}
		return db.Close()
	}
	pki1 := store.Schema{Name: "pki", Migrations: []func(*store.Tx) error{step("pki 1", nil)}}
	pki2 := store.Schema{Name: "pki", Migrations: append(pki1.Migrations, step("pki 2", nil))}
	gw := store.Schema{Name: "gateway", Migrations: []func(*store.Tx) error{step("gw 1", nil)}}
	boom := errors.New("boom")
	gwBad := store.Schema{Name: "gateway", Migrations: append(gw.Migrations, step("gw 2", boom))}
	for _, tc := range []struct {
		name    string
		schemas []store.Schema
		want    []string
		err     error
	}{
		{"first run", []store.Schema{pki1}, []string{"pki 1"}, nil},
		{"nothing new", []store.Schema{pki1}, nil, nil},
		{"a step and a schema more", []store.Schema{pki2, gw}, []string{"pki 2", "gw 1"}, nil},
		{"a failing step undoes its run", []store.Schema{gwBad}, []string{"gw 2"}, boom},
		{"the failed step is tried again", []store.Schema{gwBad}, []string{"gw 2"}, boom},
		{"older binary", []store.Schema{pki1, gw}, nil, store.ErrNewer},
		{"same name twice", []store.Schema{gw, gw}, nil, errors.ErrUnsupported},
	} {
		err := open(tc.schemas...)
		if tc.err == errors.ErrUnsupported {
			if err == nil {
				t.Errorf("%s: no error", tc.name)
			}
			continue
		}
		if !errors.Is(err, tc.err) || tc.err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error = %v, want %v", tc.name, err, tc.err)
		}
		if diff := cmp.Diff(tc.want, ran); diff != "" {
			t.Errorf("%s: steps (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestBackupIsADatabase(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	put(t, db, "b", "k", "v")
	var buf bytes.Buffer
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { // others go on writing
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				put(t, db, "other", fmt.Sprint(i%100), strings.Repeat("x", i%3000))
			}
		}
	})
	for range 20 {
		buf.Reset()
		if err := db.Backup(&buf); err != nil {
			t.Fatal(err)
		}
		if err := db.Check(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := get(t, storetest.OpenAt(t, path, time.Now), "b", "k"); got != "v" {
		t.Errorf("the copy holds %q", got)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	if db.Size() == 0 {
		t.Error("Size = 0")
	}
	if err := errors.Join(db.Close(), db.Close()); err != nil {
		t.Error(err)
	}
	if err := db.Update(t.Context(), func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update: %v", err)
	}
	if err := db.View(func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View: %v", err)
	}
}

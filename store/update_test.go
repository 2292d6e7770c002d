package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gatewayctl/store"
	"gatewayctl/store/storetest"
)

// TestUpdateGroups holds the writer in one transaction while others queue up, and counts.
func TestUpdateGroups(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	held, letGo := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		db.Update(context.Background(), func(tx *store.Tx) error { close(held); <-letGo; return nil })
	})
	<-held
	boom := errors.New("boom")
	var calls, lateCalls atomic.Int32
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() {
			errs[i] = db.Update(context.Background(), func(tx *store.Tx) error {
				calls.Add(1)
				b := tx.Bucket("b")
				switch i {
				case 7: // fails before it has written: costs nobody a second run
					return boom
				case 8: // fails after it has written: must leave nothing
					b.Put([]byte("half"), []byte("done"))
					lateCalls.Add(1)
					return boom
				}
				return b.Put(fmt.Appendf(nil, "%d", i), nil)
			})
		})
	}
	close(letGo)
	wg.Wait()
	for i, err := range errs {
		if (i == 7 || i == 8) != errors.Is(err, boom) || i != 7 && i != 8 && err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if get(t, db, "b", "half") != "" {
		t.Error("a failed function left its write behind")
	}
	if n := lateCalls.Load(); n > 2 {
		t.Errorf("the failing function ran %d times", n)
	}
	if n := calls.Load(); n > 2*int32(len(errs)) {
		t.Errorf("%d functions were run %d times", len(errs), n)
	}
	db.View(func(tx *store.Tx) error {
		if n := tx.Bucket("b").Len(); n != 48 {
			t.Errorf("%d keys, want 48", n)
		}
		return nil
	})
}

func TestUpdatePanicContinuesInCaller(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	func() {
		defer func() {
			if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "a bug") || !strings.Contains(fmt.Sprint(r), "TestUpdatePanic") {
				t.Errorf("recovered %v, want the panic with its stack", r)
			}
		}()
		db.Update(t.Context(), func(tx *store.Tx) error {
			tx.Bucket("b").Put([]byte("k"), []byte("v"))
			panic("a bug")
		})
	}()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic in View is lost")
			}
		}()
		db.View(func(tx *store.Tx) error { panic("a bug") })
	}()
	if get(t, db, "b", "k") != "" {
		t.Error("the panicking function left its write behind")
	}
	put(t, db, "b", "k", "works")
	if err := db.Check(); err != nil {
		t.Error(err)
	}
}

func TestUpdateSurvivesGoexit(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		tx.Bucket("b").Put([]byte("k"), []byte("v"))
		(&testing.T{}).SkipNow() // ends the goroutine
		return nil
	})
	if err == nil {
		t.Error("no error")
	}
	if get(t, db, "b", "k") != "" {
		t.Error("the write was kept")
	}
	put(t, db, "b", "k", "works")
}

func TestUpdateContextEndsTheWait(t *testing.T) {
	t.Parallel()
	db := storetest.Open(t)
	held, letGo := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		db.Update(context.Background(), func(tx *store.Tx) error { close(held); <-letGo; return nil })
	})
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran := false
	if err := db.Update(ctx, func(tx *store.Tx) error { ran = true; return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	close(letGo)
	wg.Wait()
	put(t, db, "b", "k", "v")
	if ran {
		t.Error("a cancelled function ran")
	}
}

func BenchmarkUpdateParallel(b *testing.B) {
	path := filepath.Join(b.TempDir(), "gateway.db")
	db, err := store.Open(path, nil, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Appendf(nil, "%d", n.Add(1)%10000)
			if err := db.Update(b.Context(), func(tx *store.Tx) error { return tx.Bucket("b").Put(key, key) }); err != nil {
				b.Error(err)
			}
		}
	})
}

// Package storetest opens databases for tests.
package storetest

import (
	"path/filepath"
	"testing"
	"time"

	"gatewayctl/store"
)

// Open returns a database in a directory of its own. When the test ends it must pass its check.
func Open(t testing.TB, schemas ...store.Schema) *store.DB {
	t.Helper()
	return OpenAt(t, filepath.Join(t.TempDir(), "gateway.db"), time.Now, schemas...)
}

// OpenAt is [Open] for a given file and clock; close the DB to open the file again.
func OpenAt(t testing.TB, path string, now func() time.Time, schemas ...store.Schema) *store.DB {
	t.Helper()
	db, err := store.Open(path, schemas, store.Options{Now: now, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Verify(path); err != nil {
			t.Error(err)
		}
	})
	return db
}

package store

import (
	"encoding/binary"
	"fmt"
)

// A Schema brings the buckets of one package to the form that its code expects.
type Schema struct {
	// Name is the owning package. It never changes: the version reached is kept under it.
	Name string
	// Migrations is append-only: migration n takes the data from version n to n+1. The
	// current version is their number. They must not depend on each other's Go types.
	Migrations []func(*Tx) error
}

// migrate runs what is missing of every schema, all of it or nothing.
func (db *DB) migrate(schemas []Schema) error {
	seen := make(map[string]bool)
	for _, s := range schemas {
		if s.Name == "" || seen[s.Name] {
			return fmt.Errorf("schema %q is given twice or has no name", s.Name)
		}
		seen[s.Name] = true
	}
	return db.transact(func(tx *Tx) error {
		versions := tx.Bucket(ownBucket, versionBucket)
		if got := tx.Bucket(ownBucket).Get([]byte(keyFormat)); string(got) != formatName {
			return fmt.Errorf("%s: %w: its format is %q, this binary knows %q: install the newer gatewayctl again", db.path, ErrNewer, got, formatName)
		}
		for _, s := range schemas {
			if err := db.migrateOne(tx, versions, s); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) migrateOne(tx *Tx, versions *Bucket, s Schema) error {
	reached := uint64(0)
	if v := versions.Get([]byte(s.Name)); v != nil {
		var n int
		if reached, n = binary.Uvarint(v); n <= 0 {
			return corrupt(db.path, -1, "the version of schema %s is unreadable", s.Name)
		}
	}
	latest := uint64(len(s.Migrations))
	if reached > latest {
		return fmt.Errorf("%s: %w: schema %s has version %d, this binary knows %d: install the newer gatewayctl again, or restore a backup made before the upgrade",
			db.path, ErrNewer, s.Name, reached, latest)
	}
	if reached == latest {
		return nil
	}
	for i, m := range s.Migrations[reached:] {
		if err := m(tx); err != nil {
			return fmt.Errorf("%s: migrate schema %s to version %d: %w", db.path, s.Name, reached+uint64(i)+1, err)
		}
	}
	db.log.Info("schema migrated", "schema", s.Name, "from", reached, "to", latest)
	return versions.Put([]byte(s.Name), binary.AppendUvarint(nil, latest))
}

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// Our own bucket: it marks the file as ours and holds the schemas' versions.
const (
	ownBucket     = "_store"
	versionBucket = "versions"
	keyFormat     = "format"
	keyMade       = "made"
	formatName    = "gatewayctl store 1"
)

// create makes an empty database under another name and renames it when it is complete.
func create(path string, opts Options) (err error) {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fileError(temp, err)
	}
	defer func() {
		if err != nil {
			if rmErr := os.Remove(temp); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
				err = errors.Join(err, rmErr)
			}
		}
	}()
	b, err := openBolt(temp, opts.NoSync)
	if err != nil {
		return fileError(path, err)
	}
	err = b.Update(func(tx *bbolt.Tx) error {
		own, err := tx.CreateBucket([]byte(ownBucket))
		if err != nil {
			return err
		}
		made, err := json.Marshal(opts.Now().UTC())
		if err != nil {
			return err
		}
		return errors.Join(own.Put([]byte(keyFormat), []byte(formatName)), own.Put([]byte(keyMade), made))
	})
	if err := errors.Join(err, b.Close()); err != nil {
		return fileError(path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fileError(path, err)
	}
	if opts.NoSync {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fileError(path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync directory of %s: %w", path, err)
	}
	return nil
}

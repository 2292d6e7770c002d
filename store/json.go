package store

import (
	"encoding/json"
	"fmt"
)

// GetJSON decodes the value of key; false says that there is none.
func GetJSON[T any](b *Bucket, key string) (T, bool, error) {
	var v T
	data := b.Get([]byte(key))
	if data == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, false, fmt.Errorf("decode %q in bucket %s: %w", key, b.name(), err)
	}
	return v, true, nil
}

// PutJSON encodes v as the value of key.
func PutJSON[T any](b *Bucket, key string, v T) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %q in bucket %s: %w", key, b.name(), err)
	}
	return b.Put([]byte(key), data)
}

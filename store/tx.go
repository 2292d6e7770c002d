package store

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"
)

// ErrStop ends [Bucket.ForEach] and [Bucket.Scan] early; they then return nil.
var ErrStop = errors.New("stop")

// A Tx is one transaction: a snapshot in [DB.View], changes to be committed in [DB.Update]. It
// belongs to the goroutine of the function that got it and ends with that function.
type Tx struct {
	b       *bbolt.Tx
	buckets map[string]*Bucket
	writes  int // changes made so far
	ended   bool
}

func newTx(b *bbolt.Tx) *Tx { return &Tx{b: b, buckets: make(map[string]*Bucket)} }

// Bucket returns the bucket at path, which has at least one element; buckets nest. It is never
// nil: one that does not exist reads as empty, and the first Put makes it.
func (tx *Tx) Bucket(path ...string) *Bucket {
	tx.check()
	if len(path) == 0 {
		panic(misuse("store: Bucket without a path"))
	}
	key := strings.Join(path, "\x00")
	if b, ok := tx.buckets[key]; ok {
		return b
	}
	b := &Bucket{tx: tx, path: append([]string(nil), path...)}
	tx.buckets[key] = b
	return b
}

func (tx *Tx) check() {
	if tx.ended {
		panic(misuse("store: transaction used after its end"))
	}
}

// A Bucket is an ordered map from keys to values. Keys are 1 to 32,768 bytes long. What it
// returns is a copy, the caller's to keep.
type Bucket struct {
	tx   *Tx
	path []string
	b    *bbolt.Bucket // nil until it is known to exist
}

// name is the bucket for error texts.
func (b *Bucket) name() string { return strings.Join(b.path, "/") }

// open returns the bbolt bucket, nil if it does not exist.
func (b *Bucket) open() *bbolt.Bucket {
	b.tx.check()
	if b.b != nil {
		return b.b
	}
	at := b.tx.b.Bucket([]byte(b.path[0]))
	for _, p := range b.path[1:] {
		if at == nil {
			return nil
		}
		at = at.Bucket([]byte(p))
	}
	b.b = at
	return at
}

// Get returns a copy of the value of key, nil if there is none.
func (b *Bucket) Get(key []byte) []byte {
	defer onDamage()
	at := b.open()
	if at == nil {
		return nil
	}
	v := at.Get(key)
	if v == nil {
		return nil
	}
	return append([]byte{}, v...)
}

// Put sets the value of key. Both are copied.
func (b *Bucket) Put(key, value []byte) error {
	defer onDamage()
	at, err := b.make()
	if err != nil {
		return fmt.Errorf("bucket %s: %w", b.name(), boltError(err))
	}
	// bbolt keeps the value until the commit.
	if err := at.Put(key, append([]byte{}, value...)); err != nil {
		return fmt.Errorf("put into bucket %s: %w", b.name(), boltError(err))
	}
	b.tx.writes++
	return nil
}

// make returns the bbolt bucket, which it creates with its parents when they are missing.
func (b *Bucket) make() (*bbolt.Bucket, error) {
	if at := b.open(); at != nil {
		return at, nil
	}
	at, err := b.tx.b.CreateBucketIfNotExists([]byte(b.path[0]))
	for _, p := range b.path[1:] {
		if err != nil {
			break
		}
		at, err = at.CreateBucketIfNotExists([]byte(p))
	}
	if err != nil {
		return nil, err
	}
	b.tx.writes++
	b.b = at
	return at, nil
}

// Delete removes key; that it does not exist is no error.
func (b *Bucket) Delete(key []byte) error {
	defer onDamage()
	at := b.open()
	if at == nil {
		return nil
	}
	if at.Get(key) == nil && at.Writable() {
		return nil // nothing to write
	}
	if err := at.Delete(key); err != nil {
		return fmt.Errorf("delete from bucket %s: %w", b.name(), boltError(err))
	}
	b.tx.writes++
	return nil
}

// ForEach calls fn for every key in ascending byte order, nested buckets excepted, until fn
// returns an error, which it returns ([ErrStop] as nil). fn must not change this bucket.
func (b *Bucket) ForEach(fn func(k, v []byte) error) error { return b.Scan(nil, fn) }

// Scan is [Bucket.ForEach] over the keys that begin with prefix.
func (b *Bucket) Scan(prefix []byte, fn func(k, v []byte) error) error {
	c := b.cursor(prefix)
	for {
		k, v, ok := c.next()
		if !ok {
			return nil
		}
		if err := fn(append([]byte{}, k...), append([]byte{}, v...)); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
}

// Len returns the number of keys, nested buckets excepted. It reads the whole bucket.
func (b *Bucket) Len() int {
	n := 0
	for c := b.cursor(nil); ; n++ {
		if _, _, ok := c.next(); !ok {
			return n
		}
	}
}

// DeleteAll removes every key and every nested bucket.
func (b *Bucket) DeleteAll() error {
	defer onDamage()
	if b.open() == nil {
		return nil
	}
	var err error
	last := []byte(b.path[len(b.path)-1])
	if len(b.path) == 1 {
		err = b.tx.b.DeleteBucket(last)
	} else {
		err = b.tx.Bucket(b.path[:len(b.path)-1]...).open().DeleteBucket(last)
	}
	if err != nil {
		return fmt.Errorf("empty bucket %s: %w", b.name(), boltError(err))
	}
	b.tx.writes++
	prefix := strings.Join(b.path, "\x00")
	for key, other := range b.tx.buckets {
		if key == prefix || strings.HasPrefix(key, prefix+"\x00") {
			other.b = nil
		}
	}
	return nil
}

// A cursor walks keys; only bbolt's code runs inside next, so a panic there is damage.
type cursor struct {
	c       *bbolt.Cursor
	prefix  []byte
	started bool
	tx      *Tx
}

func (b *Bucket) cursor(prefix []byte) *cursor {
	defer onDamage()
	c := &cursor{prefix: prefix, tx: b.tx}
	if at := b.open(); at != nil {
		c.c = at.Cursor()
	}
	return c
}

func (c *cursor) next() (k, v []byte, ok bool) {
	defer onDamage()
	c.tx.check()
	if c.c == nil {
		return nil, nil, false
	}
	for {
		if c.started {
			k, v = c.c.Next()
		} else {
			k, v = c.c.Seek(c.prefix)
			c.started = true
		}
		if k == nil || !bytes.HasPrefix(k, c.prefix) {
			return nil, nil, false
		}
		if v != nil { // nil: a nested bucket
			return k, v, true
		}
	}
}

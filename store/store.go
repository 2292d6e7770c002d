// Package store keeps the gateway's state in one bbolt file: transactions over nested
// buckets, migrations per owning package, online backup. It is the only package that knows
// bbolt.
//
// A [DB] is safe for concurrent use. Reads ([DB.View]) see one snapshot and never wait for a
// writer; writes ([DB.Update]) are grouped, and each returns once its effect is on stable
// storage.
//
// # Design
//
// A commit costs two syncs, whatever it holds, and an SD card gives perhaps a hundred of those
// a second. One goroutine therefore takes every Update that is waiting, runs them in one bbolt
// transaction and commits once: no delay is added, a group is what queued up while the former
// commit ran. A function that fails after it has written something would leave its half-done
// work in the group, and bbolt has no savepoints: the group is rolled back and run again
// without it, and it gets a transaction of its own. That is why a function may run twice.
//
// bbolt maps its file and trusts it: a damaged page makes it panic, a file that is too short
// makes the kernel send SIGBUS. [Open] therefore walks the whole structure by ordinary reads
// ([Verify]) before bbolt sees it; what goes wrong later is turned into [ErrCorrupt]. A new file
// is built under another name and renamed when it is complete, so an empty or half-made file
// under the real name is always damage and never mistaken for a first run, which would make a
// new CA and forget every device.
//
// After a write that failed because the disk is full the database goes on: nothing of the
// transaction is visible. After any other failed write or sync the kernel may have dropped
// pages that bbolt believes to be on disk, so the DB refuses further writes until it is
// opened again.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// Errors that callers branch on. They come wrapped with the file and what to do about it.
var (
	ErrCorrupt = errors.New("database is damaged")
	ErrForeign = errors.New("not a database of gatewayctl")
	ErrNewer   = errors.New("database was written by a newer gatewayctl")
	ErrClosed  = errors.New("database is closed")
	// ErrFull says that the disk or the quota is full; nothing of the transaction was kept.
	ErrFull = errors.New("disk is full")
)

// Options configures [Open].
type Options struct {
	Now         func() time.Time // nil means time.Now; stamps the file when it is made
	Log         *slog.Logger     // nil discards
	LockTimeout time.Duration    // how long to wait for another process to let go of the file; 0 means 1s
	NoSync      bool             // tests only: a power cut may then destroy the file
}

// A DB is an open database file. Make one with [Open]; a process must [DB.Close] it.
type DB struct {
	path string
	log  *slog.Logger
	b    *bbolt.DB
	lock *fileLock

	calls   chan *call    // unbuffered: whoever is blocked in it joins the next group
	closing chan struct{} // closed by Close
	ended   chan struct{} // closed when the writer has ended

	closeOnce sync.Once
	closeErr  error

	mu     sync.Mutex
	failed error // why writes are refused since, nil while they are not
}

// initialMap is how much address space bbolt reserves at once. A reader holds the map in place,
// so a long backup would block the writer each time the file outgrows it. 32-bit machines have
// little address space to give.
const initialMap = 32 << 20 << (4 * (strconv.IntSize / 64))

// Open opens the database at path, makes it on the first run, and brings it to the latest
// version of every schema, all in one transaction.
//
// It returns a [*LockedError] while another process holds the file, and errors wrapping
// [ErrCorrupt], [ErrForeign] or [ErrNewer] as they say; none of them changes the file.
func Open(path string, schemas []Schema, opts Options) (*DB, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.LockTimeout == 0 {
		opts.LockTimeout = time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	lock, err := lockFile(path, opts.LockTimeout)
	if err != nil {
		return nil, err
	}
	db := &DB{
		path: path, log: opts.Log.With("component", "store"), lock: lock,
		calls: make(chan *call), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := db.open(schemas, opts); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	go db.writeLoop()
	return db, nil
}

func (db *DB) open(schemas []Schema, opts Options) error {
	if _, err := os.Stat(db.path); errors.Is(err, os.ErrNotExist) {
		if err := create(db.path, opts); err != nil {
			return err
		}
		db.log.Info("database made", "path", db.path)
	}
	if err := Verify(db.path); err != nil {
		return err
	}
	b, err := openBolt(db.path, opts.NoSync)
	if err != nil {
		return fileError(db.path, err)
	}
	db.b = b
	if err := db.migrate(schemas); err != nil {
		return errors.Join(err, b.Close())
	}
	return nil
}

// openBolt opens a file that Verify has accepted.
func openBolt(path string, noSync bool) (b *bbolt.DB, err error) {
	defer guard(&err)()
	b, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         time.Nanosecond, // our own lock is held: nobody else of us can be there
		PreLoadFreelist: true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: initialMap,
		NoSync:          noSync,
		NoGrowSync:      noSync,
		NoStatistics:    true,
	})
	if err != nil {
		return nil, err
	}
	b.AllocSize = 1 << 20 // grow by 1 MiB: SD cards are small
	return b, nil
}

// Close ends the writer after the transaction that it is in, waits for running Views, and
// gives the file up. Updates that still wait get [ErrClosed].
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.closing)
		<-db.ended
		db.closeErr = errors.Join(db.b.Close(), db.lock.release())
	})
	return db.closeErr
}

// Size returns the size of the file in bytes.
func (db *DB) Size() int64 {
	fi, err := os.Stat(db.path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// fail makes every later write fail with err.
func (db *DB) fail(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.failed == nil {
		db.failed = fmt.Errorf("%s: no more writes after an earlier failure; restart gatewayctl, and check the disk if it happens again: %w", db.path, err)
		db.log.Error("database refuses writes", "path", db.path, "err", err)
	}
}

func (db *DB) failure() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.failed
}

package msglog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// Errors that callers branch on; they come wrapped with detail.
var (
	// ErrFull says that the disk, the quota or the log's own budget is full. The message was
	// not kept; later ones are as soon as there is room.
	ErrFull = errors.New("message log is full")
	// ErrBlocked says that a consumer of policy [Block] is at its bound.
	ErrBlocked = errors.New("a consumer of the message is at its bound")
	ErrClosed  = errors.New("message log is closed")
	ErrLocked  = errors.New("message log is in use by another process")
	ErrNewer   = errors.New("message log was written by a newer gatewayctl")
	// ErrTooLarge says that a body exceeds [MaxBody].
	ErrTooLarge = errors.New("message is too large for the log")
	// ErrRemoved says that the consumer was removed.
	ErrRemoved = errors.New("consumer was removed")
)

// MaxBody is the largest body of a message, in bytes.
const MaxBody = 64 << 20

// Durability says what has happened to a message when Append has returned.
type Durability int

const (
	Always Durability = iota // it is on stable storage
	Second                   // it is on stable storage within a second
	Never                    // it was given to the operating system; synced once per segment and at Close
)

// Options configures [Open]. The zero value is right for production.
type Options struct {
	SegmentBytes int64 // size at which a new file is begun; 0 means 16 MiB, at most 1 GiB and an eighth of MaxBytes
	Durability   Durability
	MaxBytes     int64            // disk budget; 0 means 1 GiB. A small part is kept for acknowledgments.
	Now          func() time.Time // nil means time.Now; stamps messages and judges them expired
	Log          *slog.Logger     // nil discards
	FS           FS               // nil means the directory given to Open; tests inject faults

	manual bool // tests: no goroutines, call commit and housekeep yourself
}

const (
	minSegment   = 4 << 10
	maxSegment   = 1 << 30
	minMaxBytes  = 64 << 10
	maxBatch     = 256 << 10 // payload at which a batch is closed
	maxQueued    = 16        // closed batches that may wait for the disk before Append waits
	keepFree     = 2         // batches kept for reuse while little happens
	lazyInterval = time.Second
	// seqJump separates the sequence numbers of two openings. It exceeds the number of records
	// in the largest segment, and no more than one segment is ever unsynced.
	seqJump = 1 << 28
)

// A Log is an open message log. Its methods are safe for concurrent use.
type Log struct {
	dir  string
	fs   FS
	opts Options
	log  *slog.Logger
	id   logID

	// defMu orders definitions and removals of consumers.
	defMu sync.Mutex

	// filesMu keeps checkpoints, which name and delete segments, apart from compaction, which
	// replaces them. Locked before mu.
	filesMu sync.Mutex

	mu        sync.Mutex
	segs      []*segment // ascending; the last may be active
	byID      map[ConsumerID]*Consumer
	byName    map[string]*Consumer
	nextID    ConsumerID
	nextSeq   uint64   // what the next message to be committed gets
	cpSeq     uint64   // nextSeq of the newest checkpoint
	cpTail    position // what that checkpoint covers
	used      int64    // bytes in segments, damaged ones and headers included
	queued    int64    // bytes in cur and queue
	cur       *batch
	queue     []*batch
	free      []*batch
	entryNo   uint64
	dirty     []*Consumer // have acknowledgments to append
	dirtyAcks int
	closed    bool
	room      chan struct{} // closed when Append may try again; nil if nobody waits
	recovery  Recovery
	damage    map[uint64][]span // known damaged byte ranges by segment, end exclusive
	stats     Stats

	writer // belongs to the committer

	work chan struct{} // wakes the committer, capacity 1
	tidy chan struct{} // wakes the janitor, capacity 1
	quit chan struct{} // closed by Close
	wg   sync.WaitGroup
}

// Stats tells how a log is doing. Bytes are on disk.
type Stats struct {
	Bytes, MaxBytes int64
	Segments        int
	NextSeq         uint64
	Appended        uint64 // messages committed since the log was opened
	Batches, Syncs  uint64
	Written         int64 // bytes given to write since the log was opened
	Full            bool  // the last attempt to append found no room
	Degraded        bool  // see Recovery
}

// Open opens the log in dir, which it makes if need be, and recovers what a crash or a power cut
// has left; [Log.Recovery] says what was found. It fails only if the directory cannot be used,
// is locked ([ErrLocked]) or was written by a newer program ([ErrNewer]); damage never makes
// it fail.
func Open(dir string, opts Options) (*Log, error) {
	opts = opts.withDefaults()
	l := newLog(dir, opts)
	if l.fs == nil {
		fs, err := openDir(dir)
		if err != nil {
			return nil, fmt.Errorf("open message log: %w", err)
		}
		l.fs = fs
	}
	if err := l.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open message log %s: %w", dir, err), l.closeFiles())
	}
	if !opts.manual {
		l.wg.Go(l.commitLoop)
		l.wg.Go(l.janitor)
		wake(l.tidy)
	}
	return l, nil
}

func newLog(dir string, opts Options) *Log {
	l := &Log{
		dir: dir, fs: opts.FS, opts: opts, log: opts.Log.With("component", "msglog"),
		byID: make(map[ConsumerID]*Consumer), byName: make(map[string]*Consumer),
		nextID: 1, nextSeq: 1, damage: make(map[uint64][]span),
		work: make(chan struct{}, 1), tidy: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	l.cur = l.newBatch()
	return l
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	o.MaxBytes = max(o.MaxBytes, minMaxBytes)
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	o.SegmentBytes = max(min(o.SegmentBytes, maxSegment, o.MaxBytes/8), minSegment)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// reserve is the part of the budget that only acknowledgments and definitions may use.
func (o Options) reserve() int64 { return min(max(o.MaxBytes/32, 8<<10), 8<<20) }

// wake sends to a channel of capacity 1 unless something is in it.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats returns a snapshot.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Bytes, s.MaxBytes, s.Segments, s.NextSeq = l.used, l.opts.MaxBytes, len(l.segs), l.nextSeq
	s.Degraded = l.recovery.Degraded()
	return s
}

// Sync returns once everything appended before the call is on stable storage, whatever the
// durability.
func (l *Log) Sync(ctx context.Context) error {
	done := make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.cur.force = true
	l.cur.waits = append(l.cur.waits, waiter{record: -1, done: func(_ uint64, err error) { done <- err }})
	wake(l.work)
	l.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close commits and syncs what was appended, writes a checkpoint, and gives the directory up.
// Reads and appends that wait return [ErrClosed].
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.notifyRoom()
	l.mu.Unlock()
	close(l.quit)
	l.wg.Wait()
	l.commit()
	err := l.checkpoint()
	if err != nil {
		err = fmt.Errorf("close message log %s: %w", l.dir, err)
	}
	return errors.Join(err, l.closeFiles())
}

func (l *Log) closeFiles() error {
	var err error
	l.mu.Lock()
	consumers := make([]*Consumer, 0, len(l.byID))
	for _, c := range l.byID {
		consumers = append(consumers, c)
	}
	l.mu.Unlock()
	for _, c := range consumers {
		c.closeCursor()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		if s.data.f != nil {
			err = errors.Join(err, s.data.f.Close())
			s.data.f = nil
		}
	}
	return errors.Join(err, l.fs.Close())
}

// path is the name of a file for people.
func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

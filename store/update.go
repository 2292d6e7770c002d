package store

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

// maxGroup bounds how many Updates share one transaction.
const maxGroup = 256

// View calls fn with a snapshot of the database and returns fn's error. Views run in parallel
// and beside a writer, but a long one keeps the file from shrinking its garbage; fn must not
// call Update.
func (db *DB) View(fn func(*Tx) error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	btx, err := db.b.Begin(false)
	if err != nil {
		return fmt.Errorf("%s: %w", db.path, boltError(err))
	}
	tx := newTx(btx)
	defer func() {
		tx.ended = true
		err = errors.Join(err, btx.Rollback())
	}()
	defer func() {
		if r := recover(); r != nil {
			d, ok := r.(damage)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%s: %w", db.path, d.err)
		}
	}()
	return fn(tx)
}

// Update calls fn with a transaction, commits it, and returns once the commit is on stable
// storage. Calls that wait at the same time share a commit; each sees the changes of those
// before it. An error of fn is returned, and undoes what this fn did, nothing else.
//
// fn may be called twice, so all its effects must be in tx or in variables that it sets anew.
// It runs on another goroutine and must call neither Update nor View. A panic in fn undoes it
// and continues in the caller. ctx ends the wait for a turn; once fn runs, Update
// returns its outcome. Update returns [ErrFull], [ErrCorrupt] or [ErrClosed], wrapped, for what
// they say.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	c := &call{fn: fn, done: make(chan struct{})}
	select {
	case db.calls <- c:
	case <-db.closing:
		return fmt.Errorf("%s: %w", db.path, ErrClosed)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if c.state.CompareAndSwap(callQueued, callCancelled) {
			return ctx.Err()
		}
		<-c.done
	}
	if c.panicked != nil {
		panic(c.panicked)
	}
	return c.err
}

// A call is one Update on its way through the writer.
type call struct {
	fn       func(*Tx) error
	state    atomic.Int32
	err      error
	panicked any
	settled  bool
	done     chan struct{}
}

const (
	callQueued int32 = iota
	callRunning
	callCancelled
)

// settle ends c with err.
func (c *call) settle(err error) {
	if !c.settled {
		c.settled = true
		c.err = err
		close(c.done)
	}
}

// writeLoop is the only goroutine that writes. A function that ends its goroutine
// (testing.T.FailNow does) ends this one; another takes its place.
func (db *DB) writeLoop() {
	var group []*call
	normal := false
	defer func() {
		if normal {
			close(db.ended)
			return
		}
		for _, c := range group {
			c.settle(errors.New("a function of the same transaction ended its goroutine"))
		}
		go db.writeLoop()
	}()
	debug.SetPanicOnFault(true)
	for {
		select {
		case c := <-db.calls:
			group = append(group[:0], c)
		case <-db.closing:
			normal = true
			return
		}
		for more := true; more && len(group) < maxGroup; {
			select {
			case c := <-db.calls:
				group = append(group, c)
			default:
				more = false
			}
		}
		db.runGroup(group)
		clear(group)
	}
}

// runGroup settles every call of group: all that succeed together in one transaction, the
// others after it, one by one.
func (db *DB) runGroup(group []*call) {
	var together, alone []*call
	for _, c := range group {
		if c.state.CompareAndSwap(callQueued, callRunning) {
			together = append(together, c)
		}
	}
	for len(together) > 0 {
		bad, err := db.attempt(together)
		if bad < 0 {
			for _, c := range together {
				if err != nil { // nothing was committed: what c.err was decided upon is void
					c.err = err
				}
				c.settle(c.err)
			}
			break
		}
		if c := together[bad]; c.panicked != nil {
			c.settle(nil)
		} else {
			alone = append(alone, c)
		}
		together = append(together[:bad:bad], together[bad+1:]...)
	}
	for _, c := range alone {
		c.settle(db.transact(c.fn))
	}
}

// attempt runs calls in one transaction and commits it. A call that fails without having
// written anything keeps its error in call.err and disturbs nobody; of one that fails otherwise,
// attempt returns the index, with everything rolled back.
func (db *DB) attempt(calls []*call) (bad int, err error) {
	bad = -1
	err = db.transact(func(tx *Tx) error {
		for i, c := range calls {
			before := tx.writes
			c.err = c.run(tx)
			if c.panicked != nil || c.err != nil && tx.writes != before {
				bad = i
				return errRunAgain
			}
		}
		return nil
	})
	if bad >= 0 && errors.Is(err, errRunAgain) {
		return bad, nil
	}
	return -1, err
}

var errRunAgain = errors.New("run again without the failed function")

// run calls the function and catches its panic, but not the damage that transact handles.
func (c *call) run(tx *Tx) error {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(damage); ok {
				panic(r)
			}
			c.panicked = fmt.Sprintf("%v\n\nin a function given to store.DB.Update:\n%s", r, debug.Stack())
		}
	}()
	return c.fn(tx)
}

// transact runs fn in one bbolt transaction: committed if fn returns nil and has written
// something, else rolled back.
func (db *DB) transact(fn func(*Tx) error) (err error) {
	if err := db.failure(); err != nil {
		return err
	}
	btx, err := db.b.Begin(true)
	if err != nil {
		return fmt.Errorf("%s: %w", db.path, boltError(err))
	}
	tx := newTx(btx)
	committing := false
	defer func() {
		tx.ended = true
		if !committing {
			db.rollback(btx)
		}
	}()
	defer func() {
		if r := recover(); r != nil {
			d, ok := r.(damage)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%s: %w", db.path, d.err)
			db.fail(d.err)
		}
	}()
	if err := fn(tx); err != nil || tx.writes == 0 {
		return err
	}
	committing = true
	return db.commit(btx)
}

func (db *DB) commit(btx *bbolt.Tx) error {
	id := btx.ID()
	err := commitBolt(btx)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrCorrupt) {
		db.rollback(btx)
	}
	err = fmt.Errorf("commit: %w", err)
	if !isFull(err) || db.shows(id) {
		db.fail(err)
	}
	return fileError(db.path, err)
}

// shows reports whether readers see transaction id, whose commit failed: its meta page was
// written before the error.
func (db *DB) shows(id int) bool {
	btx, err := db.b.Begin(false)
	if err != nil {
		return true
	}
	defer btx.Rollback()
	return btx.ID() >= id
}

func commitBolt(btx *bbolt.Tx) (err error) {
	defer guard(&err)()
	return btx.Commit()
}

// rollback gives up the transaction; what bbolt does not survive ends all writing.
func (db *DB) rollback(btx *bbolt.Tx) {
	var err error
	func() {
		defer guard(&err)()
		err = btx.Rollback()
	}()
	if err != nil {
		db.fail(fmt.Errorf("roll back: %w", err))
	}
}

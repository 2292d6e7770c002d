package simdevice

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// updateState is what OTA.Status calls state.
type updateState int

const (
	updateIdle     updateState = 0
	updateProgress updateState = 1
	updateError    updateState = 2
	updateSuccess  updateState = 3
)

// updater is the state of the one update that may run. Device.mu guards it.
type updater struct {
	state         updateState
	message       string
	percent       int
	commitTimeout time.Duration
	push          *push // of OTA.Begin; nil otherwise
}

// push is an update that comes in by OTA.Write.
type push struct {
	w       *io.PipeWriter
	written int64
	cancel  context.CancelFunc
	done    chan error // gets the outcome once
}

func (b *boot) otaMethods() []method {
	return []method{
		{name: "OTA.GetBootState", run: otaBootState},
		{name: "OTA.Status", run: otaStatus},
		{name: "OTA.Revert", run: otaRevert},
		{name: "OTA.Commit", run: otaCommit},
		{name: "OTA.End", run: otaEnd, free: true},
		{name: "OTA.Write", args: "{offset: %d, data: %V}", run: otaWrite, free: true},
		{name: "OTA.Begin", args: "{timeout: %d, commit_timeout: %d, size: %d}", run: otaBegin},
		{name: "OTA.Update", args: "{url: %Q, commit_timeout: %d}", run: otaUpdate},
	}
}

func otaStatus(_ context.Context, c *call) (any, error) {
	u, f := &c.b.updater, &c.b.d.flash
	return map[string]any{
		"state": u.state, "is_committed": f.committed, "commit_timeout": int(f.commitTimeout / time.Second),
		"partition": fmt.Sprintf("app_%d", c.b.slot), "msg": cmp.Or(u.message, "idle"), "progress_percent": u.percent,
	}, nil
}

func otaBootState(_ context.Context, c *call) (any, error) {
	f := &c.b.d.flash
	return map[string]any{
		"active_slot": f.active, "is_committed": f.committed, "revert_slot": f.revert,
		"commit_timeout": int(f.commitTimeout / time.Second),
	}, nil
}

func otaCommit(_ context.Context, c *call) (any, error) {
	f := &c.b.d.flash
	if f.committed {
		return nil, fail(-1, "already committed")
	}
	f.committed, f.commitTimeout = true, 0
	return nil, nil
}

func otaRevert(ctx context.Context, c *call) (any, error) {
	f := &c.b.d.flash
	if other := f.slots[1-f.active]; !other.used {
		return nil, fail(-1, "nothing to revert to")
	}
	if f.committed {
		f.revert = 1 - f.active
	}
	f.goBack()
	c.b.restart(ctx, 100*time.Millisecond)
	return nil, nil
}

// begin claims the updater. Device.mu is held.
func (b *boot) begin(commitTimeout float64) error {
	switch {
	case b.updater.state == updateProgress || b.updater.state == updateSuccess:
		return fail(-1, "update already in progress")
	case !b.d.flash.committed:
		return fail(-1, "current firmware is not committed")
	case commitTimeout < 0 || commitTimeout > math.MaxInt32:
		return fail(400, "invalid commit_timeout")
	}
	b.updater = updater{state: updateProgress, message: "Update started", commitTimeout: time.Duration(commitTimeout * float64(time.Second))}
	return nil
}

// finish records how an update ended, and on success makes the new firmware boot next.
func (b *boot) finish(ctx context.Context, s slot, err error) error {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if err != nil {
		b.updater = updater{state: updateError, message: err.Error()}
		b.d.log.Info("update failed", "err", err)
		return fail(-1, "%v", err)
	}
	b.d.flash.install(s, b.updater.commitTimeout)
	b.updater = updater{state: updateSuccess, message: "Update applied, finalizing", percent: 100}
	b.d.log.Info("update applied", "version", s.version)
	b.restart(ctx, rebootAfterUpdate)
	return nil
}

// rebootAfterUpdate leaves the answer time to get out.
const rebootAfterUpdate = 200 * time.Millisecond

// otaUpdate fetches and installs; it answers when that has ended.
func otaUpdate(ctx context.Context, c *call) (any, error) {
	b := c.b
	var p struct {
		URL           string
		CommitTimeout float64 `json:"commit_timeout"`
	}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.URL == "" {
		return nil, fail(400, "url is required")
	}
	if err := b.begin(p.CommitTimeout); err != nil {
		return nil, err
	}
	b.wg.Go(func() {
		fetch, cancel := context.WithTimeout(ctx, updateTimeout)
		defer cancel()
		s, err := b.pull(fetch, p.URL)
		if ctx.Err() != nil {
			return
		}
		err = b.finish(ctx, s, err)
		if err == nil {
			switch b.d.currentFaults().UpdateAnswer {
			case AnswerNone:
				return
			case AnswerErrorZero:
				err = fail(0, "Update applied, finalizing")
			}
		}
		c.reply(ctx, nil, err)
	})
	return nil, errLater
}

// updateTimeout is update.timeout.
const updateTimeout = 600 * time.Second

func otaBegin(ctx context.Context, c *call) (any, error) {
	b := c.b
	p := struct {
		Timeout       float64
		CommitTimeout float64 `json:"commit_timeout"`
		Size          int64
	}{Timeout: updateTimeout.Seconds()}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.Timeout <= 0 || p.Timeout > math.MaxInt32 {
		return nil, fail(400, "invalid timeout")
	}
	if err := b.begin(p.CommitTimeout); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	limit, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout*float64(time.Second)))
	pushed := &push{w: w, cancel: cancel, done: make(chan error, 1)}
	b.updater.push = pushed
	b.wg.Go(func() { // ends the update that nobody ends
		<-limit.Done()
		if limit.Err() == context.DeadlineExceeded || ctx.Err() != nil {
			w.CloseWithError(errors.New("update timed out"))
		}
	})
	b.wg.Go(func() {
		s, err := b.unpack(r, p.Size)
		r.CloseWithError(err) // a write that waits learns of it
		pushed.done <- b.finish(ctx, s, err)
		cancel()
	})
	return nil, nil
}

func (b *boot) pushed() *push {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	return b.updater.push
}

func otaWrite(_ context.Context, c *call) (any, error) {
	var p struct {
		Offset *int64
		Data   string
	}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	pushed := c.b.pushed()
	data, err := base64.StdEncoding.DecodeString(p.Data)
	switch {
	case pushed == nil:
		return nil, fail(-1, "no update in progress")
	case err != nil:
		return nil, fail(400, "data is required")
	case p.Offset != nil && *p.Offset != pushed.written:
		return nil, fail(-1, "unexpected offset %d, want %d", *p.Offset, pushed.written)
	}
	n, err := pushed.w.Write(data)
	pushed.written += int64(n)
	if err != nil {
		return nil, fail(-1, "%v", err)
	}
	return nil, nil
}

func otaEnd(_ context.Context, c *call) (any, error) {
	pushed := c.b.pushed()
	if pushed == nil {
		return nil, fail(-1, "no update in progress")
	}
	pushed.w.Close() // an unfinished update fails: its file ends too soon
	return nil, <-pushed.done
}

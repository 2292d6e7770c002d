package pki

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gatewayctl/store"
)

const (
	clockSlack  = 2 * time.Minute // a clock may be set back by this much and is still trusted
	clockStep   = time.Hour       // what the recorded time follows beyond the running time
	clockWatch  = time.Minute     // how often Run looks at the clock
	clockRecord = 5 * time.Minute // how often Run writes the time down
)

// ClockOptions configures a [Clock].
type ClockOptions struct {
	BuildTime time.Time        // when this program was built; zero means unknown
	Now       func() time.Time // nil means time.Now
	Log       *slog.Logger     // nil discards
}

// A Clock tells the time and whether it can be trusted. The time is not trusted while it is
// behind the time at which the program was built, or behind the recorded time: a machine without
// a battery clock starts with an old time.
//
// The recorded time is kept in the store. It advances with the time that the program runs, and
// follows the system clock in small steps; a clock that jumps far ahead does not pull it along,
// so that one wrong jump does not make the right time look like the past. [Clock.Confirm] is the
// operator's word that the system clock is right.
type Clock struct {
	db     *store.DB
	build  time.Time
	now    func() time.Time
	uptime func() time.Duration // grows with the running time, whatever happens to now
	log    *slog.Logger

	mu       sync.Mutex
	recorded time.Time     // zero until the clock was trusted for the first time
	counted  time.Duration // uptime that recorded includes
	written  time.Time     // the recorded time that the store holds
}

// ClockStatus is what is known about the time.
type ClockStatus struct {
	Trusted  bool
	Reason   string    // why the time is not trusted, and what to do; "" when it is
	Now      time.Time // the system clock
	Recorded time.Time // zero when none was recorded yet
	Build    time.Time // zero when unknown
}

// NewClock reads the recorded time from db.
func NewClock(db *store.DB, opts ClockOptions) (*Clock, error) {
	start := time.Now()
	c := &Clock{
		db: db, build: opts.BuildTime, now: opts.Now, log: opts.Log,
		uptime: func() time.Duration { return time.Since(start) },
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.log = c.log.With("component", "clock")
	var row clockRow
	err := db.View(func(tx *store.Tx) (err error) {
		row, _, err = store.GetJSON[clockRow](stateBucket(tx), keyClock)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the recorded time: %w", err)
	}
	c.recorded, c.written = row.Recorded, row.Recorded
	return c, nil
}

// Now returns the system clock's time, trusted or not.
func (c *Clock) Now() time.Time { return c.now() }

// Status tells whether the time can be trusted now.
func (c *Clock) Status() ClockStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status()
}

func (c *Clock) status() ClockStatus {
	now := c.advance()
	s := ClockStatus{Now: now, Recorded: c.recorded, Build: c.build}
	switch {
	case now.Before(c.build):
		s.Reason = fmt.Sprintf("the system clock says %s, but this program was built on %s; %s", stamp(now), stamp(c.build), setClock)
	case now.Before(c.recorded.Add(-clockSlack)):
		s.Reason = fmt.Sprintf("the system clock says %s, but it was %s already; %s", stamp(now), stamp(c.recorded), setClock)
	default:
		s.Trusted = true
	}
	return s
}

const setClock = "set the clock, for example with: timedatectl set-ntp true"

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// advance brings the recorded time forward and returns the system's.
func (c *Clock) advance() time.Time {
	now, up := c.now(), c.uptime()
	ran := up - c.counted
	c.counted = up
	if c.recorded.IsZero() {
		if !now.Before(c.build) {
			c.recorded = now.Round(0)
		}
		return now
	}
	ahead := now.Sub(c.recorded)
	switch {
	case ahead < -clockSlack, ahead > ran+clockStep:
		c.recorded = c.recorded.Add(ran)
	case ahead > 0: // a clock that was set back a little is waited for
		c.recorded = now.Round(0)
	}
	return now
}

// Record writes the recorded time to the store. Run does so regularly; call it before the
// program ends if Run is not used.
func (c *Clock) Record(ctx context.Context) error {
	c.mu.Lock()
	c.advance()
	at, written := c.recorded, c.written
	c.mu.Unlock()
	if at.Equal(written) {
		return nil
	}
	return c.write(ctx, at)
}

// Confirm makes the system clock's time the recorded time, whether that goes forward or back. It
// returns [ErrClock] if the clock is behind the build time, which nobody can confirm.
func (c *Clock) Confirm(ctx context.Context) error {
	now := c.now()
	if now.Before(c.build) {
		return fmt.Errorf("confirm the time: %w: %s", ErrClock, c.Status().Reason)
	}
	if err := c.write(ctx, now.Round(0)); err != nil {
		return err
	}
	c.mu.Lock()
	c.recorded, c.counted = now.Round(0), c.uptime()
	c.mu.Unlock()
	c.log.Info("system clock confirmed")
	return nil
}

func (c *Clock) write(ctx context.Context, at time.Time) error {
	err := c.db.Update(ctx, func(tx *store.Tx) error {
		return store.PutJSON(stateBucket(tx), keyClock, clockRow{Recorded: at})
	})
	if err != nil {
		return fmt.Errorf("record the time: %w", err)
	}
	c.mu.Lock()
	c.written = at
	c.mu.Unlock()
	return nil
}

// Run records the time every five minutes, logs when the clock loses or gains trust, and records
// it once more when ctx ends.
func (c *Clock) Run(ctx context.Context) error {
	trusted := true
	look := func() {
		s := c.Status()
		switch {
		case trusted && !s.Trusted:
			c.log.Warn("system clock is not trusted: nothing is issued or judged expired", "err", s.Reason)
		case !trusted && s.Trusted:
			c.log.Info("system clock is trusted again")
		}
		trusted = s.Trusted
	}
	record := func(ctx context.Context) {
		if err := c.Record(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("time not recorded", "err", err)
		}
	}
	watch, write := time.NewTicker(clockWatch), time.NewTicker(clockRecord)
	defer watch.Stop()
	defer write.Stop()
	look()
	record(ctx)
	for {
		select {
		case <-watch.C:
			look()
		case <-write.C:
			record(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			record(last)
			return nil
		}
	}
}

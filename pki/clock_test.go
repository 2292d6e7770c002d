package pki_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/pki"
	"gatewayctl/store"
)

func openDB(t *testing.T, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(filepath.Join(dir, "gateway.db"), []store.Schema{pki.Schema()}, store.Options{NoSync: true})
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func newClock(t *testing.T, db *store.DB, w *wall, build time.Time) *pki.Clock {
	t.Helper()
	c, err := pki.NewClock(db, pki.ClockOptions{Now: w.now, BuildTime: build})
	must(t, err)
	return c
}

func TestClockTrust(t *testing.T) {
	t.Parallel()
	build := noon.Add(-30 * day)
	for _, tc := range []struct {
		name   string
		clocks []time.Time // of consecutive runs
		want   bool        // whether the last is trusted
		says   string
	}{
		{"after the build", []time.Time{noon}, true, ""},
		{"at the build", []time.Time{build}, true, ""},
		{"before the build", []time.Time{build.Add(-time.Second)}, false, "built on 2026-06-01 12:00:00 UTC"},
		{"1970", []time.Time{time.Unix(3, 0)}, false, "1970-01-01 00:00:03 UTC"},
		{"next day", []time.Time{noon, noon.Add(day)}, true, ""},
		{"set back a minute", []time.Time{noon, noon.Add(-time.Minute)}, true, ""},
		{"set back an hour", []time.Time{noon, noon.Add(-time.Hour)}, false, "was 2026-07-01 12:00:00 UTC already"},
		{"after 1970", []time.Time{time.Unix(3, 0), noon}, true, ""},
		{"1970 after years", []time.Time{noon, time.Unix(3, 0)}, false, "built on"},
		{"back from a wrong future", []time.Time{noon, noon.Add(50 * year), noon.Add(day)}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var status pki.ClockStatus
			for _, now := range tc.clocks {
				db := openDB(t, dir)
				c := newClock(t, db, at(now), build)
				status = c.Status()
				must(t, c.Record(t.Context()))
				must(t, db.Close())
			}
			if status.Trusted != tc.want || !strings.Contains(status.Reason, tc.says) || (status.Reason == "") != tc.want {
				t.Errorf("trusted %v, reason %q", status.Trusted, status.Reason)
			}
			if !status.Now.Equal(tc.clocks[len(tc.clocks)-1]) || !status.Build.Equal(build) {
				t.Errorf("status %+v", status)
			}
		})
	}
}

func TestConfirmedTimeReplacesTheRecorded(t *testing.T) {
	t.Parallel()
	db, clock := openDB(t, t.TempDir()), at(noon)
	c := newClock(t, db, clock, noon.Add(-day))
	must(t, c.Record(t.Context()))
	clock.add(-3 * time.Hour)
	if c.Status().Trusted {
		t.Error("three hours back is trusted before anybody has confirmed it")
	}
	must(t, c.Confirm(t.Context()))
	if s := c.Status(); !s.Trusted || !s.Recorded.Equal(clock.now()) {
		t.Errorf("after confirmation: %+v", s)
	}
	clock.add(-2 * day)
	wantError(t, c.Confirm(t.Context()), pki.ErrClock, "built on")
}

// TestRecordedTimeAdvances runs for a day of the bubble's time, then loses the clock.
func TestRecordedTimeAdvances(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(filepath.Join(dir, "gateway.db"), []store.Schema{pki.Schema()}, store.Options{NoSync: true})
		must(t, err)
		defer db.Close()
		start := time.Now()
		var lost atomic.Int64
		now := func() time.Time { return time.Now().Add(-time.Duration(lost.Load())) }
		c, err := pki.NewClock(db, pki.ClockOptions{Now: now})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()

		time.Sleep(24*time.Hour + time.Second)
		synctest.Wait()
		other, err := pki.NewClock(db, pki.ClockOptions{Now: now})
		must(t, err)
		if got := other.Status().Recorded; got.Before(start.Add(day-10*time.Minute)) || got.After(start.Add(day+time.Minute)) {
			t.Errorf("after a day the store has %v, began at %v", got, start)
		}

		lost.Store(int64(year)) // the battery is dead: recorded time goes on by the time that passes
		time.Sleep(2 * time.Hour)
		cancel()
		must(t, <-done)
		if s := c.Status(); s.Trusted || s.Recorded.Before(start.Add(day+2*time.Hour-time.Minute)) {
			t.Errorf("two hours after the clock was lost: %+v, began at %v", s, start)
		}
		other, err = pki.NewClock(db, pki.ClockOptions{Now: now})
		must(t, err)
		if got := other.Status().Recorded; got.Before(start.Add(day + 2*time.Hour - time.Minute)) {
			t.Errorf("the end was not recorded: %v", got)
		}
	})
}

// TestSmallStepsBackNeverAddUp: a clock that is set back by a few seconds every night (a fast
// crystal, a daily ntpdate) stays trusted.
func TestSmallStepsBackNeverAddUp(t *testing.T) {
	t.Parallel()
	clock := at(noon)
	c := newClock(t, openDB(t, t.TempDir()), clock, time.Time{})
	for i := range 100 {
		clock.add(5 * time.Minute)
		c.Status()
		clock.add(-90 * time.Second)
		if s := c.Status(); !s.Trusted {
			t.Fatalf("night %d: %s", i, s.Reason)
		}
	}
}

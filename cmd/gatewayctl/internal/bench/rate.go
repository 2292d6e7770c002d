package bench

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Rate has n publishers, each with a subscriber of its own, that together send perSecond
// messages, evenly spaced. The latency of a message counts from when it was due, whether or not
// it could be sent then, so a broker that stalls pays for everything that waits.
func Rate(ctx context.Context, t Target, n, perSecond int, l Load) (Result, error) {
	if perSecond < 1 || perSecond > 200_000 {
		return Result{}, impossible("rate: %d messages per second: there must be 1 to 200000", perSecond)
	}
	if l.Messages > 0 {
		return Result{}, impossible("rate: it is measured by time, not by messages")
	}
	late := new(Histogram)
	return plan{
		mode: "rate", pubs: n, subs: n,
		prepare: func(f *flow) {
			for _, s := range f.subs {
				s.times = new(Histogram)
			}
			f.publish = func(ctx context.Context) error { return f.pace(ctx, perSecond, late) }
		},
		conduct: func(ctx context.Context, f *flow) (Result, error) {
			from := f.clock() + int64(f.load.WarmUp)
			for _, s := range f.subs {
				s.until.Store(from + int64(f.load.Duration))
				s.from.Store(from)
			}
			return steady(ctx, f)
		},
		conclude: func(f *flow, r *Result) {
			all := new(Histogram)
			for _, s := range f.subs {
				all.Add(s.times)
			}
			r.Latency = latencyOf(all, late)
		},
	}.run(ctx, t, l)
}

// pace sends message k of all at its time, until the flow is stopped.
func (f *flow) pace(ctx context.Context, perSecond int, late *Histogram) error {
	runtime.LockOSThread() // for the timer's slack, which is the thread's
	defer runtime.UnlockOSThread()
	const slack = 1 // nanosecond; the kernel's default of 50 µs would be ours in every latency
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0)
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) //nolint:errcheck // 0 is the default again

	start := f.clock()
	for k := int64(0); ; k++ {
		due := start + k*int64(time.Second)/int64(perSecond)
		if !f.sleepUntil(ctx, due) {
			return ctx.Err()
		}
		late.Record(time.Duration(f.clock() - due))
		p := f.pubs[k%int64(len(f.pubs))]
		sent := p.sent.Load()
		p.sent.Store(sent + 1)
		if _, err := p.c.nc.Write(p.batch.number(sent, 1, due)); err != nil {
			return f.until(fmt.Errorf("publish: %w", err))
		}
	}
}

// sleepUntil returns false when the flow is stopped meanwhile.
func (f *flow) sleepUntil(ctx context.Context, due int64) bool {
	for {
		select {
		case <-f.stop:
			return false
		case <-ctx.Done():
			return false
		default:
		}
		left := due - f.clock()
		if left <= 0 {
			return true
		}
		// The runtime's timers are good to a millisecond when nothing else happens; these to microseconds.
		ts := unix.NsecToTimespec(min(left, int64(50*time.Millisecond)))
		_ = unix.Nanosleep(&ts, nil)
	}
}

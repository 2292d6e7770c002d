package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A flow is publishers and subscribers at work.
type flow struct {
	target  Target
	load    Load
	pubs    []*publisher
	subs    []*subscriber // none: acknowledgments count as deliveries
	awaited uint64        // messages that each subscriber awaits from nobody here
	epoch   time.Time
	begin   sample
	ended   atomic.Bool   // connections that break from now on are meant to
	stop    chan struct{} // closed when publishers shall stop
	// publish sends until stop is closed or everything was sent; nil: as fast as windows allow.
	publish func(ctx context.Context) error
}

// errStalled says that the broker does not deliver any more.
var errStalled = errors.New("nothing arrives any more")

func newFlow(t Target, l Load) *flow {
	return &flow{target: t, load: l, epoch: time.Now(), stop: make(chan struct{})}
}

func (f *flow) clock() int64 { return int64(time.Since(f.epoch)) }

// run starts everybody, lets conduct measure, stops the publishers, waits for what is under way
// and adds what went missing to the result.
func (f *flow) run(ctx context.Context, conduct func(ctx context.Context) (Result, error)) (r Result, err error) {
	if f.begin, err = f.sample(); err != nil {
		f.drop()
		return r, err
	}
	asked := ctx
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, f.drop)()
	for _, s := range f.subs {
		g.Go(func() error { return f.until(s.run()) })
	}
	for _, p := range f.pubs {
		if p.qos > 0 {
			g.Go(func() error { return f.until(p.collect()) })
		}
		if f.publish == nil {
			g.Go(func() error { return f.until(p.run(f.stop)) })
		}
	}
	if f.publish != nil {
		g.Go(func() error { return f.publish(ctx) })
	}
	g.Go(func() (err error) {
		defer func() {
			f.ended.Store(true)
			f.drop()
		}()
		r, err = conduct(ctx)
		close(f.stop)
		if err != nil {
			return err
		}
		return f.finish(ctx, &r)
	})
	if err = g.Wait(); err != nil && asked.Err() != nil {
		err = asked.Err() // connections broke because of it
	}
	return r, err
}

// until hides the end of a connection that we ended.
func (f *flow) until(err error) error {
	if f.ended.Load() {
		return nil
	}
	return err
}

func (f *flow) drop() {
	for _, p := range f.pubs {
		p.c.drop()
	}
	for _, s := range f.subs {
		s.c.drop()
	}
}

// delivered is how many messages have arrived, at all subscribers together.
func (f *flow) delivered() uint64 {
	var n uint64
	for _, s := range f.subs {
		n += s.received()
	}
	if len(f.subs) == 0 {
		for _, p := range f.pubs {
			n += p.acked.Load()
		}
	}
	return n
}

// outstanding is how many of the sent messages, or of the awaited ones when their number is
// given, neither arrived nor are known to be lost.
func (f *flow) outstanding() uint64 {
	n := f.overdue()
	for _, p := range f.pubs {
		to := p.sent.Load()
		if p.limit > 0 {
			to = p.limit
		}
		for _, r := range p.receivers {
			n += to - min(to, r.Load())
		}
		if p.qos > 0 {
			n += to - min(to, p.acked.Load())
		}
	}
	return n
}

// overdue is how many of the awaited messages have not come.
func (f *flow) overdue() uint64 {
	var n uint64
	for _, s := range f.subs {
		n += f.awaited - min(f.awaited, s.past[0].Load())
	}
	return n
}

// patience is how long nothing may arrive before what is outstanding counts as lost.
const patience = 5 * time.Second

// settle waits until nothing is outstanding. It returns [errStalled] when that does not happen.
func (f *flow) settle(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	left, since := f.outstanding(), time.Now()
	for left > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if now := f.outstanding(); now != left {
			left, since = now, time.Now()
		} else if time.Since(since) > patience {
			return fmt.Errorf("%w: %d messages are outstanding", errStalled, left)
		}
	}
	return nil
}

// finish waits for what is under way, and counts what never comes.
func (f *flow) finish(ctx context.Context, r *Result) error {
	if err := f.settle(ctx); err != nil && !errors.Is(err, errStalled) {
		return err
	}
	r.Lost = f.overdue()
	for _, s := range f.subs {
		r.Lost += s.missing()
		r.Repeated += s.late.Load()
	}
	for _, p := range f.pubs {
		for _, got := range p.receivers {
			r.Lost += p.sent.Load() - min(p.sent.Load(), got.Load())
		}
	}
	return nil
}

// measure returns what was delivered during d, or until all messages arrived if their number is
// given, and what that cost.
func (f *flow) measure(ctx context.Context, d time.Duration) (r Result, err error) {
	from := f.begin
	if f.load.Messages > 0 {
		if err = f.settle(ctx); errors.Is(err, errStalled) {
			err = nil // finish counts what is lost
		}
	} else if from, err = f.sample(); err == nil {
		err = pause(ctx, d)
	}
	if err != nil {
		return r, err
	}
	to, err := f.sample()
	if err != nil {
		return r, err
	}
	to.since(from, &r)
	if r.Messages == 0 {
		return r, errStalled
	}
	return r, nil
}

// A sample is where the flow and the processes are.
type sample struct {
	at             time.Time
	delivered      uint64
	wire           int64
	broker, driver time.Duration
	disk           diskUse
	known          bool // what the broker costs
	payload        int
}

func (f *flow) sample() (s sample, err error) {
	for _, p := range f.pubs {
		s.wire += p.c.wire.received.Load()
	}
	for _, sub := range f.subs {
		s.wire += sub.c.wire.received.Load()
	}
	s.at, s.delivered, s.payload = time.Now(), f.delivered(), f.load.Payload
	return s, s.processes(f.target.PID)
}

// processes reads what the broker and we have used.
func (s *sample) processes(broker int) (err error) {
	if s.driver, err = cpuTime(os.Getpid()); err != nil || broker == 0 {
		return err
	}
	s.known = true
	if s.broker, err = cpuTime(broker); err != nil {
		return err
	}
	s.disk, err = diskOf(broker)
	return err
}

// since fills r with what happened between the samples.
func (s sample) since(from sample, r *Result) {
	r.Messages = s.delivered - from.delivered
	r.Seconds = s.at.Sub(from.at).Seconds()
	r.Rate = float64(r.Messages) / r.Seconds
	n := float64(max(r.Messages, 1))
	r.DriverCPU = micro(s.driver-from.driver) / n
	if !s.known {
		return
	}
	r.BrokerCPU = micro(s.broker-from.broker) / n
	if payload := n * float64(s.payload); payload > 0 {
		r.WriteAmplification = max(0, float64(s.disk.calls-from.disk.calls-(s.wire-from.wire))/payload)
		r.DiskAmplification = float64(s.disk.written-from.disk.written) / payload
	}
}

func micro(d time.Duration) float64 { return float64(d) / 1e3 }

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

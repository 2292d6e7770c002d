package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stopGrace bounds how long one part may take to stop before it is reported as stuck.
const stopGrace = 10 * time.Second

// A part is one long-running piece of the gateway. Its run returns nil only when asked to stop.
type part struct {
	name string
	run  func(context.Context) error
}

// runParts starts the parts in order and stops them in reverse, each with bounded grace: what was
// started last depends on what was started first. It returns when ctx ends or one of the parts
// does, with the errors of all.
func runParts(ctx context.Context, parts []part, started func()) error {
	type end struct {
		name string
		err  error
	}
	ended := make(chan end, len(parts))
	stops := make([]context.CancelFunc, len(parts))
	dones := make([]chan struct{}, len(parts))
	for i, p := range parts {
		// Parts outlive ctx: they are stopped one after another, below.
		pctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		stops[i], dones[i] = stop, done
		go func() {
			defer close(done)
			ended <- end{p.name, p.run(pctx)}
		}()
	}
	if started != nil {
		started()
	}
	var errs []error
	note := func(e end, early bool) {
		switch {
		case e.err != nil && !errors.Is(e.err, context.Canceled):
			errs = append(errs, fmt.Errorf("%s: %w", e.name, e.err))
		case early:
			errs = append(errs, fmt.Errorf("%s ended although nobody asked it to", e.name))
		}
	}
	seen := 0
	select {
	case <-ctx.Done():
	case e := <-ended:
		seen++
		note(e, true)
	}
	for i := len(parts) - 1; i >= 0; i-- {
		stops[i]()
		grace := time.NewTimer(stopGrace)
		select {
		case <-dones[i]:
		case <-grace.C:
			errs = append(errs, fmt.Errorf("%s did not stop within %v", parts[i].name, stopGrace))
			seen++ // its end is not waited for
		}
		grace.Stop()
	}
	for ; seen < len(parts); seen++ {
		note(<-ended, false)
	}
	return errors.Join(errs...)
}

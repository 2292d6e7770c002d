package bench

import (
	"context"
	"errors"
	"fmt"
)

// Offline publishes with QoS 1 to a persistent session whose client is away, until all of
// l.Messages (20,000 if that is 0) are acknowledged, which is what the result's rate and cost
// are about. Then the client comes back, and is given and counts everything.
func Offline(ctx context.Context, t Target, l Load) (r Result, err error) {
	r.Mode = "offline"
	if l.Messages == 0 {
		l.Messages = 20_000
	}
	l.QoS, l.Persistent = 1, true
	if l, err = l.withDefaults(); err != nil {
		return r, fmt.Errorf("offline: %w", err)
	}
	name := runName()
	id, topic := "bench-"+name+"-away", "bench/"+name+"/away"
	defer func() {
		err = errors.Join(err, t.forget(context.WithoutCancel(ctx), 0, id))
		if err != nil {
			err = fmt.Errorf("offline: %w", err)
		}
	}()
	c, _, err := t.connect(ctx, 0, readBytes, id, false)
	if err != nil {
		return r, err
	}
	defer c.drop()
	if err := c.subscribe(ctx, 1, topic); err != nil {
		return r, err
	}
	c.leave()

	if r, err = fillQueue(ctx, t, name, topic, l); err != nil {
		return r, err
	}
	err = drainQueue(ctx, t, id, l, &r)
	return r, err
}

// fillQueue publishes until everything is acknowledged.
func fillQueue(ctx context.Context, t Target, name, topic string, l Load) (r Result, err error) {
	c, _, err := t.connect(ctx, 0, readBytes, "bench-"+name+"-pub", true)
	if err != nil {
		return r, err
	}
	f := newFlow(t, l)
	f.pubs = []*publisher{newPublisher(0, c, topic, l)}
	if r, err = f.run(ctx, func(ctx context.Context) (Result, error) { return f.measure(ctx, 0) }); err != nil {
		return r, err
	}
	if r.Mode = "offline"; r.Messages < uint64(l.Messages) {
		return r, fmt.Errorf("%w: %d of %d messages were acknowledged", errStalled, r.Messages, l.Messages)
	}
	return r, nil
}

// drainQueue comes back as id and takes what is there.
func drainQueue(ctx context.Context, t Target, id string, l Load, r *Result) error {
	f := newFlow(t, l)
	c, present, err := t.connect(ctx, 0, readBytes, id, false)
	if err != nil {
		return err
	}
	if !present {
		c.drop()
		return errors.New("the broker has forgotten the session")
	}
	f.subs = []*subscriber{newSubscriber(c, 1)}
	f.awaited = uint64(l.Messages)
	d, err := f.run(ctx, func(ctx context.Context) (Result, error) { return f.measure(ctx, 0) })
	r.Lost, r.Repeated = d.Lost, d.Repeated
	r.DrainRate, r.DrainCPU = d.Rate, d.BrokerCPU
	return err
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// Churn is [Pairs] with one more client that makes and removes perSecond subscriptions with
// wildcards every second. Result.Base is the rate without it, in the same run.
func Churn(ctx context.Context, t Target, n, perSecond int, l Load) (Result, error) {
	if perSecond < 1 || perSecond > 10_000 {
		return Result{}, impossible("churn: %d subscriptions per second: there must be 1 to 10000", perSecond)
	}
	if l.Messages > 0 {
		return Result{}, impossible("churn: it is measured by time, not by messages")
	}
	return plan{mode: "churn", pubs: n, subs: n, conduct: func(ctx context.Context, f *flow) (r Result, err error) {
		c, _, err := t.connect(ctx, 0, 1<<10, "bench-"+runName()+"-churn", true)
		if err != nil {
			return r, err
		}
		defer c.drop()
		base, err := steady(ctx, f)
		if err != nil {
			return r, err
		}
		stop := c.churn(perSecond)
		r, err = f.measure(ctx, f.load.Duration)
		r.Base = base.Rate
		return r, errors.Join(stop(), err)
	}}.run(ctx, t, l)
}

// churn subscribes perSecond times a second, each time to a filter that it has not, and drops
// each again half a second later. It does not wait for answers, so that a busy broker gets no
// less of it. stop ends it and returns what went wrong.
func (c *client) churn(perSecond int) (stop func() error) {
	var group sync.WaitGroup
	var writing, reading error
	ended := make(chan struct{})
	until := func(err error) error { // hides what stop does to the connection
		select {
		case <-ended:
			return nil
		default:
			return fmt.Errorf("change subscriptions: %w", err)
		}
	}
	group.Go(func() { writing = until(c.resubscribe(perSecond, ended)) })
	group.Go(func() { reading = until(c.swallow()) })
	return func() error {
		close(ended)
		c.leave()
		group.Wait()
		return errors.Join(writing, reading)
	}
}

func (c *client) resubscribe(perSecond int, ended <-chan struct{}) error {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	keep := max(1, perSecond/2)
	filter := func(i int) mqtt.Filter { return mqtt.Filter(fmt.Sprintf("bench/+/%s-%d", c.id, i)) }
	var buf []byte
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ended:
			return nil
		}
		sub := plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: filter(i)}}}
		buf = sub.Append(buf[:0], plane.V311)
		if i >= keep {
			unsub := plane.Unsubscribe{PacketID: 2, Filters: []mqtt.Filter{filter(i - keep)}}
			buf = unsub.Append(buf, plane.V311)
		}
		if _, err := c.nc.Write(buf); err != nil {
			return err
		}
	}
}

// swallow reads answers until the connection ends.
func (c *client) swallow() error {
	for {
		frame, _, err := c.in.await()
		if err != nil {
			return err
		}
		if t := typeOf(frame); t != plane.SUBACK && t != plane.UNSUBACK {
			return fmt.Errorf("packet type %d came instead of an answer", t)
		}
	}
}

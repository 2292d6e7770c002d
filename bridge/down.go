package bridge

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

const (
	// downWorkers publish side by side, so that many topics share a commit of the message log;
	// one topic always goes to the same worker and stays in order.
	downWorkers = 8
	// downQueue is how many messages wait for each worker; then the upstream has to wait.
	downQueue = 32
)

// A job is one message that came down.
type job struct {
	deliveries []delivery
	ack        func()
}

// A delivery is what one rule makes of it.
type delivery struct {
	r *rule
	m mqtt.Message
}

// message takes what the upstream sends; see [Session].
func (c *connection) message(ctx context.Context, m mqtt.Message, ack func()) {
	var j job
	for _, r := range c.u.rules {
		local, ok := r.mapping.Down(m.Topic)
		if !ok || slices.ContainsFunc(j.deliveries, func(d delivery) bool { return d.m.Topic == local }) {
			continue
		}
		d := delivery{r, m}
		d.m.Topic = local
		d.m.Publisher = mqtt.Publisher{Origin: OriginPrefix + c.u.name}
		j.deliveries = append(j.deliveries, d)
	}
	if len(j.deliveries) == 0 { // the session remembers the subscription of an earlier configuration
		c.u.unmatched.Add(1)
		ack()
		return
	}
	j.ack = ack
	select {
	case c.jobs[maphash.String(c.seed, m.Topic)%downWorkers] <- j:
	case <-ctx.Done():
	}
}

func (c *connection) tooLarge(topic string, sizeBytes int) {
	c.u.log.Error("message from upstream is too large", "topic", topic, "bytes", sizeBytes)
	for _, r := range c.u.rules {
		if _, ok := r.mapping.Down(topic); ok {
			r.drop(DropTooLarge, 1)
			c.u.tell(Event{Kind: EventRefused, Rule: r.mapping.Name(), Topic: topic, Text: "a message that came down is too large"})
			return
		}
	}
	c.u.unmatched.Add(1)
}

// work publishes what came down, until ctx is cancelled; what is left then comes again.
func (c *connection) work(ctx context.Context, jobs <-chan job) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-jobs:
			done := true
			for _, d := range j.deliveries {
				done = c.publish(ctx, d) && done
			}
			if done {
				c.received.Store(true)
				j.ack()
			}
		}
	}
}

// publish gives one message to the local broker and reports whether the upstream may forget it.
// A full disk is waited out; anything else is given up after a few tries.
func (c *connection) publish(ctx context.Context, d delivery) (done bool) {
	wait := backoff{first: 100 * time.Millisecond, most: 5 * time.Second}
	for try := 1; ; {
		err := c.u.bus.Publish(ctx, d.m)
		if err == nil {
			d.r.received.Add(1)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if d.r.note("publish locally: " + err.Error()) {
			c.u.log.Warn("publish locally", "rule", d.r.mapping.Name(), "topic", d.m.Topic, "err", err)
		}
		if !errors.Is(err, msglog.ErrFull) {
			if try++; try > c.u.b.opts.Tries {
				d.r.drop(DropLocal, 1)
				c.u.tell(Event{Kind: EventRefused, Rule: d.r.mapping.Name(), Topic: d.m.Topic, Text: "publish locally: " + err.Error()})
				return true
			}
		}
		timer := time.NewTimer(wait.next())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

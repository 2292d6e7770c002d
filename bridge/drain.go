package bridge

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatewayctl/bridge/rules"
	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

// A rule is one rule at work.
type rule struct {
	u            *uplink
	mapping      *rules.Mapping
	consumer     *msglog.Consumer // nil if nothing goes up
	consumerName string
	remove       func() // unregisters the consumer at the broker

	inFlight               atomic.Int64
	sent, resent, received atomic.Uint64
	wake                   chan struct{} // holds a token while acks has something
	highest                uint64        // sequence number that was ever sent; the drain's own

	mu        sync.Mutex
	acks      []uint64 // taken by the upstream, not told to the log yet
	suspects  suspects
	dropped   map[string]uint64
	lastError string
}

// register opens the rule's queue and has it filled by the local broker.
func (r *rule) register(cfg RuleConfig) (err error) {
	filter := r.mapping.LocalFilter()
	if filter == "" {
		return nil
	}
	r.consumerName = consumerPrefix + r.u.name + "/" + r.mapping.Name()
	r.consumer, err = r.u.b.log.Consumer(r.consumerName, msglog.ConsumerOptions{
		MaxMessages: cfg.MaxMessages, MaxBytes: cfg.MaxBytes, WhenFull: cfg.WhenFull,
	})
	if err != nil {
		return fmt.Errorf("open its queue: %w", err)
	}
	r.remove, err = r.u.bus.AddConsumer(r.consumerName, filter, r.consumer, r.accept)
	return err
}

// drain sends the rule's queue, from the oldest unacknowledged message on, until ctx is cancelled.
func (r *rule) drain(ctx context.Context, c *connection) error {
	r.consumer.Rewind()
	r.mu.Lock()
	r.suspects.begin()
	r.mu.Unlock()
	batch := min(max(2*r.u.maxInFlight, 64), 1024)
	for {
		records, err := r.consumer.Read(ctx, batch)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read the queue of rule %q: %w", r.mapping.Name(), err)
		}
		for out := r.prepare(records); len(out) > 0; {
			n, err := r.advance(ctx, c, out)
			if err != nil {
				return nil // the connection ends; what was not sent is read again
			}
			out = out[n:]
		}
	}
}

// advance sends some of out and returns how many, or instead one message that was stepped over.
func (r *rule) advance(ctx context.Context, c *connection, out []outgoing) (int, error) {
	r.mu.Lock()
	stepped := len(r.suspects.stepped) > 0
	if stepped {
		r.suspects.pick(out)
	}
	r.mu.Unlock()
	want := len(out)
	if stepped {
		c.beCareful()
		want = 1
	}
	n, err := c.window.acquire(ctx, want)
	if err != nil {
		return 0, err
	}
	if stepped && c.took.Load() { // the upstream is well, so this is the message's own trial
		r.mu.Lock()
		o, ok := r.suspects.trial()
		r.mu.Unlock()
		if ok {
			r.send(c, o, time.Now(), true)
			return 0, nil
		}
	}
	now := time.Now()
	for _, o := range out[:n] {
		r.send(c, o, now, false)
	}
	return n, nil
}

// send puts a message on its way. There must be a place for it in the window.
func (r *rule) send(c *connection, o outgoing, now time.Time, trial bool) {
	if o.seq <= r.highest {
		r.resent.Add(1)
	}
	r.highest = max(r.highest, o.seq)
	c.send(&flight{c: c, r: r, seq: o.seq, topic: o.topic, qos: o.m.QoS, trial: trial, since: now}, o.m)
}

// prepare makes messages for the upstream out of records, and drops what cannot be sent.
func (r *rule) prepare(records []msglog.Record) []outgoing {
	out := make([]outgoing, 0, len(records))
	now := r.u.b.opts.Now()
	var acked []uint64
	drop := func(seq uint64, why string) {
		r.drop(why, 1)
		acked = append(acked, seq)
	}
	for _, rec := range records {
		m, err := mqtt.ParseMessage(rec.Body)
		if err != nil {
			r.u.log.Error("message record", "rule", r.mapping.Name(), "seq", rec.Seq, "err", err)
			drop(rec.Seq, DropDamaged)
			continue
		}
		if !rec.Expires.IsZero() && !now.Before(rec.Expires) {
			drop(rec.Seq, DropExpired)
			continue
		}
		remote, ok := r.mapping.Up(m.Topic)
		if !ok {
			drop(rec.Seq, DropUnmatched)
			continue
		}
		o := outgoing{rec.Seq, m.Topic, m}
		o.m.Topic, o.m.QoS, o.m.Publisher = remote, r.mapping.Rule().QoS, mqtt.Publisher{}
		if !rec.Expires.IsZero() { // what is left of it [MQTT-3.3.2-6]
			o.m.ExpirySeconds = uint32(math.Ceil(rec.Expires.Sub(now).Seconds()))
		}
		if r.u.about.UserProperties {
			o.m.UserProperties = withHop(m.UserProperties)
		}
		if !r.over(o) {
			out = append(out, o)
		}
	}
	r.ack(acked...)
	return out
}

// took notes that the upstream has taken a message.
func (r *rule) took(seq uint64) {
	r.sent.Add(1)
	r.mu.Lock()
	r.acks = append(r.acks, seq)
	r.suspects.clear(seq)
	r.mu.Unlock()
	r.signal()
}

// refuse gives a message up that the upstream will never take.
func (r *rule) refuse(seq uint64, topic, why string) {
	r.mu.Lock()
	r.dropped[DropRefused]++
	r.acks = append(r.acks, seq)
	r.suspects.clear(seq)
	r.mu.Unlock()
	r.signal()
	r.u.log.Error("message refused by upstream", "rule", r.mapping.Name(), "seq", seq, "topic", topic, "err", why)
	r.u.tell(Event{Kind: EventRefused, Rule: r.mapping.Name(), Topic: topic, Text: why})
}

// ack has the log told that messages are done with.
func (r *rule) ack(seqs ...uint64) {
	if len(seqs) == 0 {
		return
	}
	r.mu.Lock()
	r.acks = append(r.acks, seqs...)
	r.mu.Unlock()
	r.signal()
}

func (r *rule) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// acknowledge tells the log which messages are done with, until ctx is cancelled.
func (r *rule) acknowledge(ctx context.Context) error {
	var seqs []uint64
	for ending := false; !ending; {
		select {
		case <-r.wake:
		case <-ctx.Done():
			ending = true
		}
		r.mu.Lock()
		seqs, r.acks = r.acks, seqs[:0]
		r.mu.Unlock()
		if len(seqs) == 0 {
			continue
		}
		slices.Sort(seqs)
		if err := r.consumer.Ack(seqs...); err != nil {
			return fmt.Errorf("acknowledge in the queue of rule %q: %w", r.mapping.Name(), err)
		}
	}
	return nil
}

func (r *rule) drop(why string, n uint64) {
	r.mu.Lock()
	r.dropped[why] += n
	r.mu.Unlock()
}

func (r *rule) over(o outgoing) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.suspects.over(o)
}

func (r *rule) suspected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.suspects.any()
}

func (r *rule) blame(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.suspects.blame(seq)
}

// note replaces the rule's own error and reports whether it is another one.
func (r *rule) note(text string) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed = r.lastError != text
	r.lastError = text
	return changed
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

// A handler receives messages in process.
type handler struct {
	filter mqtt.Filter
	handle func(mqtt.Message)
}

// A DurableConsumer is a reader of the message log that must not miss what matches its filter.
type DurableConsumer struct {
	Name   string
	Filter mqtt.Filter      // a shared filter is refused
	Log    *msglog.Consumer // reads and acknowledges

	// Accept may turn a message down, such as one that the consumer brought in itself; nil takes
	// all. It must not block, nor change the message.
	Accept func(*mqtt.Message) bool
}

type consumer struct {
	DurableConsumer
	id msglog.ConsumerID
}

// AddConsumer has everything that is published from now on and that c takes appended to the
// message log for it: once for all consumers, in the order of each publisher, and committed
// before a QoS 1 or 2 publisher is acknowledged. What clients publish with QoS 0 is kept without
// making anybody wait. Retained messages of before are not replayed.
func (b *Broker) AddConsumer(c DurableConsumer) (remove func(), err error) {
	if c.Log == nil {
		return nil, fmt.Errorf("consumer %s has no reader in the log", c.Name)
	}
	return b.addConsumer(c, c.Log.ID())
}

func (b *Broker) addConsumer(c DurableConsumer, id msglog.ConsumerID) (remove func(), err error) {
	if c.Filter, err = unshared(c.Filter); err != nil {
		return nil, fmt.Errorf("consumer %s: %w", c.Name, err)
	}
	in := &consumer{DurableConsumer: c, id: id}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range *b.consumers.Load() {
		if other.id == id {
			return nil, fmt.Errorf("consumer %s: consumer %s reads as the same", c.Name, other.Name)
		}
	}
	list := append(slices.Clone(*b.consumers.Load()), in)
	b.consumers.Store(&list)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		list := slices.DeleteFunc(slices.Clone(*b.consumers.Load()), func(x *consumer) bool { return x == in })
		b.consumers.Store(&list)
	}, nil
}

// consumersOf returns who must not miss m.
func (b *Broker) consumersOf(m *mqtt.Message) (ids []msglog.ConsumerID) {
	for _, c := range *b.consumers.Load() {
		if c.Filter.Match(m.Topic) && (c.Accept == nil || c.Accept(m)) {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// Subscribe has h called for every message whose topic f matches, until cancel is called; a call
// may still be under way then. h is called by the goroutine that publishes: it must not block,
// and several may call it at a time. Messages of one publisher come in order. First, before
// Subscribe returns, h gets the retained messages that match, with Retain set; later ones come
// with Retain cleared.
func (b *Broker) Subscribe(f mqtt.Filter, h func(mqtt.Message)) (cancel func(), err error) {
	if f, err = unshared(f); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	in := &handler{filter: f, handle: h}
	b.mu.Lock()
	list := append(slices.Clone(*b.handlers.Load()), in)
	b.handlers.Store(&list)
	b.mu.Unlock()
	for _, k := range b.retained.match(f) {
		m := *k.msg
		if setExpiry(&m, k.expires) {
			h(m)
		}
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		list := slices.DeleteFunc(slices.Clone(*b.handlers.Load()), func(x *handler) bool { return x == in })
		b.handlers.Store(&list)
	}, nil
}

func unshared(f mqtt.Filter) (mqtt.Filter, error) {
	f, err := mqtt.ParseFilter(string(f), 0)
	if err != nil {
		return "", err
	}
	if share, _ := f.Share(); share != "" {
		return "", fmt.Errorf("filter %q is shared", f)
	}
	return f, nil
}

// Errors of [Broker.Publish] that callers tell apart.
var (
	ErrNotPublishable = errors.New("nobody may publish this") // whatever the policy
	ErrTooLarge       = errors.New("message is too large")
	ErrNoRoom         = errors.New("no room for more retained messages")
)

// Publish publishes m for this process, without asking any policy. It returns once m is as
// durable as an acknowledgment promises: with QoS 1 or 2, committed for every durable consumer
// that takes it. An error that wraps [msglog.ErrFull] says that the log has no room; clients that
// are here may have received the message even so. [ErrNotPublishable], [ErrTooLarge] and [ErrNoRoom]
// say that nobody has received it. When ctx ends first, m may still be committed.
//
// Of m.Publisher only Origin is used. The slices of m must not be changed afterwards.
func (b *Broker) Publish(ctx context.Context, m mqtt.Message) error {
	if err := b.publishLocal(ctx, &m); err != nil {
		return fmt.Errorf("publish to %q: %w", m.Topic, err)
	}
	return nil
}

func (b *Broker) publishLocal(ctx context.Context, m *mqtt.Message) error {
	m.Publisher = mqtt.Publisher{Origin: m.Publisher.Origin}
	switch err := b.publishable(m); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotPublishable, err)
	case !m.QoS.Valid():
		return fmt.Errorf("%w: QoS is none of 0, 1 and 2", ErrNotPublishable)
	case len(m.Payload) > b.opts.MaxPacketBytes:
		return fmt.Errorf("%w: %d bytes of payload, where %d are the most", ErrTooLarge, len(m.Payload), b.opts.MaxPacketBytes)
	case m.Retain && isRPCTopic(m.Topic):
		return fmt.Errorf("%w: %w", ErrNotPublishable, errRetainedRPC)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !b.retained.set(m) {
		b.n.refused.add(refusedRetained, 1)
		return ErrNoRoom
	}
	ids := b.consumersOf(m)
	if len(ids) == 0 {
		b.distribute(m)
		return nil
	}
	if m.QoS == mqtt.QoS0 {
		b.appendLazily(m, ids)
		b.distribute(m)
		return nil
	}
	kept := make(chan error, 1)
	for {
		err := b.append(m, ids, func(err error) { kept <- err })
		if err == nil {
			break
		}
		if !errors.Is(err, msglog.ErrBlocked) {
			return err
		}
		select { // for the consumer that blocks
		case <-time.After(blockedPause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
	b.distribute(m)
	select {
	case err := <-kept:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

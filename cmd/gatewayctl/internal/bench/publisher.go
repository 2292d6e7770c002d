package bench

import (
	"fmt"
	"sync/atomic"

	"gatewayctl/broker/plane"
)

// A publisher sends numbered messages to one topic and never gets further ahead of their
// receivers than its window.
type publisher struct {
	index  int
	c      *client
	qos    byte
	window uint64
	limit  uint64 // messages in all; 0: until it is stopped
	batch  batch
	frames int // in a batch

	sent      atomic.Uint64
	acked     atomic.Uint64    // at QoS 1
	receivers []*atomic.Uint64 // how many of our messages each of them is past

	waiting atomic.Bool
	need    atomic.Uint64 // what must be settled before there is room
	wake    chan struct{} // has a value after somebody settled as much
}

func newPublisher(index int, c *client, topic string, l Load) *publisher {
	frames := max(1, l.Window/2)
	return &publisher{
		index: index, c: c, qos: l.QoS, window: uint64(l.Window), limit: uint64(l.Messages), frames: frames,
		batch: newBatch(frames, uint32(index), topic, l.QoS, l.Payload), wake: make(chan struct{}, 1),
	}
}

// settled is how many messages need no more room in the window.
func (p *publisher) settled() uint64 {
	low := ^uint64(0)
	if p.qos > 0 {
		low = p.acked.Load()
	}
	for _, r := range p.receivers {
		low = min(low, r.Load())
	}
	return low
}

// poke tells the publisher that somebody has settled n messages.
func (p *publisher) poke(n uint64) {
	if p.waiting.Load() && n >= p.need.Load() {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// run sends batch by batch until stop is closed or the limit is reached.
func (p *publisher) run(stop <-chan struct{}) error {
	for {
		sent := p.sent.Load()
		n := uint64(p.frames)
		if p.limit > 0 {
			if n = min(n, p.limit-sent); n == 0 {
				return nil
			}
		}
		if !p.room(sent+n, stop) {
			return nil
		}
		p.sent.Store(sent + n)
		if _, err := p.c.nc.Write(p.batch.number(sent, int(n), 0)); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
}

// room waits until the window has room up to message number to. It returns false when the
// publisher is stopped.
func (p *publisher) room(to uint64, stop <-chan struct{}) bool {
	for {
		select {
		case <-stop:
			return false
		default:
		}
		if to-min(to, p.settled()) <= p.window {
			return true
		}
		p.need.Store(to - p.window)
		p.waiting.Store(true)
		if to-min(to, p.settled()) > p.window { // nothing came between looking and waiting
			select {
			case <-p.wake:
			case <-stop:
			}
		}
		p.waiting.Store(false)
	}
}

// collect counts acknowledgments until the connection ends.
func (p *publisher) collect() error {
	acked := p.acked.Load()
	for {
		for {
			frame, body, err := p.c.in.next()
			if err != nil {
				return err
			}
			if frame == nil {
				break
			}
			if typeOf(frame) != plane.PUBACK || len(frame) != body+2 {
				return fmt.Errorf("packet type %d came to a publisher", typeOf(frame))
			}
			acked++
		}
		p.acked.Store(acked)
		p.poke(acked)
		if err := p.c.in.fill(); err != nil {
			return fmt.Errorf("await acknowledgments: %w", err)
		}
	}
}

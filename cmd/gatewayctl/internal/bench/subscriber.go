package bench

import (
	"fmt"
	"sync/atomic"
	"time"

	"gatewayctl/broker/plane"
)

// A subscriber counts what comes, by publisher, and answers it.
type subscriber struct {
	c     *client
	pubs  []*publisher    // by index: told when we are further
	past  []atomic.Uint64 // by publisher: messages received or found missing
	here  []uint64        // the same, ahead of what the others see
	acks  []byte
	clock func() int64 // of the flow
	from  atomic.Int64 // only messages due after this are timed
	until atomic.Int64
	times *Histogram // nil: not timed

	skipped, late atomic.Uint64 // messages that did not come in turn, and those that came after their turn
}

func newSubscriber(c *client, publishers int) *subscriber {
	return &subscriber{c: c, past: make([]atomic.Uint64, publishers), here: make([]uint64, publishers)}
}

// missing is how many messages did not come, as far as can be told: what comes late may be what
// was skipped, or a repetition.
func (s *subscriber) missing() uint64 {
	skipped := s.skipped.Load()
	return skipped - min(skipped, s.late.Load())
}

// received is how many different messages came.
func (s *subscriber) received() uint64 {
	var n uint64
	for i := range s.past {
		n += s.past[i].Load()
	}
	return n - min(n, s.missing())
}

// run handles what comes until the connection ends.
func (s *subscriber) run() error {
	for {
		if err := s.handle(); err != nil {
			return err
		}
		if err := s.c.in.fill(); err != nil {
			return fmt.Errorf("receive: %w", err)
		}
	}
}

// handle takes all whole frames that were read, then answers, then tells the publishers.
func (s *subscriber) handle() error {
	var now int64
	if s.times != nil {
		now = s.clock()
	}
	for {
		frame, body, err := s.c.in.next()
		if err != nil {
			return err
		}
		if frame == nil {
			break
		}
		if err := s.take(frame, body, now); err != nil {
			return err
		}
	}
	if len(s.acks) > 0 {
		if _, err := s.c.nc.Write(s.acks); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		s.acks = s.acks[:0]
	}
	for i, n := range s.here {
		if s.past[i].Load() == n {
			continue
		}
		s.past[i].Store(n)
		if s.pubs != nil {
			s.pubs[i].poke(n)
		}
	}
	return nil
}

func (s *subscriber) take(frame []byte, body int, now int64) error {
	switch t := typeOf(frame); t {
	case plane.PUBLISH:
	case plane.SUBACK, plane.UNSUBACK:
		return nil
	default:
		return fmt.Errorf("packet type %d came to a subscriber", t)
	}
	a, err := parseArrival(frame, body)
	if err != nil {
		return err
	}
	if int(a.publisher) >= len(s.here) {
		return fmt.Errorf("a message of publisher %d came, who is not ours", a.publisher)
	}
	if a.qos > 0 {
		s.acks = appendPubAck(s.acks, a.id)
	}
	expected := &s.here[a.publisher]
	switch ahead := int32(a.number - uint32(*expected)); {
	case ahead < 0:
		s.late.Add(1) // or a second time: in either case it broke the order
		return nil
	case ahead > 0:
		s.skipped.Add(uint64(ahead))
		*expected += uint64(ahead)
	}
	*expected++
	if s.times != nil && a.at >= s.from.Load() && a.at < s.until.Load() {
		s.times.Record(time.Duration(now - a.at))
	}
	return nil
}

package broker

import (
	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// An ackQueue keeps the acknowledgments of a connection's publishes in the order of the
// publishes [MQTT-4.6.0-2] [MQTT-4.6.0-3], while commits finish when they do. It is guarded by
// the mutex of the connection's outbound.
type ackQueue struct {
	items []ack
	first uint64 // number of items[0]
}

type ack struct {
	plane.Ack
	decided bool
}

func (q *ackQueue) waiting() bool { return len(q.items) > 0 }

// owe reserves the place of the acknowledgment of type t for packet identifier id.
func (c *conn) owe(t plane.Type, id uint16) uint64 {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	q := &o.acks
	q.items = append(q.items, ack{Ack: plane.Ack{Type: t, PacketID: id}})
	return q.first + uint64(len(q.items)) - 1
}

// settle decides an acknowledgment and sends those that are due. A failure is told to MQTT 5.0
// clients only; a connection of MQTT 3.1.1 ends without the acknowledgment.
func (c *conn) settle(n uint64, reason mqtt.ReasonCode) {
	if reason.Failed() && c.version != plane.V5 {
		if !c.fail(reason, "") {
			c.giveUp()
		}
		return
	}
	o := &c.out
	o.mu.Lock()
	q := &o.acks
	q.items[n-q.first].Reason = reason
	q.items[n-q.first].decided = true
	due := 0
	for due < len(q.items) && q.items[due].decided {
		if !o.sealed {
			o.buf = q.items[due].Append(o.buf, c.version)
		}
		due++
	}
	if due > 0 {
		q.items = append(q.items[:0], q.items[due:]...)
		q.first += uint64(due)
		if o.ended && !o.sealed && !q.waiting() {
			c.seal()
		} else if !o.sealed {
			c.startWriting()
		}
		select { // for awaitCommits
		case o.room <- struct{}{}:
		default:
		}
	}
	over := o.size() > c.b.opts.MaxOutboundBytes+controlMargin
	o.mu.Unlock()
	if over {
		c.stalled("acknowledgments that the client does not read")
	}
}

// acknowledge answers a publish whose fate is decided.
func (c *conn) acknowledge(t plane.Type, id uint16, reason mqtt.ReasonCode) {
	c.settle(c.owe(t, id), reason)
}

// awaitCommits pauses the connection while too many of its publishes wait for a commit. It
// returns how many still do.
func (c *conn) awaitCommits(limit int) int {
	for {
		c.out.mu.Lock()
		n, ended := len(c.out.acks.items), c.out.ended
		c.out.mu.Unlock()
		if ended || n < limit {
			return n
		}
		select {
		case <-c.out.room:
		case <-c.out.dead:
		}
	}
}

// owed returns how many publishes of QoS 1 wait for their acknowledgment; those of QoS 2 are
// counted by the session until they are released.
func (c *conn) owed() (n int) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for i := range c.out.acks.items {
		if c.out.acks.items[i].Type == plane.PUBACK {
			n++
		}
	}
	return n
}

package broker

import (
	"io"
	"net"
	"sync"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// An outbound is what a connection has to send. Whoever has something for the client appends it
// and goes on; a goroutine that exists only while there is something writes it. So nobody ever
// waits for somebody else's socket, and an idle connection costs no goroutine for writing.
//
// All fields are guarded by mu but for the channels.
type outbound struct {
	mu      sync.Mutex
	buf     []byte // appended and not taken by the writer
	spare   []byte // the writer's last buffer, to be used again
	sending int    // bytes that the writer has taken and not sent
	writing bool   // the writer runs
	starved bool   // somebody wants to be told when there is room

	acks    ackQueue
	aliases map[string]uint16 // of topics, that the client was told

	ended  bool // nothing but acknowledgments that are due comes any more
	sealed bool // nothing at all does
	ending ending
	grace  *time.Timer

	room    chan struct{} // has a value after the writer made room
	dead    chan struct{} // closed when ended
	flushed chan struct{} // closed when the last byte is out
}

// An ending says how a connection ends.
type ending struct {
	code    mqtt.ReasonCode
	reason  string
	last    []byte // frame to send at the end
	patient bool   // send the acknowledgments that wait for a commit first
	linger  bool   // let the client read all of it before the socket is closed
}

func (o *outbound) init() {
	o.room = make(chan struct{}, 1)
	o.dead = make(chan struct{})
	o.flushed = make(chan struct{})
}

const (
	closeGrace    = 2 * time.Second        // for the last bytes to get out
	patientGrace  = 5 * time.Second        // the same with commits to wait for
	lingerTime    = 500 * time.Millisecond // for the client to close, too
	lingerBytes   = 1 << 20
	controlMargin = 64 << 10 // above the bound, for what must be said
	writeChunk    = 16 << 10 // one full TLS record
	smallChunk    = 512
	keepWriteBuf  = 64 << 10
)

// open gives the connection its transport; before it, ending the connection closes the socket.
func (c *conn) open(nc net.Conn) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.nc = nc
	if c.out.ended {
		c.seal()
	}
}

// closing reports whether the connection has been ended.
func (c *conn) closing() bool {
	select {
	case <-c.out.dead:
		return true
	default:
		return false
	}
}

// armRead sets the deadline for the next read.
func (c *conn) armRead() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.ended {
		return errClosed
	}
	return c.nc.SetReadDeadline(c.deadline)
}

// send appends a frame that must not be lost: a response. A client that makes us respond and
// does not read is disconnected. It returns false if the connection has ended.
func (c *conn) send(frame func([]byte) []byte) bool {
	o := &c.out
	o.mu.Lock()
	if o.ended {
		o.mu.Unlock()
		return false
	}
	at := len(o.buf)
	o.buf = frame(o.buf)
	if !c.takes(len(o.buf) - at) {
		o.buf = o.buf[:at]
		o.mu.Unlock()
		c.fail(mqtt.PacketTooLarge, "a response larger than the client accepts")
		return false
	}
	over := o.size() > c.b.opts.MaxOutboundBytes+controlMargin
	c.startWriting()
	o.mu.Unlock()
	if over {
		c.stalled("responses that the client does not read")
	}
	return true
}

// What became of a delivery.
type sent byte

const (
	sentOK       sent = iota
	sentNoRoom        // the client does not keep up
	sentTooLarge      // larger than the client accepts
	sentEnded
)

// deliver appends a PUBLISH unless there is no room for it. An empty buffer has room for a frame
// of any size. When there is none, the session is told as soon as there is.
func (c *conn) deliver(p *plane.Publish) sent {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return sentEnded
	}
	if used := o.size(); used > 0 && used+len(p.Message.Topic)+len(p.Message.Payload) > c.b.opts.MaxOutboundBytes {
		o.starved = true
		return sentNoRoom
	}
	if !c.appendPublish(p) {
		return sentTooLarge
	}
	c.startWriting()
	c.b.n.messagesOut.Add(1)
	return sentOK
}

// appendPublish appends p, with a topic alias if the client takes one. It returns false if the
// client accepts no packet of that size. It is called with mu held: what is in the buffer is sent
// in its order, so an alias is never used before the packet that sets it.
func (c *conn) appendPublish(p *plane.Publish) bool {
	o, topic := &c.out, p.Message.Topic
	at := len(o.buf)
	alias, known := o.aliases[topic]
	if !known && len(o.aliases) < min(int(c.hello.TopicAliasMaximum), maxTopicAliases) { // [MQTT-3.1.2-26]
		alias = uint16(len(o.aliases) + 1)
	}
	p.TopicAlias = alias
	if known {
		p.Message.Topic = ""
	}
	o.buf = p.Append(o.buf, c.version)
	fits := c.takes(len(o.buf) - at)
	if !fits && alias > 0 && !known { // setting an alias costs three bytes
		alias, p.TopicAlias = 0, 0
		o.buf = p.Append(o.buf[:at], c.version)
		fits = c.takes(len(o.buf) - at)
	}
	switch {
	case !fits:
		o.buf = o.buf[:at]
	case alias > 0 && !known:
		if o.aliases == nil {
			o.aliases = map[string]uint16{}
		}
		o.aliases[topic] = alias
	}
	return fits
}

// takes reports whether the client accepts a packet of n bytes [MQTT-3.1.2-24].
func (c *conn) takes(n int) bool {
	return c.hello == nil || c.hello.MaximumPacketSize == 0 || uint32(n) <= c.hello.MaximumPacketSize
}

func (o *outbound) size() int { return len(o.buf) + o.sending }

// awaitRoom waits until the buffer is less than half full. It is only for the connection's own
// goroutine: it makes the client wait that does not read what it asked for.
func (c *conn) awaitRoom() bool {
	for {
		c.out.mu.Lock()
		ended, ok := c.out.ended, c.out.size() < c.b.opts.MaxOutboundBytes/2
		c.out.mu.Unlock()
		if ended || ok {
			return !ended
		}
		select {
		case <-c.out.room:
		case <-c.out.dead:
		}
	}
}

// startWriting is called with mu held.
func (c *conn) startWriting() {
	if !c.out.writing {
		c.out.writing = true
		go c.write()
	}
}

// write sends what there is, then ends. Every piece must get out within the stall timeout.
func (c *conn) write() {
	o := &c.out
	stall := time.AfterFunc(c.b.opts.StallTimeout, func() { c.stalled("the client takes nothing") })
	defer stall.Stop()
	for {
		o.mu.Lock()
		if len(o.buf) == 0 {
			o.writing = false
			sealed := o.sealed
			o.mu.Unlock()
			if sealed {
				c.finishWriting()
			}
			return
		}
		batch := o.buf
		o.buf, o.spare, o.sending = o.spare, nil, len(batch)
		o.mu.Unlock()

		c.writePieces(batch, stall)

		o.mu.Lock()
		o.sending = 0
		if cap(batch) <= keepWriteBuf {
			o.spare = batch[:0]
		}
		starved := o.starved
		o.starved = false
		o.mu.Unlock()
		select {
		case o.room <- struct{}{}:
		default:
		}
		if starved {
			c.sess.pump()
		}
	}
}

func (c *conn) writePieces(batch []byte, stall *time.Timer) {
	chunk := writeChunk
	if c.raw.small.Load() {
		chunk = smallChunk
	}
	for len(batch) > 0 {
		n := min(chunk, len(batch))
		stall.Reset(c.b.opts.StallTimeout)
		if _, err := c.nc.Write(batch[:n]); err != nil {
			c.lost()
			return
		}
		c.b.n.bytesOut.Add(uint64(n))
		batch = batch[n:]
	}
}

// stalled disconnects a client that does not read. Nothing can be told to it: its DISCONNECT
// stands behind what it does not take.
func (c *conn) stalled(why string) {
	reason := mqtt.QuotaExceeded.String() + ": " + why
	if c.shut(ending{code: mqtt.QuotaExceeded, reason: reason, last: c.goodbye(mqtt.QuotaExceeded)}) {
		c.b.n.refused.add(refusedStalled, 1)
		c.b.event(c, Event{Kind: Limit, Code: mqtt.QuotaExceeded, Reason: why})
	}
}

// shut ends the connection: nothing more is read or taken for sending. What was taken still
// gets out, within bounds. It never blocks. It returns false if the connection had ended before.
func (c *conn) shut(e ending) bool {
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	o.ended, o.ending = true, e
	close(o.dead)
	if c.nc == nil { // still in the TLS handshake
		_ = c.raw.Close()
		return true
	}
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	grace := closeGrace
	if e.patient && o.acks.waiting() {
		grace = patientGrace
	} else {
		c.seal()
	}
	o.grace = time.AfterFunc(grace, c.giveUp)
	return true
}

// giveUp ends what does not get out.
func (c *conn) giveUp() {
	_ = c.raw.Close()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.out.sealed {
		c.seal()
	}
}

// seal is called with mu held, when only the last frame is left to be said.
func (c *conn) seal() {
	o := &c.out
	o.sealed = true
	o.buf = append(o.buf, o.ending.last...)
	c.startWriting()
}

// finishWriting is the writer's last act.
func (c *conn) finishWriting() {
	c.out.mu.Lock()
	linger := c.out.ending.linger
	c.out.mu.Unlock()
	if linger {
		type halfCloser interface{ CloseWrite() error }
		if t, ok := c.nc.(halfCloser); ok { // close_notify
			_ = t.CloseWrite()
		}
		if t, ok := c.raw.Conn.(halfCloser); ok { // FIN
			_ = t.CloseWrite()
		}
	}
	close(c.out.flushed)
}

// closeSocket is the last act of the connection's own goroutine. A socket that is closed with
// unread bytes resets the connection, and the client might never see why: so it reads on for a
// moment. Nobody else may do that, as the deadline that wakes the reader would be moved.
func (c *conn) closeSocket() {
	<-c.out.flushed
	c.out.mu.Lock()
	linger, grace := c.out.ending.linger, c.out.grace
	c.out.mu.Unlock()
	if linger {
		_ = c.raw.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.raw, lingerBytes)
	}
	_ = c.nc.Close()
	if grace != nil {
		grace.Stop()
	}
}

package broker

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/store/msglog"
)

var errRetainedRPC = errors.New("a retained message to an RPC topic would be executed again at every reconnect")

// publishable says why nobody may publish m.
func (b *Broker) publishable(m *mqtt.Message) error {
	if err := mqtt.ValidateTopic(m.Topic, b.opts.MaxTopicLevels); err != nil {
		return err
	}
	if m.Topic == "$SYS" || strings.HasPrefix(m.Topic, "$SYS/") { // §4.7.2
		return errors.New("$SYS topics are the broker's own")
	}
	return nil
}

// handlePublish takes a client's PUBLISH (MQTT 5.0 §3.3).
func (c *conn) handlePublish(h plane.Header, body []byte) error {
	b, p := c.b, &c.pub
	if err := plane.ParsePublish(c.version, h.Flags, body, p); err != nil {
		return err
	}
	b.n.messagesIn.Add(1)
	if err := c.resolveAlias(p); err != nil {
		return err
	}
	if p.Message.QoS == mqtt.QoS2 && c.sess.hasReceived(p.PacketID) { // [MQTT-4.3.3-10]
		c.acknowledge(plane.PUBREC, p.PacketID, mqtt.Success)
		return nil
	}
	if err := c.awaitQuota(p.Message.QoS); err != nil {
		return err
	}
	m := p.Message
	if r := b.mayPublish(&m, c.owner.Load().Access); r != nil {
		return c.refusePublish(refusedPublish, r)
	}
	m.Payload, m.CorrelationData = bytes.Clone(m.Payload), bytes.Clone(m.CorrelationData)
	m.Publisher = c.publisher()
	if !b.retained.set(&m) {
		return c.refusePublish(refusedRetained, &refusal{reason: mqtt.QuotaExceeded, why: "no room for more retained messages"})
	}
	switch ids := b.consumersOf(&m); {
	case m.QoS == mqtt.QoS2:
		return c.publish2(&m, ids, p.PacketID)
	case m.QoS == mqtt.QoS1 && len(ids) > 0:
		return c.publishKept(&m, ids, p.PacketID)
	case len(ids) > 0: // written lazily, nobody waits
		b.appendLazily(&m, ids)
	}
	reason := mqtt.Success
	if !b.distribute(&m) {
		reason = mqtt.NoMatchingSubscribers // §3.4.2.1
	}
	if m.QoS == mqtt.QoS1 {
		c.acknowledge(plane.PUBACK, p.PacketID, reason)
	}
	return nil
}

// publishKept takes a QoS 1 message that durable consumers need. The connection goes on while
// the commit is under way; the acknowledgment leaves in its turn.
func (c *conn) publishKept(m *mqtt.Message, ids []msglog.ConsumerID, id uint16) error {
	place := c.owe(plane.PUBACK, id)
	err := c.appendPaused(m, ids, func(err error) { c.settle(place, ackReason(err)) })
	if err != nil {
		c.settle(place, c.notKept(m, err))
		return nil
	}
	c.b.distribute(m)
	return nil
}

// publish2 takes a QoS 2 message. It is delivered once it is kept, and it is kept once: the
// record of its identifier and its PUBREC come after. The commit is waited for even if the
// connection ends meanwhile, as the client will ask again.
func (c *conn) publish2(m *mqtt.Message, ids []msglog.ConsumerID, id uint16) error {
	if len(ids) > 0 {
		kept := make(chan error, 1)
		err := c.appendPaused(m, ids, func(err error) { kept <- err })
		if err == nil {
			err = <-kept
		}
		if err != nil {
			c.acknowledge(plane.PUBREC, id, c.notKept(m, err))
			return nil
		}
	}
	c.b.distribute(m)
	c.sess.receive(id)
	c.acknowledge(plane.PUBREC, id, mqtt.Success)
	return nil
}

// appendPaused gives m to the log for the consumers. One whose queue is full and whose policy is
// to block pauses the connection, for as long as a client may stall; m is not kept then.
func (c *conn) appendPaused(m *mqtt.Message, ids []msglog.ConsumerID, done func(error)) error {
	patience := time.NewTimer(c.b.opts.StallTimeout)
	defer patience.Stop()
	for {
		err := c.b.append(m, ids, done)
		if !errors.Is(err, msglog.ErrBlocked) {
			return err
		}
		select {
		case <-time.After(blockedPause):
		case <-patience.C:
			return err
		case <-c.out.dead:
			return err
		}
	}
}

// blockedPause is how often a consumer that blocks is tried again.
const blockedPause = 20 * time.Millisecond

// ackReason is what a publisher is told about its message in the log.
func ackReason(err error) mqtt.ReasonCode {
	switch {
	case err == nil:
		return mqtt.Success
	case errors.Is(err, msglog.ErrFull), errors.Is(err, msglog.ErrBlocked):
		return mqtt.QuotaExceeded
	}
	return mqtt.ImplementationSpecificError
}

// notKept tells that m is not in the log.
func (c *conn) notKept(m *mqtt.Message, err error) mqtt.ReasonCode {
	code := ackReason(err)
	c.b.event(c, Event{Kind: PublishRefused, Topic: m.Topic, Code: code, Reason: "message log: " + err.Error()})
	return code
}

// awaitQuota enforces the Receive Maximum. A client of 5.0 has promised to keep it
// [MQTT-3.3.4-7]; one of 3.1.1 is made to wait.
func (c *conn) awaitQuota(qos mqtt.QoS) error {
	limit := c.b.opts.ReceiveMaximum
	if qos == mqtt.QoS0 {
		return nil
	}
	if c.version != plane.V5 {
		c.awaitCommits(limit)
		return nil
	}
	if c.owed()+c.sess.unreleased() >= limit {
		return &plane.Error{Reason: mqtt.ReceiveMaximumExceeded, What: "more publishes in flight than the receive maximum"}
	}
	return nil
}

// resolveAlias puts the topic behind a topic alias into p, or the alias before its topic
// (MQTT 5.0 §3.3.2.3.4).
func (c *conn) resolveAlias(p *plane.Publish) error {
	switch topic, known := c.aliases[p.TopicAlias]; {
	case p.TopicAlias == 0:
	case p.TopicAlias > maxTopicAliases: // [MQTT-3.3.2-9]
		return &plane.Error{Reason: mqtt.TopicAliasInvalid, What: "topic alias above the maximum"}
	case p.Message.Topic != "":
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		c.aliases[p.TopicAlias] = p.Message.Topic
	case !known:
		return &plane.Error{Reason: mqtt.ProtocolError, What: "topic alias that was never set"}
	default:
		p.Message.Topic = topic
	}
	return nil
}

// refusePublish answers the publish in hand: with a reason code where the client can hear it, by
// closing a connection of MQTT 3.1.1.
func (c *conn) refusePublish(counter string, r *refusal) error {
	r.topic = c.pub.Message.Topic
	c.b.refused(c, PublishRefused, counter, r)
	switch {
	case c.version != plane.V5:
		c.fail(r.reason, "publish refused")
		return errClosed
	case c.pub.Message.QoS == mqtt.QoS1:
		c.acknowledge(plane.PUBACK, c.pub.PacketID, r.reason)
	case c.pub.Message.QoS == mqtt.QoS2:
		c.acknowledge(plane.PUBREC, c.pub.PacketID, r.reason)
	}
	return nil
}

func (c *conn) publisher() mqtt.Publisher {
	info := c.info.Load()
	return mqtt.Publisher{ClientID: info.ClientID, Device: info.Device}
}

// handleAck takes the acknowledgments of both directions.
func (c *conn) handleAck(a *plane.Ack) error {
	if a.Type != plane.PUBREL {
		return c.sess.acknowledged(a)
	}
	comp := plane.Ack{Type: plane.PUBCOMP, PacketID: a.PacketID}
	if !c.sess.release(a.PacketID) {
		comp.Reason = mqtt.PacketIdentifierNotFound
	}
	c.send(func(b []byte) []byte { return comp.Append(b, c.version) }) // [MQTT-4.3.3-11]
	return nil
}

// hasReceived reports whether a QoS 2 publish with this identifier was taken and is not released.
func (s *session) hasReceived(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.received[id]
	return ok
}

func (s *session) receive(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received[id] = struct{}{}
}

func (s *session) release(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.received[id]
	delete(s.received, id)
	return ok
}

func (s *session) unreleased() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.received)
}

// entry is the record of m in the message log.
func (b *Broker) entry(m *mqtt.Message, ids []msglog.ConsumerID) msglog.Entry {
	e := msglog.Entry{Body: mqtt.AppendMessage(nil, *m), Consumers: ids, Sync: m.QoS > mqtt.QoS0}
	if m.ExpirySeconds > 0 {
		e.Expires = b.opts.Now().Add(secondsOf(m.ExpirySeconds))
	}
	return e
}

// append gives m to the message log for the consumers. done is called once the log has decided,
// unless append returns an error; it must not block.
func (b *Broker) append(m *mqtt.Message, ids []msglog.ConsumerID, done func(error)) error {
	err := b.log.AppendAsync(b.entry(m, ids), func(_ uint64, err error) {
		b.logDecided(err)
		done(err)
	})
	if err != nil && !errors.Is(err, msglog.ErrBlocked) {
		b.logDecided(err)
	}
	return err
}

// appendLazily gives m to the message log and goes on; what the log does not take is counted.
func (b *Broker) appendLazily(m *mqtt.Message, ids []msglog.ConsumerID) {
	if err := b.append(m, ids, func(error) {}); errors.Is(err, msglog.ErrBlocked) {
		b.n.refused.add(refusedLog, 1)
	}
}

// logDecided says once that the log does not take messages, and once that it does again.
func (b *Broker) logDecided(err error) {
	if err != nil {
		b.n.refused.add(refusedLog, 1)
	}
	if failing := err != nil; b.logFailing.Swap(failing) != failing {
		if failing {
			b.slog.Error("message log takes no messages", "err", err)
			b.opts.Observe(Event{Kind: LogFailing, Reason: err.Error()})
		} else {
			b.slog.Info("message log takes messages again")
			b.opts.Observe(Event{Kind: LogWorking})
		}
	}
}

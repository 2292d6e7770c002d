package broker

import (
	"fmt"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// subscribe takes a client's SUBSCRIBE (MQTT 5.0 §3.8).
func (c *conn) subscribe(p *plane.Subscribe) {
	reasons := make([]mqtt.ReasonCode, len(p.Subscriptions))
	granted := make([]*subscription, len(p.Subscriptions))
	known := make([]bool, len(p.Subscriptions))
	for i, asked := range p.Subscriptions {
		sub := &subscription{Subscription: asked, id: p.ID, owner: c.sess}
		r := c.maySubscribe(asked.Filter)
		if r == nil {
			var ok bool
			if known[i], ok = c.b.index.add(sub, c.b.opts.MaxSubscriptions); !ok {
				r = &refusal{reason: mqtt.QuotaExceeded, why: fmt.Sprintf("%d subscriptions are the limit", c.b.opts.MaxSubscriptions)}
			}
		}
		if r != nil {
			reasons[i], r.topic = r.reason, string(asked.Filter)
			c.b.refused(c, SubscribeRefused, refusedSubscribe, r)
			continue
		}
		reasons[i], granted[i] = mqtt.ReasonCode(asked.QoS), sub // [MQTT-3.8.4-7]
	}
	c.send(func(b []byte) []byte { return plane.AppendSubAck(b, c.version, p.PacketID, reasons) }) // [MQTT-3.8.4-1]
	for i, sub := range granted {
		if sub != nil {
			c.sendRetained(sub, known[i])
		}
	}
}

func (c *conn) maySubscribe(f mqtt.Filter) *refusal {
	if _, err := mqtt.ParseFilter(string(f), c.b.opts.MaxTopicLevels); err != nil {
		return &refusal{reason: mqtt.TopicFilterInvalid, why: err.Error()}
	}
	if d := c.owner.Load().Access.Subscribe(string(f)); !d.Allowed() {
		return deny(d)
	}
	return nil
}

// sendRetained sends the retained messages that a new subscription asks for [MQTT-3.3.1-9].
func (c *conn) sendRetained(sub *subscription, known bool) {
	share, filter := sub.Filter.Share()
	if share != "" || sub.RetainHandling == 2 || sub.RetainHandling == 1 && known { // [MQTT-3.3.1-10] [MQTT-3.3.1-11]
		return
	}
	for _, k := range c.b.retained.match(filter) {
		if sub.isOwn(k.msg) {
			continue
		}
		if !c.awaitRoom() {
			return
		}
		d := delivery{msg: k.msg, qos: sub.QoS.Min(k.msg.QoS), retain: true, expires: k.expires} // [MQTT-3.3.1-8]
		if sub.id > 0 {
			d.subIDs = []uint32{sub.id}
		}
		c.sess.deliver(d)
	}
}

// unsubscribe takes a client's UNSUBSCRIBE (MQTT 5.0 §3.10). What was sent or waits already is
// still delivered [MQTT-3.10.4-3].
func (c *conn) unsubscribe(p *plane.Unsubscribe) {
	reasons := make([]mqtt.ReasonCode, len(p.Filters))
	for i, f := range p.Filters {
		if !c.b.index.remove(c.sess, f) {
			reasons[i] = mqtt.NoSubscriptionExisted
		}
	}
	c.send(func(b []byte) []byte { return plane.AppendUnsubAck(b, c.version, p.PacketID, reasons) }) // [MQTT-3.10.4-4]
}

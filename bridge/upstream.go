package bridge

import (
	"context"
	"errors"
	"fmt"

	"gatewayctl/broker/mqtt"
)

// An Upstream is another broker that messages are sent to and fetched from. It knows how to make
// one connection; the bridge decides when to make the next. The contract suite is
// bridge/upstreamtest.
type Upstream interface {
	// Run makes one connection, serves it until it ends, and returns why it ended: nil if and only
	// if ctx was cancelled. It subscribes to what s lists, then calls s.Connected. When ctx is
	// cancelled it sends what was acknowledged and disconnects in good order, within a second or so.
	//
	// When Run returns, every done of [Link.Publish] has been called and no callback of s runs or
	// will run. An error wraps [ErrClosed] if the other side ended a connection that was up. Run is
	// not called again before it has returned.
	Run(ctx context.Context, s Session) error

	// Describe says what stands behind the upstream; it always answers the same.
	Describe() Description
}

// A Description says what an upstream is.
type Description struct {
	Address string // for people, such as "mqtts://broker.example:8883"
	Broker  string // equal for upstreams that lead to the same broker, such as "broker.example:8883"
	NoLocal bool   // whether subscriptions leave out what this connection published (MQTT 5.0 §3.8.3.1)
	// UserProperties says whether they reach the other side (MQTT 5.0 §3.3.2.3.7), so that hops can be counted.
	UserProperties bool
}

// A Session is what the bridge wants from one connection.
type Session struct {
	// Subscriptions is what to subscribe to. The other side must keep them, and what they match,
	// while the connection is down: the session is persistent if there is at least one.
	Subscriptions []Subscription

	// Connected is called once, when publishing may start. It must not block.
	Connected func(l Link, granted []Grant)

	// Message is called for each message that comes down, one after the other in the order of
	// arrival. It may block to slow the other side down, until ctx is cancelled because the
	// connection ends. ack tells the other side that it may forget the message; it may be called
	// from any goroutine, at any time, in any order, and does not block; the upstream sees to it
	// that the acknowledgments leave in the order of arrival [MQTT-4.6.0-2]. What was not
	// acknowledged at QoS 1 comes again on the next connection.
	Message func(ctx context.Context, m mqtt.Message, ack func())

	// TooLarge is called for a message that is larger than the upstream is ready to hold in memory.
	// It was thrown away and acknowledged, as it would only come again.
	TooLarge func(topic string, sizeBytes int)
}

// A Subscription is one filter to subscribe to. Qos is the most that is wanted: 0 or 1.
type Subscription struct {
	Filter mqtt.Filter
	QoS    mqtt.QoS
}

// A Grant is what the other side answered to one [Subscription].
type Grant struct {
	Filter  mqtt.Filter
	QoS     mqtt.QoS // granted; may be less than was asked for
	Refused bool
}

// A Link is one connection that is up. Its methods are safe for concurrent use, and harmless
// after the connection has ended.
type Link interface {
	// Publish queues m for sending and does not block. Messages leave in the order of the calls.
	// What is not acknowledged is kept in memory, so the caller bounds it.
	//
	// done is called exactly once, perhaps before Publish returns, from any goroutine; it must not
	// block. Its error is nil once the other side is answerable for the message (PUBACK), or for
	// QoS 0 once it was written; a [*RefusedError] when the message can never be sent here; any
	// other error when the connection ended first, and nobody knows whether the message arrived.
	Publish(m mqtt.Message, done func(error))
}

// ErrClosed says that the other side ended a connection that was up.
var ErrClosed = errors.New("the other side closed the connection")

// ErrLost says that a connection ended before a message was acknowledged.
var ErrLost = errors.New("connection lost before the acknowledgment")

// A RefusedError says that an upstream will never take a message, so that sending it again is of
// no use.
type RefusedError struct {
	Why string
}

// Error says why the message was refused.
func (e *RefusedError) Error() string { return fmt.Sprintf("refused for good: %s", e.Why) }

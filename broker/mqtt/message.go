// Package mqtt is the vocabulary that the broker and its users share: messages, filters,
// qualities of service, reason codes. It does no I/O and knows neither the wire nor the broker.
package mqtt

import (
	"gatewayctl/pki/identity"
)

// A QoS is a quality of service (MQTT 5.0 §4.3).
type QoS byte

// The qualities of service.
const (
	QoS0 QoS = 0 // at most once
	QoS1 QoS = 1 // at least once
	QoS2 QoS = 2 // exactly once
)

// A UserProperty is a name and value pair (MQTT 5.0 §3.3.2.3.7). Order and repetition count.
type UserProperty struct{ Key, Value string }

// A Publisher says where a message came from. The zero value is nobody in particular.
type Publisher struct {
	ClientID string            // MQTT client identifier; "" for messages made in process
	Device   identity.DeviceID // the thing whose certificate published; zero for anyone else
	// Origin tells messages that did not come from a client of this broker apart: "" for a
	// client's, otherwise who brought it in, such as "bridge:cloud" or "rpc".
	Origin string
}

// A Message is one application message (MQTT 5.0 §3.3). A receiver must not change the slices
// of a message that it did not make.
type Message struct {
	Topic   string // a valid topic name, without wildcards
	Payload []byte
	QoS     QoS
	Retain  bool

	// The properties of MQTT 5.0 §3.3.2.3; zero values mean "not present".
	PayloadIsUTF8   bool   // Payload Format Indicator 1
	PayloadIsBytes  bool   // Payload Format Indicator 0, which means the same as none; never with PayloadIsUTF8
	ExpirySeconds   uint32 // Message Expiry Interval; 0 means that it does not expire
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  []UserProperty

	Publisher Publisher // set by the broker; ignored on messages given to it but for Origin
}

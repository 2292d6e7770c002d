package mqtt

import "strconv"

// Valid reports whether q is one of the three qualities of service; 3 is malformed
// [MQTT-3.3.1-4].
func (q QoS) Valid() bool { return q <= QoS2 }

// String returns the digit that people write: "0", "1" or "2".
func (q QoS) String() string { return strconv.Itoa(int(q)) }

// Min returns the lower of q and r: what a delivery is sent with when the message was published
// with q and the subscription was granted r [MQTT-3.8.4-8].
func (q QoS) Min(r QoS) QoS { return min(q, r) }

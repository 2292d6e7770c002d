package bridge

import (
	"strconv"

	"gatewayctl/broker/mqtt"
)

// hopsProperty is the user property that counts how many bridges a message has gone up through.
// It travels where the protocol has user properties; MQTT 3.1.1 has none.
const hopsProperty = "gatewayctl-hops"

// hops returns how many bridges the message says that it has crossed.
func hops(props []mqtt.UserProperty) int {
	for _, p := range props {
		if p.Key == hopsProperty {
			n, err := strconv.Atoi(p.Value)
			if err != nil || n < 0 { // somebody else's idea of the property: count what we can
				return 0
			}
			return n
		}
	}
	return 0
}

// withHop returns a copy of props with one more hop in it.
func withHop(props []mqtt.UserProperty) []mqtt.UserProperty {
	next := mqtt.UserProperty{Key: hopsProperty, Value: strconv.Itoa(hops(props) + 1)}
	out := make([]mqtt.UserProperty, 0, len(props)+1)
	for _, p := range props {
		if p.Key != hopsProperty {
			out = append(out, p)
		}
	}
	return append(out, next)
}

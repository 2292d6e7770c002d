package appliancetest

import (
	"testing"

	"gatewayctl/bridge/mqttclient/mosquittotest"
	"gatewayctl/broker/mqtt"
)

// An Upstream is Debian's mosquitto at the other end of the bridge, and an observer there with a
// session that stays, so that nothing which arrives escapes it.
type Upstream struct {
	broker   *mosquittotest.Broker
	observer *mosquittotest.Observer
}

func newUpstream(tb testing.TB) *Upstream {
	tb.Helper()
	b := mosquittotest.Start(tb, mosquittotest.Config{})
	return &Upstream{broker: b, observer: b.Observe(tb, "#")}
}

// Disconnect stops the broker.
func (u *Upstream) Disconnect() { u.broker.Stop() }

// Connect starts the broker again.
func (u *Upstream) Connect() { u.broker.Start() }

// Received returns what arrived until now, in the order of arrival, with repetitions.
func (u *Upstream) Received() []mqtt.Message { return u.observer.Received() }

// Publish publishes on the other side, acknowledged.
func (u *Upstream) Publish(tb testing.TB, topic, payload string) {
	tb.Helper()
	if err := u.observer.Publish(mqtt.Message{Topic: topic, Payload: []byte(payload), QoS: mqtt.QoS1}); err != nil {
		tb.Fatal(err)
	}
}

// Expect waits until the message has arrived.
func (u *Upstream) Expect(tb testing.TB, topic, payload string) {
	tb.Helper()
	Eventually(tb, topic+" "+payload+" arrives upstream", func() bool {
		for _, m := range u.Received() {
			if m.Topic == topic && string(m.Payload) == payload {
				return true
			}
		}
		return false
	})
}

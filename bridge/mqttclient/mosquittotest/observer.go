package mosquittotest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"gatewayctl/broker/mqtt"
)

// An Observer is a client on the other side of the broker: it notes what arrives and publishes.
// It has a persistent session, so that nothing escapes it while the broker is stopped.
type Observer struct {
	t       testing.TB
	options *paho.ClientOptions
	filter  string

	mu   sync.Mutex
	got  []mqtt.Message
	conn paho.Client // nil while there is no connection
}

// Observe connects an observer that notes what matches filter. The end of the test stops it.
func (b *Broker) Observe(t testing.TB, filter string) *Observer {
	t.Helper()
	b.mu.Lock()
	b.clients++
	id := fmt.Sprintf("observer-%d", b.clients)
	b.mu.Unlock()
	o := &Observer{t: t, filter: filter}
	scheme := "tcp"
	options := paho.NewClientOptions()
	if b.tls != nil {
		scheme = "ssl"
		options.SetTLSConfig(b.tls.client(t))
	}
	options.AddBroker(fmt.Sprintf("%s://%s:%d", scheme, b.host, b.port)).SetClientID(id).
		SetCleanSession(false).SetAutoReconnect(false).SetProtocolVersion(4).SetConnectTimeout(5 * time.Second)
	for name, password := range b.users {
		options.SetUsername(name).SetPassword(password)
	}
	options.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.got = append(o.got, mqtt.Message{Topic: m.Topic(), Payload: m.Payload(), QoS: mqtt.QoS(m.Qos()), Retain: m.Retained()})
	})
	o.options = options

	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		o.run(ctx, ready)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the observer does not get a connection")
	}
	return o
}

// run connects again and again.
func (o *Observer) run(ctx context.Context, ready chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var once sync.Once
	for ctx.Err() == nil {
		lost := make(chan struct{})
		o.options.SetConnectionLostHandler(func(paho.Client, error) { close(lost) })
		c := paho.NewClient(o.options)
		if t := c.Connect(); t.Wait() && t.Error() == nil {
			sub := c.Subscribe(o.filter, 1, nil)
			select {
			case <-sub.Done():
			case <-lost:
			case <-ctx.Done():
			}
			o.set(c)
			once.Do(func() { close(ready) })
			select {
			case <-lost:
			case <-ctx.Done():
				c.Disconnect(1000)
			}
			o.set(nil)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (o *Observer) set(c paho.Client) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn = c
}

// Received returns what arrived until now, in the order of arrival, with repetitions.
func (o *Observer) Received() []mqtt.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.got)
}

// Count returns how many messages arrived until now.
func (o *Observer) Count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.got)
}

// Publish sends a message and returns once the broker has acknowledged it.
func (o *Observer) Publish(m mqtt.Message) error {
	o.mu.Lock()
	c := o.conn
	o.mu.Unlock()
	if c == nil {
		return paho.ErrNotConnected
	}
	t := c.Publish(m.Topic, byte(m.QoS), m.Retain, m.Payload)
	if !t.WaitTimeout(10 * time.Second) {
		return fmt.Errorf("publish to %s: no acknowledgment", m.Topic)
	}
	return t.Error()
}

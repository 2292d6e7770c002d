package bridge_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"gatewayctl/bridge"
	"gatewayctl/bridge/mqttclient"
	"gatewayctl/bridge/mqttclient/mosquittotest"
	"gatewayctl/bridge/upstreamtest"
	"gatewayctl/broker/mqtt"
	"gatewayctl/store/msglog"
)

// BenchmarkDrain measures how fast a queue is sent after an outage: 200 byte messages of 100
// topics, from the log to the last acknowledgment of the upstream. With window 20 and up.
//
// Against mosquitto the two share the machine, and mosquitto needs several system calls per
// message: look at both figures.
func BenchmarkDrain(b *testing.B) {
	for _, window := range []int{20, 100, 1000} {
		b.Run(fmt.Sprint("mosquitto/window ", window), func(b *testing.B) {
			m := mosquittotest.Start(b, mosquittotest.Config{})
			benchDrain(b, client(b, m.URL(), mqttclient.Options{}), window)
		})
	}
	b.Run("memory/window 100", func(b *testing.B) { benchDrain(b, new(upstreamtest.Fake), 100) })
}

func benchDrain(b *testing.B, u bridge.Upstream, window int) {
	s := newSite(b)
	cfg := oneUpstream(u, up("+/data", "site-1/"))
	cfg.Upstreams[0].MaxInFlight = window
	cfg.Upstreams[0].Rules[0].MaxMessages = -1
	s.make(cfg, bridge.Options{Log: slog.New(slog.DiscardHandler)})
	id := s.consumers["bridge/cloud/+/data up"].id
	payload := make([]byte, 200)
	var wg sync.WaitGroup
	wg.Add(b.N)
	for i := range b.N {
		body := mqtt.AppendMessage(nil, mqtt.Message{Topic: numberedTopic(i % 100), Payload: payload, QoS: mqtt.QoS1})
		err := s.log.AppendAsync(msglog.Entry{Body: body, Consumers: []msglog.ConsumerID{id}, Sync: true}, func(_ uint64, err error) {
			if err != nil {
				b.Error(err)
			}
			wg.Done()
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	if err := s.log.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	s.run()
	s.drained()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

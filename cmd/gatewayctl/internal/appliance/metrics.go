package appliance

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics reads the gateway's counters when it is asked. There is no label whose values a client
// could make up: no topic, no client identifier.
type metrics struct {
	g        *Gateway
	registry *prometheus.Registry
}

func newMetrics(g *Gateway) *metrics {
	m := &metrics{g: g, registry: prometheus.NewRegistry()}
	m.registry.MustRegister(m)
	prometheus.WrapRegistererWithPrefix("gatewayctl_", m.registry).MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Describe implements [prometheus.Collector]; it describes nothing because labels come and go
// with the configuration.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	g := m.g
	send := func(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("gatewayctl_"+name, help, names, nil), kind, value, values...)
	}
	gauge := func(name, help string, value float64, labels ...string) {
		send(prometheus.GaugeValue, name, help, value, labels...)
	}
	counter := func(name, help string, value uint64, labels ...string) {
		send(prometheus.CounterValue, name, help, float64(value), labels...)
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}

	gauge("build_info", "The version that runs; always 1.", 1, "version", g.opts.Version)
	clock := g.clock.Status()
	gauge("clock_trusted", "1 while the machine's clock is trusted.", truth(clock.Trusted))

	b := g.broker.Stats()
	for name, n := range b.Connections {
		gauge("mqtt_connections", "Established MQTT connections.", float64(n), "listener", name)
	}
	counter("mqtt_connections_accepted_total", "Connections accepted, before any handshake.", b.Accepted)
	gauge("mqtt_sessions", "MQTT sessions, connected or not.", float64(b.Sessions))
	gauge("mqtt_subscriptions", "Subscriptions of all sessions.", float64(b.Subscriptions))
	gauge("mqtt_retained_messages", "Retained messages.", float64(b.Retained))
	gauge("mqtt_retained_bytes", "Size of the retained messages.", float64(b.RetainedBytes))
	gauge("mqtt_queued_messages", "Messages that wait in sessions.", float64(b.Queued))
	gauge("mqtt_queued_bytes", "Size of the messages that wait in sessions.", float64(b.QueuedBytes))
	counter("mqtt_messages_received_total", "Messages that clients published.", b.MessagesIn)
	counter("mqtt_messages_sent_total", "Messages that were sent to clients.", b.MessagesOut)
	counter("mqtt_received_bytes_total", "MQTT bytes from clients, without TLS.", b.BytesIn)
	counter("mqtt_sent_bytes_total", "MQTT bytes to clients, without TLS.", b.BytesOut)
	counter("mqtt_panics_total", "Connections given up after a fault of the gateway.", b.Panics)
	for reason, n := range b.Refused {
		counter("mqtt_refused_total", "What was turned away: connections, publishes, subscriptions.", n, "reason", reason)
	}
	for reason, n := range b.Dropped {
		counter("mqtt_dropped_messages_total", "Messages that a client was to get and did not.", n, "reason", reason)
	}

	for _, l := range g.listeners {
		if https, ok := l.net.(*limitedListener); ok {
			open, refused := https.connections()
			gauge("https_connections", "Open HTTPS connections.", float64(open), "listener", l.name)
			counter("https_refused_total", "HTTPS connections closed because of too many from their address.", refused, "listener", l.name)
		}
	}

	devices, online := g.registry.Count()
	gauge("devices", "Registered devices.", float64(devices))
	gauge("devices_online", "Devices that are connected.", float64(online))
	gauge("store_bytes", "Size of the state file.", float64(g.db.Size()))
	log := g.msglog.Stats()
	gauge("msglog_bytes", "Size of the message log.", float64(log.Bytes))
	gauge("certificate_expiry_timestamp_seconds", "When a certificate ends.", unix(g.authority.Root().NotAfter), "certificate", "ca")
	gauge("certificate_expiry_timestamp_seconds", "When a certificate ends.", unix(g.server.Certificate().Leaf.NotAfter), "certificate", "server")

	for _, u := range g.bridge.Status() {
		gauge("bridge_connected", "1 while the upstream is connected.", truth(u.State == "connected"), "upstream", u.Name)
		for _, r := range u.Rules {
			l := []string{"upstream", u.Name, "rule", r.Name}
			gauge("bridge_queued_messages", "Messages stored and not acknowledged by the upstream.", float64(r.DepthMessages), l...)
			gauge("bridge_queued_bytes", "Size of these messages.", float64(r.DepthBytes), l...)
			age := 0.0
			if !r.Oldest.IsZero() {
				age = max(0, clock.Now.Sub(r.Oldest).Seconds())
			}
			gauge("bridge_oldest_seconds", "Age of the oldest of these messages.", age, l...)
			counter("bridge_sent_messages_total", "Messages that the upstream acknowledged.", r.Sent, l...)
			counter("bridge_received_messages_total", "Messages that came down.", r.Received, l...)
			for reason, n := range r.Dropped {
				counter("bridge_dropped_messages_total", "Messages given up.", n, append(l, "reason", reason)...)
			}
		}
	}
}

func unix(t time.Time) float64 { return float64(t.Unix()) }

package appliance

import (
	"fmt"

	"gatewayctl/broker"
	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway"
	"gatewayctl/gateway/events"
	"gatewayctl/pki"
	"gatewayctl/pki/identity"
)

// event tells people that something happened.
func (g *Gateway) event(sev events.Severity, kind, device, format string, args ...any) {
	g.events.Add(events.Event{Severity: sev, Kind: kind, Device: device, Text: fmt.Sprintf(format, args...)})
}

// onBroker hears what happens in the broker: presence follows it, and people are told.
func (g *Gateway) onBroker(e broker.Event) {
	ev := events.Event{Severity: events.Warn, Device: e.Device.String(), Topic: e.Topic, Data: map[string]string{}}
	for k, v := range map[string]string{
		"client_id": e.ClientID, "principal": e.Principal, "address": e.Address, "listener": e.Listener,
		"reason": e.Reason, "policy": e.Policy, "statement": e.Statement,
	} {
		if v != "" {
			ev.Data[k] = v
		}
	}
	who := e.Principal
	if who == "" {
		who = "a client at " + e.Address
	}
	switch e.Kind {
	case broker.Connected:
		if !e.Device.IsZero() {
			g.registry.Connected(e.Device, gateway.Presence{Since: g.clock.Now(), ClientID: e.ClientID, Address: e.Address, Listener: e.Listener})
		}
		ev.Severity, ev.Kind = events.Info, "client.connected"
		ev.Text = fmt.Sprintf("%s connected as %q from %s", who, e.ClientID, e.Address)
	case broker.Disconnected:
		if !e.Device.IsZero() {
			g.registry.Disconnected(e.Device, e.ClientID, e.Reason)
		}
		ev.Severity, ev.Kind = events.Info, "client.disconnected"
		ev.Text = fmt.Sprintf("%s (%q) disconnected: %s", who, e.ClientID, e.Reason)
	case broker.ConnectRefused:
		ev.Kind, ev.Text = "connect.refused", fmt.Sprintf("%s was not let in as %q: %s", who, e.ClientID, e.Reason)
	case broker.PublishRefused:
		ev.Kind, ev.Text = "publish.refused", fmt.Sprintf("%s may not publish to %s: %s", who, e.Topic, e.Reason)
	case broker.SubscribeRefused:
		ev.Kind, ev.Text = "subscribe.refused", fmt.Sprintf("%s may not subscribe to %s: %s", who, e.Topic, e.Reason)
	case broker.Panic:
		ev.Severity, ev.Kind = events.Error, "broker.panic"
		ev.Text = fmt.Sprintf("one connection of %s was given up after a fault in the gateway; see the log", who)
	case broker.LogFailing:
		ev.Severity, ev.Kind = events.Error, "log.failing"
		ev.Text = "messages that must be kept are refused: " + e.Reason
	case broker.LogWorking:
		ev.Severity, ev.Kind, ev.Text = events.Info, "log.working", "messages are kept again"
	default:
		ev.Kind, ev.Text = "limit.reached", fmt.Sprintf("%s: %s", who, e.Reason)
	}
	g.events.Add(ev)
}

// onRevoke cuts the connections that use a revoked certificate.
func (g *Gateway) onRevoke(c *pki.Certificate) {
	g.event(events.Warn, "certificate.revoked", c.Device.String(), "certificate %s of %s was revoked: %s", c.Serial, c.CommonName, c.Revoked.Reason)
	g.disconnect(func(s broker.Session) bool { return s.CertificateID == c.ID })
}

func (g *Gateway) onDisable(id identity.DeviceID) {
	g.event(events.Warn, "device.disabled", id.String(), "device %s was disabled", id)
	g.disconnect(func(s broker.Session) bool { return s.Device == id })
}

// onRemove also ends the sessions of the device, before anybody can be enrolled under its name.
func (g *Gateway) onRemove(id identity.DeviceID) {
	g.event(events.Warn, "device.removed", id.String(), "device %s was removed", id)
	g.disconnect(func(s broker.Session) bool { return s.Device == id })
	if g.broker != nil {
		g.broker.Forget(deviceKey(id))
	}
}

// disconnect ends connections that may not go on. During the start there are none yet.
func (g *Gateway) disconnect(match func(broker.Session) bool) {
	if g.broker != nil {
		g.broker.Disconnect(match, mqtt.NotAuthorized)
	}
}

func (g *Gateway) onRenew(c *pki.Certificate) {
	if g.events == nil {
		return // the first one, made during the start
	}
	g.event(events.Info, "certificate.renewed", "", "the gateway's own certificate was renewed: serial %s, until %s", c.Serial, c.NotAfter.Format("2006-01-02"))
}

package appliance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"gatewayctl/bridge"
	"gatewayctl/bridge/mqttclient"
	"gatewayctl/bridge/rules"
	"gatewayctl/broker"
	"gatewayctl/broker/mqtt"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
	"gatewayctl/store/msglog"
)

// bus is the broker as the bridge sees it.
type bus struct{ *broker.Broker }

func (b bus) AddConsumer(name string, f mqtt.Filter, c *msglog.Consumer, accept func(*mqtt.Message) bool) (func(), error) {
	return b.Broker.AddConsumer(broker.DurableConsumer{Name: name, Filter: f, Log: c, Accept: accept})
}

// openBridge makes the bridge, so that its rules store what they match from the first message on.
func (g *Gateway) openBridge(context.Context) error {
	var cfg bridge.Config
	var errs []error
	for _, u := range g.opts.Config.Bridge.Upstreams {
		up, err := g.upstream(u)
		if err != nil {
			errs = append(errs, fmt.Errorf("bridge upstream %s: %w", u.Name, err))
			continue
		}
		cfg.Upstreams = append(cfg.Upstreams, up)
	}
	err := errors.Join(errs...)
	if err == nil {
		g.bridge, err = bridge.New(g.msglog, bus{g.broker}, cfg, bridge.Options{Observe: g.onBridge, Now: g.clock.Now, Log: g.log})
	}
	if err != nil {
		return &StartError{What: err.Error(), Remedy: "Mend bridge in the configuration.", Err: err}
	}
	g.onClose(func() error { g.bridge.Close(); return nil })
	return nil
}

func (g *Gateway) upstream(u config.Upstream) (bridge.UpstreamConfig, error) {
	id := u.ClientID
	if id == "" {
		id = fmt.Sprintf("gatewayctl-%s-%s", g.ID(), u.Name)
	}
	client, err := mqttclient.New(u.URL, id, mqttclient.Options{
		CA: g.file(u.CA), Cert: g.file(u.Cert), Key: g.file(u.Key), Username: u.Username, PasswordFile: g.file(u.PasswordFile),
		KeepAlive: u.KeepAlive, MaxPacket: int(g.opts.Config.Limits.MaxPacket), Now: g.opts.Now, Log: g.log,
	})
	if err != nil {
		return bridge.UpstreamConfig{}, err
	}
	out := bridge.UpstreamConfig{Name: u.Name, Upstream: client, MaxInFlight: u.MaxInFlight}
	full := map[config.Choice]msglog.Policy{"": msglog.DropOldest, "drop-oldest": msglog.DropOldest, "drop-newest": msglog.DropNewest, "block": msglog.Block}
	for _, r := range u.Rules {
		filter, err := mqtt.ParseFilter(r.Local, 0)
		if err != nil {
			return out, fmt.Errorf("rule %q: local: %w", r.Local, err)
		}
		qos := mqtt.QoS1
		if r.QoS != nil {
			qos = mqtt.QoS(*r.QoS)
		}
		out.Rules = append(out.Rules, bridge.RuleConfig{
			Rule: rules.Rule{
				Name: r.Name, Local: filter, Direction: rules.Direction(r.Direction), QoS: qos,
				RemotePrefix: r.RemotePrefix, RemotePrefixDown: r.RemotePrefixDown, LocalPrefix: r.LocalPrefix,
			},
			MaxMessages: r.MaxMessages, MaxBytes: int64(r.MaxBytes), WhenFull: full[r.WhenFull],
		})
	}
	return out, nil
}

// file resolves a path of the configuration.
func (g *Gateway) file(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(g.opts.Base, path)
}

func (g *Gateway) onBridge(e bridge.Event) {
	kinds := map[bridge.EventKind]string{
		bridge.EventConnected: "bridge.connected", bridge.EventDisconnected: "bridge.disconnected",
		bridge.EventUnreachable: "bridge.unreachable", bridge.EventRefused: "bridge.refused",
	}
	ev := events.Event{Severity: events.Warn, Kind: kinds[e.Kind], Topic: e.Topic, Text: e.Text, Data: map[string]string{"upstream": e.Upstream}}
	if e.Kind == bridge.EventConnected {
		ev.Severity = events.Info
	}
	if e.Rule != "" {
		ev.Data["rule"] = e.Rule
	}
	g.events.Add(ev)
}

// upstreams are the bridge's, as the API shows them.
func (g *Gateway) upstreams(context.Context) ([]api.Upstream, error) {
	configured := g.opts.Config.Bridge.Upstreams
	out := []api.Upstream{}
	for i, s := range g.bridge.Status() {
		u := api.Upstream{Name: s.Name, URL: s.Address, State: string(s.State), Since: s.Since, LastError: s.LastError, Rules: []api.BridgeRule{}}
		for j, r := range s.Rules {
			c := configured[i].Rules[j]
			rule := api.BridgeRule{
				Name: r.Name, Local: c.LocalPrefix + c.Local, Direction: string(r.Direction), RemotePrefix: c.RemotePrefix, QoS: 1,
				DepthMessages: r.DepthMessages, DepthBytes: r.DepthBytes, Oldest: r.Oldest, Sent: r.Sent, Received: r.Received,
				Dropped: map[string]int64{},
			}
			if c.QoS != nil {
				rule.QoS = *c.QoS
			}
			for reason, n := range r.Dropped {
				rule.Dropped[reason] = int64(n)
			}
			u.Rules = append(u.Rules, rule)
		}
		out = append(out, u)
	}
	return out, nil
}

// ID tells this gateway from others: the beginning of its CA's fingerprint.
func (g *Gateway) ID() string { return g.authority.RootFingerprint()[:12] }

package appliance

import (
	"context"
	"net"
	"strconv"

	"gatewayctl/gateway/discovery"
)

// openDiscovery prepares what the gateway announces of itself.
func (g *Gateway) openDiscovery(context.Context) error {
	if !g.opts.Config.MDNS.Announce {
		return nil
	}
	me := discovery.Gateway{
		ID: g.ID(), Version: g.opts.Version, Fingerprint: g.authority.RootFingerprint(), Instance: g.opts.Config.MDNS.Instance,
	}
	for _, l := range g.listeners {
		switch l.name {
		case "mqtt":
			me.MQTTPort = reachable(l.net.Addr())
		case "https":
			me.HTTPSPort = reachable(l.net.Addr())
		}
	}
	services := me.Services()
	if len(services) == 0 {
		return nil // only this machine can reach it
	}
	g.announcer = discovery.NewAnnouncer(discovery.Options{Log: g.log})
	if err := g.announcer.Update(services); err != nil {
		return &StartError{What: err.Error(), Remedy: "Mend mdns.instance in the configuration, or set mdns.announce to false.", Err: err}
	}
	return nil
}

// reachable returns the port of an address that others can reach, 0 for loopback.
func reachable(a net.Addr) int {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return 0
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}

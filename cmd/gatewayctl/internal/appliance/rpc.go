package appliance

import (
	"context"

	"gatewayctl/gateway"
	"gatewayctl/gateway/rpc"
	"gatewayctl/gateway/rpc/mqttrpc"
	"gatewayctl/pki/identity"
)

// callable is the registry as the router sees it: what exists, and what is there.
type callable struct{ *gateway.Registry }

func (c callable) Online(id identity.DeviceID) bool { return c.Presence(id).Online }

func (g *Gateway) openRPC(context.Context) error {
	g.transport = mqttrpc.New(g.broker, mqttrpc.Options{MaxAnswerBytes: int(g.opts.Config.Limits.MaxPacket), Log: g.log})
	g.router = rpc.NewRouter(callable{g.registry}, g.transport, rpc.Options{Log: g.log})
	return nil
}

package broker

import (
	"context"
	"log/slog"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"gatewayctl/broker/plane"
)

// newControlPlane makes mochi's server. It is never told to serve: connections are handed to it
// one by one, and it has neither listeners nor timers nor a $SYS tree of its own.
func newControlPlane(b *Broker) *mochi.Server {
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumClientWritesPending = 1 // nothing is ever put there
	capabilities.MaximumMessageExpiryInterval = 0
	capabilities.TopicAliasMaximum = maxTopicAliases
	capabilities.ReceiveMaximum = uint16(b.opts.ReceiveMaximum)
	capabilities.MaximumPacketSize = uint32(b.opts.MaxPacketBytes)
	s := mochi.New(&mochi.Options{
		Capabilities:             capabilities,
		ClientNetReadBufferSize:  64, // it reads frames of our making
		ClientNetWriteBufferSize: 1,  // every write is one whole packet
		Logger:                   slog.New(quiet{b.slog.Handler()}),
	})
	_ = s.AddHook(&hook{b: b}, nil) // fails only if its Init does, which it does not have
	return s
}

// A hook is what mochi asks about a connection.
type hook struct {
	mochi.HookBase
	b *Broker
}

func (h *hook) ID() string { return "gatewayctl" }

func (h *hook) Provides(b byte) bool {
	switch b {
	case mochi.OnConnectAuthenticate, mochi.OnSessionEstablish, mochi.OnSessionEstablished, mochi.OnPacketEncode:
		return true
	}
	return false
}

// OnConnectAuthenticate decides on the connection. A refusal has been written by the time that
// it returns false; the CONNACK that mochi writes then finds the connection closed.
func (h *hook) OnConnectAuthenticate(cl *mochi.Client, _ packets.Packet) bool {
	c := cl.Net.Conn.(*conn)
	if !h.b.authenticate(c) {
		return false
	}
	cl.ID = c.info.Load().ClientID
	return true
}

func (h *hook) OnSessionEstablish(cl *mochi.Client, _ packets.Packet) {
	h.b.openSession(cl.Net.Conn.(*conn))
}

func (h *hook) OnSessionEstablished(cl *mochi.Client, _ packets.Packet) {
	h.b.startSession(cl.Net.Conn.(*conn))
}

// OnPacketEncode writes the CONNACK that we decided (MQTT 5.0 §3.2).
func (h *hook) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != 0 {
		return pk
	}
	c := cl.Net.Conn.(*conn)
	pk.SessionPresent = c.resumed
	pk.Properties = packets.Properties{
		ReceiveMaximum:    uint16(h.b.opts.ReceiveMaximum),
		MaximumPacketSize: uint32(h.b.opts.MaxPacketBytes),
		TopicAliasMaximum: maxTopicAliases,
	}
	if asked := time.Duration(c.hello.KeepAlive) * time.Second; c.keepAlive != asked {
		pk.Properties.ServerKeepAlive, pk.Properties.ServerKeepAliveFlag = uint16(c.keepAlive/time.Second), true // [MQTT-3.2.2-22]
	}
	if c.hello.ClientID == "" {
		pk.Properties.AssignedClientID = cl.ID // [MQTT-3.2.2-16]
	}
	if c.version == plane.V5 && seconds(c.sessionExpiry) != c.hello.SessionExpirySeconds { // §3.2.2.3.2
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = seconds(c.sessionExpiry), true
	}
	return pk
}

// quiet passes mochi's log on at debug level, without whole packets: they carry payloads.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, slog.LevelDebug, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "pk", "packet", "will":
		default:
			clean.AddAttrs(a)
		}
		return true
	})
	return q.Handler.Handle(ctx, clean)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

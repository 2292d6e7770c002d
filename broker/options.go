package broker

import (
	"log/slog"
	"time"
)

// Options configures a [Broker]. The zero value is right for production.
type Options struct {
	MaxPacketBytes   int           // largest packet of a client; 0 means 256 KiB
	MaxTopicLevels   int           // in a topic name or filter; 0 means 64
	MaxClients       int           // connections in all; 0 means 10,000
	MaxPerAddress    int           // connections per remote address; 0 means 1,000
	HandshakeTimeout time.Duration // from accepting a connection to its CONNECT, TLS handshake included; 0 means 10s

	// MaxKeepAlive is the longest Keep Alive that a client of MQTT 5.0 gets, also one that asks for
	// none, in whole seconds; clients of 3.1.1 cannot be told. 0 means what the client asks for.
	MaxKeepAlive time.Duration

	MaxOutboundBytes int           // written but not yet sent, per connection; 0 means 1 MiB
	StallTimeout     time.Duration // after which a client that takes nothing is disconnected; 0 means 30s
	ReceiveMaximum   int           // QoS 1 and 2 publishes of one client that wait for their acknowledgment; 0 means 100
	Window           int           // QoS 1 and 2 deliveries that wait for a 3.1.1 client's acknowledgment; 0 means 20

	MaxSessions         int           // in all; 0 means 20,000
	MaxSessionsPerOwner int           // that one principal leaves behind; 0 means 100
	MaxSessionExpiry    time.Duration // after which an abandoned session ends; 0 means 60 days
	MaxSubscriptions    int           // per session; 0 means 1,000
	MaxQueuedMessages   int           // per session; 0 means 100,000
	MaxQueuedBytes      int64         // per session; 0 means 64 MiB
	MaxQueuedBytesTotal int64         // in all sessions; 0 means 256 MiB
	WhenFull            Policy        // what a full session queue does

	MaxRetained      int   // messages; 0 means 10,000
	MaxRetainedBytes int64 // 0 means 64 MiB

	// Observe is told what happens. It must not block and must not call the broker. Nil ignores.
	Observe func(Event)
	Now     func() time.Time // for people's times; nil means time.Now
	Log     *slog.Logger     // nil discards
}

// A Policy says what a full queue does with a message.
type Policy byte

// The policies. Neither touches a message that was sent and is not acknowledged yet.
const (
	DropOldest Policy = iota // make room
	DropNewest               // keep what is there
)

// maxTopicAliases is how many aliases a client may use towards us, and we towards it.
const maxTopicAliases = 32

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def64 := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	defTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxPacketBytes, 256<<10)
	def(&o.MaxTopicLevels, 64)
	def(&o.MaxClients, 10_000)
	def(&o.MaxPerAddress, 1_000)
	defTime(&o.HandshakeTimeout, 10*time.Second)
	o.MaxKeepAlive = min(o.MaxKeepAlive.Truncate(time.Second), (1<<16-1)*time.Second)
	def(&o.MaxOutboundBytes, 1<<20)
	defTime(&o.StallTimeout, 30*time.Second)
	def(&o.ReceiveMaximum, 100)
	o.ReceiveMaximum = min(o.ReceiveMaximum, 65_535)
	def(&o.Window, 20)
	o.Window = min(o.Window, maxWindow)
	def(&o.MaxSessions, 20_000)
	def(&o.MaxSessionsPerOwner, 100)
	defTime(&o.MaxSessionExpiry, 60*24*time.Hour)
	def(&o.MaxSubscriptions, 1_000)
	def(&o.MaxQueuedMessages, 100_000)
	def64(&o.MaxQueuedBytes, 64<<20)
	def64(&o.MaxQueuedBytesTotal, 256<<20)
	def(&o.MaxRetained, 10_000)
	def64(&o.MaxRetainedBytes, 64<<20)
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

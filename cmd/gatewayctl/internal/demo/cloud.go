package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"gatewayctl/broker"
	"gatewayctl/broker/acl"
	"gatewayctl/broker/mqtt"
)

// A cloud stands in for the broker that the gateway's bridge sends to. It can go away and come
// back, as uplinks do, and counts what reaches it.
type cloud struct {
	address  string
	log      *slog.Logger
	received atomic.Uint64

	mu   sync.Mutex
	stop func() error // nil while it is away
}

func newCloud(log *slog.Logger) (*cloud, error) {
	c := &cloud{log: log, address: "127.0.0.1:0"}
	return c, c.start()
}

// start makes the cloud reachable, at the same address as before.
func (c *cloud) start() error {
	l, err := net.Listen("tcp", c.address)
	if err != nil {
		return fmt.Errorf("start the stand-in cloud: %w", err)
	}
	c.address = l.Addr().String()
	b := broker.New(open{}, nil, broker.Options{Log: c.log})
	if _, err := b.Subscribe("#", func(mqtt.Message) { c.received.Add(1) }); err != nil {
		return err
	}
	if err := b.Serve(broker.Listener{Name: "cloud", Net: l}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = func() error { cancel(); return <-ended }
	return nil
}

// leave makes the cloud unreachable.
func (c *cloud) leave() error {
	c.mu.Lock()
	stop := c.stop
	c.stop = nil
	c.mu.Unlock()
	if stop == nil {
		return nil
	}
	return stop()
}

func (c *cloud) there() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop != nil
}

// open lets everybody do everything: it is a cloud of nobody's, on loopback.
type open struct{}

func (open) Registered(string) bool { return false }

func (open) Authenticate(_ context.Context, c broker.ConnInfo) (broker.Principal, error) {
	return broker.Principal{Name: "bridge", Key: c.ClientID, Access: open{}}, nil
}

func (open) Connect(string) acl.Decision       { return acl.Decision{Effect: acl.Allow} }
func (open) Publish(string) acl.Decision       { return acl.Decision{Effect: acl.Allow} }
func (open) RetainPublish(string) acl.Decision { return acl.Decision{Effect: acl.Allow} }
func (open) Subscribe(string) acl.Decision     { return acl.Decision{Effect: acl.Allow} }
func (open) Receive(string) acl.Decision       { return acl.Decision{Effect: acl.Allow} }

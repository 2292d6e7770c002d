package broker

import (
	"io"
	"net"
	"sync"
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// A pipeListener accepts in-memory connections.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// FuzzConnection sends anything after a CONNECT, all at once. No input may reach the recover that
// is the last net, and the connection must always come to its end.
func FuzzConnection(f *testing.F) {
	for _, version := range []byte{plane.V311, plane.V5} {
		hello := (&plane.Connect{Version: version, ClientID: "fuzz", Will: &plane.Will{Message: mqtt.Message{Topic: "w"}}}).Append(nil, version)
		for _, packets := range [][]plane.Packet{
			{&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: "#", QoS: 2}}}, &plane.Ping{}},
			{
				&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: "$share/g/+", QoS: 1}, {Filter: "a", QoS: 2}}},
				&plane.Publish{Message: mqtt.Message{Topic: "a", Payload: []byte("x"), QoS: 2, Retain: true}, PacketID: 1, TopicAlias: 1},
				&plane.Publish{Message: mqtt.Message{Topic: "a", QoS: 1}, PacketID: 2},
				&plane.Ack{Type: plane.PUBREL, PacketID: 1}, &plane.Ack{Type: plane.PUBREC, PacketID: 1}, &plane.Ack{Type: plane.PUBCOMP, PacketID: 1},
				&plane.Ack{Type: plane.PUBACK, PacketID: 2}, &plane.Unsubscribe{PacketID: 3, Filters: []mqtt.Filter{"a"}},
				&plane.Disconnect{Reason: mqtt.DisconnectWithWillMessage},
			},
		} {
			frames := hello
			for _, p := range packets {
				frames = p.Append(frames[:len(frames):len(frames)], version)
			}
			f.Add(frames)
		}
		f.Add(append(hello[:len(hello):len(hello)], 0x82, 0x06, 0x00, 0x01, 0x00, 0x00, 0x01, 0x61))
	}
	b := start(f, Options{})
	l := newPipeListener()
	if err := b.Serve(Listener{Name: "pipe", Net: l}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frames []byte) {
		client, server := net.Pipe()
		l.conns <- server
		go func() {
			_, _ = client.Write(frames)
			_ = client.Close()
		}()
		_, _ = io.Copy(io.Discard, client)
		if n := b.Stats().Panics; n > 0 {
			t.Fatalf("%x: a panic", frames)
		}
	})
}

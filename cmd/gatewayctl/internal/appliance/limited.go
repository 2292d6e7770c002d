package appliance

import (
	"net"
	"sync"
	"sync/atomic"
)

// A limitedListener accepts only so many connections at once; the others wait in the kernel.
type limitedListener struct {
	net.Listener
	slots chan struct{} // one taken by each open connection and by Accept itself
	open  atomic.Int64
}

// connections are those that are open.
func (l *limitedListener) connections() int { return int(l.open.Load()) }

func (l *limitedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	l.open.Add(1)
	return &limitedConn{Conn: c, release: func() { l.open.Add(-1); <-l.slots }}, nil
}

type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitedConn) Close() error {
	defer c.once.Do(c.release)
	return c.Conn.Close()
}

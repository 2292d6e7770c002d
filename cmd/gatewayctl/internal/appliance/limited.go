package appliance

import (
	"net"
	"sync"
)

// A limitedListener bounds the connections of the HTTPS listener: so many from one address, the
// others are closed at once; and so many in all, the others wait in the kernel.
type limitedListener struct {
	net.Listener
	perAddress int
	refuse     func(address string) // told of each connection that is closed; must not block
	slots      chan struct{}        // one taken by each open connection and by Accept itself

	mu        sync.Mutex
	addresses map[string]int // open connections
	open      int
	refused   uint64
}

func newLimitedListener(l net.Listener, most, perAddress int, refuse func(address string)) *limitedListener {
	return &limitedListener{Listener: l, perAddress: perAddress, refuse: refuse, slots: make(chan struct{}, most), addresses: map[string]int{}}
}

// connections are those that are open, and how many were closed because of their address.
func (l *limitedListener) connections() (open int, refused uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.refused
}

func (l *limitedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.slots
			return nil, err
		}
		address := c.RemoteAddr().String()
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		if l.enter(host) {
			return &limitedConn{Conn: c, release: func() { l.leave(host); <-l.slots }}, nil
		}
		_ = c.Close()
		l.refuse(address)
	}
}

func (l *limitedListener) enter(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addresses[host] >= l.perAddress {
		l.refused++
		return false
	}
	l.addresses[host]++
	l.open++
	return true
}

func (l *limitedListener) leave(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.addresses[host]--; l.addresses[host] == 0 {
		delete(l.addresses, host)
	}
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

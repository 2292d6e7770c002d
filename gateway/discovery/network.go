package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNoInterface is returned by [Scan] if no network interface is up that can multicast and has an
// address, or none of them could be used.
var ErrNoInterface = errors.New("no network interface can be used for multicast DNS")

const (
	refreshInterval = 2 * time.Second // how soon a new interface or address is noticed
	maxPacket       = 9000            // RFC 6762 §17
	packetsQueued   = 128             // then packets are dropped, as the network may do
)

// A link is a network interface that is up, has its cable plugged in, can multicast and has an
// address.
type link struct {
	index int
	name  string
	addrs []netip.Prefix // in order, without zone
}

func (l link) equal(o link) bool {
	return l.index == o.index && l.name == o.name && slices.Equal(l.addrs, o.addrs)
}

// has reports whether ip is an address of the interface.
func (l link) has(ip netip.Addr) bool {
	return slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Addr() == ip })
}

// near reports whether ip may be a host on the link.
func (l link) near(ip netip.Addr) bool {
	ip = ip.WithZone("")
	return ip.IsLinkLocalUnicast() || slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// usable are the addresses to announce: link-local ones of IPv6, which need a zone, only where
// there are no others.
func (l link) usable() []netip.Addr {
	var scoped, out []netip.Addr
	for _, p := range l.addrs {
		if ip := p.Addr(); ip.Is6() && ip.IsLinkLocalUnicast() {
			scoped = append(scoped, ip)
		} else {
			out = append(out, ip)
		}
	}
	if len(out) == 0 {
		return scoped
	}
	return out
}

// A packet came in, or is to go out.
type packet struct {
	link int            // index of its interface
	peer netip.AddrPort // in: the sender; out: the receiver, the zero value means the group
	data []byte
}

// An engine is a state machine of the protocol. It does no I/O and knows no time but what it is
// told, so that tests need neither a network nor a clock. It is used by one goroutine.
type engine interface {
	// setLinks tells all links, and all addresses of this machine, those that are on no link too.
	setLinks(now time.Time, links []link, machine []netip.Addr)
	receive(now time.Time, p packet)
	poll(now time.Time) (out []packet, next time.Time) // next: when to poll again at the latest
}

// network is the sockets of an engine, one for each interface and address family. Its methods but
// run's readers belong to one goroutine.
type network struct {
	only    []string // names of interfaces, nil: all
	log     *slog.Logger
	packets chan packet
	open    map[socket]*net.UDPConn
	links   []link
	machine []netip.Addr // all addresses of this machine
	said    string       // the error that was logged last
	readers sync.WaitGroup
	closed  chan struct{}
}

type socket struct {
	index int
	v6    bool
}

func newNetwork(only []string, log *slog.Logger) *network {
	return &network{
		only: only, log: log,
		packets: make(chan packet, packetsQueued),
		open:    map[socket]*net.UDPConn{},
		closed:  make(chan struct{}),
	}
}

// refresh opens and closes sockets as interfaces come and go, and reports whether the links
// changed. The error says what could not be used, and is [ErrNoInterface] if nothing could; the
// next refresh may do better.
func (n *network) refresh() (changed bool, err error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, fmt.Errorf("list network interfaces: %w", err)
	}
	var links []link
	var machine []netip.Addr
	var errs []error
	want := map[socket]bool{}
	for _, ifi := range interfaces {
		l := linkOf(ifi)
		for _, p := range l.addrs {
			machine = append(machine, p.Addr())
		}
		if len(l.addrs) == 0 || !n.usable(ifi) {
			continue
		}
		heard := false
		for _, v6 := range []bool{false, true} {
			if !slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 }) {
				continue
			}
			s := socket{ifi.Index, v6}
			if err := n.listen(s, ifi); err != nil {
				errs = append(errs, err)
				continue
			}
			want[s], heard = true, true
		}
		if heard {
			links = append(links, l)
		}
	}
	for s, conn := range n.open {
		if !want[s] {
			_ = conn.Close()
			delete(n.open, s)
		}
	}
	changed = !slices.EqualFunc(links, n.links, link.equal) || !slices.Equal(machine, n.machine)
	n.links, n.machine = links, machine
	return changed, trouble(len(links) == 0, errs)
}

// trouble puts errors in one line.
func trouble(none bool, errs []error) error {
	var why []string
	for _, err := range errs {
		why = append(why, err.Error())
	}
	switch all := strings.Join(why, "; "); {
	case none && all != "":
		return fmt.Errorf("%w: %s", ErrNoInterface, all)
	case none:
		return ErrNoInterface
	case all != "":
		return errors.New(all)
	}
	return nil
}

// complain logs what refresh returned when it changes, not at every refresh.
func (n *network) complain(err error) {
	said := n.said
	n.said = ""
	if err != nil {
		if n.said = err.Error(); n.said != said {
			n.log.Warn("multicast DNS is not on all interfaces", "err", err)
		}
	}
}

// usable reports whether to talk over ifi. Loopback and point-to-point interfaces are used only
// when named.
func (n *network) usable(ifi net.Interface) bool {
	const need, avoid = net.FlagUp | net.FlagRunning | net.FlagMulticast, net.FlagLoopback | net.FlagPointToPoint
	if n.only != nil {
		return ifi.Flags&need == need && slices.Contains(n.only, ifi.Name)
	}
	return ifi.Flags&need == need && ifi.Flags&avoid == 0
}

// linkOf returns ifi with its addresses, none if it has just gone away.
func linkOf(ifi net.Interface) link {
	l := link{index: ifi.Index, name: ifi.Name}
	addrs, err := ifi.Addrs()
	if err != nil {
		return l
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ones, _ := n.Mask.Size()
				l.addrs = append(l.addrs, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
	}
	slices.SortFunc(l.addrs, netip.Prefix.Compare)
	return l
}

func (n *network) listen(s socket, ifi net.Interface) error {
	if n.open[s] != nil {
		return nil
	}
	conn, err := listen(ifi, s.v6)
	if err != nil {
		return err
	}
	n.open[s] = conn
	n.readers.Go(func() { n.read(s, conn) })
	return nil
}

// read hands on what conn hears until it is closed.
func (n *network) read(s socket, conn *net.UDPConn) {
	buf := make([]byte, maxPacket)
	for {
		size, peer, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as an ICMP error for an earlier packet
			select {
			case <-n.closed:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case n.packets <- packet{link: s.index, peer: netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), data: slices.Clone(buf[:size])}:
		default:
		}
	}
}

// send puts p on its link: to its receiver, or to the groups of all families. What cannot be sent
// is lost, as on the network.
func (n *network) send(p packet) {
	for _, v6 := range []bool{false, true} {
		conn := n.open[socket{p.link, v6}]
		to := p.peer
		if !to.IsValid() {
			to = netip.AddrPortFrom(group(v6), port)
		}
		if conn == nil || to.Addr().Is6() != v6 {
			continue
		}
		if _, err := conn.WriteToUDPAddrPort(p.data, to); err != nil {
			n.log.Debug("multicast DNS packet not sent", "link", p.link, "err", err)
		}
	}
}

func (n *network) close() {
	close(n.closed)
	for _, conn := range n.open {
		_ = conn.Close()
	}
	n.readers.Wait()
}

// run drives e until ctx ends. wake makes it poll at once.
func (n *network) run(ctx context.Context, e engine, wake <-chan struct{}) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	e.setLinks(time.Now(), n.links, n.machine)
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-n.packets:
			e.receive(time.Now(), p)
			n.drain(e)
		case <-wake:
		case <-timer.C:
		case <-tick.C:
			changed, err := n.refresh()
			n.complain(err)
			if changed {
				e.setLinks(time.Now(), n.links, n.machine)
			}
		}
		out, next := e.poll(time.Now())
		for _, p := range out {
			n.send(p)
		}
		timer.Reset(max(time.Until(next), 0))
	}
}

// drain gives e the packets that are waiting, so that it polls once for all of them.
func (n *network) drain(e engine) {
	for range packetsQueued {
		select {
		case p := <-n.packets:
			e.receive(time.Now(), p)
		default:
			return
		}
	}
}

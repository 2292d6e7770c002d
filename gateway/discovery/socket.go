package discovery

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

const port = 5353

// groups are the addresses of RFC 6762 §3.
func group(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0xff, 0x02, 15: 0xfb})
	}
	return netip.AddrFrom4([4]byte{224, 0, 0, 251})
}

// listen opens the socket of one interface and address family: it hears what is sent to the group
// there, and sends to the group there.
//
// It is bound to the group's address, which the net package does not do, and not to the wildcard:
// of several sockets bound to that, only one gets a packet sent to a unicast address, and another
// responder on this machine, such as Avahi, needs its own (RFC 6762 §15).
func listen(ifi net.Interface, v6 bool) (*net.UDPConn, error) {
	family, network := unix.AF_INET, "IPv4"
	if v6 {
		family, network = unix.AF_INET6, "IPv6"
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s socket: %w", network, err)
	}
	file := os.NewFile(uintptr(fd), "mdns")
	defer file.Close() // the connection has a descriptor of its own
	setup := join4
	if v6 {
		setup = join6
	}
	if err := setup(fd, ifi.Index); err != nil {
		return nil, fmt.Errorf("listen to %s on %s: %w", netip.AddrPortFrom(group(v6), port), ifi.Name, err)
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// An option is one for setsockopt.
type option struct {
	name         string
	level, which int
	value        int
}

func join4(fd, index int) error {
	if err := set(fd, []option{
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"IP_MULTICAST_ALL", unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0},   // only what this socket joined
		{"IP_MULTICAST_TTL", unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255}, // RFC 6762 §11
		{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 255},
		{"IP_MULTICAST_LOOP", unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1}, // others on this machine listen too
	}); err != nil {
		return err
	}
	address := group(false).As4()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: address}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	mreq := &unix.IPMreqn{Multiaddr: address, Ifindex: int32(index)}
	if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq); err != nil {
		return os.NewSyscallError("IP_MULTICAST_IF", err)
	}
	return os.NewSyscallError("IP_ADD_MEMBERSHIP", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq))
}

func join6(fd, index int) error {
	if err := set(fd, []option{
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		{"IPV6_MULTICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255},
		{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255},
		{"IPV6_MULTICAST_LOOP", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1},
		{"IPV6_MULTICAST_IF", unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index},
	}); err != nil {
		return err
	}
	address := group(true).As16()
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port, Addr: address, ZoneId: uint32(index)}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	mreq := &unix.IPv6Mreq{Multiaddr: address, Interface: uint32(index)}
	return os.NewSyscallError("IPV6_JOIN_GROUP", unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq))
}

func set(fd int, options []option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.which, o.value); err != nil {
			return os.NewSyscallError(o.name, err)
		}
	}
	return nil
}

package discovery

import (
	"io"
	"log"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/mdns"
)

// TestLibrary measures what hashicorp/mdns 1.0.7 does where this package does it itself, against
// Avahi. When one of these fails the library has learnt something, and what stands in for it here
// may go. See the package comment.
func TestLibrary(t *testing.T) {
	t.Parallel()
	hub, pc := newNetns(t, "hub"), newNetns(t, "pc")
	wire(hub, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	hub.avahi("hub")
	pc.avahi("pc")
	pc.publish(
		[]string{"-s", "lamp", "_http._tcp", "80"},
		[]string{"-s", "fan", "_http._tcp", "80"},
		[]string{"-s", "pump number 3", "_http._tcp", "80"},
	)

	if names, err := libraryQuery(hub); err == nil {
		t.Errorf("without a route to the group Query works, and finds %q", names)
	}
	hub.ip("route add 224.0.0.0/4 dev eth0")
	names, err := libraryQuery(hub)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("of three instances that answer together Query finds %q", names)
	if len(names) >= 3 {
		t.Errorf("of three instances that answer together Query finds all")
	}

	sees := func(n *netns, tries int) (times int) {
		for range tries {
			if slices.ContainsFunc(n.browse("_gatewayctl._tcp"), func(s seen) bool { return s.Name == "Hub" }) {
				times++
			}
		}
		return times
	}
	server := libraryServer(hub)
	eventually(t, 5*time.Second, "Avahi on another machine sees what Server announces", func() (bool, any) { return sees(pc, 1) == 1, nil })
	if sees(hub, 2) > 0 {
		t.Error("Avahi on the same machine sees what Server announces")
	}
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if sees(pc, 2) < 2 {
		t.Error("Server says goodbye")
	}
}

func libraryQuery(n *netns) (names []string, err error) {
	entries := make(chan *mdns.ServiceEntry, 16)
	n.do(func() {
		var eth0 *net.Interface
		if eth0, err = net.InterfaceByName("eth0"); err != nil {
			return
		}
		err = mdns.Query(&mdns.QueryParam{
			Service: "_http._tcp", Domain: "local", Timeout: 2 * time.Second, Interface: eth0,
			Entries: entries, DisableIPv6: true, Logger: log.New(io.Discard, "", 0),
		})
	})
	close(entries)
	for e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

func libraryServer(n *netns) (server *mdns.Server) {
	n.t.Helper()
	var err error
	n.do(func() {
		var eth0 *net.Interface
		if eth0, err = net.InterfaceByName("eth0"); err != nil {
			return
		}
		var zone *mdns.MDNSService
		zone, err = mdns.NewMDNSService("Hub", "_gatewayctl._tcp", "local.", "lib.local.", 8443,
			[]net.IP{netip.MustParseAddr("10.77.0.1").AsSlice()}, nil)
		if err == nil {
			server, err = mdns.NewServer(&mdns.Config{Zone: zone, Iface: eth0, Logger: log.New(io.Discard, "", 0)})
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return server
}

package discovery

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func testGateway() Gateway {
	return Gateway{
		ID: "hub-1", Version: "1.2.3", Fingerprint: strings.Repeat("a5", 32),
		Instance: "Größe 1. Hub", Host: "hub", MQTTPort: 8883, HTTPSPort: 8443,
	}
}

// announce runs an announcer in a namespace until the test ends or stop is called.
func (n *netns) announce(services []Service) (a *Announcer, stop func()) {
	n.t.Helper()
	a = NewAnnouncer(Options{})
	if err := a.Update(services); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.do(func() {
			if err := a.Run(ctx); err != nil {
				n.t.Errorf("Run: %v", err)
			}
		})
	}()
	stop = func() { cancel(); <-done }
	n.t.Cleanup(stop)
	return a, stop
}

// sees waits until this namespace's Avahi sees the gateway's service with what it should say.
func (n *netns) sees(want seen) {
	n.t.Helper()
	eventually(n.t, 10*time.Second, n.name+": avahi-browse sees "+want.Name+" at "+want.Address, func() (bool, any) {
		got := n.browse(want.Type)
		return slices.ContainsFunc(got, func(s seen) bool { s.Interface = ""; return s == want }), got
	})
}

func (n *netns) seesNone(limit time.Duration, typ, instance string) {
	n.t.Helper()
	eventually(n.t, limit, n.name+": avahi-browse sees no "+instance, func() (bool, any) {
		got := n.browse(typ)
		return !slices.ContainsFunc(got, func(s seen) bool { return s.Name == instance }), got
	})
}

const gatewayTXT = "ca-sha256=a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5 id=hub-1 version=1.2.3"

// TestAvahiSeesGateway: services, their name defended, a new address by Update, and the goodbye, as
// Avahi on another machine sees them.
func TestAvahiSeesGateway(t *testing.T) {
	t.Parallel()
	gw, pc := newNetns(t, "gw"), newNetns(t, "pc")
	wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	pc.avahi("pc")
	g := testGateway()
	g.IPs = []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("127.0.0.1")}
	a, stop := gw.announce(g.Services())
	mqtt := seen{Name: g.Instance, Type: TypeMQTT, Host: "hub.local", Address: "10.77.0.1", Port: 8883, TXT: gatewayTXT}
	api := mqtt
	api.Type, api.Port = TypeGateway, 8443
	pc.sees(mqtt)
	pc.sees(api)
	pc.start("avahi-publish", "-s", g.Instance, TypeMQTT, "1").expect("Name collision") // the name is defended

	gw.ip("addr del 10.77.0.1/24 dev eth0")
	gw.ip("addr add 10.77.0.9/24 dev eth0")
	g.IPs = []netip.Addr{netip.MustParseAddr("10.77.0.9")}
	g.Version = "1.3.0"
	if err := a.Update(g.Services()); err != nil {
		t.Fatal(err)
	}
	mqtt.Address, mqtt.TXT = "10.77.0.9", strings.Replace(gatewayTXT, "1.2.3", "1.3.0", 1)
	pc.sees(mqtt)
	eventually(t, 3*time.Second, "the old address is forgotten", func() (bool, any) {
		got := pc.run("avahi-resolve", "-4", "-n", "hub.local")
		return strings.HasSuffix(got, "\t10.77.0.9\n"), got
	})
	stop()
	pc.seesNone(3*time.Second, TypeMQTT, g.Instance)
	pc.seesNone(3*time.Second, TypeGateway, g.Instance)
}

// TestBesideAvahi: the gateway's machine runs Avahi too, under the same host name, before the
// gateway starts or after. Both Avahis see the services, and that machine keeps its name.
func TestBesideAvahi(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		first  bool
		before string // the address seen before Avahi starts
		ips    []netip.Addr
	}{
		{"Avahi is there first, and we know an address that it does not announce", true, "10.77.0.1",
			[]netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("192.0.2.7")}},
		{"Avahi starts later", false, "10.77.0.1", nil},
		{"Avahi starts later, and we announced another address until then", false, "192.0.2.7",
			[]netip.Addr{netip.MustParseAddr("192.0.2.7")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			gw, pc := newNetns(t, "gw"), newNetns(t, "pc")
			wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
			pc.avahi("pc")
			g := testGateway()
			g.IPs = tc.ips
			want := seen{Name: g.Instance, Type: TypeMQTT, Host: "hub.local", Address: tc.before, Port: 8883, TXT: gatewayTXT}
			var avahi *process
			if tc.first {
				avahi = gw.avahi("hub")
			}
			_, stop := gw.announce(g.Services())
			pc.sees(want)
			if !tc.first {
				// An Avahi that starts while we announce other addresses finds its name taken. We are
				// quiet when the last announcement is out.
				<-time.After(4 * time.Second)
				avahi = gw.avahi("hub")
			}
			want.Address = "10.77.0.1"
			pc.sees(want)
			gw.sees(want)
			stop()
			gw.seesNone(3*time.Second, TypeMQTT, g.Instance)
			pc.seesNone(3*time.Second, TypeMQTT, g.Instance)
			if got := pc.run("avahi-resolve", "-4", "-n", "hub.local"); !strings.HasSuffix(got, "\t10.77.0.1\n") {
				t.Errorf("after the goodbye hub.local is %q", got)
			}
			for _, line := range avahi.printed() {
				if strings.Contains(line, "conflict") {
					t.Errorf("Avahi on the gateway's machine: %s", line)
				}
			}
		})
	}
}

// TestTakenName: another machine has the instance name and the host name already.
func TestTakenName(t *testing.T) {
	t.Parallel()
	gw, pc := newNetns(t, "gw"), newNetns(t, "pc")
	wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	pc.avahi("hub")
	g := testGateway()
	pc.publish([]string{"-s", g.Instance, TypeMQTT, "1", "id=other"})
	gw.announce(g.Services())
	other := seen{Name: g.Instance, Type: TypeMQTT, Host: "hub.local", Address: "10.77.0.2", Port: 1, TXT: "id=other"}
	ours := seen{Name: g.Instance + " (2)", Type: TypeMQTT, Host: "hub-2.local", Address: "10.77.0.1", Port: 8883, TXT: gatewayTXT}
	pc.sees(ours)
	pc.sees(other)
	ours.Type, ours.Port = TypeGateway, 8443
	pc.sees(ours)
}

// TestInterfacesComeAndGo: the announcer starts without any interface, gets one, gets a second one,
// and loses the first one for a while.
func TestInterfacesComeAndGo(t *testing.T) {
	t.Parallel()
	gw, pc, tab := newNetns(t, "gw"), newNetns(t, "pc"), newNetns(t, "tab")
	gw.announce(testGateway().Services())
	wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	pc.avahi("pc")
	atPC := seen{Name: "Größe 1. Hub", Type: TypeGateway, Host: "hub.local", Address: "10.77.0.1", Port: 8443, TXT: gatewayTXT}
	pc.sees(atPC)
	gw.ip("link set eth0 down")
	wire(gw, tab, "eth1", "10.78.0.1/24", "10.78.0.2/24")
	tab.avahi("tab")
	atTab := atPC
	atTab.Address = "10.78.0.1" // and only that
	tab.sees(atTab)
	gw.ip("addr add 10.77.0.5/24 dev eth0")
	gw.ip("link set eth0 up")
	atPC.Address = "10.77.0.5"
	eventually(t, 10*time.Second, "the second address of eth0 is announced", func() (bool, any) {
		got := pc.run("avahi-browse", "-rptk", TypeGateway)
		return strings.Contains(got, "hub.local;10.77.0."), got
	})
}

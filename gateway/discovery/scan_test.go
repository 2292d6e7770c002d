package discovery

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// devices are what the neighbourhood announces, as arguments of avahi-publish.
func devices() [][]string {
	return [][]string{
		{"-a", "-R", "esp32.local", "10.77.0.30"},
		{"-s", "-H", "esp32.local", "esp32_08A1B2", "_http._tcp", "80", "id=esp32_08A1B2", "arch=esp32", "app=demo-js", "fw_version=1.0", "fw_id=20240101-000000/abc"},
		{"-s", "-H", "esp32.local", "esp32_0000FF", "_http._tcp", "80", "id=esp32_0000FF", "arch=esp32", "app=demo-js", "fw_version=1.0"},
		{"-s", "-H", "esp32.local", "esp32_777777", "_http._tcp", "80", "ID=esp32_777777", "Arch=esp32", "fw_id=x", "ID=no"},
		{"-s", "ShellyPlugUS-083AF201B1B4", "_http._tcp", "80", "gen=2"},
		{"-s", "ShellyPlugUS-083AF201B1B4", "_shelly._tcp", "80", "gen=2", "app=PlugUS", "ver=1.4.4"},
		{"-s", "porch", "_esphomelib._tcp", "6053", "version=2025.1.0", "mac=a0b765000000", "platform=ESP8266", "friendly_name=Große Lampe\x1b[31m"},
		{"-s", "tasmota-A1B2C3", "_http._tcp", "80"},
		{"-s", "mosquitto on pi", "_mqtt._tcp", "1883"},
		{"-s", "Home", "_home-assistant._tcp", "8123", "base_url=http://10.77.0.2:8123", "uuid=0123", "version=2025.1"},
		{"-s", "Müller's printer v1.2 (west)", "_http._tcp", "8080", "path=/", "flag"},
	}
}

func found(instance, service string, kind Kind, id string, port int, txt ...string) Found {
	f := Found{
		Instance: instance, Service: service, Kind: kind, DeviceID: id, Host: "pc.local", Port: port, Interface: "eth0",
		Addresses: []netip.Addr{netip.MustParseAddr("10.77.0.2")},
	}
	for _, pair := range txt {
		k, v, _ := strings.Cut(pair, "=")
		if f.TXT == nil {
			f.TXT = map[string]string{}
		}
		f.TXT[k] = v
	}
	return f
}

// wantFound is what Scan is to make of the devices, and of our own gateway.
func wantFound() []Found {
	esp := func(id string, txt ...string) Found {
		f := found(id, "_http._tcp", KindMongooseOS, id, 80, append(txt, "id="+id, "arch=esp32")...)
		f.Host, f.Addresses = "esp32.local", []netip.Addr{netip.MustParseAddr("10.77.0.30")}
		return f
	}
	gateway := func(service string, kind Kind, port int) Found {
		f := found("Größe 1. Hub", service, kind, "hub-1", port, strings.Fields(gatewayTXT)...)
		f.Host, f.Addresses = "hub.local", []netip.Addr{netip.MustParseAddr("10.77.0.1")}
		return f
	}
	return []Found{
		found("porch", "_esphomelib._tcp", KindESPHome, "porch", 6053, "version=2025.1.0", "mac=a0b765000000", "platform=ESP8266", "friendly_name=Große Lampe\uFFFD[31m"),
		gateway(TypeGateway, KindGateway, 8443),
		found("Home", "_home-assistant._tcp", KindHomeAssistant, "0123", 8123, "base_url=http://10.77.0.2:8123", "uuid=0123", "version=2025.1"),
		found("Müller's printer v1.2 (west)", "_http._tcp", KindHTTP, "", 8080, "path=/", "flag"),
		found("ShellyPlugUS-083AF201B1B4", "_http._tcp", KindShelly, "shellyplugus-083af201b1b4", 80, "gen=2"),
		esp("esp32_0000FF", "app=demo-js", "fw_version=1.0"),
		esp("esp32_08A1B2", "app=demo-js", "fw_version=1.0", "fw_id=20240101-000000/abc"),
		esp("esp32_777777", "fw_id=x"),
		found("tasmota-A1B2C3", "_http._tcp", KindTasmota, "tasmota-A1B2C3", 80),
		found("mosquitto on pi", "_mqtt._tcp", KindMQTTBroker, "", 1883),
		gateway(TypeMQTT, KindMQTTBroker, 8883),
		found("ShellyPlugUS-083AF201B1B4", "_shelly._tcp", KindShelly, "shellyplugus-083af201b1b4", 80, "gen=2", "app=PlugUS", "ver=1.4.4"),
	}
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// plain takes from the list what differs from run to run.
func plain(list []Found) []Found {
	out := slices.Clone(list)
	for i := range out {
		f := &out[i]
		f.Seen = time.Time{}
		f.Addresses = slices.DeleteFunc(slices.Clone(f.Addresses), netip.Addr.Is6)
	}
	return out
}

// TestScan finds what another machine's Avahi announces and our own gateway, from that gateway's
// machine and with an Avahi there; then from the other machine.
func TestScan(t *testing.T) {
	t.Parallel()
	gw, pc := newNetns(t, "gw"), newNetns(t, "pc")
	wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	gw.avahi("hub")
	pc.avahi("pc")
	gw.announce(testGateway().Services())
	pc.publish(devices()...)
	pc.sees(seen{Name: "Größe 1. Hub", Type: TypeMQTT, Host: "hub.local", Address: "10.77.0.1", Port: 8883, TXT: gatewayTXT})
	for _, n := range []*netns{gw, pc} {
		var list []Found
		var err error
		now := time.Unix(1700000000, 0)
		n.do(func() { list, err = Scan(t.Context(), ScanOptions{Now: func() time.Time { return now }}) })
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			if !f.Seen.Equal(now) {
				t.Errorf("%s was seen at %v", f.Instance, f.Seen)
			}
		}
		if diff := cmp.Diff(wantFound(), plain(list), compareAddrs); diff != "" {
			t.Errorf("from %s (-want +got):\n%s", n.name, diff)
		}
	}
}

// TestWatch follows a device: found, gone by its goodbye, found elsewhere, cut off, found again.
func TestWatch(t *testing.T) {
	t.Parallel()
	gw, pc := newNetns(t, "gw"), newNetns(t, "pc")
	reports := make(chan Found, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		gw.do(func() {
			if err := Watch(ctx, ScanOptions{}, func(f Found) { reports <- f }); err != nil {
				t.Errorf("Watch: %v", err)
			}
		})
	}()
	defer func() { cancel(); <-done }()
	wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	pc.avahi("pc")
	expect := func(want Found) { // other reports may come before: addresses are learnt one by one
		t.Helper()
		var diff string
		for timeout := time.After(10 * time.Second); ; {
			select {
			case got := <-reports:
				if diff = cmp.Diff([]Found{want}, plain([]Found{got}), compareAddrs); diff == "" {
					return
				}
			case <-timeout:
				t.Fatalf("no report of %+v; the last (-want +got):\n%s", want, diff)
			}
		}
	}
	lamp := found("lamp 1", "_http._tcp", KindMongooseOS, "lamp-1", 80, "id=lamp-1", "arch=esp32", "app=x")
	p := pc.publish([]string{"-s", "lamp 1", "_http._tcp", "80", "id=lamp-1", "arch=esp32", "app=x"})[0]
	expect(lamp)
	p.stop(syscall.SIGTERM)
	lamp.Gone = true
	expect(lamp)
	pc.publish([]string{"-s", "lamp 1", "_http._tcp", "81", "id=lamp-1", "arch=esp32", "app=x"})
	lamp.Gone, lamp.Port = false, 81
	expect(lamp)
	pc.ip("link set eth0 down") // as if a cable were pulled
	lamp.Gone = true
	expect(lamp)
	pc.ip("link set eth0 up")
	lamp.Gone = false
	expect(lamp)
}

// TestScanWithoutNetwork: a machine with nothing but loopback, and one whose port 5353 is taken by
// a program that does not share it.
func TestScanWithoutNetwork(t *testing.T) {
	t.Parallel()
	alone, pc := newNetns(t, "alone"), newNetns(t, "pc")
	alone.do(func() {
		if _, err := Scan(t.Context(), ScanOptions{}); !errors.Is(err, ErrNoInterface) {
			t.Errorf("without an interface: %v", err)
		}
	})
	wire(alone, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	alone.do(func() {
		if _, err := Scan(t.Context(), ScanOptions{Interfaces: []string{"eth7"}}); !errors.Is(err, ErrNoInterface) {
			t.Errorf("without the interface named: %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		cancel(cause)
		if _, err := Scan(ctx, ScanOptions{}); !errors.Is(err, cause) {
			t.Errorf("with a context that has ended: %v", err)
		}
		greedy := exclusive(t)
		defer greedy()
		_, err := Scan(t.Context(), ScanOptions{})
		if !errors.Is(err, ErrNoInterface) || !strings.Contains(err.Error(), "224.0.0.251:5353 on eth0: bind: address already in use") {
			t.Errorf("with the port taken: %v", err)
		}
	})
}

// TestScanSeveralLinks: two networks, one of them without IPv4, have an instance of the same name.
func TestScanSeveralLinks(t *testing.T) {
	t.Parallel()
	gw, pc, tab := newNetns(t, "gw"), newNetns(t, "pc"), newNetns(t, "tab")
	wire(gw, pc, "eth0", "10.77.0.1/24", "10.77.0.2/24")
	wire(gw, tab, "eth1", "fd00:78::1/64", "fd00:78::2/64")
	gw.announce(testGateway().Services())
	pc.avahi("pc")
	tab.avahi("tab")
	pc.publish([]string{"-s", "lamp", "_http._tcp", "80"})
	tab.publish([]string{"-s", "lamp", "_http._tcp", "81"})
	tab.sees(seen{Name: "Größe 1. Hub", Type: TypeGateway, Host: "hub.local", Address: "fd00:78::1", Port: 8443, TXT: gatewayTXT})
	gw.do(func() {
		list, err := Scan(t.Context(), ScanOptions{Services: []string{"_http._tcp"}})
		if err != nil {
			t.Error(err)
		}
		var got []string
		for _, f := range list {
			got = append(got, fmt.Sprint(f.Instance, " ", f.Interface, " ", f.Port, " ", slices.ContainsFunc(f.Addresses, netip.Addr.Is4), " ",
				slices.Contains(f.Addresses, netip.MustParseAddr("fd00:78::2"))))
		}
		if diff := cmp.Diff([]string{"lamp eth0 80 true false", "lamp eth1 81 false true"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		list, err = Scan(t.Context(), ScanOptions{Services: []string{"_http._tcp"}, Interfaces: []string{"eth1"}, Timeout: time.Second})
		if err != nil || len(list) != 1 || list[0].Interface != "eth1" {
			t.Errorf("on eth1 alone: %v, %v", list, err)
		}
	})
}

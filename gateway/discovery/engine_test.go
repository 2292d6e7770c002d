package discovery

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The world of the engines' tests: no network, no clock.
var (
	start     = time.Unix(1700000000, 0)
	eth0      = link{index: 1, name: "eth0", addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fe80::1/64")}}
	machine   = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("127.0.0.1")}
	other     = netip.MustParseAddrPort("10.0.0.2:5353")
	neighbour = netip.MustParseAddrPort("10.0.0.1:5353") // on our own machine
)

func least(lo, _ time.Duration) time.Duration { return lo }

// A sent packet, when, and read again.
type sent struct {
	at time.Duration // since start
	to netip.AddrPort
	*dns.Msg
}

// drive polls e whenever it wants to be polled, from one time since start to another.
func drive(t *testing.T, e engine, from, to time.Duration) []sent {
	t.Helper()
	var all []sent
	for now, polls := start.Add(from), 0; ; polls++ {
		out, next := e.poll(now)
		for _, p := range out {
			var m dns.Msg
			if err := m.Unpack(p.data); err != nil {
				t.Fatalf("sends what cannot be read: %v", err)
			}
			all = append(all, sent{now.Sub(start), p.peer, &m})
		}
		if len(out) == 0 && !next.After(now) || polls > 10000 {
			t.Fatalf("at %v it wants to be polled at %v: it would spin", now.Sub(start), next.Sub(start))
		}
		if next.After(start.Add(to)) {
			return all
		}
		now = next
	}
}

func newTestResponder(t *testing.T, services ...Service) *responder {
	t.Helper()
	r := newResponder(least, slog.New(slog.DiscardHandler))
	for i, s := range services {
		c, err := s.complete()
		if err != nil {
			t.Fatal(err)
		}
		services[i] = c
	}
	r.setServices(start, services)
	r.setLinks(start, []link{eth0}, machine)
	return r
}

func lamp() Service {
	return Service{Type: "_http._tcp", Instance: "Lamp", Host: "lamp", Port: 80, TXT: map[string]string{"id": "1"}}
}

// give hands e a message from somebody.
func give(t *testing.T, e engine, at time.Duration, from netip.AddrPort, m *dns.Msg) {
	t.Helper()
	data, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	e.receive(start.Add(at), packet{link: 1, peer: from, data: data})
}

func question(qtype uint16, names ...string) *dns.Msg {
	m := new(dns.Msg)
	for _, name := range names {
		m.Question = append(m.Question, dns.Question{Name: name, Qtype: qtype, Qclass: dns.ClassINET})
	}
	return m
}

// answers is a response that says records, given as in a zone file; a class of FLUSH has the
// cache-flush bit.
func answers(t *testing.T, records ...string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.Response, m.Authoritative = true, true
	m.Answer = rrs(t, records...)
	return m
}

func rrs(t *testing.T, records ...string) []dns.RR {
	t.Helper()
	var out []dns.RR
	for _, s := range records {
		rr, err := dns.NewRR(strings.Replace(s, " FLUSH ", " IN ", 1))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(s, " FLUSH ") {
			rr.Header().Class |= topBit
		}
		out = append(out, rr)
	}
	return out
}

// brief writes records as rrs reads them, sorted.
func brief(list []dns.RR) []string {
	var out []string
	for _, rr := range list {
		rr = dns.Copy(rr)
		class := " IN "
		if rr.Header().Class&topBit != 0 {
			rr.Header().Class &^= topBit
			class = " FLUSH "
		}
		out = append(out, strings.ReplaceAll(strings.Replace(rr.String(), "\tIN\t", class, 1), "\t", " "))
	}
	slices.Sort(out)
	return out
}

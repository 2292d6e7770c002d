package discovery

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func seed(f *testing.F, messages ...*dns.Msg) {
	f.Helper()
	for _, m := range messages {
		data, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

func seeds(f *testing.F) {
	f.Helper()
	rr := func(s string) dns.RR {
		rr, err := dns.NewRR(s)
		if err != nil {
			f.Fatal(err)
		}
		return rr
	}
	full := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Compress: true, Answer: []dns.RR{
		rr("_http._tcp.local. 4500 IN PTR fan._http._tcp.local."), rr("fan._http._tcp.local. 120 IN SRV 0 0 80 fan.local."),
		rr(`fan._http._tcp.local. 4500 IN TXT "id=f" "\200\007"`), rr("fan.local. 120 IN A 10.0.0.2"), rr("fan.local. 0 IN AAAA fe80::2"),
	}}
	rival := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Answer: []dns.RR{rr("Lamp._http._tcp.local. 120 IN SRV 0 0 80 fan.local."), rr("lamp.local. 120 IN A 10.0.0.9")}}
	probe := question(dns.TypeANY, "Lamp._http._tcp.local.", "lamp.local.")
	probe.Ns = []dns.RR{rr("Lamp._http._tcp.local. 120 IN SRV 11 0 80 fan.local."), rr("lamp.local. 120 IN A 10.0.0.9")}
	query := question(dns.TypePTR, "_http._tcp.local.", enumName)
	query.Answer = []dns.RR{rr("_http._tcp.local. 4500 IN PTR fan._http._tcp.local.")}
	seed(f, full, rival, probe, query)
}

// FuzzHeard: whatever a browser hears, what it finds is harmless and bounded, what it asks can be
// read, and in the end it forgets.
func FuzzHeard(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _ := newTestBrowser("_http._tcp", "_mqtt._tcp")
		give(t, b, 0, other, answers(t, fanPTR, fanSRV, fanTXT, fanA))
		b.receive(start, packet{link: 1, peer: other, data: data})
		for _, f := range b.all() {
			harmless(t, f)
		}
		drive(t, b, 0, 10*time.Second)
		b.receive(start.Add(10*time.Second), packet{link: 1, peer: other, data: data})
		drive(t, b, 10*time.Second, 49*time.Hour)
		if b.size != 0 || len(b.links[1].instances) != 0 || len(b.links[1].hosts) != 0 {
			t.Errorf("after two days it keeps %d instances, %d hosts", b.size, len(b.links[1].hosts))
		}
	})
}

// FuzzAsked: whatever a responder hears, from whomever, what it says can be read, is of bounded
// size, and goes to the group or to a host on the link.
func FuzzAsked(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, from := range []string{"10.0.0.2:5353", "10.0.0.1:5353", "10.0.0.2:4000", "192.0.2.1:4000"} {
			for _, at := range []time.Duration{300 * time.Millisecond, time.Minute} {
				r := newResponder(least, slog.New(slog.DiscardHandler))
				s, err := lamp().complete()
				if err != nil {
					t.Fatal(err)
				}
				r.setServices(start, []Service{s})
				r.setLinks(start, []link{eth0}, machine)
				drive(t, r, 0, at)
				r.receive(start.Add(at), packet{link: 1, peer: netip.MustParseAddrPort(from), data: data})
				for _, s := range drive(t, r, at, at+time.Minute) {
					if s.Len() > maxPacket || s.to.IsValid() && !eth0.near(s.to.Addr()) {
						t.Errorf("%d bytes to %v", s.Len(), s.to)
					}
				}
			}
		}
	})
}

// FuzzNames: labels and strings of any bytes survive the way to the wire and back.
func FuzzNames(f *testing.F) {
	f.Add("Größe 1. Hub")
	f.Add("a\\.b\"\x00\xff'@;()")
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) == 0 || len(s) > 63 {
			return
		}
		name, err := fqdn(s, "_http", "_tcp")
		if err != nil {
			t.Fatal(err)
		}
		label, typ, ok := splitInstance(name)
		if !ok || label != s || typ != "_http._tcp.local." {
			t.Errorf("%q became %q: %q of %q", s, name, label, typ)
		}
		rr := &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{escapeString(s)}}
		data, err := (&dns.Msg{Answer: []dns.RR{rr}}).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var m dns.Msg
		if err := m.Unpack(data); err != nil {
			t.Fatal(err)
		}
		if got := unescapeString(m.Answer[0].(*dns.TXT).Txt[0]); got != s {
			t.Errorf("%q became %q", s, got)
		}
		if !same(rr, m.Answer[0]) {
			t.Errorf("%v is not the same as %v", rr, m.Answer[0])
		}
	})
}

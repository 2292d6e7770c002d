package discovery

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const (
	fanPTR = "_http._tcp.local. 4500 IN PTR fan._http._tcp.local."
	fanSRV = "fan._http._tcp.local. 120 FLUSH SRV 0 0 80 fan.local."
	fanTXT = `fan._http._tcp.local. 4500 FLUSH TXT "id=f"`
	fanA   = "fan.local. 120 FLUSH A 10.0.0.2"
)

// newTestBrowser returns a browser, and what it reports, in a line each.
func newTestBrowser(types ...string) (*browser, *[]string) {
	b := newBrowser(types, least, func() time.Time { return start }, slog.New(slog.DiscardHandler))
	var reports []string
	b.report = func(f Found) {
		line := fmt.Sprint(f.Instance, " ", f.Host, ":", f.Port, " ", f.Addresses, " ", f.TXT)
		if f.Gone {
			line = f.Instance + " gone"
		}
		reports = append(reports, line)
	}
	b.setLinks(start, []link{eth0}, machine)
	return b, &reports
}

func asked(list []sent) []string {
	var out []string
	for _, s := range list {
		line := s.at.String()
		for _, q := range s.Question {
			line += " " + dns.TypeToString[q.Qtype] + " " + q.Name
		}
		if len(s.Answer) > 0 {
			line += fmt.Sprint(" knowing ", len(s.Answer))
		}
		out = append(out, line)
	}
	return out
}

func expect(t *testing.T, what string, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestBrowseBackoff: one message for all types, after a short while, then after 1, 2, 4, … s, and
// at last once an hour (RFC 6762 §5.2).
func TestBrowseBackoff(t *testing.T) {
	t.Parallel()
	b, _ := newTestBrowser("_http._tcp", "_mqtt._tcp")
	got := asked(drive(t, b, 0, 10*time.Second))
	const q = " PTR _http._tcp.local. PTR _mqtt._tcp.local."
	expect(t, "questions", []string{"20ms" + q, "1.02s" + q, "3.02s" + q, "7.02s" + q}, got)
	day := drive(t, b, 10*time.Second, 24*time.Hour)
	if n := len(day); n < 29 || n > 34 {
		t.Errorf("%d more messages in a day", n)
	}
	if gap := day[len(day)-1].at - day[len(day)-2].at; gap != time.Hour {
		t.Errorf("at last one in %v", gap)
	}
	b.setLinks(start.Add(25*time.Hour), []link{eth0}, machine)
	moved := eth0
	moved.addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}
	b.setLinks(start.Add(25*time.Hour), []link{moved}, machine)
	if got := asked(drive(t, b, 25*time.Hour, 25*time.Hour+time.Second)); len(got) != 1 {
		t.Errorf("in another network it asks %v", got)
	}
}

// TestWatched is a service's life: found whole, refreshed, moved, half forgotten, gone.
func TestWatched(t *testing.T) {
	t.Parallel()
	b, reports := newTestBrowser("_http._tcp")
	drive(t, b, 0, time.Minute)
	give(t, b, time.Minute, other, answers(t, fanPTR, fanSRV, fanTXT, fanA))
	drive(t, b, time.Minute, time.Minute+99*time.Millisecond)
	expect(t, "reports at once", nil, *reports)
	drive(t, b, time.Minute, 62*time.Second)
	here := "fan fan.local:80 [10.0.0.2] map[id:f]"
	expect(t, "reports", []string{here}, *reports)

	give(t, b, 70*time.Second, other, answers(t, fanPTR, fanSRV, fanTXT, fanA))
	drive(t, b, 70*time.Second, 72*time.Second)
	expect(t, "reports of nothing new", []string{here}, *reports)

	give(t, b, 80*time.Second, other, answers(t, "fan.local. 120 FLUSH A 10.0.0.3"))
	drive(t, b, 80*time.Second, 85*time.Second)
	moved := "fan fan.local:80 [10.0.0.3] map[id:f]"
	expect(t, "reports of another address", []string{here, "fan fan.local:80 [10.0.0.2 10.0.0.3] map[id:f]", moved}, *reports)

	// At 80, 85, 90 and 95 % of the 120 s it asks again.
	got := asked(drive(t, b, 85*time.Second, 189*time.Second))
	srv := " SRV fan._http._tcp.local."
	expect(t, "refreshing questions", []string{
		"2m14s PTR _http._tcp.local. knowing 1", // the next browsing
		"2m46s" + srv, "2m52s" + srv, "2m56s A fan.local.", "2m58s" + srv, "3m2s A fan.local.", "3m4s" + srv, "3m8s A fan.local.",
	}, got)
	drive(t, b, 189*time.Second, 191*time.Second)
	expect(t, "reports", []string{here, "fan fan.local:80 [10.0.0.2 10.0.0.3] map[id:f]", moved, "fan gone"}, *reports)
	if b.size != 0 || len(b.links[1].hosts) != 0 {
		t.Errorf("it keeps %d instances and %d hosts", b.size, len(b.links[1].hosts))
	}
}

func TestGoodbyeHeard(t *testing.T) {
	t.Parallel()
	b, reports := newTestBrowser("_http._tcp")
	drive(t, b, 0, time.Second)
	give(t, b, time.Second, other, answers(t, fanPTR, fanSRV, fanTXT, fanA))
	drive(t, b, time.Second, 5*time.Second)
	bye := answers(t, strings.Replace(fanPTR, "4500", "0", 1))
	give(t, b, 5*time.Second, other, bye)
	give(t, b, 5500*time.Millisecond, other, answers(t, fanPTR)) // another says that it is still there, RFC 6762 §10.1
	drive(t, b, 5*time.Second, 10*time.Second)
	here := "fan fan.local:80 [10.0.0.2] map[id:f]"
	expect(t, "reports after a withdrawn goodbye", []string{here}, *reports)
	give(t, b, 10*time.Second, other, bye)
	drive(t, b, 10*time.Second, 10999*time.Millisecond)
	expect(t, "reports within a second", []string{here}, *reports)
	drive(t, b, 10999*time.Millisecond, 11*time.Second)
	expect(t, "reports after it", []string{here, "fan gone"}, *reports)
	b.setLinks(start.Add(12*time.Second), nil, nil)
	expect(t, "reports without a link", []string{here, "fan gone"}, *reports)
}

func TestLinkLost(t *testing.T) {
	t.Parallel()
	b, reports := newTestBrowser("_http._tcp")
	give(t, b, time.Second, other, answers(t, fanPTR, fanSRV, fanTXT, fanA))
	drive(t, b, time.Second, 2*time.Second)
	b.setLinks(start.Add(3*time.Second), nil, nil)
	expect(t, "reports", []string{"fan fan.local:80 [10.0.0.2] map[id:f]", "fan gone"}, *reports)
}

// TestChase: what is missing is asked for, five times; then what there is is reported.
func TestChase(t *testing.T) {
	t.Parallel()
	b, reports := newTestBrowser("_http._tcp")
	drive(t, b, 0, 40*time.Second)
	give(t, b, 40*time.Second, other, answers(t, fanPTR))
	expect(t, "questions", []string{"40.1s SRV fan._http._tcp.local. TXT fan._http._tcp.local.", "41.1s SRV fan._http._tcp.local. TXT fan._http._tcp.local."},
		asked(drive(t, b, 40*time.Second, 42*time.Second)))
	give(t, b, 42*time.Second, other, answers(t, fanSRV))
	got := asked(drive(t, b, 42*time.Second, 140*time.Second))
	addresses, text := 0, 0
	for _, line := range got {
		addresses += strings.Count(line, " A fan.local. AAAA fan.local.")
		text += strings.Count(line, " TXT ")
	}
	if addresses != 5 || text != 3 {
		t.Errorf("it asks %d times for addresses and %d for text: %v", addresses, text, got)
	}
	expect(t, "reports", []string{"fan fan.local:80 [] map[]"}, *reports)
	give(t, b, 141*time.Second, other, answers(t, fanTXT, fanA))
	drive(t, b, 141*time.Second, 142*time.Second)
	expect(t, "reports", []string{"fan fan.local:80 [] map[]", "fan fan.local:80 [10.0.0.2] map[id:f]"}, *reports)
}

func TestNotLearnt(t *testing.T) {
	t.Parallel()
	query := answers(t, fanPTR, fanSRV, fanTXT, fanA)
	query.Response = false
	for _, tc := range []struct {
		name string
		from netip.AddrPort
		m    *dns.Msg
	}{
		{"from another port, RFC 6762 §6", netip.MustParseAddrPort("10.0.0.2:53"), answers(t, fanPTR, fanSRV, fanTXT, fanA)},
		{"the known answers of a query", other, query},
		{"another type", other, answers(t, "_ipp._tcp.local. 4500 IN PTR fan._ipp._tcp.local.", "fan._ipp._tcp.local. 120 IN SRV 0 0 80 fan.local.", fanA)},
		{"an instance of another type", other, answers(t, "_http._tcp.local. 4500 IN PTR fan._ipp._tcp.local.", "fan._ipp._tcp.local. 120 IN SRV 0 0 80 fan.local.", fanA)},
		{"another domain", other, answers(t, "_http._tcp.example. 4500 IN PTR fan._http._tcp.example.", "fan._http._tcp.example. 120 IN SRV 0 0 80 fan.local.", fanA)},
		{"a type itself", other, answers(t, "_http._tcp.local. 4500 IN PTR _http._tcp.local.", "_http._tcp.local. 120 IN SRV 0 0 80 fan.local.", fanA)},
		{"no target, RFC 2782", other, answers(t, fanPTR, "fan._http._tcp.local. 120 IN SRV 0 0 80 .", fanTXT)},
		{"no pointer", other, answers(t, fanSRV, fanTXT, fanA)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, reports := newTestBrowser("_http._tcp")
			give(t, b, 0, tc.from, tc.m)
			drive(t, b, 0, 10*time.Second)
			if len(*reports) > 0 || len(b.all()) > 0 {
				t.Errorf("reports %v, all %v", *reports, b.all())
			}
		})
	}
	b, _ := newTestBrowser("_http._tcp")
	give(t, b, 0, other, answers(t, fanPTR, fanSRV, "fan.local. 120 IN A 0.0.0.0", "fan.local. 120 IN A 224.0.0.1", "fan.local. 120 IN AAAA ::ffff:10.0.0.9", "fan.local. 120 IN AAAA fe80::5"))
	if got := b.all(); len(got) != 1 || fmt.Sprint(got[0].Addresses) != "[fe80::5%eth0]" {
		t.Errorf("addresses: %v", got)
	}
}

// TestBounds: however much is announced, what is kept is bounded.
func TestBounds(t *testing.T) {
	t.Parallel()
	b, _ := newTestBrowser("_http._tcp")
	for i := range maxInstances + 100 {
		name := fmt.Sprintf("n%d._http._tcp.local.", i)
		give(t, b, 0, other, answers(t, "_http._tcp.local. 4500 IN PTR "+name, name+" 120 IN SRV 0 0 80 fan.local."))
	}
	for i := range 2 * maxAddresses {
		give(t, b, 0, other, answers(t, fmt.Sprintf("fan.local. 120 IN A 10.1.0.%d", i+1)))
	}
	var txt []string
	for i := range 200 {
		txt = append(txt, fmt.Sprintf(`"k%d=%s"`, i, strings.Repeat("x", 200)))
	}
	give(t, b, 0, other, answers(t, "n1._http._tcp.local. 4500 IN TXT "+strings.Join(txt[:40], " ")))
	got := b.all()
	if len(got) != maxInstances || len(got[0].Addresses) != maxAddresses {
		t.Errorf("it keeps %d instances, %d addresses", len(got), len(got[0].Addresses))
	}
	for _, f := range got {
		size := 0
		for k, v := range f.TXT {
			size += len(k) + len(v)
		}
		if size > maxFoundTXT || f.Instance == "n1" && size == 0 {
			t.Errorf("%s has %d bytes of text", f.Instance, size)
		}
	}
}

// TestManyDevices: 200 devices that answer what they are asked are all found within 10 s, by at most
// 40 packets, each small enough, that name the devices already known.
func TestManyDevices(t *testing.T) {
	t.Parallel()
	b, reports := newTestBrowser(DefaultServices()...)
	packets, announced := 0, map[int]bool{}
	for at := time.Duration(0); at < 10*time.Second; at += 10 * time.Millisecond {
		out, _ := b.poll(start.Add(at))
		for _, p := range out {
			packets++
			var m dns.Msg
			if err := m.Unpack(p.data); err != nil || len(p.data) > packetLimit {
				t.Fatalf("packet of %d bytes: %v", len(p.data), err)
			}
			if len(m.Question) == 0 {
				continue
			}
			for i := range 200 {
				if !announced[i] && (i+packets)%3 > 0 { // some are slow, or miss the question
					announced[i] = true
					name := fmt.Sprintf("shellyplus1pm-a8032abe%04x._http._tcp.local.", i)
					host := fmt.Sprintf("shelly-%d.local.", i)
					give(t, b, at, other, answers(t, "_http._tcp.local. 4500 IN PTR "+name, name+" 120 FLUSH SRV 0 0 80 "+host,
						name+` 4500 FLUSH TXT "gen=2"`, host+fmt.Sprintf(" 120 FLUSH A 10.0.0.%d", i+3)))
				}
			}
		}
	}
	if len(*reports) != 200 || packets > 20 { // on each of IPv4 and IPv6
		t.Errorf("%d reports, %d packets", len(*reports), packets)
	}
}

// TestUnprintable: nothing that is announced reaches a terminal as it is.
func TestUnprintable(t *testing.T) {
	t.Parallel()
	b, _ := newTestBrowser("_http._tcp")
	evil := `a\027[2J\226\128\174x\255\.b._http._tcp.local.` // escape, right-to-left override, no UTF-8
	give(t, b, 0, other, answers(t, "_http._tcp.local. 4500 IN PTR "+evil, evil+` 120 IN SRV 0 0 80 h\007\.st.local.`,
		evil+` 4500 IN TXT "ID=\027]0;x\007" "id=second" "=none" "Flag" ""`, `h\007\.st.local. 120 IN A 10.0.0.2`))
	got := b.all()
	if len(got) != 1 {
		t.Fatalf("found %v", got)
	}
	f := got[0]
	if f.Instance != "a\uFFFD[2J\uFFFDx\uFFFD.b" || f.Host != "h\uFFFD.st.local" || f.DeviceID != "\uFFFD]0;x\uFFFD" {
		t.Errorf("%q on %q, %q", f.Instance, f.Host, f.DeviceID)
	}
	if diff := cmp.Diff(map[string]string{"id": "\uFFFD]0;x\uFFFD", "flag": ""}, f.TXT); diff != "" {
		t.Errorf("TXT (-want +got):\n%s", diff)
	}
	harmless(t, f)
}

// harmless fails if f could hurt a terminal, or is larger than promised.
func harmless(t *testing.T, f Found) {
	t.Helper()
	all := append([]string{f.Instance, f.Service, string(f.Kind), f.Host, f.DeviceID, f.Interface}, fmt.Sprint(f.Addresses))
	size := 0
	for k, v := range f.TXT {
		all = append(all, k, v)
		size += len(k) + len(v)
	}
	for _, s := range all {
		if !utf8.ValidString(s) || text(s) != s || len(s) > 4096 {
			t.Errorf("%q is not fit to print", s)
		}
	}
	if size > maxFoundTXT || len(f.TXT) > maxFoundPairs || len(f.Addresses) > maxAddresses {
		t.Errorf("%d bytes of text, %d pairs, %d addresses", size, len(f.TXT), len(f.Addresses))
	}
}

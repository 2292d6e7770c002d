package discovery

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const (
	lampPTR = "_http._tcp.local. 4500 IN PTR Lamp._http._tcp.local."
	lampAny = "_services._dns-sd._udp.local. 4500 IN PTR _http._tcp.local."
	lampSRV = "Lamp._http._tcp.local. 120 FLUSH SRV 10 1 80 lamp.local."
	lampTXT = `Lamp._http._tcp.local. 4500 FLUSH TXT "id=1"`
	lampA   = "lamp.local. 120 FLUSH A 10.0.0.1"
	lampNo6 = "lamp.local. 120 FLUSH NSEC lamp.local. A"
)

func TestProbeAndAnnounce(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range drive(t, newTestResponder(t, lamp()), 0, 10*time.Second) {
		if s.to.IsValid() {
			t.Errorf("sends to %v", s.to)
		}
		kind := "announces"
		if !s.Response {
			kind = "probes"
			for _, q := range s.Question {
				if q.Qtype != dns.TypeANY || q.Qclass != dns.ClassINET {
					t.Errorf("probes by %v", q)
				}
			}
			if diff := cmp.Diff(sorted(unflushed(lampTXT), unflushed(lampSRV), unflushed(lampA)), brief(s.Ns)); diff != "" {
				t.Errorf("probe (-want +got):\n%s", diff)
			}
		} else if diff := cmp.Diff(sorted(lampPTR, lampAny, lampSRV, lampTXT, lampA), brief(s.Answer)); diff != "" {
			t.Errorf("announcement (-want +got):\n%s", diff)
		}
		got = append(got, s.at.String()+" "+kind)
	}
	want := []string{"0s probes", "250ms probes", "500ms probes", "750ms announces", "1.75s announces", "3.75s announces"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func unflushed(s string) string { return strings.Replace(s, " FLUSH ", " IN ", 1) }

func sorted(s ...string) []string { slices.Sort(s); return s }

// TestAnswers puts queries to a responder that announced everything a minute ago.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const asked = time.Minute
	unicast := func(m *dns.Msg) *dns.Msg { m.Question[0].Qclass |= topBit; return m }
	knowing := func(m *dns.Msg, known ...string) *dns.Msg { m.Answer = rrs(t, known...); return m }
	truncated := func(m *dns.Msg) *dns.Msg { m.Truncated = true; return m }
	for _, tc := range []struct {
		name    string
		query   *dns.Msg
		from    netip.AddrPort // zero: other
		after   time.Duration
		to      netip.AddrPort
		answers []string // nil: no answer
		extra   []string
	}{
		{name: "all of a type, RFC 6763 §12.1", query: question(dns.TypePTR, "_http._tcp.local."), after: 20 * time.Millisecond, answers: []string{lampPTR}, extra: sorted(lampSRV, lampTXT, lampA, lampNo6)},
		{name: "names in any case, RFC 6762 §16", query: question(dns.TypePTR, "_HTTP._tcp.LOCAL."), after: 20 * time.Millisecond, answers: []string{lampPTR}, extra: sorted(lampSRV, lampTXT, lampA, lampNo6)},
		{name: "all types", query: question(dns.TypePTR, enumName), after: 20 * time.Millisecond, answers: []string{lampAny}},
		{name: "a unique record at once", query: question(dns.TypeSRV, "lamp._http._tcp.local."), answers: []string{lampSRV}, extra: sorted(lampA, lampNo6)},
		{name: "any record", query: question(dns.TypeANY, "lamp._http._tcp.local."), answers: sorted(lampSRV, lampTXT), extra: sorted(lampA, lampNo6)},
		{name: "an address", query: question(dns.TypeA, "lamp.local."), answers: []string{lampA}},
		{name: "an address that we have not, RFC 6762 §6.1", query: question(dns.TypeAAAA, "lamp.local."), answers: []string{lampNo6}},
		{name: "several questions in one answer", query: question(dns.TypeANY, "lamp.local.", "Lamp._http._tcp.local."), answers: sorted(lampA, lampSRV, lampTXT), extra: []string{lampNo6}},
		{name: "another's name", query: question(dns.TypeA, "fan.local.")},
		{name: "another class", query: &dns.Msg{Question: []dns.Question{{Name: "lamp.local.", Qtype: dns.TypeA, Qclass: dns.ClassCHAOS}}}},
		{name: "what the asker knows, RFC 6762 §7.1", query: knowing(question(dns.TypePTR, "_http._tcp.local."), "_http._tcp.local. 2250 IN PTR lamp._http._tcp.local.")},
		{name: "what the asker forgets soon", query: knowing(question(dns.TypePTR, "_http._tcp.local."), "_http._tcp.local. 2249 IN PTR lamp._http._tcp.local."), after: 20 * time.Millisecond, answers: []string{lampPTR}, extra: sorted(lampSRV, lampTXT, lampA, lampNo6)},
		{name: "more known answers are to come, RFC 6762 §7.2", query: truncated(question(dns.TypeA, "lamp.local.")), after: 400 * time.Millisecond, answers: []string{lampA}},
		{name: "unicast, RFC 6762 §5.4", query: unicast(question(dns.TypePTR, "_http._tcp.local.")), to: other, answers: []string{lampPTR}, extra: sorted(lampSRV, lampTXT, lampA, lampNo6)},
		{name: "unicast of what was not multicast for long", query: unicast(question(dns.TypeA, "lamp.local.")), answers: []string{lampA}},
		{name: "unicast, but the asker is not on the link", query: unicast(question(dns.TypePTR, "_http._tcp.local.")), from: netip.MustParseAddrPort("192.0.2.1:5353"), after: 20 * time.Millisecond, answers: []string{lampPTR}, extra: sorted(lampSRV, lampTXT, lampA, lampNo6)},
		{name: "plain DNS, RFC 6762 §6.7", query: question(dns.TypeSRV, "lamp._http._tcp.local."), from: netip.MustParseAddrPort("10.0.0.2:40000"), to: netip.MustParseAddrPort("10.0.0.2:40000"),
			answers: []string{"Lamp._http._tcp.local. 10 IN SRV 10 1 80 lamp.local."}, extra: sorted("lamp.local. 10 IN A 10.0.0.1", "lamp.local. 10 IN NSEC lamp.local. A")},
		{name: "plain DNS, but the asker is not on the link", query: question(dns.TypeSRV, "lamp._http._tcp.local."), from: netip.MustParseAddrPort("192.0.2.1:40000")},
		{name: "another operation, RFC 6762 §18.3", query: &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeNotify}, Question: question(dns.TypeA, "lamp.local.").Question}},
		{name: "an error, RFC 6762 §18.11", query: &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}, Question: question(dns.TypeA, "lamp.local.").Question}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newTestResponder(t, lamp())
			drive(t, r, 0, asked-time.Second)
			if !tc.from.IsValid() {
				tc.from = other
			}
			tc.query.Id = 77
			give(t, r, asked, tc.from, tc.query)
			got := drive(t, r, asked, asked+3*time.Second)
			if tc.answers == nil {
				if len(got) != 0 {
					t.Fatalf("answers %v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d answers", len(got))
			}
			a := got[0]
			if a.at != asked+tc.after || a.to != tc.to || !a.Response || !a.Authoritative {
				t.Errorf("answer after %v to %v: %v", a.at-asked, a.to, a)
			}
			if legacy := tc.from.Port() != port; legacy != (a.Id == 77) || legacy != (len(a.Question) == 1) {
				t.Errorf("answer has identifier %d and %d questions", a.Id, len(a.Question))
			}
			if diff := cmp.Diff(tc.answers, brief(a.Answer)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.extra, brief(a.Extra)); diff != "" {
				t.Errorf("additional (-want +got):\n%s", diff)
			}
		})
	}
}

// TestKnownAnswersFollow: the rest of a truncated query tells what need not be said, unless somebody
// else has asked for it too.
func TestKnownAnswersFollow(t *testing.T) {
	t.Parallel()
	third := netip.MustParseAddrPort("10.0.0.3:5353")
	for _, tc := range []struct {
		name   string
		rest   netip.AddrPort
		second bool
		want   int
	}{
		{"the asker knows", other, false, 0},
		{"another knows", third, false, 1},
		{"a second one asked", other, true, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newTestResponder(t, lamp())
			drive(t, r, 0, time.Minute)
			q := question(dns.TypePTR, "_http._tcp.local.")
			q.Truncated = true
			give(t, r, time.Minute, other, q)
			if tc.second {
				give(t, r, time.Minute, third, q)
			}
			give(t, r, time.Minute+time.Millisecond, tc.rest, &dns.Msg{Answer: rrs(t, lampPTR)})
			if got := drive(t, r, time.Minute+time.Millisecond, time.Minute+5*time.Second); len(got) != tc.want {
				t.Errorf("%d answers, want %d: %v", len(got), tc.want, got)
			}
		})
	}
}

// TestStorm: whatever is asked, a record is said once a second (RFC 6762 §6).
func TestStorm(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp())
	drive(t, r, 0, time.Minute)
	answers := 0
	for at := time.Minute; at < time.Minute+5*time.Second; at += 20 * time.Millisecond {
		give(t, r, at, other, question(dns.TypeANY, "_http._tcp.local.", "lamp.local.", "Lamp._http._tcp.local."))
		answers += len(drive(t, r, at, at))
	}
	if answers < 5 || answers > 12 {
		t.Errorf("%d answers to 250 queries in 5 s", answers)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp(), Service{Type: "_mqtt._tcp", Instance: "Lamp", Host: "lamp", Port: 1883})
	drive(t, r, 0, time.Minute)
	changed := lamp()
	changed.Port = 81
	changed, _ = changed.complete()
	r.setServices(start.Add(time.Minute), []Service{changed})
	got := drive(t, r, time.Minute, time.Minute+500*time.Millisecond)
	if len(got) != 2 {
		t.Fatalf("%d messages: %v", len(got), got)
	}
	gone := sorted("Lamp._mqtt._tcp.local. 0 FLUSH SRV 10 1 1883 lamp.local.", `Lamp._mqtt._tcp.local. 0 FLUSH TXT ""`, "_mqtt._tcp.local. 0 IN PTR Lamp._mqtt._tcp.local.")
	if diff := cmp.Diff(gone, brief(got[0].Answer)); diff != "" {
		t.Errorf("goodbye (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(sorted(lampPTR, lampAny, lampTXT, lampA, strings.Replace(lampSRV, " 80 ", " 81 ", 1)), brief(got[1].Answer)); diff != "" {
		t.Errorf("announcement (-want +got):\n%s", diff)
	}
	drive(t, r, time.Minute+500*time.Millisecond, 2*time.Minute)
	r.setServices(start.Add(2*time.Minute), []Service{changed})
	if got := drive(t, r, 2*time.Minute, 3*time.Minute); len(got) != 0 {
		t.Errorf("an update that changes nothing says %v", got)
	}
	if out := r.leave(); len(out) != 1 {
		t.Errorf("%d goodbyes", len(out))
	}
}

func TestServiceIsChecked(t *testing.T) {
	t.Parallel()
	a := NewAnnouncer(Options{})
	for _, tc := range []struct {
		change func(*Service)
		err    string
	}{
		{func(s *Service) { s.Type = "http" }, `service type "http" is not of the form _name._tcp`},
		{func(s *Service) { s.Type = "_ht tp._tcp" }, "letters, digits and hyphens only"},
		{func(s *Service) { s.Host = "a.b" }, `host "a.b" is not a name of one label`},
		{func(s *Service) { s.Instance = strings.Repeat("x", 64) }, "is not 1 to 63 bytes of UTF-8"},
		{func(s *Service) { s.Instance = "a\nb" }, "without control characters"},
		{func(s *Service) { s.Port = 65536 }, "port 65536 is not within 1 to 65535"},
		{func(s *Service) { s.TXT = map[string]string{"a=b": ""} }, `TXT "a=b" is not printable ASCII without '='`},
		{func(s *Service) { s.TXT = map[string]string{"a": strings.Repeat("x", 254)} }, "longer than 255 bytes"},
		{func(s *Service) {
			s.TXT = map[string]string{}
			for _, k := range "abcdef" {
				s.TXT[string(k)] = strings.Repeat("x", 250)
			}
		}, "TXT has 1518 bytes, want at most 1300"},
	} {
		s := lamp()
		tc.change(&s)
		if err := a.Update([]Service{s}); err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("Update: %v, want %q", err, tc.err)
		}
	}
	if err := a.Update([]Service{lamp(), lamp()}); err == nil || !strings.Contains(err.Error(), "announced twice") {
		t.Errorf("Update twice: %v", err)
	}
	if err := a.Update([]Service{{Type: "_http._tcp.local.", Port: 1}}); err != nil {
		t.Errorf("Update with defaults: %v", err)
	}
}

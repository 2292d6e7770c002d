package discovery

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// says reports whether one of the messages answers with a record.
func says(list []sent, want string) bool {
	return slices.ContainsFunc(list, func(s sent) bool { return s.Response && slices.Contains(brief(s.Answer), want) })
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	const foreign = "Lamp._http._tcp.local. 120 FLUSH SRV 0 0 80 fan.local."
	numbered := strings.Replace(lampSRV, "Lamp", `Lamp\ \(2\)`, 1)
	renamedHost := "lamp-2.local. 120 FLUSH A 10.0.0.1"
	for _, tc := range []struct {
		name  string
		at    time.Duration // when it is heard
		say   []string
		keeps bool   // our names
		want  string // is said within a few seconds
	}{
		{"while probing, an instance", 300 * time.Millisecond, []string{foreign}, false, numbered},
		{"while probing, a host", 300 * time.Millisecond, []string{"lamp.local. 120 FLUSH A 10.0.0.99"}, false, renamedHost},
		{"while probing, a record of another type", 300 * time.Millisecond, []string{`lamp.local. 120 FLUSH HINFO "x" "y"`}, false, renamedHost},
		{"the same data, RFC 6762 §9", 300 * time.Millisecond, []string{lampSRV, lampTXT, lampA}, true, lampSRV},
		{"an address of ours, seen from another link", 300 * time.Millisecond, []string{"lamp.local. 120 FLUSH A 127.0.0.1"}, true, lampSRV},
		{"a goodbye", 300 * time.Millisecond, []string{"Lamp._http._tcp.local. 0 FLUSH SRV 0 0 80 fan.local."}, true, lampSRV},
		{"announced: probes again, nobody insists", time.Minute, []string{foreign}, true, lampSRV},
		{"announced: another type of record does not matter", time.Minute, []string{`lamp.local. 120 FLUSH HINFO "x" "y"`}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newTestResponder(t, lamp())
			drive(t, r, 0, tc.at)
			give(t, r, tc.at, other, answers(t, tc.say...))
			got := drive(t, r, tc.at, tc.at+10*time.Second)
			if tc.want != "" && !says(got, tc.want) {
				t.Errorf("it does not say %s: %v", tc.want, got)
			}
			if renamed := len(r.variants) > 0; renamed == tc.keeps {
				t.Errorf("renamed: %v", r.variants)
			}
		})
	}
}

// TestInsist: another keeps claiming an announced name. We probe, hear it again, and give way
// without withdrawing the other's records.
func TestInsist(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp())
	drive(t, r, 0, time.Minute)
	var got []sent
	for at := time.Minute; at < time.Minute+2*time.Second; at += 100 * time.Millisecond {
		give(t, r, at, other, answers(t, "Lamp._http._tcp.local. 120 FLUSH SRV 0 0 80 fan.local."))
		got = append(got, drive(t, r, at, at)...)
	}
	if !says(got, `Lamp\ \(2\)._http._tcp.local. 120 FLUSH SRV 10 1 80 lamp.local.`) {
		t.Errorf("it does not take another name: %v", got)
	}
	for _, s := range got {
		for _, rr := range s.Answer {
			if rr.Header().Ttl == 0 {
				t.Errorf("it withdraws %v", rr)
			}
		}
	}
}

// TestClashes: somebody takes every name. After 15 in a row we take our time (RFC 6762 §8.1).
func TestClashes(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp())
	probes := 0
	for at := time.Duration(0); at < 30*time.Second; at += 50 * time.Millisecond {
		for _, s := range drive(t, r, at, at) {
			for _, q := range s.Question {
				probes++
				give(t, r, at, other, answers(t, q.Name+" 120 FLUSH SRV 0 0 1 fan.local."))
			}
		}
	}
	if probes < 15 || probes > 60 {
		t.Errorf("%d probes in 30 s", probes)
	}
}

// TestTieBreak: two probe for one name at once; the later data wins (RFC 6762 §8.2).
func TestTieBreak(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, srv string
		wait      bool
	}{
		{"theirs is later", "Lamp._http._tcp.local. 120 IN SRV 11 0 80 a.local.", true},
		{"theirs is earlier", "Lamp._http._tcp.local. 120 IN SRV 9 0 80 a.local.", false},
		{"theirs is the same", "lamp._http._tcp.local. 120 IN SRV 10 1 80 lamp.local.", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newTestResponder(t, lamp())
			drive(t, r, 0, 0)
			probe := question(dns.TypeANY, "lamp._http._tcp.local.")
			probe.Ns = rrs(t, tc.srv, `Lamp._http._tcp.local. 4500 IN TXT "id=1"`)
			give(t, r, 10*time.Millisecond, other, probe)
			got := drive(t, r, 10*time.Millisecond, 800*time.Millisecond)
			if says(got, lampSRV) == tc.wait {
				t.Errorf("it says %v", got)
			}
			if got := drive(t, r, 800*time.Millisecond, 5*time.Second); !says(got, lampSRV) {
				t.Errorf("the other is silent, and it says %v", got)
			}
		})
	}
}

// TestDefend: a probe for a name of ours is answered at once, soon after an announcement too.
func TestDefend(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp())
	drive(t, r, 0, 1750*time.Millisecond)
	probe := question(dns.TypeANY, "Lamp._http._tcp.local.")
	probe.Ns = rrs(t, "Lamp._http._tcp.local. 120 IN SRV 0 0 80 fan.local.")
	give(t, r, 1900*time.Millisecond, other, probe)
	got := drive(t, r, 1900*time.Millisecond, 2*time.Second)
	if !says(got, lampSRV) || got[0].at != 2*time.Second {
		t.Errorf("it says %v", got)
	}
}

// TestCede: another responder on this machine has the host name. It is left alone, asked for every
// minute, and taken back when nobody answers.
func TestCede(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp())
	drive(t, r, 0, 300*time.Millisecond)
	avahi := answers(t, "lamp.local. 120 FLUSH A 10.0.0.1")
	give(t, r, 300*time.Millisecond, neighbour, avahi)
	got := drive(t, r, 300*time.Millisecond, time.Minute)
	if !says(got, lampSRV) || says(got, lampA) {
		t.Errorf("while another says the address: %v", got)
	}
	give(t, r, time.Minute, other, question(dns.TypeA, "lamp.local."))
	got = drive(t, r, time.Minute, 61*time.Second)
	if len(got) != 1 || got[0].Response || len(got[0].Question) != 2 {
		t.Fatalf("after a minute: %v", got)
	}
	give(t, r, 61*time.Second, neighbour, avahi)
	if got = drive(t, r, 61*time.Second, 120*time.Second); len(got) != 0 {
		t.Errorf("it was answered, and says %v", got)
	}
	if got = drive(t, r, 120*time.Second, 130*time.Second); !says(got, lampA) {
		t.Errorf("nobody answers for the host name: %v", got)
	}
	give(t, r, 140*time.Second, neighbour, avahi)
	give(t, r, 141*time.Second, neighbour, answers(t, "lamp.local. 0 FLUSH A 10.0.0.1"))
	if got = drive(t, r, 141*time.Second, 150*time.Second); !says(got, lampA) {
		t.Errorf("the other said goodbye: %v", got)
	}
}

// TestOwnEcho: the network gives every packet back, on other links too. Nothing comes of it.
func TestOwnEcho(t *testing.T) {
	t.Parallel()
	r := newTestResponder(t, lamp())
	sent := 0
	for at := time.Duration(0); at < 10*time.Second; at += 10 * time.Millisecond {
		out, _ := r.poll(start.Add(at))
		for _, p := range out {
			sent++
			p.peer = neighbour
			r.receive(start.Add(at), p)
		}
	}
	if sent != 6 || len(r.variants)+len(r.ceded) > 0 {
		t.Errorf("%d messages, %v, %v", sent, r.variants, r.ceded)
	}
}

func TestNumbered(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		label string
		n     int
		want  string
	}{
		{"Lamp", 1, "Lamp"},
		{"Lamp", 12, "Lamp (12)"},
		{strings.Repeat("ü", 31), 2, strings.Repeat("ü", 29) + " (2)"},
	} {
		if got := numbered(tc.label, " (%d)", tc.n); got != tc.want || len(got) > 63 {
			t.Errorf("numbered(%q, %d) = %q", tc.label, tc.n, got)
		}
	}
}

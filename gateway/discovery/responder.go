package discovery

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	probeGap      = 250 * time.Millisecond // RFC 6762 §8.1
	probeCount    = 3
	announceCount = 3 // §8.3: at least two, a second apart, then doubling
)

// responder is the engine that announces services: it probes for their names, says them, answers
// for them, defends them, gives way, and takes leave.
type responder struct {
	services []Service
	variants map[claim]int       // how often a label had to be renamed, from 1
	hosts    map[string]claim    // by key: host names of the services
	ceded    map[string]*cession // by key: host names that are another responder's on this machine
	links    map[int]*presence   // by index
	machine  map[netip.Addr]bool // all addresses of this machine
	sent     memory
	clashes  []time.Time // of late
	out      []packet
	jitter   func(lo, hi time.Duration) time.Duration
	log      *slog.Logger
}

// A claim is a label that somebody gave us, of a host or of a service instance.
type claim struct {
	host  bool
	label string
}

// presence is what we are on one link.
type presence struct {
	link       link
	records    []*record
	claims     map[string]claim // by key: the unique names of records
	owned      map[string]bool  // by key: those that nobody else claimed when we probed
	probes     int              // sent for the others
	probeAt    time.Time
	announced  int // announcements sent since the last change
	announceAt time.Time
	pending    map[*record]*pending
}

// pending is an answer not given yet.
type pending struct {
	due   time.Time
	asker netip.AddrPort // zero: several
	gap   time.Duration  // after the record was last said
}

func newResponder(jitter func(lo, hi time.Duration) time.Duration, log *slog.Logger) *responder {
	return &responder{
		variants: map[claim]int{}, hosts: map[string]claim{}, ceded: map[string]*cession{},
		links: map[int]*presence{}, machine: map[netip.Addr]bool{}, jitter: jitter, log: log,
	}
}

// setLinks makes links the ones that are announced on.
func (r *responder) setLinks(now time.Time, links []link, machine []netip.Addr) {
	clear(r.machine)
	for _, ip := range machine {
		r.machine[ip] = true
	}
	old := r.links
	r.links = map[int]*presence{}
	for _, l := range links {
		p := old[l.index]
		if p == nil || p.link.name != l.name {
			p = &presence{announced: announceCount}
		}
		p.link = l
		r.links[l.index] = p
	}
	r.rebuild(now)
}

func (r *responder) setServices(now time.Time, services []Service) {
	r.services = services
	r.rebuild(now)
}

// rebuild brings every link in line with the services, the addresses and the names left to us.
func (r *responder) rebuild(now time.Time) {
	clear(r.hosts)
	for _, p := range r.sorted() {
		records, claims := r.wanted(p.link)
		r.replace(now, p, records, claims)
	}
}

func (r *responder) sorted() []*presence {
	return slices.SortedFunc(maps.Values(r.links), func(a, b *presence) int { return a.link.index - b.link.index })
}

// named is s under the names that it has after conflicts.
func (r *responder) named(s Service) Service {
	s.Instance = numbered(s.Instance, " (%d)", r.variants[claim{false, s.Instance}])
	s.Host = numbered(s.Host, "-%d", r.variants[claim{true, s.Host}])
	return s
}

// wanted returns what is to be said on l, each record once, and the unique names among it.
func (r *responder) wanted(l link) ([]*record, map[string]claim) {
	var out []*record
	claims := map[string]claim{}
	for _, given := range r.services {
		s := r.named(given)
		ips := s.addresses(l, func(ip netip.Addr) bool { return r.machine[ip] })
		if len(ips) == 0 {
			continue // nothing leads to it from there
		}
		records, err := s.zone(ips)
		if err != nil {
			r.log.Error("service cannot be announced", "service", s.Type, "err", err)
			continue
		}
		for _, rec := range records {
			if srv, ok := rec.rr.(*dns.SRV); ok {
				claims[rec.owner] = claim{false, given.Instance}
				r.hosts[key(srv.Target)] = claim{true, given.Host}
			}
		}
		for _, rec := range records {
			if c, ok := r.hosts[rec.owner]; ok {
				if r.ceded[rec.owner] != nil {
					continue
				}
				claims[rec.owner] = c
			}
			if !slices.ContainsFunc(out, func(o *record) bool { return same(o.rr, rec.rr) && o.owner == rec.owner }) {
				out = append(out, rec)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		out = append(out, negative(name, out))
	}
	return out, claims
}

// negative says which types a unique name has, and so that it has no others (RFC 6762 §6.1).
func negative(name string, records []*record) *record {
	nsec := &dns.NSEC{Hdr: dns.RR_Header{Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 120}}
	for _, rec := range records {
		if h := rec.rr.Header(); rec.unique && rec.name == name && !slices.Contains(nsec.TypeBitMap, h.Rrtype) {
			nsec.Hdr.Name, nsec.NextDomain = h.Name, h.Name
			nsec.TypeBitMap = append(nsec.TypeBitMap, h.Rrtype)
		}
	}
	slices.Sort(nsec.TypeBitMap)
	return &record{rr: nsec, name: name, owner: name, unique: true}
}

// replace makes records those of p: what is gone gets a goodbye, new names are probed for, and
// what changed is announced.
func (r *responder) replace(now time.Time, p *presence, records []*record, claims map[string]claim) {
	changed := len(records) != len(p.records)
	for i, rec := range records {
		j := slices.IndexFunc(p.records, func(o *record) bool { return same(o.rr, rec.rr) && o.owner == rec.owner })
		if j < 0 {
			changed = true
			continue
		}
		records[i] = p.records[j]
	}
	var gone []*record
	for _, old := range p.records {
		// A changed unique record needs none: the cache-flush bit of the new one does it (RFC 6762 §10.2).
		flushed := func(rec *record) bool {
			return rec == old || old.unique && p.owned[rec.owner] && rec.name == old.name && rec.rr.Header().Rrtype == old.rr.Header().Rrtype
		}
		if p.says(old) && !slices.ContainsFunc(records, flushed) {
			gone = append(gone, old)
		}
	}
	r.goodbye(p, gone)
	owned := map[string]bool{}
	for name := range claims {
		owned[name] = p.owned[name]
		if _, before := p.claims[name]; !before {
			p.probes, p.probeAt = 0, now.Add(r.jitter(0, probeGap))
		}
	}
	p.records, p.claims, p.owned = records, claims, owned
	maps.DeleteFunc(p.pending, func(rec *record, _ *pending) bool { return !slices.Contains(records, rec) })
	if changed {
		p.announced, p.announceAt = 0, now
	}
}

// says reports whether rec may be said on p: its name was probed for.
func (p *presence) says(rec *record) bool { return p.owned[rec.owner] }

func (rec *record) isNegative() bool { return rec.rr.Header().Rrtype == dns.TypeNSEC }

func (p *presence) probing() bool {
	for name := range p.claims {
		if !p.owned[name] {
			return true
		}
	}
	return false
}

// poll does what is due.
func (r *responder) poll(now time.Time) (out []packet, next time.Time) {
	next = now.Add(time.Hour)
	soon := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	r.askCeded(now, soon)
	for _, p := range r.sorted() {
		if p.probing() {
			r.probe(now, p)
			if p.probing() {
				soon(p.probeAt)
			}
		}
		if p.announced < announceCount {
			r.announce(now, p)
			if p.announced < announceCount {
				soon(p.announceAt)
			}
		}
		r.answerDue(now, p, soon)
	}
	out, r.out = r.out, nil
	return out, next
}

// announce says all that may be said, unasked (RFC 6762 §8.3).
func (r *responder) announce(now time.Time, p *presence) {
	if now.Before(p.announceAt) {
		return
	}
	var all []*record
	for _, rec := range p.records {
		if p.says(rec) && !rec.isNegative() {
			all = append(all, rec)
		}
	}
	r.say(now, p, reply{answers: distinct(all)}, netip.AddrPort{})
	p.announceAt = now.Add(time.Second << p.announced)
	p.announced++
}

// leave says goodbye to everything, on every link.
func (r *responder) leave() []packet {
	r.out = nil
	for _, p := range r.sorted() {
		var all []*record
		for _, rec := range p.records {
			if p.says(rec) {
				all = append(all, rec)
			}
		}
		r.goodbye(p, all)
	}
	return r.out
}

// goodbye withdraws records. The entry of a type in the list of all types stays: other hosts may
// have said it as well, and it would be withdrawn for them too.
func (r *responder) goodbye(p *presence, records []*record) {
	records = slices.DeleteFunc(distinct(records), func(rec *record) bool {
		return rec.isNegative() || rec.rr.Header().Name == enumName
	})
	r.say(time.Time{}, p, reply{answers: records, goodbye: true}, netip.AddrPort{})
}

// say sends a reply, unless it is empty. A zero receiver means the group.
func (r *responder) say(now time.Time, p *presence, a reply, to netip.AddrPort) {
	if len(a.answers) == 0 {
		return
	}
	data, err := a.pack()
	if err != nil {
		r.log.Error("multicast DNS message cannot be built", "err", err)
		return
	}
	if !to.IsValid() {
		for _, rec := range slices.Concat(a.answers, a.extra) {
			rec.said = now
		}
	}
	r.transmit(p, data, to)
}

func (r *responder) transmit(p *presence, data []byte, to netip.AddrPort) {
	r.sent.add(data)
	r.out = append(r.out, packet{link: p.link.index, peer: to, data: data})
}

// distinct drops records that say the same as an earlier one.
func distinct(records []*record) []*record {
	var out []*record
	for _, rec := range records {
		if !slices.ContainsFunc(out, func(o *record) bool { return same(o.rr, rec.rr) }) {
			out = append(out, rec)
		}
	}
	return out
}

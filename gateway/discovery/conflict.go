package discovery

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	cededInterval = time.Minute // how often a ceded host name is asked for
	clashWindow   = 10 * time.Second
	clashLimit    = 15 // RFC 6762 §8.1
	clashPause    = 5 * time.Second
)

// A cession is a host name whose addresses another responder on this machine announces, as Avahi
// does for the machine's own name. Two that announce one name with different addresses would each
// take the other for a conflict, and Avahi would rename the machine; so we leave it alone, and ask
// now and then whether it is still there.
type cession struct {
	next  time.Time // when to ask, or to take the name if asked
	asked bool
}

// probe asks for the names that are not ours yet, and takes them when nobody objected to the third
// question (RFC 6762 §8.1). It does not ask for unicast answers: those go to one of the responders
// on this machine only (§15.1).
func (r *responder) probe(now time.Time, p *presence) {
	if now.Before(p.probeAt) {
		return
	}
	if p.probes == probeCount {
		for name := range p.claims {
			p.owned[name] = true
		}
		p.announced, p.announceAt = 0, now
		return
	}
	p.probes++
	p.probeAt = now.Add(probeGap)
	m := dns.Msg{Compress: true}
	for _, rec := range p.records {
		if !rec.unique || p.says(rec) || rec.isNegative() {
			continue
		}
		q := dns.Question{Name: rec.rr.Header().Name, Qtype: dns.TypeANY, Qclass: dns.ClassINET}
		if !slices.Contains(m.Question, q) {
			m.Question = append(m.Question, q)
		}
		m.Ns = append(m.Ns, rec.rr)
	}
	if data, err := m.Pack(); err == nil {
		r.transmit(p, data, netip.AddrPort{})
	}
}

// heardResponse looks for others who use our names.
func (r *responder) heardResponse(now time.Time, p *presence, m *message, neighbour bool) {
	clash := map[string]bool{}
	for _, h := range m.everything() {
		name, withdrawn := key(h.rr.Header().Name), h.rr.Header().Ttl == 0
		if neighbour && isAddress(h.rr) {
			r.cede(now, name, withdrawn)
			continue
		}
		if _, ours := p.claims[name]; ours && !withdrawn && r.disagrees(p, name, h.rr) {
			clash[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(clash)) {
		if p.owned[name] { // RFC 6762 §9: see whether they insist
			p.owned[name] = false
			p.probes, p.probeAt = 0, now.Add(r.jitter(0, probeGap))
			continue
		}
		if c, ours := p.claims[name]; ours {
			r.rename(now, c)
		}
	}
}

// disagrees reports whether rr says something else of our name than we do.
func (r *responder) disagrees(p *presence, name string, rr dns.RR) bool {
	if rr.Header().Rrtype == dns.TypeNSEC || r.ownAddress(rr) {
		return false
	}
	typed := false
	for _, rec := range p.records {
		if rec.name != name || !rec.unique || rec.isNegative() {
			continue
		}
		if same(rec.rr, rr) {
			return false
		}
		typed = typed || rec.rr.Header().Rrtype == rr.Header().Rrtype
	}
	return typed || !p.owned[name] // a name that is still free must have no records at all (§8.1)
}

// rename gives a label its next variant, on all links.
func (r *responder) rename(now time.Time, c claim) {
	r.variants[c] = max(r.variants[c], 1) + 1
	r.clashes = append(slices.DeleteFunc(r.clashes, func(t time.Time) bool { return now.Sub(t) > clashWindow }), now)
	r.log.Warn("name is taken, trying the next", "name", text(c.label), "variant", r.variants[c])
	r.rebuild(now)
	if len(r.clashes) >= clashLimit {
		for _, p := range r.links {
			p.probeAt = now.Add(clashPause)
		}
	}
}

// heardProbe gives way to another who probes for a name at the same time and has the later data
// (RFC 6762 §8.2), and to another responder on this machine that wants its host name.
func (r *responder) heardProbe(now time.Time, p *presence, m *message, neighbour bool) {
	theirs := map[string][]dns.RR{}
	for _, h := range m.authority {
		name := key(h.rr.Header().Name)
		if neighbour && isAddress(h.rr) {
			r.cede(now, name, false)
		}
		theirs[name] = append(theirs[name], h.rr)
	}
	for name, set := range theirs {
		if _, ours := p.claims[name]; !ours || p.owned[name] || p.probes == 0 {
			continue
		}
		var mine []dns.RR
		for _, rec := range p.records {
			if rec.name == name && rec.unique && !rec.isNegative() {
				mine = append(mine, rec.rr)
			}
		}
		if compareSets(mine, set) < 0 {
			p.probes, p.probeAt = 0, now.Add(time.Second)
		}
	}
}

// cede leaves the addresses of one of our host names to another responder on this machine, which
// has just said them, or withdrawn them.
func (r *responder) cede(now time.Time, name string, withdrawn bool) {
	c := r.ceded[name]
	if _, host := r.hosts[name]; !host {
		return
	}
	switch {
	case withdrawn && c != nil:
		*c = cession{next: now.Add(time.Second)}
	case withdrawn:
	case c != nil:
		*c = cession{next: now.Add(cededInterval)}
	default:
		r.log.Info("another responder on this machine announces the host name", "name", text(name))
		r.ceded[name] = &cession{next: now.Add(cededInterval)}
		for _, p := range r.sorted() {
			r.withdraw(p, name)
		}
		r.rebuild(now)
	}
}

// withdraw stops saying the addresses of a host. Only those that the interface does not have get a
// goodbye: the others are now the other responder's to say.
func (r *responder) withdraw(p *presence, name string) {
	var foreign []*record
	for _, rec := range p.records {
		if ip, ok := address(rec.rr); ok && rec.name == name && p.says(rec) && !p.link.has(ip) {
			foreign = append(foreign, &record{rr: rec.rr}) // not unique: the rest of the set stays in caches
		}
	}
	r.goodbye(p, foreign)
	p.owned[name] = false
}

// askCeded asks for the host names that are ceded, and takes back those that nobody answers for.
func (r *responder) askCeded(now time.Time, soon func(time.Time)) {
	taken := false
	for name, c := range r.ceded {
		_, host := r.hosts[name]
		switch {
		case !host || c.asked && !now.Before(c.next):
			delete(r.ceded, name)
			taken = true
			continue
		case !now.Before(c.next):
			*c = cession{next: now.Add(2 * time.Second), asked: true}
			r.ask(name)
		}
		soon(c.next)
	}
	if taken {
		r.rebuild(now)
	}
}

// ask sends a plain question for the addresses of a host.
func (r *responder) ask(name string) {
	m := dns.Msg{Question: []dns.Question{
		{Name: name, Qtype: dns.TypeA, Qclass: dns.ClassINET},
		{Name: name, Qtype: dns.TypeAAAA, Qclass: dns.ClassINET},
	}}
	data, err := m.Pack()
	if err != nil {
		return
	}
	for _, p := range r.sorted() {
		r.transmit(p, data, netip.AddrPort{})
	}
}

func isAddress(rr dns.RR) bool {
	t := rr.Header().Rrtype
	return t == dns.TypeA || t == dns.TypeAAAA
}

// ownAddress reports whether rr is an address of this machine, which may well be on another link.
func (r *responder) ownAddress(rr dns.RR) bool {
	ip, ok := address(rr)
	return ok && r.machine[ip]
}

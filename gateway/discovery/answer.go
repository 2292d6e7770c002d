package discovery

import (
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// receive takes one packet from the network.
func (r *responder) receive(now time.Time, in packet) {
	p := r.links[in.link]
	if p == nil || r.sent.has(in.data) { // the network gives us our own as well
		return
	}
	m, ok := parse(in.data)
	if !ok {
		return
	}
	neighbour := r.machine[in.peer.Addr().WithZone("")] // another responder on this machine
	if m.response {
		if in.peer.Port() == port { // RFC 6762 §6
			r.heardResponse(now, p, m, neighbour)
		}
		return
	}
	r.heardProbe(now, p, m, neighbour)
	r.heardQuery(now, p, m, in.peer)
}

// heardQuery answers at once what may be, and schedules the rest.
func (r *responder) heardQuery(now time.Time, p *presence, m *message, peer netip.AddrPort) {
	near := p.link.near(peer.Addr()) // nobody else gets a unicast packet: the sender may be forged
	if peer.Port() != port {
		if !near {
			return
		}
		var answers []*record
		for _, q := range m.questions {
			answers = append(answers, p.match(q)...)
		}
		answers = distinct(answers)
		r.say(now, p, reply{answers: answers, extra: p.extras(answers), legacy: m}, peer)
		return
	}
	if len(m.questions) == 0 { // more known answers to an earlier query (RFC 6762 §7.2)
		for rec, wait := range p.pending {
			if wait.asker == peer && known(rec, m) {
				delete(p.pending, rec)
			}
		}
		return
	}
	asked := map[*record]bool{} // and whether by multicast
	for _, q := range m.questions {
		for _, rec := range p.match(q) {
			// A record that was not multicast for long is, even if unicast was asked for (§5.4).
			recent := now.Sub(rec.said) < time.Duration(rec.rr.Header().Ttl)*time.Second/4
			asked[rec] = asked[rec] || q.Qclass&topBit == 0 || !recent || !near
		}
	}
	var direct, all []*record
	shared := false
	for _, rec := range p.records {
		multicast, ok := asked[rec]
		switch {
		case !ok || known(rec, m):
		case multicast:
			all = append(all, rec)
			shared = shared || !rec.unique
		default:
			direct = append(direct, rec)
		}
	}
	direct = distinct(direct)
	r.say(now, p, reply{answers: direct, extra: p.extras(direct)}, peer)

	wait := pending{due: now, asker: peer, gap: time.Second} // §6: not said again within a second
	switch {
	case len(m.authority) > 0:
		wait.gap = probeGap // §6: a probe is answered in time
	case m.truncated:
		wait.due = now.Add(r.jitter(400*time.Millisecond, 500*time.Millisecond))
	case shared:
		wait.due = now.Add(r.jitter(20*time.Millisecond, 120*time.Millisecond))
	}
	for _, rec := range all {
		p.schedule(rec, wait)
	}
}

// known reports whether the sender of m knows rec and will for a while (RFC 6762 §7.1).
func known(rec *record, m *message) bool {
	return slices.ContainsFunc(m.answers, func(a heard) bool {
		return a.rr.Header().Ttl >= rec.rr.Header().Ttl/2 && same(a.rr, rec.rr)
	})
}

func (p *presence) schedule(rec *record, wait pending) {
	if p.pending == nil {
		p.pending = map[*record]*pending{}
	}
	old := p.pending[rec]
	if old == nil {
		p.pending[rec] = &wait
		return
	}
	if wait.due.Before(old.due) {
		old.due = wait.due
	}
	if wait.asker != old.asker {
		old.asker = netip.AddrPort{}
	}
	old.gap = min(old.gap, wait.gap)
}

// match returns the records that answer q.
func (p *presence) match(q dns.Question) []*record {
	if class := q.Qclass &^ topBit; class != dns.ClassINET && class != dns.ClassANY {
		return nil
	}
	name := key(q.Name)
	var out []*record
	var none *record
	for _, rec := range p.records {
		switch {
		case rec.name != name || !p.says(rec):
		case rec.isNegative():
			none = rec
		case q.Qtype == dns.TypeANY || q.Qtype == rec.rr.Header().Rrtype:
			out = append(out, rec)
		}
	}
	if len(out) == 0 && none != nil {
		out = append(out, none)
	}
	return out
}

// extras are what the reader of answers asks for next (RFC 6763 §12).
func (p *presence) extras(answers []*record) []*record {
	var out []*record
	add := func(name string, negative bool) {
		for _, rec := range p.records {
			if rec.unique && rec.name == name && p.says(rec) && (negative || !rec.isNegative()) &&
				!slices.ContainsFunc(slices.Concat(answers, out), func(o *record) bool { return same(o.rr, rec.rr) }) {
				out = append(out, rec)
			}
		}
	}
	for _, rec := range answers {
		if ptr, ok := rec.rr.(*dns.PTR); ok {
			add(key(ptr.Ptr), false)
		}
	}
	for _, rec := range slices.Concat(answers, out) {
		if srv, ok := rec.rr.(*dns.SRV); ok {
			add(key(srv.Target), true)
		}
	}
	return out
}

// answerDue multicasts the answers whose time has come, in one message.
func (r *responder) answerDue(now time.Time, p *presence, soon func(time.Time)) {
	var due []*record
	for _, rec := range p.records { // in their order, so that equal states say equal things
		wait := p.pending[rec]
		if wait == nil {
			continue
		}
		if t := rec.said.Add(wait.gap); wait.due.Before(t) {
			wait.due = t
		}
		if wait.due.After(now) {
			soon(wait.due)
			continue
		}
		due = append(due, rec)
		delete(p.pending, rec)
	}
	due = distinct(due)
	r.say(now, p, reply{answers: due, extra: p.extras(due)}, netip.AddrPort{})
}

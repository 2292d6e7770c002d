package discovery

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	maxRefresh  = 4         // RFC 6762 §5.2: at 80, 85, 90 and 95 % of the time to live
	maxAskGap   = time.Hour // §5.2: between browsing questions, which come after 1, 2, 4, … seconds
	maxChase    = 5         // questions for what is missing of an instance or a host
	packetLimit = 1400      // bytes of a query that fit in one frame of any link
)

// A chase is the asking for something that others have not said on their own.
type chase struct {
	sent int
	next time.Time
}

func newChase(now time.Time) chase { return chase{next: now.Add(settle)} }

// due reports whether to ask now, and counts it.
func (c *chase) due(now time.Time, soon func(time.Time)) bool {
	if c.sent == maxChase {
		return false
	}
	if now.Before(c.next) {
		soon(c.next)
		return false
	}
	c.next = now.Add(time.Second << c.sent)
	c.sent++
	soon(c.next)
	return true
}

// fade reports whether l is over, or should be asked for again now.
func (l *lease) fade(now time.Time, soon func(time.Time)) (over, ask bool) {
	if !now.Before(l.expires()) {
		return true, false
	}
	soon(l.expires())
	if l.asked == maxRefresh {
		return false, false
	}
	if ask = !now.Before(l.askAt); ask {
		l.asked++
		l.askAt = l.askAt.Add(l.ttl * 5 / 100)
	}
	soon(l.askAt)
	return false, ask
}

// questions are what to ask on one link now.
type questions struct {
	list []dns.Question
}

func (q *questions) add(name string, types ...uint16) {
	for _, t := range types {
		one := dns.Question{Name: name, Qtype: t, Qclass: dns.ClassINET}
		if !slices.Contains(q.list, one) {
			q.list = append(q.list, one)
		}
	}
}

// poll forgets what is over, reports what is new, and asks for what is missing.
func (b *browser) poll(now time.Time) (out []packet, next time.Time) {
	if now.Before(b.due) {
		return nil, b.due
	}
	next = now.Add(time.Hour)
	soon := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	for _, index := range slices.Sorted(maps.Keys(b.links)) {
		n := b.links[index]
		var q questions
		browse := !now.Before(n.askAt)
		if browse {
			n.askAt = now.Add(min(time.Second<<min(n.asked, 20), maxAskGap))
			n.asked++
			for _, typ := range b.types {
				q.add(typ+"."+domain, dns.TypePTR)
			}
		}
		soon(n.askAt)
		b.tendHosts(now, n, &q, soon)
		for _, k := range slices.Sorted(maps.Keys(n.instances)) {
			b.tendInstance(now, n, k, &q, soon)
		}
		n.sweep()
		if len(q.list) > 0 {
			for _, data := range q.packets(n.known(now)) {
				out = append(out, packet{link: index, data: data})
			}
		}
	}
	b.due = next
	return out, next
}

// used are the names of the hosts that something runs on, by key.
func (n *neighbourhood) used() map[string]string {
	out := map[string]string{}
	for _, i := range n.instances {
		if i.srv.known() {
			out[i.host] = i.target
		}
	}
	return out
}

// sweep forgets the hosts that nothing runs on any more.
func (n *neighbourhood) sweep() {
	used := n.used()
	maps.DeleteFunc(n.hosts, func(k string, _ *host) bool { return used[k] == "" })
}

// tendHosts keeps the addresses of hosts.
func (b *browser) tendHosts(now time.Time, n *neighbourhood, q *questions, soon func(time.Time)) {
	used := n.used()
	for _, k := range slices.Sorted(maps.Keys(n.hosts)) {
		at, name := n.hosts[k], used[k]
		if name == "" {
			continue
		}
		lost := false
		for _, ip := range slices.SortedFunc(maps.Keys(at.addrs), netip.Addr.Compare) {
			over, ask := at.addrs[ip].fade(now, soon)
			if over {
				delete(at.addrs, ip)
				lost = true
			}
			if ask && ip.Is4() {
				q.add(name, dns.TypeA)
			} else if ask {
				q.add(name, dns.TypeAAAA)
			}
		}
		if lost {
			for _, i := range n.instances {
				if i.host == k && i.settled.IsZero() {
					i.settled = now
				}
			}
		}
		if len(at.addrs) == 0 && at.chase.due(now, soon) {
			q.add(name, dns.TypeA, dns.TypeAAAA)
		}
	}
}

// tendInstance keeps one instance, or lets it go: with its pointer, or with its address and port.
func (b *browser) tendInstance(now time.Time, n *neighbourhood, k string, q *questions, soon func(time.Time)) {
	i := n.instances[k]
	for _, part := range []struct {
		lease *lease
		name  string
		typ   uint16
		vital bool
	}{
		{&i.ptr, i.typ + "." + domain, dns.TypePTR, true},
		{&i.srv, i.name, dns.TypeSRV, true},
		{&i.txt, i.name, dns.TypeTXT, false},
	} {
		if !part.lease.known() {
			continue
		}
		over, ask := part.lease.fade(now, soon)
		switch {
		case over && part.vital:
			b.drop(n, k)
			return
		case over:
			*part.lease = lease{}
			i.pairs, i.settled = nil, now
		case ask:
			q.add(part.name, part.typ)
		}
	}
	if (!i.srv.known() || !i.txt.known()) && i.chase.due(now, soon) {
		q.add(i.name, dns.TypeSRV, dns.TypeTXT)
	}
	b.tell(now, n, i, soon)
}

// tell reports i when it has something new to say and has said all of it, or has had its time.
func (b *browser) tell(now time.Time, n *neighbourhood, i *instance, soon func(time.Time)) {
	if b.report == nil || i.settled.IsZero() || !i.srv.known() {
		return
	}
	complete := i.txt.known() && len(n.hosts[i.host].addrs) > 0
	at := i.settled
	if late := i.since.Add(patience); !complete && at.Before(late) {
		at = late
	}
	if now.Before(at) {
		soon(at)
		return
	}
	i.settled = time.Time{}
	f := n.found(i)
	if i.reported != nil && i.reported.equal(f) {
		return
	}
	kept := f
	i.reported = &kept
	f.TXT = maps.Clone(f.TXT)
	b.report(f)
}

// known are the pointers that need not be said again: those known for at least half of their time
// to live more (RFC 6762 §7.1).
func (n *neighbourhood) known(now time.Time) []dns.RR {
	var out []dns.RR
	for _, k := range slices.Sorted(maps.Keys(n.instances)) {
		i := n.instances[k]
		if left := i.ptr.expires().Sub(now); left > i.ptr.ttl/2 {
			out = append(out, &dns.PTR{
				Hdr: dns.RR_Header{Name: i.typ + "." + domain, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: uint32(left / time.Second)},
				Ptr: i.name,
			})
		}
	}
	return out
}

// packets puts the questions, and the known answers to them, in as few packets as possible. The
// known answers to questions in one packet may go on in further ones (RFC 6762 §7.2).
func (q *questions) packets(known []dns.RR) [][]byte {
	var msgs []*dns.Msg
	m := &dns.Msg{Compress: true}
	full := func() bool { return m.Len() > packetLimit }
	for _, one := range q.list {
		m.Question = append(m.Question, one)
		if full() && len(m.Question) > 1 {
			m.Question = m.Question[:len(m.Question)-1]
			msgs = append(msgs, m)
			m = &dns.Msg{Compress: true, Question: []dns.Question{one}}
		}
	}
	for _, rr := range known {
		if !slices.ContainsFunc(q.list, func(one dns.Question) bool { return one.Qtype == dns.TypePTR && one.Name == rr.Header().Name }) {
			continue
		}
		m.Answer = append(m.Answer, rr)
		if full() && len(m.Answer) > 1 {
			m.Answer = m.Answer[:len(m.Answer)-1]
			m.Truncated = true
			msgs = append(msgs, m)
			m = &dns.Msg{Compress: true, Answer: []dns.RR{rr}}
		}
	}
	var out [][]byte
	for _, m := range append(msgs, m) {
		if data, err := m.Pack(); err == nil {
			out = append(out, data)
		}
	}
	return out
}

package discovery

import (
	"cmp"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of what a browser keeps, whatever the network says. What is beyond them is ignored.
const (
	maxInstances  = 2048 // on all links together
	maxFoundTXT   = 2048 // bytes of the TXT of an instance
	maxFoundPairs = 64
	maxTTL        = 24 * time.Hour

	settle   = 100 * time.Millisecond // a report waits so long for the rest of it
	patience = 3 * time.Second        // and so long for what was asked for
)

// browser is the engine that finds services: a cache of what was said about the types it looks
// for, kept as RFC 6762 §5.2 and §10 ask.
type browser struct {
	types  []string          // such as _http._tcp
	names  map[string]string // by key of the type's full name: the type
	links  map[int]*neighbourhood
	size   int         // instances on all links
	due    time.Time   // when to poll next; zero: something changed
	full   bool        // and said so
	report func(Found) // nil: nobody wants to know before the end
	now    func() time.Time
	jitter func(lo, hi time.Duration) time.Duration
	log    *slog.Logger
}

// A neighbourhood is what is known of one link.
type neighbourhood struct {
	link      link
	instances map[string]*instance // by key of the full name
	hosts     map[string]*host     // by key; those that an instance runs on
	asked     int                  // browsing questions sent
	askAt     time.Time
}

type instance struct {
	name          string // as on the wire
	label         string // of the instance, raw
	typ           string
	ptr, srv, txt lease
	target        string // name of its host on the wire
	host          string // key of it
	port          int
	pairs         map[string]string
	since         time.Time // first heard of
	seen          time.Time // last heard of, wall clock
	settled       time.Time // when to report it; zero: nothing new
	reported      *Found
	chase         chase
}

type host struct {
	addrs map[netip.Addr]*lease
	chase chase
}

// A lease is how long a record may be believed. Its zero value is a record not heard of.
type lease struct {
	got   time.Time
	ttl   time.Duration
	asked int       // how often it was asked for again
	askAt time.Time // when to do so next
}

func (l *lease) known() bool        { return !l.got.IsZero() }
func (l *lease) expires() time.Time { return l.got.Add(l.ttl) }

// renew starts the lease again; one of a record that says goodbye is over after a second
// (RFC 6762 §10.1).
func (l *lease) renew(now time.Time, seconds uint32, jitter func(lo, hi time.Duration) time.Duration) {
	ttl := min(time.Duration(seconds)*time.Second, maxTTL)
	*l = lease{got: now, ttl: ttl, askAt: now.Add(ttl*80/100 + jitter(0, ttl/50))}
	if seconds == 0 {
		*l = lease{got: now, ttl: time.Second, asked: maxRefresh}
	}
}

func newBrowser(types []string, jitter func(lo, hi time.Duration) time.Duration, now func() time.Time, log *slog.Logger) *browser {
	b := &browser{types: types, names: map[string]string{}, links: map[int]*neighbourhood{}, jitter: jitter, now: now, log: log}
	for _, typ := range types {
		b.names[key(typ+"."+domain)] = typ
	}
	return b
}

func (b *browser) setLinks(now time.Time, links []link, _ []netip.Addr) {
	b.due = time.Time{}
	keep := map[int]bool{}
	for _, l := range links {
		keep[l.index] = true
		n := b.links[l.index]
		if n == nil {
			n = &neighbourhood{instances: map[string]*instance{}, hosts: map[string]*host{}}
			b.links[l.index] = n
		}
		if !n.link.equal(l) { // new, or in another network now: ask again soon (RFC 6762 §5.2)
			n.asked, n.askAt = 0, now.Add(b.jitter(20*time.Millisecond, 120*time.Millisecond))
		}
		n.link = l
	}
	for index, n := range b.links {
		if !keep[index] {
			for k := range n.instances {
				b.drop(n, k)
			}
			delete(b.links, index)
		}
	}
}

// receive learns from a response, whoever asked for it.
func (b *browser) receive(now time.Time, in packet) {
	n := b.links[in.link]
	if n == nil || in.peer.Port() != port { // RFC 6762 §6
		return
	}
	m, ok := parse(in.data)
	if !ok || !m.response {
		return
	}
	all := m.everything()
	for _, h := range all {
		if ptr, ok := h.rr.(*dns.PTR); ok {
			b.learnInstance(now, n, ptr)
		}
	}
	for _, h := range all {
		b.learnAbout(now, n, h.rr)
	}
	changed := map[string]bool{}
	for _, h := range all {
		if host := key(h.rr.Header().Name); b.learnAddress(now, n.hosts[host], h) {
			changed[host] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	for _, i := range n.instances {
		if changed[i.host] {
			i.touch(b, now)
		}
	}
}

func (b *browser) learnInstance(now time.Time, n *neighbourhood, ptr *dns.PTR) {
	typ := b.names[key(ptr.Hdr.Name)]
	if typ == "" {
		return
	}
	label, of, ok := splitInstance(ptr.Ptr)
	if !ok || b.names[key(of)] != typ {
		return
	}
	k := key(ptr.Ptr)
	i := n.instances[k]
	if i == nil {
		if ptr.Hdr.Ttl == 0 {
			return
		}
		if b.size >= maxInstances {
			if !b.full {
				b.full = true
				b.log.Warn("more services announce themselves than are kept", "kept", maxInstances)
			}
			return
		}
		i = &instance{name: ptr.Ptr, label: label, typ: typ, since: now, chase: newChase(now)}
		n.instances[k] = i
		b.size++
	}
	i.ptr.renew(now, ptr.Hdr.Ttl, b.jitter)
	i.touch(b, now)
}

// touch notes that something was said of i.
func (i *instance) touch(b *browser, now time.Time) {
	b.due = time.Time{}
	i.seen = b.now()
	if i.settled.IsZero() {
		i.settled = now.Add(settle)
	}
}

func (b *browser) learnAbout(now time.Time, n *neighbourhood, rr dns.RR) {
	i := n.instances[key(rr.Header().Name)]
	if i == nil {
		return
	}
	switch rr := rr.(type) {
	case *dns.SRV:
		if key(rr.Target) == "." {
			return // RFC 2782: decidedly not available
		}
		i.srv.renew(now, rr.Hdr.Ttl, b.jitter)
		i.target, i.host, i.port = rr.Target, key(rr.Target), int(rr.Port)
		if k := i.host; n.hosts[k] == nil {
			n.hosts[k] = &host{addrs: map[netip.Addr]*lease{}, chase: newChase(now)}
		}
	case *dns.TXT:
		i.txt.renew(now, rr.Hdr.Ttl, b.jitter)
		i.pairs = parseTXT(rr.Txt)
	default:
		return
	}
	i.touch(b, now)
}

// learnAddress reports whether it learnt something of a host.
func (b *browser) learnAddress(now time.Time, at *host, h heard) bool {
	ip, ok := address(h.rr)
	if !ok || at == nil {
		return false
	}
	if at.addrs[ip] == nil {
		if len(at.addrs) >= maxAddresses || h.rr.Header().Ttl == 0 {
			return false
		}
		at.addrs[ip] = &lease{}
	}
	b.due = time.Time{}
	at.addrs[ip].renew(now, h.rr.Header().Ttl, b.jitter)
	if h.flush { // RFC 6762 §10.2: older ones of this type are no more
		for other, l := range at.addrs {
			if other.Is4() == ip.Is4() && now.Sub(l.got) > time.Second {
				l.renew(now, 0, b.jitter)
			}
		}
	}
	return true
}

// address reads an address record. The unspecified address and such are not addresses of a host.
func address(rr dns.RR) (netip.Addr, bool) {
	var ip netip.Addr
	switch rr := rr.(type) {
	case *dns.A:
		ip, _ = netip.AddrFromSlice(rr.A.To4())
	case *dns.AAAA:
		ip, _ = netip.AddrFromSlice(rr.AAAA)
	}
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.Is4In6() {
		return netip.Addr{}, false
	}
	return ip, true
}

// found is what is known of i.
func (n *neighbourhood) found(i *instance) Found {
	f := Found{
		Instance: text(i.label), Service: i.typ, Port: i.port, TXT: i.pairs,
		Interface: n.link.name, Seen: i.seen,
	}
	if i.srv.known() {
		host, _ := labels(i.target)
		f.Host = text(strings.Join(host, "."))
		for ip := range n.hosts[i.host].addrs {
			if ip.Is6() && ip.IsLinkLocalUnicast() {
				ip = ip.WithZone(n.link.name)
			}
			f.Addresses = append(f.Addresses, ip)
		}
		slices.SortFunc(f.Addresses, netip.Addr.Compare)
	}
	f.classify()
	return f
}

// all returns everything that has at least a host and a port, sorted.
func (b *browser) all() []Found {
	var out []Found
	for _, n := range b.links {
		for _, i := range n.instances {
			if i.srv.known() {
				out = append(out, n.found(i))
			}
		}
	}
	slices.SortFunc(out, func(x, y Found) int {
		return cmp.Or(cmp.Compare(x.Service, y.Service), cmp.Compare(x.Instance, y.Instance), cmp.Compare(x.Interface, y.Interface))
	})
	return out
}

// drop forgets an instance, and says so if it had been reported.
func (b *browser) drop(n *neighbourhood, k string) {
	i := n.instances[k]
	delete(n.instances, k)
	b.size--
	if i.reported != nil && b.report != nil {
		f := *i.reported
		f.Gone, f.Seen, f.TXT = true, i.seen, maps.Clone(f.TXT)
		b.report(f)
	}
}

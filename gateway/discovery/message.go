package discovery

import (
	"bytes"
	"cmp"
	"hash/fnv"
	"math"
	"slices"

	"github.com/miekg/dns"
)

// topBit of a class is the cache-flush bit of a record (RFC 6762 §10.2) and the unicast-response
// bit of a question (§5.4).
const topBit = 1 << 15

// A heard record came in; its class is without the cache-flush bit.
type heard struct {
	rr    dns.RR
	flush bool
}

// A message is a packet read.
type message struct {
	response  bool
	truncated bool
	id        uint16
	questions []dns.Question
	answers   []heard // of a query: the answers it knows (RFC 6762 §7.1)
	authority []heard // of a query: what a prober wants to say (§8.2)
	extra     []heard
}

// parse reads a packet. It reports false for what must be ignored (RFC 6762 §18.3, §18.11).
func parse(data []byte) (*message, bool) {
	var m dns.Msg
	if m.Unpack(data) != nil || m.Opcode != dns.OpcodeQuery || m.Rcode != dns.RcodeSuccess {
		return nil, false
	}
	return &message{
		response: m.Response, truncated: m.Truncated, id: m.Id, questions: m.Question,
		answers: hear(m.Answer), authority: hear(m.Ns), extra: hear(m.Extra),
	}, true
}

// hear keeps the records of class IN.
func hear(rrs []dns.RR) []heard {
	out := make([]heard, 0, len(rrs))
	for _, rr := range rrs {
		h := rr.Header()
		if rec := (heard{rr: rr, flush: h.Class&topBit != 0}); h.Rrtype != dns.TypeOPT {
			if h.Class &^= topBit; h.Class == dns.ClassINET {
				out = append(out, rec)
			}
		}
	}
	return out
}

// everything is what a response says, in all sections.
func (m *message) everything() []heard { return slices.Concat(m.answers, m.authority, m.extra) }

// same compares name, type and data; not the time to live.
func same(a, b dns.RR) bool { return dns.IsDuplicate(a, b) }

// rdata is the data of a record in wire format without compression, as RFC 6762 §8.2 compares it.
func rdata(rr dns.RR) []byte {
	buf := make([]byte, dns.Len(rr)+256)
	start, err := dns.PackDomainName(rr.Header().Name, buf, 0, nil, false)
	if err != nil {
		return nil
	}
	end, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil || end < start+10 {
		return nil
	}
	return buf[start+10 : end]
}

// compareSets puts two record sets in the order of RFC 6762 §8.2.1: later wins.
func compareSets(a, b []dns.RR) int {
	byData := func(a, b dns.RR) int {
		return cmp.Or(cmp.Compare(a.Header().Rrtype, b.Header().Rrtype), bytes.Compare(rdata(a), rdata(b)))
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, byData)
	slices.SortFunc(b, byData)
	return slices.CompareFunc(a, b, byData)
}

// A reply is what a responder says.
type reply struct {
	answers, extra []*record
	goodbye        bool     // RFC 6762 §10.1
	legacy         *message // the query to answer as plain DNS does (§6.7)
}

func (r reply) pack() ([]byte, error) {
	m := dns.Msg{Compress: true}
	m.Response, m.Authoritative = true, true
	maxTTL := uint32(math.MaxInt32)
	if r.legacy != nil {
		m.Id, m.Question, maxTTL = r.legacy.id, r.legacy.questions, 10
	}
	say := func(rec *record) dns.RR {
		rr := dns.Copy(rec.rr)
		h := rr.Header()
		h.Ttl = min(h.Ttl, maxTTL)
		if r.goodbye {
			h.Ttl = 0
		}
		if rec.unique && r.legacy == nil {
			h.Class |= topBit
		}
		return rr
	}
	for _, rec := range r.answers {
		m.Answer = append(m.Answer, say(rec))
	}
	for _, rec := range r.extra {
		m.Extra = append(m.Extra, say(rec))
	}
	return m.Pack()
}

// memory knows the last packets that were sent, so that they are not mistaken for another
// responder's when the network gives them back.
type memory struct {
	sums [64]uint64
	next int
}

func (m *memory) add(data []byte) {
	m.sums[m.next] = sum(data)
	m.next = (m.next + 1) % len(m.sums)
}

func (m *memory) has(data []byte) bool { return slices.Contains(m.sums[:], sum(data)) }

func sum(data []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(data)
	return h.Sum64()
}

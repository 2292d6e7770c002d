package discovery

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/mdns"
	"github.com/miekg/dns"
)

// The service types that a gateway announces.
const (
	TypeMQTT    = "_secure-mqtt._tcp" // MQTT over TLS, as registered with IANA
	TypeGateway = "_gatewayctl._tcp"  // the HTTPS API
)

// The keys of the TXT record of a gateway's services.
const (
	KeyID          = "id"
	KeyVersion     = "version"
	KeyFingerprint = "ca-sha256" // of the CA's certificate; it informs, see the package comment
)

const (
	maxTXT       = 1300 // bytes of a TXT record that still fit in one packet (RFC 6763 §6.2)
	maxAddresses = 16   // of one host on one link
)

// A Service is one thing to announce. See RFC 6763 §4 for its parts.
type Service struct {
	Type     string            // such as _http._tcp
	Instance string            // the name shown to people, 1 to 63 bytes of UTF-8; "" means the host's name
	Host     string            // label or label.local of the machine; "" means this machine's host name
	Port     int               // 1 to 65535
	IPs      []netip.Addr      // nil means every address of the interface that is announced on
	TXT      map[string]string // keys of printable ASCII without '='; at most 1300 bytes in all
}

// A Gateway is what a gateway tells the network of itself.
type Gateway struct {
	ID          string       // the gateway's identifier
	Version     string       // of the program
	Fingerprint string       // SHA-256 of the CA's certificate in hex
	Instance    string       // as in [Service]
	Host        string       // as in [Service]; the server certificate should hold this name
	MQTTPort    int          // 0 leaves the service out
	HTTPSPort   int          // 0 leaves the service out
	IPs         []netip.Addr // as in [Service]
}

// Services returns what to announce for g: MQTT over TLS and the HTTPS API, with the same TXT.
func (g Gateway) Services() []Service {
	var out []Service
	for _, s := range []Service{{Type: TypeMQTT, Port: g.MQTTPort}, {Type: TypeGateway, Port: g.HTTPSPort}} {
		if s.Port == 0 {
			continue
		}
		s.Instance, s.Host, s.IPs = g.Instance, g.Host, slices.Clone(g.IPs)
		s.TXT = map[string]string{KeyID: g.ID, KeyVersion: g.Version, KeyFingerprint: g.Fingerprint}
		out = append(out, s)
	}
	return out
}

// complete returns a checked copy of s with its defaults filled in; Host is one label.
func (s Service) complete() (Service, error) {
	s.Host = strings.TrimSuffix(strings.TrimSuffix(s.Host, "."), ".local")
	if s.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return s, fmt.Errorf("service %s: host name: %w", s.Type, err)
		}
		s.Host, _, _ = strings.Cut(name, ".")
	}
	if s.Instance == "" {
		s.Instance = s.Host
	}
	labels, err := splitType(s.Type)
	if err != nil {
		return s, err
	}
	s.Type = strings.Join(labels, ".")
	switch {
	case len(s.Host) == 0 || len(s.Host) > 63 || strings.Contains(s.Host, ".") || text(s.Host) != s.Host:
		return s, fmt.Errorf("service %s: host %q is not a name of one label, or one label and .local", s.Type, s.Host)
	case len(s.Instance) > 63 || !utf8.ValidString(s.Instance) || text(s.Instance) != s.Instance:
		return s, fmt.Errorf("service %s: instance %q is not 1 to 63 bytes of UTF-8 without control characters", s.Type, s.Instance)
	case s.Port < 1 || s.Port > 65535:
		return s, fmt.Errorf("service %s: port %d is not within 1 to 65535", s.Type, s.Port)
	}
	total := 0
	for k, v := range s.TXT {
		pair := len(k) + 1 + len(v)
		if total += 1 + pair; k == "" || pair > 255 || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r > '~' || r == '=' }) {
			return s, fmt.Errorf("service %s: TXT %q is not printable ASCII without '=', or longer than 255 bytes with its value", s.Type, k)
		}
	}
	if total > maxTXT {
		return s, fmt.Errorf("service %s: TXT has %d bytes, want at most %d", s.Type, total, maxTXT)
	}
	s.TXT, s.IPs = maps.Clone(s.TXT), slices.Clone(s.IPs)
	for i, ip := range s.IPs {
		s.IPs[i] = ip.Unmap().WithZone("")
	}
	return s, nil
}

// addresses are those of s that lead to it on l: the ones that l has, and any that this machine has
// nowhere, such as that of a port forwarder.
func (s Service) addresses(l link, elsewhere func(netip.Addr) bool) []net.IP {
	var out []net.IP
	add := func(ip netip.Addr) {
		if len(out) < maxAddresses {
			out = append(out, ip.AsSlice())
		}
	}
	if s.IPs == nil {
		for _, ip := range l.usable() {
			add(ip)
		}
		return out
	}
	for _, ip := range s.IPs {
		if l.has(ip) || !elsewhere(ip) && ip.IsGlobalUnicast() {
			add(ip)
		}
	}
	return out
}

// A record is one that we may say on one link.
type record struct {
	rr     dns.RR    // class without the cache-flush bit
	name   string    // key of its name
	owner  string    // key of the unique name without which it must not be said
	unique bool      // nobody else may have records of this name and type (RFC 6762 §2)
	said   time.Time // when it was last multicast
}

// zone returns the records of s at ips. The record set of a service is hashicorp/mdns's; times to
// live are those of RFC 6762 §10, where the library has 120 s for all.
func (s Service) zone(ips []net.IP) ([]*record, error) {
	instance, err := fqdn(append([]string{s.Instance}, strings.Split(s.Type, ".")...)...)
	if err != nil {
		return nil, err
	}
	host, err := fqdn(s.Host)
	if err != nil {
		return nil, err
	}
	var txt []string
	for _, k := range slices.Sorted(maps.Keys(s.TXT)) {
		txt = append(txt, escapeString(k+"="+s.TXT[k]))
	}
	if txt == nil {
		txt = []string{""} // RFC 6763 §6.1: an empty record is one empty string
	}
	typeName := s.Type + "." + domain
	z, err := mdns.NewMDNSService(strings.TrimSuffix(instance, "."+typeName), s.Type, domain, host, s.Port, ips, txt)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", s.Type, err)
	}
	var out []*record
	for _, rr := range append(z.Records(dns.Question{Name: typeName, Qtype: dns.TypePTR}),
		z.Records(dns.Question{Name: enumName, Qtype: dns.TypePTR})...) {
		r := &record{rr: rr, name: key(rr.Header().Name), owner: key(instance), unique: true}
		switch rr := rr.(type) {
		case *dns.PTR:
			r.unique = false
			rr.Hdr.Ttl = 4500
		case *dns.TXT:
			rr.Hdr.Ttl = 4500
		case *dns.A, *dns.AAAA:
			r.owner = key(host)
		}
		out = append(out, r)
	}
	return out, nil
}

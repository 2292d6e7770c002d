package discovery

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"
)

const (
	domain   = "local."
	enumName = "_services._dns-sd._udp.local." // RFC 6763 §9
)

// fqdn builds the name of some labels, which may hold any bytes, below local. The answer is in the
// form that miekg/dns gives to the names it reads, so that the two can be compared.
func fqdn(labels ...string) (string, error) {
	var wire []byte
	for _, label := range append(labels, "local") {
		if len(label) == 0 || len(label) > 63 {
			return "", fmt.Errorf("label %q has %d bytes, want 1 to 63", label, len(label))
		}
		wire = append(append(wire, byte(len(label))), label...)
	}
	name, _, err := dns.UnpackDomainName(append(wire, 0), 0)
	return name, err
}

// splitType returns the labels of a service type such as "_http._tcp".
func splitType(typ string) ([]string, error) {
	labels := strings.Split(strings.TrimSuffix(strings.TrimSuffix(typ, "."), ".local"), ".")
	if len(labels) != 2 || len(labels[0]) < 2 || len(labels[0]) > 63 || labels[0][0] != '_' ||
		!strings.EqualFold(labels[1], "_tcp") && !strings.EqualFold(labels[1], "_udp") {
		return nil, fmt.Errorf("service type %q is not of the form _name._tcp", typ)
	}
	for _, r := range labels[0][1:] {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return nil, fmt.Errorf("service type %q may hold letters, digits and hyphens only", typ)
		}
	}
	return labels, nil
}

// key is name as a map key: RFC 6762 §16 compares names without regard to the case of ASCII letters.
func key(name string) string { return dns.CanonicalName(name) }

// labels returns the labels of a name as raw bytes.
func labels(name string) ([]string, error) {
	wire := make([]byte, 256)
	end, err := dns.PackDomainName(name, wire, 0, nil, false)
	if err != nil {
		return nil, err
	}
	var out []string
	for i := 0; i < end && wire[i] != 0; i += 1 + int(wire[i]) {
		out = append(out, string(wire[i+1:i+1+int(wire[i])]))
	}
	return out, nil
}

// splitInstance splits the full name of a service instance into its first label, as raw bytes, and
// the name of its type.
func splitInstance(name string) (label, typ string, ok bool) {
	all, err := labels(name)
	next, end := dns.NextLabel(name, 0)
	if err != nil || end || len(all) < 2 {
		return "", "", false
	}
	return all[0], name[next:], true
}

// text makes foreign bytes fit for a terminal and a log: no control or formatting characters, no
// bytes that are not UTF-8; each is replaced by U+FFFD.
func text(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// escapeString writes raw bytes in the form in which miekg/dns holds strings of a TXT record.
func escapeString(raw string) string {
	var b strings.Builder
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, "\\%03d", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescapeString undoes escapeString.
func unescapeString(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i++; i+2 < len(s) && digit(s[i]) && digit(s[i+1]) && digit(s[i+2]) {
			b.WriteByte((s[i]-'0')*100 + (s[i+1]-'0')*10 + s[i+2] - '0')
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// numbered returns the n-th variant of a label for n > 1, cut so that it stays a label of valid
// UTF-8 (RFC 6762 §9, RFC 6763 appendix D).
func numbered(label, format string, n int) string {
	if n <= 1 {
		return label
	}
	suffix := fmt.Sprintf(format, n)
	for len(label)+len(suffix) > 63 {
		_, size := utf8.DecodeLastRuneInString(label)
		label = label[:len(label)-size]
	}
	return label + suffix
}

package pki

import (
	"fmt"
	"net"
	"os"
	"strings"
)

// LocalNames returns what this machine may be called: its host name, whole and up to the first
// dot, the short name with .local (mDNS, RFC 6762), localhost, and the addresses of all its
// interfaces. A host name that no certificate can hold is left out.
func LocalNames() ([]string, []net.IP, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, nil, fmt.Errorf("host name: %w", err)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("addresses of this machine: %w", err)
	}
	var ips []net.IP
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return hostNames(host), ips, nil
}

func hostNames(host string) []string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	short, _, _ := strings.Cut(host, ".")
	var names []string
	for _, name := range []string{host, short, short + ".local", "localhost"} {
		if validHost(name) {
			names = append(names, name)
		}
	}
	names, _ = distinct(names, nil)
	return names
}

// distinct returns names in lower case and addresses in their short form, each once, in order.
func distinct(names []string, ips []net.IP) ([]string, []net.IP) {
	seen := map[string]bool{}
	var outNames []string
	for _, name := range names {
		if name = strings.ToLower(name); !seen[name] {
			seen[name] = true
			outNames = append(outNames, name)
		}
	}
	var outIPs []net.IP
	for _, ip := range ips {
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		if key := ip.String(); !seen[key] {
			seen[key] = true
			outIPs = append(outIPs, ip)
		}
	}
	return outNames, outIPs
}

package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"gatewayctl/pki/identity"
)

// A Profile is a kind of certificate and what may be asked for under it.
type Profile string

// The profiles.
const (
	ProfileServer  Profile = "server"  // the gateway's listeners: server authentication, names and addresses
	ProfileDevice  Profile = "device"  // a thing: client authentication only, up to 10 years
	ProfileAdmin   Profile = "admin"   // a person or program that administers: client authentication only
	ProfileGateway Profile = "gateway" // the gateway as a client of others: client authentication only
)

// rules is what a profile grants.
type rules struct {
	role        identity.Role
	usage       x509.ExtKeyUsage
	maxLifetime time.Duration
}

func (p Profile) rules() (rules, bool) {
	switch p {
	case ProfileServer:
		return rules{identity.RoleServer, x509.ExtKeyUsageServerAuth, 397 * day}, true
	case ProfileDevice:
		return rules{identity.RoleDevice, x509.ExtKeyUsageClientAuth, 10 * year}, true
	case ProfileAdmin:
		return rules{identity.RoleAdmin, x509.ExtKeyUsageClientAuth, 397 * day}, true
	case ProfileGateway:
		return rules{identity.RoleGateway, x509.ExtKeyUsageClientAuth, 397 * day}, true
	}
	return rules{}, false
}

// check fills in what req leaves open and refuses what its profile does not grant.
func (req *Request) check(defaultLifetime time.Duration) (rules, error) {
	r, ok := req.Profile.rules()
	if !ok {
		return r, fmt.Errorf("%w: no profile %q", ErrProfile, req.Profile)
	}
	if req.Lifetime == 0 {
		req.Lifetime = min(defaultLifetime, r.maxLifetime)
	}
	if req.Lifetime < time.Second || req.Lifetime > r.maxLifetime {
		return r, fmt.Errorf("%w %s: a lifetime of %s, where %s is the most", ErrProfile, req.Profile, days(req.Lifetime), days(r.maxLifetime))
	}
	if (req.Profile == ProfileDevice) == req.Device.IsZero() {
		return r, fmt.Errorf("%w %s: device %q", ErrProfile, req.Profile, req.Device)
	}
	names := len(req.DNSNames) + len(req.IPs)
	if (req.Profile == ProfileServer) != (names > 0) {
		return r, fmt.Errorf("%w %s: %d host names and addresses", ErrProfile, req.Profile, names)
	}
	for _, name := range req.DNSNames {
		if !validHost(name) {
			return r, fmt.Errorf("%w %s: host name %q", ErrProfile, req.Profile, name)
		}
	}
	for _, ip := range req.IPs {
		if ip.To16() == nil {
			return r, fmt.Errorf("%w %s: address %v", ErrProfile, req.Profile, []byte(ip))
		}
	}
	if req.CommonName == "" {
		req.CommonName = req.defaultCommonName()
	}
	if !validCommonName(req.CommonName) {
		return r, fmt.Errorf("%w %s: common name %.80q; use 1 to 64 printable characters", ErrProfile, req.Profile, req.CommonName)
	}
	return r, nil
}

func days(d time.Duration) string {
	if d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

const maxCommonName = 64 // ub-common-name, RFC 5280 appendix A

// defaultCommonName is the device's name, or the first host name that is short enough. A longer
// one is cut and made distinct: the common name is for people, identities come from the registry.
func (req *Request) defaultCommonName() string {
	if name := req.Device.String(); name != "" {
		if len(name) <= maxCommonName {
			return name
		}
		sum := sha256.Sum256([]byte(name))
		return name[:maxCommonName-9] + "-" + hex.EncodeToString(sum[:4])
	}
	for _, name := range req.DNSNames {
		if len(name) <= maxCommonName {
			return name
		}
	}
	if req.Profile == ProfileServer {
		return organization
	}
	return ""
}

func validCommonName(s string) bool {
	if s == "" || len(s) > maxCommonName || !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// validHost reports whether s can stand in a dNSName: labels of letters, digits, hyphens and the
// underscores that people's machines do have.
func validHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i] | 0x20
			if !('a' <= c && c <= 'z' || '0' <= label[i] && label[i] <= '9' || label[i] == '-' || label[i] == '_') {
				return false
			}
		}
	}
	return true
}

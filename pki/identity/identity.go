// Package identity names whom a verified certificate speaks for.
//
// A [DeviceID] is the AWS thing name that a certificate is attached to in the registry. It is
// never taken from a certificate's common name, from an MQTT client identifier or from an mDNS
// instance name: those are attributes that map to it.
package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// MaxDeviceIDLen is the longest thing name that AWS IoT accepts, in bytes.
const MaxDeviceIDLen = 128

// A DeviceID is the name of a thing in the registry: 1 to 128 characters of
// [a-zA-Z0-9:_-] (AWS IoT, CreateThing). The zero value names no device; [ParseDeviceID] is
// the only way to make another one.
type DeviceID struct{ name string }

// ParseDeviceID checks s against the grammar of AWS thing names.
func ParseDeviceID(s string) (DeviceID, error) {
	if s == "" {
		return DeviceID{}, fmt.Errorf("device name is empty: use 1 to %d of the characters a-z A-Z 0-9 : _ -", MaxDeviceIDLen)
	}
	if len(s) > MaxDeviceIDLen {
		return DeviceID{}, fmt.Errorf("device name %.20q… has %d characters: at most %d are allowed", s, len(s), MaxDeviceIDLen)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == ':', c == '_', c == '-':
		default:
			return DeviceID{}, fmt.Errorf("device name %q has a character that is not allowed at position %d: use a-z A-Z 0-9 : _ -", s, i+1)
		}
	}
	return DeviceID{s}, nil
}

// String returns the thing name, "" for the zero value.
func (d DeviceID) String() string { return d.name }

// IsZero reports whether d names no device.
func (d DeviceID) IsZero() bool { return d.name == "" }

// Equal reports whether both name the same thing; it lets go-cmp compare DeviceIDs.
func (d DeviceID) Equal(o DeviceID) bool { return d == o }

// MarshalText implements [encoding.TextMarshaler].
func (d DeviceID) MarshalText() ([]byte, error) { return []byte(d.name), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text gives the zero value.
func (d *DeviceID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = DeviceID{}
		return nil
	}
	id, err := ParseDeviceID(string(b))
	if err != nil {
		return err
	}
	*d = id
	return nil
}

// A Role says what a certificate may be used for. It comes from the profile under which our own
// CA issued the certificate, as recorded in the store, and from nowhere else.
type Role string

// The roles. The zero value grants nothing.
const (
	RoleDevice  Role = "device"  // a thing in the registry
	RoleAdmin   Role = "admin"   // the admin API from another machine
	RoleServer  Role = "server"  // the gateway's listeners
	RoleGateway Role = "gateway" // the gateway as a client of others
)

// A Peer is whom a verified certificate names. The zero value is nobody.
type Peer struct {
	CertificateID string    // AWS certificateId: SHA-256 of the DER encoding, 64 lower-case hex digits
	Serial        string    // serial number, lower-case hex
	CommonName    string    // subject CN: an attribute, never an identity
	Role          Role      // of the profile it was issued under; "" if our CA did not issue it
	NotAfter      time.Time // end of validity
}

// CertificateID returns AWS's certificateId of cert: the SHA-256 digest of its DER encoding as
// 64 lower-case hexadecimal digits (RFC 5280 certificate, AWS IoT RegisterCertificate).
func CertificateID(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

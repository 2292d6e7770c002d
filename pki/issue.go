package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"time"

	"gatewayctl/pki/identity"
	"gatewayctl/store"
)

// A Request asks for one certificate.
type Request struct {
	Profile    Profile
	CommonName string            // "" means the device's name, or the first host name
	Device     identity.DeviceID // the device profile's thing; zero for the others

	// The public key to certify: PublicKey, or that of a CSR whose signature proves that the
	// sender has the private key. Nothing but the key is taken from a CSR.
	PublicKey crypto.PublicKey
	CSR       *x509.CertificateRequest

	DNSNames []string // server profile only
	IPs      []net.IP // server profile only

	Lifetime time.Duration // NotAfter minus NotBefore; 0 means Options.LeafLifetime

	// Supersedes lists certificates, by ID or serial number, that are revoked with the reason
	// "superseded" in the transaction that records the new one.
	Supersedes []string

	// Also runs in the transaction that records the certificate; its error undoes everything. It
	// may run twice and must not change the certificate. nil does nothing.
	Also func(*store.Tx, *Certificate) error
}

// A Certificate is one that this authority issued, as its records know it.
type Certificate struct {
	ID         string            `json:"id"`     // AWS certificateId: SHA-256 of DER, lower-case hex
	Serial     string            `json:"serial"` // serial number, lower-case hex
	Issuer     string            `json:"issuer"` // ID of the certificate that signed it
	Profile    Profile           `json:"profile"`
	CommonName string            `json:"common_name"`
	Device     identity.DeviceID `json:"device,omitzero"`
	NotBefore  time.Time         `json:"not_before"`
	NotAfter   time.Time         `json:"not_after"`
	Issued     time.Time         `json:"issued"`
	DER        []byte            `json:"-"`                 // the certificate itself
	Revoked    *Revocation       `json:"revoked,omitempty"` // nil: not revoked
}

// PEM returns the certificate in PEM, alone; clients and servers also send
// [Authority.IntermediatePEM].
func (c *Certificate) PEM() []byte { return encodePEM(c.DER) }

// X509 returns the parsed certificate.
func (c *Certificate) X509() (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.ID, err)
	}
	return cert, nil
}

// Issue signs a certificate for req and records it before returning it, so that nothing is ever
// in the field that cannot be revoked.
//
// The serial number has 128 random bits (RFC 5280 §4.1.2.2). NotBefore lies up to a day before
// the time of issue; the validity never exceeds the issuer's. Issue returns [ErrProfile] if req
// asks for more than its profile grants, [ErrWeakKey] for a key that is not RSA from 2048 bits,
// ECDSA from P-256 or Ed25519, [ErrCSR] for a bad proof of possession, and [ErrClock] while the
// system clock cannot be trusted; in all cases nothing is recorded.
func (a *Authority) Issue(ctx context.Context, req Request) (*Certificate, error) {
	cert, err := a.issue(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("issue %s certificate for %q: %w", req.Profile, req.subject(), err)
	}
	return cert, nil
}

func (req *Request) subject() string {
	if req.CommonName != "" {
		return req.CommonName
	}
	return req.Device.String()
}

func (a *Authority) issue(ctx context.Context, req Request) (*Certificate, error) {
	status := a.clock.Status()
	if !status.Trusted {
		return nil, fmt.Errorf("%w: %s", ErrClock, status.Reason)
	}
	now := status.Now.UTC()
	if !now.Before(a.intermediate.NotAfter) {
		return nil, fmt.Errorf("the issuing certificate ended on %s: %w", stamp(a.intermediate.NotAfter), ErrExpired)
	}
	granted, err := req.check(a.opts.LeafLifetime)
	if err != nil {
		return nil, err
	}
	pub, err := req.key()
	if err != nil {
		return nil, err
	}
	cert, err := a.certify(req, granted, pub, now)
	if err != nil {
		return nil, err
	}
	superseded, err := a.revocations(req.Supersedes, ReasonSuperseded, now)
	if err != nil {
		return nil, err
	}
	err = a.db.Update(ctx, func(tx *store.Tx) error {
		if err := putCertificates(tx, superseded...); err != nil {
			return err
		}
		if certificateBucket(tx).Get([]byte(cert.ID)) != nil {
			return fmt.Errorf("certificate %s is on record already", cert.ID)
		}
		if err := derBucket(tx).Put([]byte(cert.ID), cert.DER); err != nil {
			return err
		}
		if err := putCertificates(tx, cert); err != nil {
			return err
		}
		if req.Also != nil {
			return req.Also(tx, cert)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.index.put(cert)
	a.mu.Unlock()
	a.log.Info("issued "+string(cert.Profile)+" certificate", about(cert)...)
	a.publish(superseded)
	return cert, nil
}

// about names a certificate in the log.
func about(c *Certificate) []any {
	if c.Device.IsZero() {
		return []any{"serial", c.Serial}
	}
	return []any{"serial", c.Serial, "device", c.Device}
}

// certify signs the certificate that req asks for; nobody has it yet.
func (a *Authority) certify(req Request, granted rules, pub crypto.PublicKey, now time.Time) (*Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notBefore := now.Add(-min(backdate, req.Lifetime/10)).Truncate(time.Second)
	notAfter := notBefore.Add(req.Lifetime)
	if notBefore.Before(a.intermediate.NotBefore) {
		notBefore = a.intermediate.NotBefore
	}
	if notAfter.After(a.intermediate.NotAfter) {
		notAfter = a.intermediate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: req.CommonName},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{granted.usage},
		BasicConstraintsValid: true,
		DNSNames:              req.DNSNames,
		IPAddresses:           req.IPs,
		SubjectKeyId:          keyID(pub),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.intermediate, pub, a.signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	sum := sha256.Sum256(der)
	return &Certificate{
		ID: hex.EncodeToString(sum[:]), Serial: serial.Text(16), Issuer: identity.CertificateID(a.intermediate),
		Profile: req.Profile, CommonName: req.CommonName, Device: req.Device,
		NotBefore: notBefore, NotAfter: notAfter, Issued: now.Truncate(time.Second), DER: der,
	}, nil
}

// putCertificates writes what is on record about certs; the certificates themselves never change.
func putCertificates(tx *store.Tx, certs ...*Certificate) error {
	for _, c := range certs {
		if err := store.PutJSON(certificateBucket(tx), c.ID, c); err != nil {
			return fmt.Errorf("record certificate %s: %w", c.Serial, err)
		}
	}
	return nil
}

// newSerial returns 128 random bits as a positive number (RFC 5280 §4.1.2.2).
func newSerial() (*big.Int, error) {
	var b [16]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("random numbers: %w", err)
		}
		if serial := new(big.Int).SetBytes(b[:]); serial.Sign() > 0 {
			return serial, nil
		}
	}
}

// keyID is method 1 of RFC 7093 §2: the leftmost 160 bits of the SHA-256 digest of the key.
func keyID(pub crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil // CreateCertificate refuses the same key, with an error
	}
	sum := sha256.Sum256(der)
	return sum[:20]
}

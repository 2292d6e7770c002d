package pki

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"

	"gatewayctl/pki/identity"
)

// Verify checks the certificates that a client presented, its own first, and returns whom they
// name. The client's certificate must chain to our root, be for client authentication, be on
// record and not revoked; and it must be within its validity, which is not judged while the
// clock cannot be trusted.
//
// Its errors wrap [ErrNoCertificate], [ErrUnknownAuthority], [ErrWeakKey], [ErrUsage],
// [ErrUnknownCertificate], [ErrRevoked], [ErrNotYetValid] or [ErrExpired], whichever comes first.
// Verify does not know whether the thing may connect: that is in the registry.
func (a *Authority) Verify(certs []*x509.Certificate) (identity.Peer, error) {
	if len(certs) == 0 {
		return identity.Peer{}, ErrNoCertificate
	}
	leaf := certs[0]
	cert, err := a.verify(leaf)
	if err != nil {
		return identity.Peer{}, fmt.Errorf("certificate %x of %.64q: %w", leaf.SerialNumber, leaf.Subject.CommonName, err)
	}
	granted, _ := cert.Profile.rules()
	return identity.Peer{
		CertificateID: cert.ID, Serial: cert.Serial, CommonName: cert.CommonName,
		Role: granted.role, NotAfter: cert.NotAfter,
	}, nil
}

func (a *Authority) verify(leaf *x509.Certificate) (*Certificate, error) {
	id := identity.CertificateID(leaf)
	a.mu.RLock()
	e, known := a.index.byID[id]
	a.mu.RUnlock()
	if !known || !e.chained.Load() {
		if err := a.chain(leaf); err != nil {
			return nil, err
		}
	}
	if k, ok := leaf.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("%w: RSA with %d bits", ErrWeakKey, k.N.BitLen())
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return nil, ErrUsage
	}
	if !known {
		return nil, ErrUnknownCertificate
	}
	e.chained.Store(true)
	cert := e.cert
	if cert.Revoked != nil {
		return nil, fmt.Errorf("%w on %s (%s)", ErrRevoked, stamp(cert.Revoked.At), cert.Revoked.Reason)
	}
	status := a.clock.Status()
	switch {
	case !status.Trusted:
	case status.Now.Before(cert.NotBefore):
		return nil, fmt.Errorf("%w: it begins on %s", ErrNotYetValid, stamp(cert.NotBefore))
	case status.Now.After(cert.NotAfter):
		return nil, fmt.Errorf("%w on %s", ErrExpired, stamp(cert.NotAfter))
	}
	return cert, nil
}

// chain checks the signatures from leaf up to our root. Whatever else the client sent plays no
// part: we have the only intermediate that issues. Time is judged by verify: a leaf's validity
// lies within its issuers', so its own beginning is a time at which all are valid.
func (a *Authority) chain(leaf *x509.Certificate) error {
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.pool, Intermediates: a.between, CurrentTime: leaf.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w (issuer %.64q): %v", ErrUnknownAuthority, leaf.Issuer.CommonName, err)
	}
	return nil
}

// Active reports whether cert is neither revoked nor, by a clock that can be trusted, past its end.
func (a *Authority) Active(cert *Certificate) bool {
	current, ok := a.Lookup(cert.ID)
	if !ok || current.Revoked != nil {
		return false
	}
	status := a.clock.Status()
	return !status.Trusted || !status.Now.After(current.NotAfter)
}

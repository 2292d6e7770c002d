// Package provision enrols devices: a signing request in, a registry row and a certificate out,
// in one transaction.
//
// # Design
//
// Enrolling a device a second time is where people get hurt: a second key for a device that works
// is either an attack or a slip, and to revoke the first certificate silently would cut off the
// device that works. So [Service.Enroll] refuses a device that has an active certificate
// ([ErrExists]) unless the operator says what is meant: [Replace] ends the old certificates in the
// transaction that makes the new one, [Additional] keeps them beside it. A device whose
// certificates are all revoked or expired, or that was only registered, is enrolled without
// further ado.
//
// A private key that is made here is handed out once and never stored.
package provision

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"gatewayctl/gateway"
	"gatewayctl/pki"
	"gatewayctl/pki/identity"
	"gatewayctl/pki/keystore"
	"gatewayctl/store"
)

// Errors that callers tell apart.
var (
	ErrExists   = errors.New("the device has an active certificate already")
	ErrDisabled = errors.New("the device is disabled")
	ErrChanged  = errors.New("the device was changed at the same time; try again")
)

// Options configures a [Service].
type Options struct {
	Lifetime        time.Duration // of certificates where an enrolment names none; 0 means a year
	DefaultPolicies []string      // of new devices where an enrolment names none
	Log             *slog.Logger  // nil discards
}

// defaultLifetime is longer than the authority's own default, because credentials that were
// carried to a device by hand are also renewed by hand.
const defaultLifetime = 365 * 24 * time.Hour

// A Service enrols and removes devices. Its methods are safe for concurrent use.
type Service struct {
	db        *store.DB
	authority *pki.Authority
	registry  *gateway.Registry
	opts      Options
	log       *slog.Logger

	mu sync.Mutex // one enrolment at a time: what it decides on must not change under it
}

// New returns a service that works on authority and registry, both in db.
func New(db *store.DB, authority *pki.Authority, registry *gateway.Registry, opts Options) *Service {
	if opts.Lifetime == 0 {
		opts.Lifetime = defaultLifetime
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Service{db: db, authority: authority, registry: registry, opts: opts, log: log.With("component", "provision")}
}

// An Enrollment asks for credentials of one device.
type Enrollment struct {
	Device   identity.DeviceID
	CSR      []byte        // PKCS #10 in PEM or DER; none: a P-256 key is made here and returned
	Policies []string      // names; none keeps those of the device, or gives a new one Options.DefaultPolicies
	Type     string        // "" keeps that of the device
	Lifetime time.Duration // of the certificate; 0 means Options.Lifetime
	Existing Existing      // what to do about an active certificate of the device
}

// Existing says what an enrolment does about active certificates that the device has.
type Existing int

// The choices. An active certificate is neither revoked nor expired.
const (
	Refuse     Existing = iota // return ErrExists
	Replace                    // revoke them as superseded, in the transaction that records the new one
	Additional                 // keep them
)

// Credentials is what a device, or somebody else, needs to connect. It prints and logs without the private key.
type Credentials struct {
	Device         identity.DeviceID // zero if they are not for a device
	Certificate    *pki.Certificate
	CertificatePEM []byte             // the device's and the intermediate, as a client sends them
	KeyPEM         Secret             // PKCS#8; none if the enrolment had a CSR
	CAPEM          []byte             // the root, which the device is to trust
	Revoked        []*pki.Certificate // those that were replaced
}

// Enroll makes sure that the device is in the registry and issues a certificate that is attached
// to it: all of it or nothing. When it returns, the device may connect.
//
// It returns [ErrExists] if the device has an active certificate and e does not say what to do
// about it, [ErrDisabled] for a device that may not connect anyway, pki.ErrCSR or pki.ErrWeakKey
// for a signing request that cannot be used, pki.ErrProfile for a lifetime that is too long,
// pki.ErrClock while the system clock cannot be trusted, and gateway.ErrInvalid for a type or
// policy name that is not allowed.
func (s *Service) Enroll(ctx context.Context, e Enrollment) (*Credentials, error) {
	c, err := s.enroll(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", e.Device, err)
	}
	s.log.Info("device provisioned", "device", e.Device, "serial", c.Certificate.Serial)
	return c, nil
}

func (s *Service) enroll(ctx context.Context, e Enrollment) (*Credentials, error) {
	if e.Device.IsZero() {
		return nil, fmt.Errorf("%w: it has no name", gateway.ErrInvalid)
	}
	c := &Credentials{Device: e.Device, CAPEM: s.authority.RootPEM()}
	req := pki.Request{Profile: pki.ProfileDevice, Device: e.Device, Lifetime: e.Lifetime}
	if req.Lifetime == 0 {
		req.Lifetime = s.opts.Lifetime
	}
	if err := c.key(&req, e.CSR); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known, err := s.find(e.Device)
	if err != nil {
		return nil, err
	}
	if old.Disabled {
		return nil, fmt.Errorf("%w: enable it first", ErrDisabled)
	}
	active := s.active(old)
	switch {
	case len(active) == 0, e.Existing == Additional:
	case e.Existing == Replace:
		for _, cert := range active {
			req.Supersedes = append(req.Supersedes, cert.ID)
		}
	default:
		newest := active[len(active)-1]
		return nil, fmt.Errorf("%w: %s, valid until %s; replace it (it is revoked, and the device cut off until it has the new one), or ask for an additional one",
			ErrExists, newest.Serial, newest.NotAfter.Format(time.DateOnly))
	}
	kept := slices.DeleteFunc(slices.Clone(old.Certificates), func(id string) bool {
		cert, ours := s.authority.Lookup(id)
		return ours && (e.Existing == Replace || !s.authority.Active(cert))
	})
	req.Also = func(tx *store.Tx, cert *pki.Certificate) error {
		return s.attach(tx, e, old, known, append(slices.Clip(kept), cert.ID))
	}
	if c.Certificate, err = s.authority.Issue(ctx, req); err != nil {
		return nil, err
	}
	c.CertificatePEM = slices.Concat(c.Certificate.PEM(), s.authority.IntermediatePEM())
	for _, id := range req.Supersedes {
		if cert, ok := s.authority.Lookup(id); ok {
			c.Revoked = append(c.Revoked, cert)
		}
	}
	return c, s.registry.Reload(e.Device)
}

// key takes the public key from the CSR, or makes a key pair.
func (c *Credentials) key(req *pki.Request, csr []byte) (err error) {
	if len(csr) > 0 {
		req.CSR, err = pki.ParseCSR(csr)
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make private key: %w", err)
	}
	req.PublicKey = key.Public()
	c.KeyPEM, err = keystore.Encode(key)
	return err
}

func (s *Service) find(id identity.DeviceID) (d gateway.Device, known bool, err error) {
	err = s.db.View(func(tx *store.Tx) (err error) { d, known, err = s.registry.GetTx(tx, id); return err })
	return d, known, err
}

// active returns the certificates with which d can connect, oldest first.
func (s *Service) active(d gateway.Device) []*pki.Certificate {
	var out []*pki.Certificate
	for _, id := range d.Certificates {
		if cert, ok := s.authority.Lookup(id); ok && s.authority.Active(cert) {
			out = append(out, cert)
		}
	}
	return out
}

// attach writes the registry's part of an enrolment. Certificates that are of no use any more
// are let go; the authority's records keep them.
func (s *Service) attach(tx *store.Tx, e Enrollment, old gateway.Device, known bool, certs []string) error {
	now, exists, err := s.registry.GetTx(tx, e.Device)
	if err != nil {
		return err
	}
	if exists != known || now.Disabled != old.Disabled || !slices.Equal(now.Certificates, old.Certificates) {
		return ErrChanged
	}
	policies := e.Policies
	if !exists {
		if len(policies) == 0 {
			policies = s.opts.DefaultPolicies
		}
		if err := s.registry.CreateTx(tx, gateway.Device{Name: e.Device}); err != nil {
			return err
		}
	}
	return s.registry.UpdateTx(tx, e.Device, func(d *gateway.Device) error {
		d.Certificates = certs
		if len(policies) > 0 {
			d.Policies = policies
		}
		if e.Type != "" {
			d.Type = e.Type
		}
		return nil
	})
}

// Remove takes a device out of the registry and revokes its certificates, all of it or nothing.
// It returns what the device was, or gateway.ErrNotFound.
func (s *Service) Remove(ctx context.Context, id identity.DeviceID) (gateway.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, known, err := s.find(id)
	if err == nil && !known {
		err = gateway.ErrNotFound
	}
	if err != nil {
		return gateway.Device{}, fmt.Errorf("remove device %s: %w", id, err)
	}
	ours := slices.DeleteFunc(slices.Clone(d.Certificates), func(cert string) bool { _, ok := s.authority.Lookup(cert); return !ok })
	_, err = s.authority.RevokeAll(ctx, ours, "cessationOfOperation", func(tx *store.Tx) error {
		now, err := s.registry.RemoveTx(tx, id)
		if err == nil && !slices.Equal(now.Certificates, d.Certificates) {
			return ErrChanged
		}
		return err
	})
	if err != nil {
		return gateway.Device{}, fmt.Errorf("remove device %s: %w", id, err)
	}
	s.log.Info("device removed", "device", id)
	return d, s.registry.Reload(id)
}

// A Request asks for credentials that are not a device's, such as an administrator's.
type Request struct {
	Profile    pki.Profile // any but pki.ProfileDevice
	CommonName string
	CSR        []byte        // PKCS #10 in PEM or DER; none: a P-256 key is made here and returned
	Lifetime   time.Duration // 0 means the authority's default
	DNSNames   []string      // pki.ProfileServer only
	IPs        []net.IP      // pki.ProfileServer only
}

// Issue returns credentials for somebody who is not in the registry. Its errors are those of
// pki.Authority.Issue.
func (s *Service) Issue(ctx context.Context, r Request) (*Credentials, error) {
	c := &Credentials{CAPEM: s.authority.RootPEM()}
	req := pki.Request{Profile: r.Profile, CommonName: r.CommonName, Lifetime: r.Lifetime, DNSNames: r.DNSNames, IPs: r.IPs}
	if err := c.key(&req, r.CSR); err != nil {
		return nil, fmt.Errorf("issue %s certificate for %q: %w", r.Profile, r.CommonName, err)
	}
	var err error
	if c.Certificate, err = s.authority.Issue(ctx, req); err != nil {
		return nil, err
	}
	c.CertificatePEM = slices.Concat(c.Certificate.PEM(), s.authority.IntermediatePEM())
	return c, nil
}

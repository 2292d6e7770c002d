// Package pki is the gateway's certificate authority: a root, an issuing intermediate, profiles
// that say what may be asked for, revocation with CRLs (RFC 5280), and the verification of those
// who present a certificate.
//
// # Design
//
// The store is the truth. A certificate is recorded before anybody sees it, so nothing is in the
// field that cannot be revoked; and a certificate that the store does not know is refused even
// when our key signed it. Whom a certificate speaks for comes from that record, not from names
// inside the certificate. Because a record is found by the digest of the whole certificate, the
// signature chain needs to be checked once per certificate and process, not on every handshake.
//
// The machine may have no battery clock. While [Clock] does not trust the time, nothing is
// issued and nothing is judged expired; revocation works at all times.
//
// An index of all records stays in memory. It changes only after the store has committed.
package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gatewayctl/pki/keystore"
	"gatewayctl/store"
)

// Errors that callers tell apart. Every error of this package that concerns one of them wraps it.
var (
	ErrProfile            = errors.New("not allowed by the certificate profile")
	ErrClock              = errors.New("the system clock cannot be trusted")
	ErrCSR                = errors.New("not a usable certificate signing request")
	ErrReason             = errors.New("not a reason for revocation")
	ErrNoCertificate      = errors.New("no certificate")
	ErrUnknownAuthority   = errors.New("certificate of another authority")
	ErrUnknownCertificate = errors.New("unknown certificate")
	ErrRevoked            = errors.New("certificate revoked")
	ErrExpired            = errors.New("certificate expired")
	ErrNotYetValid        = errors.New("certificate not yet valid")
	ErrUsage              = errors.New("certificate is not for clients")
	ErrWeakKey            = errors.New("key too weak")
)

const (
	rootLifetime         = 20 * year
	intermediateLifetime = 10 * year
	year                 = 365 * day
	day                  = 24 * time.Hour

	// backdate is how far NotBefore lies before the time of issue at most: clients whose clock
	// is behind, or is only set later, must accept the certificate today.
	backdate = day
)

// Options configures an [Authority].
type Options struct {
	LeafLifetime time.Duration // NotAfter minus NotBefore where a request names none; 0 means 90 days
	CRLLifetime  time.Duration // NextUpdate minus ThisUpdate (RFC 5280 §5.1.2.5); 0 means 24h

	// OnRevoke is called after a revocation has been committed and takes part in [Authority.Verify].
	// It must not block. nil does nothing.
	OnRevoke func(*Certificate)

	Log *slog.Logger // nil discards
}

// An Authority issues, revokes and verifies certificates. Its methods are safe for concurrent use.
type Authority struct {
	db    *store.DB
	keys  *keystore.Store
	clock *Clock
	opts  Options
	log   *slog.Logger

	root, intermediate *x509.Certificate
	signer             *keystore.Key // of the intermediate
	pool, between      *x509.CertPool

	mu    sync.RWMutex
	index index

	crlMu sync.Mutex
	crl   crlRow
}

// Open returns the authority that db and keys hold; on the first run it makes a root (20 years)
// and an issuing intermediate (10 years, path length 0), both with ECDSA P-256 keys.
//
// It returns [ErrClock] if it would have to make them while the clock cannot be trusted; an
// authority that exists opens whatever the clock says. A key that is missing, readable by others,
// damaged, or that does not belong to its certificate is an error that names the file. Only the
// root's key may be absent: it is not needed in daily work and may be kept elsewhere.
func Open(ctx context.Context, db *store.DB, keys *keystore.Store, clock *Clock, opts Options) (*Authority, error) {
	if opts.LeafLifetime == 0 {
		opts.LeafLifetime = 90 * day
	}
	if opts.CRLLifetime == 0 {
		opts.CRLLifetime = day
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &Authority{db: db, keys: keys, clock: clock, opts: opts, log: log.With("component", "pki"), index: newIndex()}
	row, ok, err := a.readAuthority()
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if !ok {
		if row, err = a.create(ctx); err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
	}
	if err := a.adopt(row); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	if err := a.load(); err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	return a, nil
}

// Root returns the root certificate, which devices trust. It must not be changed.
func (a *Authority) Root() *x509.Certificate { return a.root }

// Intermediate returns the issuing certificate, which servers and devices send after their own.
// It must not be changed.
func (a *Authority) Intermediate() *x509.Certificate { return a.intermediate }

// RootPEM returns the root certificate in PEM.
func (a *Authority) RootPEM() []byte { return encodePEM(a.root.Raw) }

// IntermediatePEM returns the issuing certificate in PEM.
func (a *Authority) IntermediatePEM() []byte { return encodePEM(a.intermediate.Raw) }

// RootFingerprint returns the SHA-256 digest of the root certificate's DER encoding as 64
// lower-case hexadecimal digits.
func (a *Authority) RootFingerprint() string {
	sum := sha256.Sum256(a.root.Raw)
	return hex.EncodeToString(sum[:])
}

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatewayctl/pki/identity"
	"gatewayctl/pki/keystore"
	"gatewayctl/store"
)

const (
	serverPoll    = 30 * time.Second
	serverSurplus = time.Hour // how long a name must be gone before the certificate drops it
	serverPrefix  = "server-" // of the names of its keys
)

// ServerOptions configures a [Server].
type ServerOptions struct {
	Names    func() ([]string, []net.IP, error) // host names and addresses; nil means LocalNames
	Interval time.Duration                      // how often Run asks for them; 0 means 30s
	Lifetime time.Duration                      // of certificates; 0 means Options.LeafLifetime
	OnRenew  func(*Certificate)                 // called after a new certificate is in use; must not block
}

// A Server keeps the certificate that the gateway's listeners present. An authority has one
// Server. Its methods are safe for concurrent use.
//
// A new certificate is issued, with a new key, when a name or an address is added to the machine,
// when one has been gone for an hour (interfaces come and go), when two thirds of the life are
// over, and when the certificate was revoked. While that is impossible, because the clock cannot
// be trusted or the disk is full, the old one stays in use and Run tries again.
type Server struct {
	a       *Authority
	opts    ServerOptions
	current atomic.Pointer[served]

	mu      sync.Mutex // held while the certificate is replaced
	surplus time.Time  // since when the certificate names more than the machine has
}

type served struct {
	cert *Certificate
	tls  *tls.Certificate
}

// serverRow is the certificate in use and its key.
type serverRow struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

// NewServer returns the server certificate that is in use, or issues a first one. A certificate
// that ought to be replaced but cannot be is used with a warning; only when there is none at all
// does NewServer fail.
func (a *Authority) NewServer(ctx context.Context, opts ServerOptions) (*Server, error) {
	if opts.Names == nil {
		opts.Names = LocalNames
	}
	if opts.Interval == 0 {
		opts.Interval = serverPoll
	}
	s := &Server{a: a, opts: opts}
	row, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	if _, err := s.Refresh(ctx); err != nil {
		if s.current.Load() == nil {
			return nil, err
		}
		a.log.Warn("server certificate ought to be replaced; the old one stays in use", "err", err)
	}
	if s.current.Load().cert.ID == row.ID {
		s.sweep(row.Key)
	}
	return s, nil
}

// load takes up the certificate of the last run, if there is one and its key is usable.
func (s *Server) load() (serverRow, error) {
	var row serverRow
	err := s.a.db.View(func(tx *store.Tx) (err error) {
		row, _, err = store.GetJSON[serverRow](stateBucket(tx), keyServer)
		return err
	})
	if err != nil || row.ID == "" {
		return row, err
	}
	cert, ok := s.a.Lookup(row.ID)
	if !ok {
		return row, fmt.Errorf("%w %s", ErrUnknownCertificate, row.ID)
	}
	key, err := s.a.keys.Load(row.Key)
	if err != nil { // not worth stopping for: the key is replaced with the certificate
		s.a.log.Warn("key of the server certificate cannot be used; issuing another", "err", err)
		return row, nil
	}
	if err := s.use(cert, key); err != nil {
		s.a.log.Warn("server certificate cannot be used; issuing another", "err", err)
	}
	return row, nil
}

// use makes cert the one that listeners present.
func (s *Server) use(cert *Certificate, key *keystore.Key) error {
	leaf, err := cert.X509()
	if err != nil {
		return err
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return fmt.Errorf("private key %s does not belong to certificate %s", s.a.keys.Path(key.Name()), cert.Serial)
	}
	s.current.Store(&served{cert, &tls.Certificate{
		Certificate: [][]byte{cert.DER, s.a.intermediate.Raw}, PrivateKey: key, Leaf: leaf,
	}})
	return nil
}

// sweep removes the keys of earlier certificates, and of attempts that were cut off.
func (s *Server) sweep(keep string) {
	names, err := s.a.keys.List(serverPrefix)
	for _, name := range names {
		if name != keep && err == nil {
			err = s.a.keys.Remove(name)
		}
	}
	if err != nil {
		s.a.log.Warn("old server keys not removed", "err", err)
	}
}

// Certificate returns the certificate to present, with its chain up to but without the root. It
// must not be changed.
func (s *Server) Certificate() *tls.Certificate { return s.current.Load().tls }

// Refresh compares the certificate with the machine's names and addresses now, and replaces it if
// it differs from them in any way or is due. It reports whether it did.
func (s *Server) Refresh(ctx context.Context) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refresh(ctx, 0)
}

// refresh replaces the certificate if there is a reason to, and lets it name more than it should
// for the time tolerated.
func (s *Server) refresh(ctx context.Context, tolerated time.Duration) (bool, error) {
	names, ips, err := s.opts.Names()
	if err != nil {
		return false, fmt.Errorf("server certificate: %w", err)
	}
	names, ips = distinct(names, ips)
	why := s.reason(names, ips, tolerated)
	if why == "" {
		return false, nil
	}
	if err := s.replace(ctx, names, ips); err != nil {
		return false, fmt.Errorf("server certificate: %w", err)
	}
	s.a.log.Info("server certificate in use: "+why, "serial", s.current.Load().cert.Serial)
	return true, nil
}

// reason says why the certificate must be replaced, "" if it need not be.
func (s *Server) reason(names []string, ips []net.IP, tolerated time.Duration) string {
	cur := s.current.Load()
	if cur == nil {
		return "the first one"
	}
	cert, ok := s.a.Lookup(cur.cert.ID)
	if !ok || cert.Revoked != nil {
		return "the old one was revoked"
	}
	if cert.Issuer != identity.CertificateID(s.a.intermediate) {
		return "the issuing certificate changed"
	}
	leaf := cur.tls.Leaf
	missing := slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(leaf.DNSNames, n) }) ||
		slices.ContainsFunc(ips, func(ip net.IP) bool { return !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) })
	if missing {
		return "a name or an address was added"
	}
	now := s.a.clock.Now()
	if now.After(cert.Issued.Add(cert.NotAfter.Sub(cert.Issued) / 3 * 2)) {
		return "two thirds of its life are over"
	}
	if len(leaf.DNSNames) == len(names) && len(leaf.IPAddresses) == len(ips) {
		s.surplus = time.Time{}
		return ""
	}
	if s.surplus.IsZero() {
		s.surplus = time.Now()
	}
	if time.Since(s.surplus) >= tolerated {
		return "a name or an address is gone"
	}
	return ""
}

// replace issues a certificate with a new key and lets go of the old key.
func (s *Server) replace(ctx context.Context, names []string, ips []net.IP) error {
	if status := s.a.clock.Status(); !status.Trusted {
		return fmt.Errorf("%w: %s", ErrClock, status.Reason) // before a key is made for nothing
	}
	tag, err := randomHex(8)
	if err != nil {
		return err
	}
	key, err := s.a.keys.Create(serverPrefix + tag)
	if err != nil {
		return err
	}
	cert, err := s.a.Issue(ctx, Request{
		Profile: ProfileServer, PublicKey: key.Public(), DNSNames: names, IPs: ips, Lifetime: s.opts.Lifetime,
		Also: func(tx *store.Tx, cert *Certificate) error {
			return store.PutJSON(stateBucket(tx), keyServer, serverRow{ID: cert.ID, Key: key.Name()})
		},
	})
	if err == nil {
		err = s.use(cert, key)
	}
	if err != nil {
		if gone := s.a.keys.Remove(key.Name()); gone != nil {
			s.a.log.Warn("unused server key not removed", "err", gone)
		}
		return err
	}
	s.surplus = time.Time{}
	s.sweep(key.Name())
	if s.opts.OnRenew != nil {
		s.opts.OnRenew(cert)
	}
	return nil
}

// Run keeps the certificate up to date until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(s.opts.Interval)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.mu.Lock()
		_, err := s.refresh(ctx, serverSurplus)
		s.mu.Unlock()
		switch {
		case err == nil:
			said = ""
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			s.a.log.Warn("server certificate ought to be replaced; the old one stays in use", "err", err)
		}
	}
}

// Package pkitest makes certificate authorities for tests: real ones, on a store in a temporary
// directory.
package pkitest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gatewayctl/pki"
	"gatewayctl/pki/identity"
	"gatewayctl/pki/keystore"
	"gatewayctl/store"
)

// Options configures a [CA]; its zero value makes one with the system's clock.
type Options struct {
	Dir     string           // where store and keys are; "" means a new temporary directory
	Now     func() time.Time // nil means time.Now
	Build   time.Time        // the program's build time
	PKI     pki.Options      // of the authority
	Schemas []store.Schema   // in the store beside the authority's own
}

// A CA is an authority and what it stands on.
type CA struct {
	*pki.Authority
	DB    *store.DB
	Keys  *keystore.Store
	Clock *pki.Clock
	Dir   string

	root  *os.Root
	close sync.Once
}

// New returns an authority that is closed when the test ends.
func New(tb testing.TB, opts Options) *CA {
	tb.Helper()
	ca, err := Open(tb, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return ca
}

// Open is New for a test that expects the authority's error.
func Open(tb testing.TB, opts Options) (*CA, error) {
	tb.Helper()
	if opts.Dir == "" {
		opts.Dir = tb.TempDir()
	}
	ca := &CA{Dir: opts.Dir}
	keys := filepath.Join(opts.Dir, "keys")
	err := os.MkdirAll(keys, 0o700)
	if err != nil {
		tb.Fatal(err)
	}
	ca.DB, err = store.Open(filepath.Join(opts.Dir, "gateway.db"), append([]store.Schema{pki.Schema()}, opts.Schemas...), store.Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	if ca.root, err = os.OpenRoot(keys); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ca.Close(tb) })
	if ca.Keys, err = keystore.Open(ca.root); err != nil {
		return ca, err
	}
	if ca.Clock, err = pki.NewClock(ca.DB, pki.ClockOptions{Now: opts.Now, BuildTime: opts.Build}); err != nil {
		return ca, err
	}
	ca.Authority, err = pki.Open(context.Background(), ca.DB, ca.Keys, ca.Clock, opts.PKI)
	return ca, err
}

// Close checks and closes the store, so that its directory can be opened again.
func (ca *CA) Close(tb testing.TB) {
	ca.close.Do(func() {
		if err := ca.DB.Check(); err != nil {
			tb.Error(err)
		}
		if err := ca.DB.Close(); err != nil {
			tb.Error(err)
		}
		if err := ca.root.Close(); err != nil {
			tb.Error(err)
		}
	})
}

// Key makes an ECDSA P-256 key.
func Key(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// Name parses a device name.
func Name(tb testing.TB, s string) identity.DeviceID {
	tb.Helper()
	id, err := identity.ParseDeviceID(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// Client issues a certificate for req with a new key and returns it as a client presents it.
func (ca *CA) Client(tb testing.TB, req pki.Request) (tls.Certificate, *pki.Certificate) {
	tb.Helper()
	key := Key(tb)
	req.PublicKey = key.Public()
	cert, err := ca.Issue(context.Background(), req)
	if err != nil {
		tb.Fatal(err)
	}
	return Pair(tb, cert, ca.Intermediate(), key), cert
}

// Device issues a certificate for the thing of that name.
func (ca *CA) Device(tb testing.TB, name string) (tls.Certificate, *pki.Certificate) {
	tb.Helper()
	return ca.Client(tb, pki.Request{Profile: pki.ProfileDevice, Device: Name(tb, name)})
}

// Pair joins a certificate, its issuer and its key for crypto/tls.
func Pair(tb testing.TB, cert *pki.Certificate, issuer *x509.Certificate, key crypto.Signer) tls.Certificate {
	tb.Helper()
	leaf, err := cert.X509()
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{cert.DER, issuer.Raw}, PrivateKey: key, Leaf: leaf}
}

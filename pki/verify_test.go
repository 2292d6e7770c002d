package pki_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/pki"
	"gatewayctl/pki/identity"
	"gatewayctl/pki/pkitest"
	"gatewayctl/store"
)

// forge signs a certificate with the authority's own key, past its records.
func forge(t *testing.T, ca *pkitest.CA, pub any, usage x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	names, err := ca.Keys.List("intermediate-")
	must(t, err)
	key, err := ca.Keys.Load(names[0])
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lamp"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}, ca.Intermediate(), pub, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func TestVerify(t *testing.T) {
	t.Parallel()
	clock := at(noon)
	ca := pkitest.New(t, pkitest.Options{Now: clock.now})
	other := pkitest.New(t, pkitest.Options{Now: clock.now})
	device, _ := ca.Device(t, "lamp")
	admin, _ := ca.Client(t, pki.Request{Profile: pki.ProfileAdmin, CommonName: "ann"})
	server, _ := ca.Client(t, pki.Request{Profile: pki.ProfileServer, DNSNames: []string{"gateway.local"}})
	foreign, _ := other.Device(t, "lamp")
	revoked, cert := ca.Device(t, "lamp")
	_, err := ca.Revoke(t.Context(), cert.ID, "keycompromise")
	must(t, err)
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	tampered := *device.Leaf
	tampered.Raw = append([]byte(nil), tampered.Raw...)
	tampered.Raw[len(tampered.Raw)-1] ^= 1
	tampered.Signature = append([]byte(nil), tampered.Signature...)
	tampered.Signature[len(tampered.Signature)-1] ^= 1

	for _, tc := range []struct {
		name  string
		certs []*x509.Certificate
		want  error // nil: accepted
		role  identity.Role
	}{
		{"device", []*x509.Certificate{device.Leaf}, nil, identity.RoleDevice},
		{"device with chain", []*x509.Certificate{device.Leaf, ca.Intermediate(), ca.Root()}, nil, identity.RoleDevice},
		{"device with a wrong chain", []*x509.Certificate{device.Leaf, other.Intermediate()}, nil, identity.RoleDevice},
		{"administrator", []*x509.Certificate{admin.Leaf}, nil, identity.RoleAdmin},
		{"nobody", nil, pki.ErrNoCertificate, ""},
		{"another authority", []*x509.Certificate{foreign.Leaf, other.Intermediate(), other.Root()}, pki.ErrUnknownAuthority, ""},
		{"the same name twice, first counts", []*x509.Certificate{foreign.Leaf, device.Leaf}, pki.ErrUnknownAuthority, ""},
		{"tampered", []*x509.Certificate{&tampered}, pki.ErrUnknownAuthority, ""},
		{"a server", []*x509.Certificate{server.Leaf}, pki.ErrUsage, ""},
		{"the intermediate", []*x509.Certificate{ca.Intermediate()}, pki.ErrUnknownCertificate, ""},
		{"the root", []*x509.Certificate{ca.Root()}, pki.ErrUsage, ""},
		{"revoked", []*x509.Certificate{revoked.Leaf}, pki.ErrRevoked, ""},
		{"signed but not on record", []*x509.Certificate{forge(t, ca, pkitest.Key(t).Public(), x509.ExtKeyUsageClientAuth)}, pki.ErrUnknownCertificate, ""},
		{"signed, RSA 1024", []*x509.Certificate{forge(t, ca, rsa1024.Public(), x509.ExtKeyUsageClientAuth)}, pki.ErrWeakKey, ""},
	} {
		for range 2 { // the second time past the check of signatures
			peer, err := ca.Verify(tc.certs)
			if !errors.Is(err, tc.want) {
				t.Errorf("%s: error %v, want %v", tc.name, err, tc.want)
				continue
			}
			if err != nil {
				if peer != (identity.Peer{}) {
					t.Errorf("%s: refused, but is %+v", tc.name, peer)
				}
				continue
			}
			leaf := tc.certs[0]
			want := identity.Peer{
				CertificateID: identity.CertificateID(leaf), Serial: leaf.SerialNumber.Text(16),
				CommonName: leaf.Subject.CommonName, Role: tc.role, NotAfter: leaf.NotAfter,
			}
			if diff := cmp.Diff(want, peer); diff != "" {
				t.Errorf("%s: %s", tc.name, diff)
			}
		}
	}
}

func TestValidityIsJudgedOnlyByATrustedClock(t *testing.T) {
	t.Parallel()
	clock := at(noon)
	ca := pkitest.New(t, pkitest.Options{Now: clock.now, Build: noon.Add(-day)})
	pair, cert := ca.Device(t, "lamp")
	certs := []*x509.Certificate{pair.Leaf}
	for _, tc := range []struct {
		now  time.Time
		want error
	}{
		{cert.NotAfter, nil},
		{cert.NotAfter.Add(time.Second), pki.ErrExpired},
		{time.Unix(0, 0), nil}, // not trusted
	} {
		clock.set(tc.now)
		if _, err := ca.Verify(certs); !errors.Is(err, tc.want) {
			t.Errorf("at %v: %v, want %v", tc.now, err, tc.want)
		}
	}
	_, err := ca.Issue(t.Context(), pki.Request{Profile: pki.ProfileAdmin, CommonName: "x", PublicKey: pkitest.Key(t).Public()})
	wantError(t, err, pki.ErrClock, "1970-01-01")
	_, err = ca.Revoke(t.Context(), cert.ID, "")
	must(t, err) // at all times
	if _, err := ca.Verify(certs); !errors.Is(err, pki.ErrRevoked) {
		t.Errorf("revoked while the clock is not trusted: %v", err)
	}

	clock.set(noon)
	early := *cert // as if issued by a clock that ran ahead
	early.NotBefore = noon.Add(time.Hour)
	must(t, ca.DB.Update(t.Context(), func(tx *store.Tx) error {
		return store.PutJSON(tx.Bucket("pki", "certificates"), early.ID, &early)
	}))
	again, err := pki.Open(t.Context(), ca.DB, ca.Keys, ca.Clock, pki.Options{})
	must(t, err)
	if _, err := again.Verify(certs); !errors.Is(err, pki.ErrNotYetValid) {
		t.Errorf("before its beginning: %v", err)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	clock := at(noon)
	var mu sync.Mutex
	var told []string
	var ca *pkitest.CA
	ca = pkitest.New(t, pkitest.Options{Now: clock.now, PKI: pki.Options{OnRevoke: func(c *pki.Certificate) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, c.Serial+" "+c.Revoked.Reason)
		if got, _ := ca.Lookup(c.ID); got.Revoked == nil {
			t.Error("OnRevoke was called before Lookup knows")
		}
	}}})
	_, cert := ca.Device(t, "lamp")
	for _, tc := range []struct {
		name, reason string
		want         error
	}{
		{"ffff", "", pki.ErrUnknownCertificate},
		{cert.Serial, "because", pki.ErrReason},
		{cert.Serial, "certificateHold", pki.ErrReason},
		{cert.Serial, "removeFromCRL", pki.ErrReason},
	} {
		if _, err := ca.Revoke(t.Context(), tc.name, tc.reason); !errors.Is(err, tc.want) {
			t.Errorf("Revoke(%s, %q): %v, want %v", tc.name, tc.reason, err, tc.want)
		}
	}
	got, err := ca.Revoke(t.Context(), cert.Serial, "KEYCOMPROMISE")
	must(t, err)
	if diff := cmp.Diff(&pki.Revocation{At: noon, Reason: "keyCompromise"}, got.Revoked); diff != "" {
		t.Error(diff)
	}
	if cert.Revoked != nil {
		t.Error("Revoke changed a certificate that a caller has")
	}
	clock.add(time.Hour)
	got, err = ca.Revoke(t.Context(), cert.ID, "superseded")
	must(t, err)
	if got.Revoked.Reason != "keyCompromise" || !got.Revoked.At.Equal(noon) {
		t.Errorf("the second revocation replaced the first: %+v", got.Revoked)
	}
	if diff := cmp.Diff([]string{cert.Serial + " keyCompromise"}, told); diff != "" {
		t.Errorf("OnRevoke: %s", diff)
	}
}

func TestSupersede(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	old, oldCert := ca.Device(t, "lamp")
	next, _ := ca.Client(t, pki.Request{Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp"), Supersedes: []string{oldCert.Serial}})
	if _, err := ca.Verify([]*x509.Certificate{old.Leaf}); !errors.Is(err, pki.ErrRevoked) {
		t.Errorf("the old certificate: %v", err)
	}
	if _, err := ca.Verify([]*x509.Certificate{next.Leaf}); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	if got, _ := ca.Lookup(oldCert.ID); got.Revoked.Reason != "superseded" {
		t.Errorf("reason %q", got.Revoked.Reason)
	}
}

func TestRevokeAllUndoneByItsError(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	pair, cert := ca.Device(t, "lamp")
	boom := errors.New("boom")
	_, err := ca.RevokeAll(t.Context(), []string{cert.ID}, "", func(*store.Tx) error { return boom })
	if !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	if _, err := ca.Verify([]*x509.Certificate{pair.Leaf}); err != nil {
		t.Errorf("the certificate after a revocation that failed: %v", err)
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				pair, cert := ca.Device(t, "lamp")
				certs := []*x509.Certificate{pair.Leaf}
				if _, err := ca.Verify(certs); err != nil {
					t.Error(err)
				}
				ca.List()
				if _, err := ca.Revoke(t.Context(), cert.ID, ""); err != nil {
					t.Error(err)
				}
				if _, err := ca.Verify(certs); !errors.Is(err, pki.ErrRevoked) {
					t.Error(err)
				}
				if _, err := ca.CRL(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkVerify(b *testing.B) {
	ca := pkitest.New(b, pkitest.Options{})
	pair, _ := ca.Device(b, "lamp")
	certs := []*x509.Certificate{pair.Leaf}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ca.Verify(certs); err != nil {
			b.Fatal(err)
		}
	}
}

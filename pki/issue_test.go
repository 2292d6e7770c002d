package pki_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/pki"
	"gatewayctl/pki/identity"
	"gatewayctl/pki/pkitest"
	"gatewayctl/store"
)

// csr makes a signing request of key in DER.
func csr(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"gateway.local"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestDeviceCertificate(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{Now: at(noon).now})
	lamp := pkitest.Name(t, "lamp")
	key := pkitest.Key(t)
	request, err := pki.ParseCSR(csr(t, key))
	must(t, err)
	cert, err := ca.Issue(t.Context(), pki.Request{Profile: pki.ProfileDevice, Device: lamp, CSR: request})
	must(t, err)
	leaf, err := cert.X509()
	must(t, err)
	want := &pki.Certificate{
		ID: identity.CertificateID(leaf), Serial: leaf.SerialNumber.Text(16), Issuer: identity.CertificateID(ca.Intermediate()),
		Profile: pki.ProfileDevice, CommonName: "lamp", Device: lamp,
		NotBefore: noon.Add(-day), NotAfter: noon.Add(89 * day), Issued: noon, DER: leaf.Raw,
	}
	if diff := cmp.Diff(want, cert); diff != "" {
		t.Error(diff)
	}
	if leaf.Subject.String() != "CN=lamp" || len(leaf.DNSNames) != 0 {
		t.Errorf("subject %q and names %q: nothing but the key may come from the request", leaf.Subject, leaf.DNSNames)
	}
	if !leaf.NotBefore.Equal(cert.NotBefore) || !leaf.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if diff := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, leaf.ExtKeyUsage); diff != "" {
		t.Errorf("usages: %s", diff)
	}
	if leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.SubjectKeyId) != 20 {
		t.Errorf("CA %v, usage %b, key ID %x", leaf.IsCA, leaf.KeyUsage, leaf.SubjectKeyId)
	}
	if block, rest := pem.Decode(cert.PEM()); block == nil || len(rest) != 0 || !cmp.Equal(block.Bytes, cert.DER) {
		t.Error("PEM is not the certificate alone")
	}
}

func TestUsageFollowsTheProfile(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	for profile, want := range map[pki.Profile]x509.ExtKeyUsage{
		pki.ProfileServer: x509.ExtKeyUsageServerAuth, pki.ProfileDevice: x509.ExtKeyUsageClientAuth,
		pki.ProfileAdmin: x509.ExtKeyUsageClientAuth, pki.ProfileGateway: x509.ExtKeyUsageClientAuth,
	} {
		req := pki.Request{Profile: profile, CommonName: "x"}
		switch profile {
		case pki.ProfileServer:
			req.DNSNames = []string{"x"}
		case pki.ProfileDevice:
			req.Device = pkitest.Name(t, "x")
		}
		pair, _ := ca.Client(t, req)
		if len(pair.Leaf.ExtKeyUsage) != 1 || pair.Leaf.ExtKeyUsage[0] != want {
			t.Errorf("%s: usages %v, want only %v", profile, pair.Leaf.ExtKeyUsage, want)
		}
	}
}

func TestProfilesRefuse(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	lamp := pkitest.Name(t, "lamp")
	for _, tc := range []struct {
		name string
		req  pki.Request
	}{
		{"no profile", pki.Request{CommonName: "x"}},
		{"unknown profile", pki.Request{Profile: "root", CommonName: "x"}},
		{"device without a name", pki.Request{Profile: pki.ProfileDevice, CommonName: "x"}},
		{"admin for a device", pki.Request{Profile: pki.ProfileAdmin, CommonName: "x", Device: lamp}},
		{"admin without a name", pki.Request{Profile: pki.ProfileAdmin}},
		{"device with a host name", pki.Request{Profile: pki.ProfileDevice, Device: lamp, DNSNames: []string{"gateway.local"}}},
		{"device with an address", pki.Request{Profile: pki.ProfileDevice, Device: lamp, IPs: []net.IP{net.IPv4(192, 0, 2, 1)}}},
		{"server without names", pki.Request{Profile: pki.ProfileServer, CommonName: "x"}},
		{"server with a bad name", pki.Request{Profile: pki.ProfileServer, DNSNames: []string{"a b"}}},
		{"server for all the world", pki.Request{Profile: pki.ProfileServer, DNSNames: []string{"*"}}},
		{"server with half an address", pki.Request{Profile: pki.ProfileServer, IPs: []net.IP{{1, 2, 3}}}},
		{"eleven years", pki.Request{Profile: pki.ProfileDevice, Device: lamp, Lifetime: 11 * year}},
		{"two years of administration", pki.Request{Profile: pki.ProfileAdmin, CommonName: "x", Lifetime: 2 * year}},
		{"negative life", pki.Request{Profile: pki.ProfileDevice, Device: lamp, Lifetime: -time.Hour}},
		{"long common name", pki.Request{Profile: pki.ProfileAdmin, CommonName: strings.Repeat("x", 65)}},
		{"unprintable common name", pki.Request{Profile: pki.ProfileAdmin, CommonName: "x\ny"}},
	} {
		tc.req.PublicKey = pkitest.Key(t).Public()
		if _, err := ca.Issue(t.Context(), tc.req); !errors.Is(err, pki.ErrProfile) {
			t.Errorf("%s: error %v, want ErrProfile", tc.name, err)
		}
	}
	if n := len(ca.List()); n != 0 {
		t.Errorf("%d certificates are on record", n)
	}
}

func TestKeysAccepted(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	for _, tc := range []struct {
		name string
		key  func() (crypto.Signer, error)
		want error
	}{
		{"P-256", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }, nil},
		{"P-384", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }, nil},
		{"P-521", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P521(), rand.Reader) }, nil},
		{"Ed25519", func() (crypto.Signer, error) { _, k, err := ed25519.GenerateKey(rand.Reader); return k, err }, nil},
		{"RSA 2048", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }, nil},
		{"RSA 1024", func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 1024) }, pki.ErrWeakKey},
		{"P-224", func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P224(), rand.Reader) }, pki.ErrWeakKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			key, err := tc.key()
			must(t, err)
			request, err := pki.ParseCSR(csr(t, key))
			if !errors.Is(err, tc.want) {
				t.Fatalf("ParseCSR: %v, want %v", err, tc.want)
			}
			req := pki.Request{Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp"), CSR: request}
			if err != nil {
				req.CSR, req.PublicKey = nil, key.Public()
			}
			cert, err := ca.Issue(t.Context(), req)
			if !errors.Is(err, tc.want) {
				t.Fatalf("Issue: %v, want %v", err, tc.want)
			}
			if err == nil {
				leaf, err := cert.X509()
				must(t, err)
				_, err = ca.Verify([]*x509.Certificate{leaf})
				must(t, err)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	good := csr(t, pkitest.Key(t))
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	asPEM := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	for _, tc := range []struct {
		name string
		data []byte
		says string // "" means that it is accepted
	}{
		{"DER", good, ""},
		{"PEM", asPEM("CERTIFICATE REQUEST", good), ""},
		{"old PEM", asPEM("NEW CERTIFICATE REQUEST", good), ""},
		{"PEM after text", append([]byte("Certificate Request:\n  Data:\n"), asPEM("CERTIFICATE REQUEST", good)...), ""},
		{"empty", nil, "empty"},
		{"garbage", []byte("hello"), "neither PEM nor DER"},
		{"truncated", good[:50], "neither PEM nor DER"},
		{"a private key", asPEM("PRIVATE KEY", good), `"PRIVATE KEY"`},
		{"a certificate", asPEM("CERTIFICATE", good), `"CERTIFICATE"`},
		{"forged signature", forged, "possession"},
		{"huge", make([]byte, 1<<20), "1048576 bytes"},
	} {
		_, err := pki.ParseCSR(tc.data)
		switch {
		case tc.says == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.says != "" && (!errors.Is(err, pki.ErrCSR) || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: error %v, want ErrCSR with %q", tc.name, err, tc.says)
		}
	}
	ca := pkitest.New(t, pkitest.Options{})
	lamp := pkitest.Name(t, "lamp")
	tampered, err := x509.ParseCertificateRequest(good)
	must(t, err)
	tampered.PublicKey = pkitest.Key(t).Public()
	for name, req := range map[string]pki.Request{
		"another key than signed":   {Profile: pki.ProfileDevice, Device: lamp, CSR: tampered},
		"neither key nor request":   {Profile: pki.ProfileDevice, Device: lamp},
		"both key and request":      {Profile: pki.ProfileDevice, Device: lamp, CSR: tampered, PublicKey: tampered.PublicKey},
		"a key that is no such key": {Profile: pki.ProfileDevice, Device: lamp, PublicKey: "key"},
	} {
		if _, err := ca.Issue(t.Context(), req); !errors.Is(err, pki.ErrCSR) {
			t.Errorf("%s: error %v, want ErrCSR", name, err)
		}
	}
}

func TestValidityStaysWithinTheIssuers(t *testing.T) {
	t.Parallel()
	clock := at(noon)
	ca := pkitest.New(t, pkitest.Options{Now: clock.now})
	issue := func(lifetime time.Duration) (*pki.Certificate, error) {
		return ca.Issue(t.Context(), pki.Request{
			Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp"), PublicKey: pkitest.Key(t).Public(), Lifetime: lifetime,
		})
	}
	short, err := issue(time.Hour)
	must(t, err)
	if got := short.NotAfter.Sub(short.NotBefore); got != time.Hour || !short.NotAfter.After(noon.Add(50*time.Minute)) {
		t.Errorf("a certificate for an hour is valid from %v to %v", short.NotBefore, short.NotAfter)
	}
	clock.add(9 * year)
	long, err := issue(10 * year)
	must(t, err)
	if !long.NotAfter.Equal(ca.Intermediate().NotAfter) {
		t.Errorf("valid to %v, the issuer to %v", long.NotAfter, ca.Intermediate().NotAfter)
	}
	clock.add(2 * year)
	if _, err := issue(time.Hour); !errors.Is(err, pki.ErrExpired) {
		t.Errorf("issuing with an expired intermediate: %v", err)
	}
}

func TestLongDeviceNamesGetADistinctCommonName(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	_, a := ca.Device(t, strings.Repeat("x", 127)+"a")
	_, b := ca.Device(t, strings.Repeat("x", 127)+"b")
	if len(a.CommonName) != 64 || a.CommonName == b.CommonName {
		t.Errorf("common names %q and %q", a.CommonName, b.CommonName)
	}
	if len(a.Device.String()) != 128 {
		t.Errorf("device %q", a.Device)
	}
}

// TestFailureLeavesNothing fails the transaction after everything was written into it.
func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	_, old := ca.Device(t, "lamp")
	boom := errors.New("boom")
	var seen *pki.Certificate
	_, err := ca.Issue(t.Context(), pki.Request{
		Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp"), PublicKey: pkitest.Key(t).Public(),
		Supersedes: []string{old.ID},
		Also: func(tx *store.Tx, cert *pki.Certificate) error {
			seen = cert
			if err := tx.Bucket("other").Put([]byte("k"), []byte("v")); err != nil {
				return err
			}
			return boom
		},
	})
	if !errors.Is(err, boom) {
		t.Fatalf("error %v", err)
	}
	check := func(ca *pkitest.CA) {
		t.Helper()
		if list := ca.List(); len(list) != 1 || list[0].ID != old.ID || list[0].Revoked != nil {
			t.Errorf("on record: %+v", list)
		}
		if _, ok := ca.Lookup(seen.ID); ok {
			t.Error("the certificate that was refused is known")
		}
	}
	check(ca)
	ca.Close(t)
	check(pkitest.New(t, pkitest.Options{Dir: ca.Dir}))
}

func TestAlsoSeesTheRecord(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	cert, err := ca.Issue(context.Background(), pki.Request{
		Profile: pki.ProfileAdmin, CommonName: "ann", PublicKey: pkitest.Key(t).Public(),
		Also: func(tx *store.Tx, cert *pki.Certificate) error {
			if tx.Bucket("pki", "certificates").Get([]byte(cert.ID)) == nil {
				return errors.New("the certificate is not in the transaction")
			}
			return tx.Bucket("other").Put([]byte(cert.ID), []byte("ann"))
		},
	})
	must(t, err)
	must(t, ca.DB.View(func(tx *store.Tx) error {
		if string(tx.Bucket("other").Get([]byte(cert.ID))) != "ann" {
			t.Error("what Also wrote is not there")
		}
		return nil
	}))
}

func FuzzParseCSR(f *testing.F) {
	good := csr(f, pkitest.Key(f))
	f.Add(good)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		request, err := pki.ParseCSR(data)
		if err != nil {
			if !errors.Is(err, pki.ErrCSR) && !errors.Is(err, pki.ErrWeakKey) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		again, err := pki.ParseCSR(request.Raw)
		if err != nil || !cmp.Equal(again.RawSubjectPublicKeyInfo, request.RawSubjectPublicKeyInfo) {
			t.Errorf("does not survive a round trip: %v", err)
		}
	})
}

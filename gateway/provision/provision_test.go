package provision_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"gatewayctl/gateway"
	"gatewayctl/gateway/provision"
	"gatewayctl/pki"
	"gatewayctl/pki/pkitest"
	"gatewayctl/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is all that provisioning stands on, at a clock that the test sets.
type site struct {
	*provision.Service
	ca       *pkitest.CA
	registry *gateway.Registry
	mu       sync.Mutex
	now      time.Time
}

func (s *site) clock() time.Time     { s.mu.Lock(); defer s.mu.Unlock(); return s.now }
func (s *site) pass(d time.Duration) { s.mu.Lock(); defer s.mu.Unlock(); s.now = s.now.Add(d) }

func start(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{now: noon}
	s.ca = pkitest.New(t, pkitest.Options{Dir: dir, Now: s.clock, Build: noon.Add(-time.Hour), Schemas: []store.Schema{gateway.Schema()}})
	var err error
	s.registry, err = gateway.NewRegistry(s.ca.DB, gateway.RegistryOptions{Now: s.clock})
	must(t, err)
	s.Service = provision.New(s.ca.DB, s.ca.Authority, s.registry, provision.Options{DefaultPolicies: []string{"device"}})
	return s
}

// state is what is known of a device, for comparison: certificates that are on record, revoked
// ones marked with -, and what the registry has.
func (s *site) state(t *testing.T, name string) string {
	t.Helper()
	var b strings.Builder
	id := pkitest.Name(t, name)
	for _, c := range s.ca.ForDevice(id) {
		mark := "+"
		if c.Revoked != nil {
			mark = "-" + c.Revoked.Reason
		}
		fmt.Fprintf(&b, "%s:%s ", c.ID[:8], mark)
	}
	d, err := s.registry.Get(id)
	if errors.Is(err, gateway.ErrNotFound) {
		return b.String() + "| unknown"
	}
	must(t, err)
	b.WriteString("|")
	for _, c := range d.Certificates {
		b.WriteString(" " + c[:8])
		if other, ok := s.registry.ByCertificate(c); !ok || other.Name != id {
			t.Errorf("certificate %s names %v", c[:8], other.Name)
		}
	}
	return b.String()
}

func leaf(t *testing.T, c *provision.Credentials) *x509.Certificate {
	t.Helper()
	cert, err := c.Certificate.X509()
	must(t, err)
	return cert
}

func TestEnroll(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	lamp := pkitest.Name(t, "lamp")
	c, err := s.Enroll(t.Context(), provision.Enrollment{Device: lamp, Type: "light"})
	must(t, err)
	d, err := s.registry.Get(lamp)
	must(t, err)
	want := gateway.Device{
		Name: lamp, Type: "light", Policies: []string{"device"}, Certificates: []string{c.Certificate.ID},
		Created: noon, Changed: noon,
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if life := c.Certificate.NotAfter.Sub(c.Certificate.NotBefore); life != 365*24*time.Hour {
		t.Errorf("valid for %v, want a year", life)
	}
	pair, err := tls.X509KeyPair(c.CertificatePEM, c.KeyPEM)
	must(t, err)
	if len(pair.Certificate) != 2 || !bytes.Equal(pair.Certificate[1], s.ca.Intermediate().Raw) {
		t.Error("the certificate file is not leaf and intermediate")
	}
	if !bytes.Equal(c.CAPEM, s.ca.RootPEM()) {
		t.Error("the CA file is not the root")
	}
	peer, err := s.ca.Verify([]*x509.Certificate{pair.Leaf})
	must(t, err)
	if got, ok := s.registry.ByCertificate(peer.CertificateID); !ok || got.Name != lamp {
		t.Errorf("the certificate names %v, %v", got.Name, ok)
	}
}

func TestEnrollWithRequest(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	key := pkitest.Key(t)
	csr, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{}, key)
	must(t, err)
	c, err := s.Enroll(t.Context(), provision.Enrollment{
		Device: pkitest.Name(t, "lamp"), CSR: csr, Policies: []string{"b", "a"}, Lifetime: 2 * 365 * 24 * time.Hour,
	})
	must(t, err)
	if c.KeyPEM != nil {
		t.Error("a private key came from nowhere")
	}
	if pub, ok := key.Public().(interface{ Equal(x any) bool }); ok && !pub.Equal(leaf(t, c).PublicKey) {
		t.Error("the certificate is for another key")
	}
	d, err := s.registry.Get(pkitest.Name(t, "lamp"))
	must(t, err)
	if !slices.Equal(d.Policies, []string{"a", "b"}) {
		t.Errorf("policies %v", d.Policies)
	}
	if _, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "pump"), CSR: []byte("garbage")}); !errors.Is(err, pki.ErrCSR) {
		t.Errorf("garbage for a request: %v", err)
	}
	if s.registry.Has("pump") {
		t.Error("a device was registered without a certificate")
	}
}

// TestEnrollAgain is the table of what a second enrolment does.
func TestEnrollAgain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		before   func(t *testing.T, s *site, first *provision.Credentials)
		existing provision.Existing
		want     error
		old      string // reason of the old certificate's revocation, "" for none
		attached int
	}{
		{"a slip", nil, provision.Refuse, provision.ErrExists, "", 1},
		{"a replacement", nil, provision.Replace, nil, "superseded", 1},
		{"an additional certificate", nil, provision.Additional, nil, "", 2},
		{"after revocation", func(t *testing.T, s *site, c *provision.Credentials) {
			_, err := s.ca.Revoke(t.Context(), c.Certificate.ID, "keyCompromise")
			must(t, err)
		}, provision.Refuse, nil, "keyCompromise", 1},
		{"after expiry", func(t *testing.T, s *site, c *provision.Credentials) { s.pass(366 * 24 * time.Hour) }, provision.Refuse, nil, "", 1},
		{"after removal", func(t *testing.T, s *site, c *provision.Credentials) {
			_, err := s.Remove(t.Context(), c.Device)
			must(t, err)
		}, provision.Refuse, nil, "cessationOfOperation", 1},
		{"a disabled device", func(t *testing.T, s *site, c *provision.Credentials) {
			must(t, s.registry.SetDisabled(t.Context(), c.Device, true))
		}, provision.Replace, provision.ErrDisabled, "", 1},
		{"without clock", func(t *testing.T, s *site, c *provision.Credentials) { s.pass(-24 * time.Hour) }, provision.Replace, pki.ErrClock, "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, "")
			lamp := pkitest.Name(t, "lamp")
			first, err := s.Enroll(t.Context(), provision.Enrollment{Device: lamp, Type: "light", Policies: []string{"p"}})
			must(t, err)
			if tc.before != nil {
				tc.before(t, s, first)
			}
			before := s.state(t, "lamp")
			second, err := s.Enroll(t.Context(), provision.Enrollment{Device: lamp, Existing: tc.existing})
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil {
				if got := s.state(t, "lamp"); got != before {
					t.Errorf("a refusal changed %q to %q", before, got)
				}
				return
			}
			old, _ := s.ca.Lookup(first.Certificate.ID)
			if reason := ""; old.Revoked != nil || tc.old != "" {
				if old.Revoked != nil {
					reason = old.Revoked.Reason
				}
				if reason != tc.old {
					t.Errorf("the old certificate was revoked for %q, want %q", reason, tc.old)
				}
			}
			if replaced := len(second.Revoked) == 1 && second.Revoked[0].ID == old.ID; replaced != (tc.existing == provision.Replace) {
				t.Errorf("replaced: %v", second.Revoked)
			}
			d, err := s.registry.Get(lamp)
			must(t, err)
			if len(d.Certificates) != tc.attached || !slices.Contains(d.Certificates, second.Certificate.ID) {
				t.Errorf("attached: %v", d.Certificates)
			}
			if tc.name != "after removal" && (d.Type != "light" || !slices.Equal(d.Policies, []string{"p"})) {
				t.Errorf("type %q, policies %v: they were not to change", d.Type, d.Policies)
			}
			if _, err := s.ca.Verify([]*x509.Certificate{leaf(t, second)}); err != nil {
				t.Errorf("the new certificate: %v", err)
			}
		})
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	lamp := pkitest.Name(t, "lamp")
	c, err := s.Enroll(t.Context(), provision.Enrollment{Device: lamp})
	must(t, err)
	_, err = s.Enroll(t.Context(), provision.Enrollment{Device: lamp})
	if err == nil {
		t.Fatal("enrolled twice")
	}
	for _, want := range []string{"lamp", c.Certificate.Serial, "2027-06-30", "replace", "additional"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// TestFailureLeavesNothing fails in each part of an enrolment, and looks again after a restart.
func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string

		e    provision.Enrollment
		want error
	}{
		{"in the registry's part", provision.Enrollment{Type: "not a word"}, gateway.ErrInvalid},
		{"in the policies", provision.Enrollment{Policies: []string{"*"}}, gateway.ErrInvalid},
		{"in the authority's part", provision.Enrollment{Lifetime: 100 * 365 * 24 * time.Hour}, pki.ErrProfile},
		{"while replacing", provision.Enrollment{Type: "not a word", Existing: provision.Replace}, gateway.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, "")
			_, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "pump")})
			must(t, err)
			known, unknown := s.state(t, "pump"), s.state(t, "lamp")
			tc.e.Device = pkitest.Name(t, "lamp")
			if tc.e.Existing == provision.Replace {
				tc.e.Device = pkitest.Name(t, "pump")
			}
			if _, err := s.Enroll(t.Context(), tc.e); !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			s.ca.Close(t)
			again := start(t, s.ca.Dir)
			for _, s := range []*site{s, again} {
				if got := s.state(t, "pump"); got != known {
					t.Errorf("pump: %q, was %q", got, known)
				}
				if got := s.state(t, "lamp"); got != unknown {
					t.Errorf("lamp: %q, was %q", got, unknown)
				}
				if n := len(s.ca.List()); n != 1 {
					t.Errorf("%d certificates on record, want 1", n)
				}
			}
		})
	}
}

// TestCutOffBeforeTheCommit ends the process's view of the world where a crash would: the
// function has run, nothing is committed.
func TestCutOffBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	lamp := pkitest.Name(t, "lamp")
	crash := errors.New("power cut")
	_, err := s.ca.Issue(t.Context(), pki.Request{
		Profile: pki.ProfileDevice, Device: lamp, PublicKey: pkitest.Key(t).Public(),
		Also: func(tx *store.Tx, cert *pki.Certificate) error {
			if err := s.registry.CreateTx(tx, gateway.Device{Name: lamp}); err != nil {
				return err
			}
			if err := s.registry.AttachTx(tx, lamp, cert.ID, nil); err != nil {
				return err
			}
			return crash
		},
	})
	if !errors.Is(err, crash) {
		t.Fatal(err)
	}
	s.ca.Close(t)
	for _, s := range []*site{s, start(t, s.ca.Dir)} {
		if got := s.state(t, "lamp"); got != "| unknown" {
			t.Errorf("left behind: %q", got)
		}
	}
	again := start(t, t.TempDir())
	_, err = again.Enroll(t.Context(), provision.Enrollment{Device: lamp})
	must(t, err)
}

func TestRemoveRevokes(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	lamp := pkitest.Name(t, "lamp")
	a, err := s.Enroll(t.Context(), provision.Enrollment{Device: lamp})
	must(t, err)
	b, err := s.Enroll(t.Context(), provision.Enrollment{Device: lamp, Existing: provision.Additional})
	must(t, err)
	must(t, s.registry.Update(t.Context(), lamp, func(d *gateway.Device) error {
		d.Certificates = append(d.Certificates, "one of a foreign authority")
		return nil
	}))
	was, err := s.Remove(t.Context(), lamp)
	must(t, err)
	if len(was.Certificates) != 3 {
		t.Errorf("Remove returned %+v", was)
	}
	for _, c := range []*provision.Credentials{a, b} {
		if _, err := s.ca.Verify([]*x509.Certificate{leaf(t, c)}); !errors.Is(err, pki.ErrRevoked) {
			t.Errorf("after removal: %v", err)
		}
	}
	if s.registry.Has("lamp") {
		t.Error("the device is still there")
	}
	if _, err := s.Remove(t.Context(), lamp); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("removing again: %v", err)
	}
}

// TestEnrolOneNameAtOnce: of many that enrol the same name, one succeeds.
func TestEnrolOneNameAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() {
			_, results[i] = s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "lamp")})
		})
	}
	wg.Wait()
	ok := 0
	for _, err := range results {
		switch {
		case err == nil:
			ok++
		case !errors.Is(err, provision.ErrExists):
			t.Error(err)
		}
	}
	if ok != 1 || len(s.ca.List()) != 1 {
		t.Errorf("%d enrolments succeeded, %d certificates", ok, len(s.ca.List()))
	}
}

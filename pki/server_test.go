package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/pki"
	"gatewayctl/pki/pkitest"
)

// machine is a machine whose names and addresses a test changes.
type machine struct {
	mu    sync.Mutex
	names []string
	ips   []net.IP
	err   error
}

func (m *machine) get() ([]string, []net.IP, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names), slices.Clone(m.ips), m.err
}

func (m *machine) set(names []string, ips ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names, m.ips, m.err = names, nil, nil
	for _, ip := range ips {
		m.ips = append(m.ips, net.ParseIP(ip))
	}
}

func (m *machine) fail(err error) { m.mu.Lock(); defer m.mu.Unlock(); m.err = err }

// serves checks for which names and addresses s has a certificate now.
func serves(t *testing.T, ca *pkitest.CA, s *pki.Server, want ...string) {
	t.Helper()
	pair := s.Certificate()
	got := slices.Clone(pair.Leaf.DNSNames)
	for _, ip := range pair.Leaf.IPAddresses {
		got = append(got, ip.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names and addresses: %s", diff)
	}
	if len(pair.Certificate) != 2 || !cmp.Equal(pair.Certificate[1], ca.Intermediate().Raw) {
		t.Errorf("%d certificates are sent, want leaf and intermediate", len(pair.Certificate))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca.Root())
	between.AddCert(ca.Intermediate())
	for _, name := range got {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name, CurrentTime: ca.Clock.Now()})
		if err != nil && ca.Clock.Status().Trusted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func serverKeys(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "keys", "server-*.key"))
	must(t, err)
	return files
}

func TestServerFollowsTheMachine(t *testing.T) {
	t.Parallel()
	clock, m := at(noon), &machine{}
	ca := pkitest.New(t, pkitest.Options{Now: clock.now, Build: noon.Add(-day)})
	m.set([]string{"pi", "PI.local", "localhost", "pi"}, "127.0.0.1", "::1", "192.0.2.7", "192.0.2.7")
	var renewed []string
	s, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: m.get, OnRenew: func(c *pki.Certificate) { renewed = append(renewed, c.Serial) }})
	must(t, err)
	serves(t, ca, s, "pi", "pi.local", "localhost", "127.0.0.1", "::1", "192.0.2.7")
	first := s.Certificate()
	if first.Leaf.Subject.CommonName != "pi" {
		t.Errorf("common name %q", first.Leaf.Subject.CommonName)
	}
	refresh := func(want bool) {
		t.Helper()
		got, err := s.Refresh(t.Context())
		must(t, err)
		if got != want {
			t.Errorf("Refresh replaced it: %v, want %v", got, want)
		}
	}
	refresh(false)
	m.set([]string{"localhost", "pi.local", "pi"}, "192.0.2.7", "::1", "127.0.0.1") // another order
	refresh(false)
	m.set([]string{"pi", "pi.local", "localhost"}, "127.0.0.1", "::1", "198.51.100.9")
	refresh(true)
	serves(t, ca, s, "pi", "pi.local", "localhost", "127.0.0.1", "::1", "198.51.100.9")
	if k, ok := first.Leaf.PublicKey.(interface{ Equal(x any) bool }); ok && k.Equal(s.Certificate().Leaf.PublicKey) {
		t.Error("the key stayed the same")
	}
	if files := serverKeys(t, ca.Dir); len(files) != 1 {
		t.Errorf("keys: %v", files)
	}

	clock.add(58 * day)
	refresh(false)
	clock.add(2 * day)
	refresh(true) // 60 of 89 days

	clock.set(time.Unix(0, 0))
	m.set([]string{"other"})
	_, err = s.Refresh(t.Context())
	wantError(t, err, pki.ErrClock, "1970")
	serves(t, ca, s, "pi", "pi.local", "localhost", "127.0.0.1", "::1", "198.51.100.9")
	if files := serverKeys(t, ca.Dir); len(files) != 1 {
		t.Errorf("keys: %v", files)
	}

	clock.set(noon.Add(61 * day))
	m.fail(errors.New("no network"))
	_, err = s.Refresh(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("error %v", err)
	}
	m.set([]string{"other"})
	refresh(true)
	serves(t, ca, s, "other")
	_, err = ca.Revoke(t.Context(), s.Certificate().Leaf.SerialNumber.Text(16), "keyCompromise")
	must(t, err)
	refresh(true)
	if len(renewed) != 5 || renewed[4] != s.Certificate().Leaf.SerialNumber.Text(16) {
		t.Errorf("OnRenew was called for %v", renewed)
	}
}

func TestServerSurvivesARestart(t *testing.T) {
	t.Parallel()
	m := &machine{}
	m.set([]string{"pi"})
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, ca *pkitest.CA)
		same   bool
	}{
		{"nothing", func(*testing.T, *pkitest.CA) {}, true},
		{"another key lies around", func(t *testing.T, ca *pkitest.CA) { _, err := ca.Keys.Create("server-00"); must(t, err) }, true},
		{"key gone", func(t *testing.T, ca *pkitest.CA) { must(t, os.Remove(serverKeys(t, ca.Dir)[0])) }, false},
		{"key truncated", func(t *testing.T, ca *pkitest.CA) { must(t, os.Truncate(serverKeys(t, ca.Dir)[0], 9)) }, false},
		{"key readable by all", func(t *testing.T, ca *pkitest.CA) { must(t, os.Chmod(serverKeys(t, ca.Dir)[0], 0o644)) }, false},
		{"another key", func(t *testing.T, ca *pkitest.CA) {
			file := serverKeys(t, ca.Dir)[0]
			must(t, os.Remove(file))
			_, err := ca.Keys.Create(strings.TrimSuffix(filepath.Base(file), ".key"))
			must(t, err)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ca := pkitest.New(t, pkitest.Options{})
			s, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: m.get})
			must(t, err)
			tc.change(t, ca)
			ca.Close(t)
			ca = pkitest.New(t, pkitest.Options{Dir: ca.Dir})
			again, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: m.get})
			must(t, err)
			if same := again.Certificate().Leaf.Equal(s.Certificate().Leaf); same != tc.same {
				t.Errorf("the same certificate: %v, want %v", same, tc.same)
			}
			serves(t, ca, again, "pi")
			if files := serverKeys(t, ca.Dir); len(files) != 1 {
				t.Errorf("keys: %v", files)
			}
		})
	}
}

func TestServerStartsWithoutClock(t *testing.T) {
	t.Parallel()
	clock, m := at(noon), &machine{}
	m.set([]string{"pi"})
	ca := pkitest.New(t, pkitest.Options{Now: clock.now, Build: noon})
	_, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: m.get})
	must(t, err)
	ca.Close(t)
	clock.set(time.Unix(0, 0))
	m.set([]string{"pi"}, "192.0.2.8")
	ca = pkitest.New(t, pkitest.Options{Dir: ca.Dir, Now: clock.now, Build: noon})
	s, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: m.get})
	must(t, err)
	serves(t, ca, s, "pi")
	clock.set(noon.Add(time.Hour))
	if done, err := s.Refresh(t.Context()); !done || err != nil {
		t.Errorf("after the clock was set: %v, %v", done, err)
	}
	serves(t, ca, s, "pi", "192.0.2.8")
}

// TestServerRuns lets interfaces come and go in the bubble's time.
func TestServerRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		m.set([]string{"pi"}, "192.0.2.1")
		ca := pkitest.New(t, pkitest.Options{Dir: dir})
		defer ca.Close(t)
		s, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: m.get})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		after := func(d time.Duration) { t.Helper(); time.Sleep(d); synctest.Wait() }

		m.set([]string{"pi"}, "192.0.2.2")
		after(31 * time.Second)
		serves(t, ca, s, "pi", "192.0.2.2")
		m.set([]string{"pi"})
		after(30 * time.Minute) // the cable is out for half an hour
		serves(t, ca, s, "pi", "192.0.2.2")
		m.set([]string{"pi"}, "192.0.2.2")
		after(time.Minute)
		serial := s.Certificate().Leaf.SerialNumber
		m.set([]string{"pi"})
		after(50 * time.Minute)
		if s.Certificate().Leaf.SerialNumber.Cmp(serial) != 0 {
			t.Error("replaced while an interface was away for less than an hour")
		}
		after(15 * time.Minute)
		serves(t, ca, s, "pi")
		m.fail(errors.New("no network"))
		after(time.Hour)
		m.set([]string{"pi"})
		after(61 * day)
		if left := time.Until(s.Certificate().Leaf.NotAfter); left < 80*day {
			t.Errorf("after two thirds of its life the certificate still ends in %v", left)
		}
		cancel()
		must(t, <-done)
	})
}

func TestLocalNames(t *testing.T) {
	t.Parallel()
	names, ips, err := pki.LocalNames()
	must(t, err)
	host, err := os.Hostname()
	must(t, err)
	for _, want := range []string{strings.ToLower(host), "localhost"} {
		if !slices.Contains(names, want) {
			t.Errorf("names %v lack %q", names, want)
		}
	}
	if !slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".local") }) {
		t.Errorf("names %v lack one for mDNS", names)
	}
	if !slices.ContainsFunc(ips, func(ip net.IP) bool { return ip.IsLoopback() }) {
		t.Errorf("addresses %v lack loopback", ips)
	}
}

// connect makes one connection and returns the client's view of it.
func connect(t *testing.T, address string, config *tls.Config) (resumed bool, err error) {
	t.Helper()
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return false, err
	}
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	if _, err := io.ReadFull(c, make([]byte, 6)); err != nil { // the ticket of TLS 1.3 comes with it
		return false, err
	}
	return c.ConnectionState().DidResume, nil
}

// TestResumptionIsChecked: a session that was agreed on before the revocation does not help.
func TestResumptionIsChecked(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := pkitest.New(t, pkitest.Options{})
			server, err := ca.NewServer(t.Context(), pki.ServerOptions{})
			must(t, err)
			address, results := serve(t, ca.ServerTLS(server, true))
			pair, cert := ca.Device(t, "lamp")
			roots := x509.NewCertPool()
			roots.AddCert(ca.Root())
			client := &tls.Config{
				RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair},
				MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(4),
			}
			for i, want := range []bool{false, true} {
				resumed, err := connect(t, address, client)
				if served := <-results; err != nil || served != nil {
					t.Fatalf("connection %d: client %v, server %v", i+1, err, served)
				}
				if resumed != want {
					t.Errorf("connection %d resumed: %v, want %v", i+1, resumed, want)
				}
			}
			_, err = ca.Revoke(t.Context(), cert.ID, "keyCompromise")
			must(t, err)
			if _, err := connect(t, address, client); err == nil {
				t.Error("the client of a revoked certificate got in by resumption")
			}
			if err := <-results; !errors.Is(err, pki.ErrRevoked) {
				t.Errorf("the server says %v", err)
			}
		})
	}
}

func TestCertificateOptionalUnlessRequired(t *testing.T) {
	t.Parallel()
	ca, other := pkitest.New(t, pkitest.Options{}), pkitest.New(t, pkitest.Options{})
	server, err := ca.NewServer(t.Context(), pki.ServerOptions{})
	must(t, err)
	ours, _ := ca.Device(t, "lamp")
	foreign, _ := other.Device(t, "lamp")
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root())
	for _, tc := range []struct {
		name              string
		certs             []tls.Certificate
		optional, require bool // whether it gets in
	}{
		{"ours", []tls.Certificate{ours}, true, true},
		{"none", nil, true, false},
		{"another authority's", []tls.Certificate{foreign}, false, false},
	} {
		for require, want := range map[bool]bool{false: tc.optional, true: tc.require} {
			address, results := serve(t, ca.ServerTLS(server, require))
			client := &tls.Config{RootCAs: roots, ServerName: "localhost"}
			if len(tc.certs) > 0 { // whatever the server asks for
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tc.certs[0], nil }
			}
			_, err := connect(t, address, client)
			if served := <-results; (err == nil) != want || (served == nil) != want {
				t.Errorf("%s, required %v: client %v, server %v", tc.name, require, err, served)
			}
		}
	}
}

package pki_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatewayctl/pki"
	"gatewayctl/pki/keystore"
	"gatewayctl/pki/pkitest"
)

// openssl runs the command of that name and returns what it prints.
func openssl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", args...)
	cmd.Stdin = strings.NewReader("")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func writeFile(t *testing.T, dir, name string, data ...[]byte) string {
	t.Helper()
	file := filepath.Join(dir, name)
	must(t, os.WriteFile(file, bytes.Join(data, nil), 0o600))
	return file
}

// TestOpenSSLVerifies puts our certificates and our CRL before a verifier that is not Go's, at
// its strictest.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	dir := t.TempDir()
	root := writeFile(t, dir, "ca.crt", ca.RootPEM())
	chain := writeFile(t, dir, "intermediate.crt", ca.IntermediatePEM())
	_, device := ca.Device(t, "lamp")
	_, revoked := ca.Device(t, "lamp")
	_, server := ca.Client(t, pki.Request{Profile: pki.ProfileServer, DNSNames: []string{"gateway.local"}, IPs: []net.IP{net.ParseIP("fd00::1")}})
	_, err := ca.Revoke(t.Context(), revoked.ID, "keyCompromise")
	must(t, err)
	crl, err := ca.CRL(t.Context())
	must(t, err)
	list := writeFile(t, dir, "crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl}))
	for _, tc := range []struct {
		name string
		cert *pki.Certificate
		args []string
		says string // "OK" means that it is accepted
	}{
		{"device as client", device, []string{"-purpose", "sslclient"}, "OK"},
		{"device as server", device, []string{"-purpose", "sslserver"}, "nsuitable certificate purpose"},
		{"server as server", server, []string{"-purpose", "sslserver", "-verify_hostname", "gateway.local"}, "OK"},
		{"server by address", server, []string{"-purpose", "sslserver", "-verify_ip", "fd00::1"}, "OK"},
		{"server by another name", server, []string{"-verify_hostname", "other.local"}, "hostname mismatch"},
		{"server as client", server, []string{"-purpose", "sslclient"}, "nsuitable certificate purpose"},
		{"device, not on the list", device, []string{"-crl_check", "-CRLfile", list}, "OK"},
		{"device, on the list", revoked, []string{"-crl_check", "-CRLfile", list}, "certificate revoked"},
	} {
		file := writeFile(t, dir, "leaf.crt", tc.cert.PEM())
		args := append([]string{"verify", "-x509_strict", "-CAfile", root, "-untrusted", chain}, tc.args...)
		out, err := openssl(t, append(args, file)...)
		if !strings.Contains(out, tc.says) || (err == nil) != (tc.says == "OK") {
			t.Errorf("%s: %v: %s", tc.name, err, out)
		}
	}
	out, err := openssl(t, "crl", "-in", list, "-CAfile", chain, "-noout", "-text", "-verify")
	for _, want := range []string{"verify OK", "Version 2", "X509v3 CRL Number", "Authority Key Identifier", "Key Compromise"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("the CRL does not show %q: %v: %s", want, err, out)
		}
	}
}

func TestCRL(t *testing.T) {
	t.Parallel()
	clock := at(noon)
	options := pkitest.Options{Now: clock.now, Build: noon.Add(-day)}
	ca := pkitest.New(t, options)
	read := func() *x509.RevocationList {
		t.Helper()
		der, err := ca.CRL(t.Context())
		must(t, err)
		list, err := x509.ParseRevocationList(der)
		must(t, err)
		must(t, list.CheckSignatureFrom(ca.Intermediate()))
		return list
	}
	expect := func(list *x509.RevocationList, number int64, serials ...string) {
		t.Helper()
		var got []string
		for _, e := range list.RevokedCertificateEntries {
			got = append(got, e.SerialNumber.Text(16))
		}
		if list.Number.Cmp(big.NewInt(number)) != 0 || strings.Join(got, " ") != strings.Join(serials, " ") {
			t.Errorf("CRL %v has %v, want %d with %v", list.Number, got, number, serials)
		}
	}
	list := read()
	expect(list, 1)
	if !list.ThisUpdate.Equal(noon) || list.NextUpdate.Sub(list.ThisUpdate) != day {
		t.Errorf("from %v to %v", list.ThisUpdate, list.NextUpdate)
	}
	clock.add(time.Hour)
	expect(read(), 1)
	_, a := ca.Device(t, "a")
	_, err := ca.Revoke(t.Context(), a.ID, "superseded")
	must(t, err)
	list = read()
	expect(list, 2, a.Serial)
	if e := list.RevokedCertificateEntries[0]; e.ReasonCode != 4 || !e.RevocationTime.Equal(noon.Add(time.Hour)) {
		t.Errorf("entry %+v", e)
	}
	clock.add(13 * time.Hour) // more than half its life
	expect(read(), 3, a.Serial)
	ca.Close(t)
	options.Dir = ca.Dir
	ca = pkitest.New(t, options)
	expect(read(), 3, a.Serial)

	clock.set(time.Unix(0, 0)) // the last list serves as long as it is complete
	expect(read(), 3, a.Serial)
	_, err = ca.Revoke(t.Context(), a.ID, "")
	must(t, err)
	expect(read(), 3, a.Serial)
	clock.set(noon.Add(15 * time.Hour))
	_, b := ca.Device(t, "b")
	clock.set(time.Unix(0, 0))
	_, err = ca.Revoke(t.Context(), b.ID, "")
	must(t, err)
	_, err = ca.CRL(t.Context())
	wantError(t, err, pki.ErrClock, "1970")

	clock.set(a.NotAfter.Add(20 * day))
	if n := len(read().RevokedCertificateEntries); n != 2 {
		t.Errorf("%d entries soon after the end, want 2", n)
	}
	clock.set(a.NotAfter.Add(60 * day))
	if n := len(read().RevokedCertificateEntries); n != 0 {
		t.Errorf("%d entries long after the end, want none", n)
	}
}

// serve accepts TLS connections, says hello, and reports how each handshake ended.
func serve(t *testing.T, config *tls.Config) (address string, results <-chan error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	must(t, err)
	ch := make(chan error, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
			err = c.(*tls.Conn).Handshake()
			if err == nil {
				_, err = c.Write([]byte("hello\n"))
			}
			ch <- err
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), ch
}

// TestOpenSSLConnects has s_client talk to our configuration with a device's credentials.
func TestOpenSSLConnects(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	server, err := ca.NewServer(t.Context(), pki.ServerOptions{Names: pki.LocalNames})
	must(t, err)
	address, results := serve(t, ca.ServerTLS(server, true))
	dir := t.TempDir()
	key := pkitest.Key(t)
	keyPEM, err := keystore.Encode(key)
	must(t, err)
	cert, err := ca.Issue(t.Context(), pki.Request{Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp"), PublicKey: key.Public()})
	must(t, err)
	ours := []string{
		"-CAfile", writeFile(t, dir, "ca.crt", ca.RootPEM()), "-verify_return_error", "-verify_hostname", "localhost",
		"-cert", writeFile(t, dir, "lamp.crt", cert.PEM(), ca.IntermediatePEM()), "-key", writeFile(t, dir, "lamp.key", keyPEM),
		"-cert_chain", writeFile(t, dir, "chain.crt", ca.IntermediatePEM()),
	}
	for _, tc := range []struct {
		name string
		args []string
		ok   bool
	}{
		{"TLS 1.3", append([]string{"-tls1_3"}, ours...), true},
		{"TLS 1.2", append([]string{"-tls1_2"}, ours...), true},
		{"TLS 1.2 without forward secrecy", append([]string{"-tls1_2", "-cipher", "kRSA:@SECLEVEL=0"}, ours...), false},
		{"TLS 1.2 with CBC", append([]string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA"}, ours...), false},
		{"TLS 1.1", append([]string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, ours...), false},
		{"no certificate", ours[:5], false},
	} {
		out, _ := openssl(t, append([]string{"s_client", "-connect", address, "-quiet"}, tc.args...)...)
		err := errors.New("no connection")
		select {
		case err = <-results:
		case <-time.After(10 * time.Second):
		}
		if (err == nil) != tc.ok || strings.Contains(out, "hello") != tc.ok {
			t.Errorf("%s: the server says %v, the client %s", tc.name, err, out)
		}
	}
	if _, err := ca.Revoke(t.Context(), cert.ID, ""); err != nil {
		t.Fatal(err)
	}
	out, _ := openssl(t, append([]string{"s_client", "-connect", address, "-quiet"}, ours...)...)
	if err := <-results; !errors.Is(err, pki.ErrRevoked) || strings.Contains(out, "hello") {
		t.Errorf("revoked: the server says %v, the client %s", err, out)
	}
}

// TestOpenSSLMakesRequests takes CSRs as people make them.
func TestOpenSSLMakesRequests(t *testing.T) {
	t.Parallel()
	ca := pkitest.New(t, pkitest.Options{})
	dir := t.TempDir()
	for name, key := range map[string][]string{
		"P-256":   {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"},
		"RSA":     {"-newkey", "rsa:2048"},
		"Ed25519": {"-newkey", "ed25519"},
	} {
		file := filepath.Join(dir, name+".csr")
		out, err := openssl(t, append([]string{"req", "-new", "-nodes", "-text", "-subj", "/O=Example/CN=lamp", "-keyout", filepath.Join(dir, name+".key"), "-out", file}, key...)...)
		if err != nil {
			t.Fatal(out, err)
		}
		data, err := os.ReadFile(file)
		must(t, err)
		request, err := pki.ParseCSR(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := ca.Issue(t.Context(), pki.Request{Profile: pki.ProfileDevice, Device: pkitest.Name(t, "lamp"), CSR: request}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package provision_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/gateway/provision"
	"gatewayctl/pki"
	"gatewayctl/pki/pkitest"
)

// write puts files into a directory and returns it with names and modes.
func write(t *testing.T, files []provision.File) (dir string, modes map[string]fs.FileMode) {
	t.Helper()
	dir, modes = t.TempDir(), map[string]fs.FileMode{}
	for _, f := range files {
		must(t, os.WriteFile(filepath.Join(dir, f.Name), f.Data, f.Perm))
		modes[f.Name] = f.Perm
	}
	return dir, modes
}

func TestFiles(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	enrol := func(name string) *provision.Credentials {
		c, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, name)})
		must(t, err)
		return c
	}
	lamp, ca := enrol("lamp"), enrol("ca")
	noKey := *enrol("chip")
	noKey.KeyPEM = nil
	admin, err := s.Issue(t.Context(), provision.Request{Profile: pki.ProfileAdmin, CommonName: "../Ann Ü"})
	must(t, err)
	sent := &provision.Credentials{Device: lamp.Device, CertificatePEM: lamp.CertificatePEM, KeyPEM: lamp.KeyPEM, CAPEM: lamp.CAPEM}
	for _, tc := range []struct {
		name   string
		c      *provision.Credentials
		format string
		want   map[string]fs.FileMode // nil: ErrFormat
	}{
		{"PEM", lamp, "pem", map[string]fs.FileMode{"lamp.crt": 0o644, "lamp.key": 0o600, "ca.crt": 0o644}},
		{"header", lamp, "c-header", map[string]fs.FileMode{"lamp.h": 0o600}},
		{"PKCS #12", lamp, "p12", map[string]fs.FileMode{"lamp.p12": 0o600, "lamp.p12.password": 0o600, "ca.crt": 0o644}},
		{"what came over the API", sent, "c-header", map[string]fs.FileMode{"lamp.h": 0o600}},
		{"without key", &noKey, "pem", map[string]fs.FileMode{"chip.crt": 0o644, "ca.crt": 0o644}},
		{"header without key", &noKey, "c-header", map[string]fs.FileMode{"chip.h": 0o600}},
		{"PKCS #12 without key", &noKey, "p12", nil},
		{"a device called ca", ca, "pem", map[string]fs.FileMode{"device-ca.crt": 0o644, "device-ca.key": 0o600, "ca.crt": 0o644}},
		{"an administrator", admin, "pem", map[string]fs.FileMode{"device-.._Ann__.crt": 0o644, "device-.._Ann__.key": 0o600, "ca.crt": 0o644}},
		{"an unknown format", lamp, "zip", nil},
	} {
		files, err := tc.c.Files(tc.format)
		if tc.want == nil {
			if !errors.Is(err, provision.ErrFormat) {
				t.Errorf("%s: error %v, want ErrFormat", tc.name, err)
			}
			continue
		}
		must(t, err)
		if _, modes := write(t, files); !cmp.Equal(modes, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, modes, tc.want)
		}
	}
}

func TestPEMFilesAreAPair(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	c, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "lamp")})
	must(t, err)
	files, err := c.Files(provision.FormatPEM)
	must(t, err)
	dir, _ := write(t, files)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "lamp.crt"), filepath.Join(dir, "lamp.key"))
	must(t, err)
	if len(pair.Certificate) != 2 {
		t.Errorf("%d certificates in lamp.crt", len(pair.Certificate))
	}
	out := run(t, dir, "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "ca.crt", "-untrusted", "lamp.crt", "lamp.crt")
	if !strings.Contains(out, "lamp.crt: OK") {
		t.Error(out)
	}
}

func TestPKCS12OpensInOpenSSL(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	c, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "lamp")})
	must(t, err)
	files, err := c.Files(provision.FormatPKCS12)
	must(t, err)
	dir, _ := write(t, files)
	out := run(t, dir, "openssl", "pkcs12", "-in", "lamp.p12", "-passin", "file:lamp.p12.password", "-nodes")
	if n := strings.Count(out, "BEGIN CERTIFICATE"); n != 3 || !strings.Contains(out, "BEGIN PRIVATE KEY") {
		t.Errorf("%d certificates in\n%s", n, out)
	}
	out, err = try(t, dir, "openssl", "pkcs12", "-in", "lamp.p12", "-passin", "pass:guess", "-nodes")
	if err == nil {
		t.Errorf("it opens with any password: %s", out)
	}
}

// TestHeaderCompiles has a C compiler print the strings.
func TestHeaderCompiles(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	c, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "lamp")})
	must(t, err)
	files, err := c.Files(provision.FormatCHeader)
	must(t, err)
	dir, _ := write(t, files)
	header := string(files[0].Data)
	for _, want := range []string{"GATEWAY_CA_PEM[]", "DEVICE_CERT_PEM[]", "DEVICE_KEY_PEM[]", "valid until 2027-06-30", "secret"} {
		if !strings.Contains(header, want) {
			t.Errorf("the header lacks %q", want)
		}
	}
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("no C compiler is installed")
	}
	must(t, os.WriteFile(filepath.Join(dir, "main.c"), []byte(`#include <stdio.h>
#include "lamp.h"
int main(void) { fputs(GATEWAY_CA_PEM, stdout); fputs(DEVICE_CERT_PEM, stdout); fputs(DEVICE_KEY_PEM, stdout); return 0; }
`), 0o600))
	run(t, dir, "cc", "-std=c99", "-Wall", "-Werror", "-pedantic-errors", "-Wno-overlength-strings", "-o", "main", "main.c")
	if out := run(t, dir, "./main"); out != string(c.CAPEM)+string(c.CertificatePEM)+string([]byte(c.KeyPEM)) {
		t.Errorf("the program prints\n%s", out)
	}
}

// TestSecretsDoNotPrint looks for the key in every way credentials may reach a log.
func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	c, err := s.Enroll(t.Context(), provision.Enrollment{Device: pkitest.Name(t, "lamp")})
	must(t, err)
	files, err := c.Files(provision.FormatPEM)
	must(t, err)
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+verb, c, *c, c.KeyPEM, files)
	}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).Info("x", "c", c, "v", *c, "key", c.KeyPEM, "files", files)
	}
	must(t, json.NewEncoder(&out).Encode(c))
	must(t, json.NewEncoder(&out).Encode(files))
	if got := out.String(); strings.Contains(got, "PRIVATE") || strings.Contains(got, "50524956415445") || strings.Contains(got, "80 82 73 86") || strings.Contains(got, "LS0tLS1CRUdJTiBQUklWQVRF") {
		t.Errorf("the key shows in %s", got)
	}
	if !strings.Contains(out.String(), "redacted") {
		t.Error("nothing says that something is left out")
	}
}

func run(t *testing.T, dir string, name string, args ...string) string {
	t.Helper()
	out, err := try(t, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func try(t *testing.T, dir string, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && !strings.HasPrefix(name, "./") {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

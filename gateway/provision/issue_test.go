package provision_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"

	"gatewayctl/gateway/provision"
	"gatewayctl/pki"
)

func TestIssueForAdministrators(t *testing.T) {
	t.Parallel()
	s := start(t, "")
	c, err := s.Issue(t.Context(), provision.Request{Profile: pki.ProfileAdmin, CommonName: "ann"})
	must(t, err)
	if _, err := tls.X509KeyPair(c.CertificatePEM, c.KeyPEM); err != nil {
		t.Error(err)
	}
	peer, err := s.ca.Verify([]*x509.Certificate{leaf(t, c)})
	if err != nil || peer.Role != "admin" || peer.CommonName != "ann" {
		t.Errorf("peer %+v, %v", peer, err)
	}
	for name, r := range map[string]provision.Request{
		"a device": {Profile: pki.ProfileDevice, CommonName: "lamp"},
		"a root":   {Profile: "root", CommonName: "x"},
		"no name":  {Profile: pki.ProfileAdmin},
	} {
		if _, err := s.Issue(t.Context(), r); !errors.Is(err, pki.ErrProfile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Issue(t.Context(), provision.Request{Profile: pki.ProfileAdmin, CommonName: "x", CSR: []byte("x")}); !errors.Is(err, pki.ErrCSR) {
		t.Errorf("garbage for a request: %v", err)
	}
}

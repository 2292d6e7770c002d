package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// ServerTLS returns the configuration of a listener that serves s's certificate and asks clients
// for one of ours: TLS 1.3, and TLS 1.2 with forward secrecy and authenticated encryption only.
//
// A certificate that a client presents is checked by [Authority.Verify] in every handshake,
// resumed ones included. Without one a client is refused if require is set. The configuration
// follows the certificates of s; use it, or one clone of it per listener, for all connections, so
// that sessions can be resumed.
func (a *Authority) ServerTLS(s *Server, require bool) *tls.Config {
	auth := tls.RequestClientCert
	if require {
		auth = tls.RequireAnyClientCert
	}
	// Whom we ask for, so that clients with several certificates choose ours. Verification is
	// Verify's: crypto/tls would know neither revocation nor a clock that cannot be trusted.
	names := x509.NewCertPool()
	names.AddCert(a.root)
	names.AddCert(a.intermediate)
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 are all fine
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Certificate(), nil },
		ClientAuth:     auth,
		ClientCAs:      names,
		Time:           a.clock.Now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 && !require {
				return nil
			}
			if _, err := a.Verify(cs.PeerCertificates); err != nil {
				return fmt.Errorf("client %w", err)
			}
			return nil
		},
	}
}

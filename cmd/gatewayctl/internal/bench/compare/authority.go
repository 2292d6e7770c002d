package compare

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// files are a certificate and its key.
type files struct{ cert, key, ca string }

// An authority gives the other brokers certificates of the same shape as the gateway's: P-256,
// one intermediate.
type authority struct {
	dir          string
	ca           string
	intermediate []byte
	issuer       *x509.Certificate
	key          *ecdsa.PrivateKey
	serial       int64
}

func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	rootKey, root, _, err := a.sign("benchmark root", nil, nil, true)
	if err != nil {
		return nil, err
	}
	var der []byte
	if a.key, a.issuer, der, err = a.sign("benchmark intermediate", root, rootKey, true); err != nil {
		return nil, err
	}
	a.intermediate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.ca = filepath.Join(dir, "ca.pem")
	rootPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	return a, os.WriteFile(a.ca, rootPEM, 0o600)
}

// sign makes a key and a certificate for it; its own issuer without one.
func (a *authority) sign(name string, issuer *x509.Certificate, by *ecdsa.PrivateKey, isCA bool) (*ecdsa.PrivateKey, *x509.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	a.serial++
	t := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(7 * 24 * time.Hour),
		BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if isCA {
		t.KeyUsage = x509.KeyUsageCertSign
	} else {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	if issuer == nil {
		issuer, by = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, key.Public(), by)
	if err != nil {
		return nil, nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return key, cert, der, err
}

// issue makes the files of a server or a client.
func (a *authority) issue(name string) (f files, err error) {
	key, _, der, err := a.sign(name, a.issuer, a.key, false)
	if err != nil {
		return f, fmt.Errorf("certificate of %s: %w", name, err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return f, err
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.intermediate...)
	return a.write(name, chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), a.ca)
}

func (a *authority) write(name string, chain, key []byte, ca string) (files, error) {
	f := files{filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key"), ca}
	if err := os.WriteFile(f.cert, chain, 0o600); err != nil {
		return f, err
	}
	return f, os.WriteFile(f.key, key, 0o600)
}

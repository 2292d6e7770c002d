package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

const (
	maxCSRBytes = 64 << 10
	minRSABits  = 2048
	maxRSABits  = 8192 // what crypto/tls verifies
	minECBits   = 256
)

// ParseCSR reads a certificate signing request (PKCS #10, RFC 2986) in PEM or DER and verifies
// its signature. Text before the PEM block is skipped, as openssl writes it. All its errors wrap
// [ErrCSR] or [ErrWeakKey].
func ParseCSR(data []byte) (*x509.CertificateRequest, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrCSR)
	}
	if len(data) > maxCSRBytes {
		return nil, fmt.Errorf("%w: %d bytes, where %d are the most", ErrCSR, len(data), maxCSRBytes)
	}
	der := data
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
			return nil, fmt.Errorf("%w: a PEM block %q where CERTIFICATE REQUEST belongs", ErrCSR, block.Type)
		}
		der = block.Bytes
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: neither PEM nor DER of PKCS #10: %v", ErrCSR, err)
	}
	if err := checkCSR(csr); err != nil {
		return nil, err
	}
	return csr, nil
}

func checkCSR(csr *x509.CertificateRequest) error {
	if err := checkKey(csr.PublicKey); err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return fmt.Errorf("%w: it does not prove possession of the private key: %v", ErrCSR, err)
	}
	return nil
}

// key returns the public key that req asks to certify.
func (req *Request) key() (crypto.PublicKey, error) {
	switch {
	case (req.PublicKey == nil) == (req.CSR == nil):
		return nil, fmt.Errorf("%w: either a public key or a CSR is needed", ErrCSR)
	case req.CSR != nil:
		return req.CSR.PublicKey, checkCSR(req.CSR)
	default:
		return req.PublicKey, checkKey(req.PublicKey)
	}
}

// checkKey refuses keys that are too weak, unusual or not well formed.
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if bits := k.Curve.Params().BitSize; bits < minECBits {
			return fmt.Errorf("%w: ECDSA on a curve of %d bits, where P-256 is the least", ErrWeakKey, bits)
		}
		if _, err := k.ECDH(); err != nil { // checks that the point is on the curve
			return fmt.Errorf("%w: %v", ErrCSR, err)
		}
		return nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("%w: RSA with %d bits, where %d are the least", ErrWeakKey, bits, minRSABits)
		} else if bits > maxRSABits {
			return fmt.Errorf("%w: RSA with %d bits, where %d are the most", ErrCSR, bits, maxRSABits)
		}
		return nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("%w: Ed25519 key of %d bytes", ErrCSR, len(k))
		}
		return nil
	default:
		return fmt.Errorf("%w: a key of type %T; use ECDSA P-256, P-384, Ed25519 or RSA from 2048 bits", ErrCSR, pub)
	}
}

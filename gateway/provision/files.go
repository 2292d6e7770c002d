package provision

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// The formats of [Credentials.Files].
const (
	FormatPEM     = "pem"
	FormatCHeader = "c-header"
	FormatPKCS12  = "p12"
)

// ErrFormat is returned for credentials that cannot be put into files as asked.
var ErrFormat = errors.New("not a format for these credentials")

// A File is to be written for the device.
type File struct {
	Name string
	Perm fs.FileMode // 0600 if it holds a secret
	Data Secret
}

// Files returns the credentials in a format, NAME being the device's name:
//
//	pem       NAME.crt (the certificate and the intermediate), NAME.key, ca.crt (the root)
//	c-header  NAME.h, with the same as strings, to be compiled into firmware
//	p12       NAME.p12 (PKCS #12 with all three, AES), NAME.p12.password, ca.crt
//
// Credentials that are not a device's take the certificate's common name for NAME, with _ for
// what is unusual in a file name; "ca" becomes "device-ca". Without a private key there is no
// NAME.key, its string is left out of the header, and p12 is not possible: [ErrFormat]. Only
// Device and the PEM fields need to be set.
func (c *Credentials) Files(format string) ([]File, error) {
	leaf, others, err := c.chain()
	if err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", c.Device, err)
	}
	name := c.fileName(leaf)
	ca := File{"ca.crt", 0o644, c.CAPEM}
	switch format {
	case FormatPEM:
		files := []File{{name + ".crt", 0o644, c.CertificatePEM}, ca}
		if len(c.KeyPEM) > 0 {
			files = append(files, File{name + ".key", 0o600, c.KeyPEM})
		}
		return files, nil
	case FormatCHeader:
		return []File{{name + ".h", 0o600, c.header(name, leaf)}}, nil
	case FormatPKCS12:
		if len(c.KeyPEM) == 0 {
			return nil, fmt.Errorf("%w: p12 holds the private key, which is only where the CSR was made", ErrFormat)
		}
		password := rand.Text()
		data, err := c.pkcs12(leaf, others, password)
		if err != nil {
			return nil, fmt.Errorf("pack PKCS #12 for %s: %w", c.Device, err)
		}
		return []File{{name + ".p12", 0o600, data}, {name + ".p12.password", 0o600, Secret(password + "\n")}, ca}, nil
	}
	return nil, fmt.Errorf("%w: %q; use %s, %s or %s", ErrFormat, format, FormatPEM, FormatCHeader, FormatPKCS12)
}

// header returns C source. Line by line strings need no raw literals, so that it is C as well as C++.
func (c *Credentials) header(name string, leaf *x509.Certificate) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "/* Credentials of %s, valid until %s. */\n", name, leaf.NotAfter.UTC().Format(time.DateOnly))
	if len(c.KeyPEM) > 0 {
		b.WriteString("/* They hold the private key: keep this file secret. */\n")
	}
	b.WriteString("#pragma once\n")
	literal := func(comment, name string, text []byte) {
		fmt.Fprintf(&b, "\n/* %s */\nstatic const char %s[] =\n", comment, name)
		lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		for i, line := range lines {
			end := ""
			if i == len(lines)-1 {
				end = ";"
			}
			fmt.Fprintf(&b, "    \"%s\\n\"%s\n", line, end)
		}
	}
	literal("The root certificate: whom to trust.", "GATEWAY_CA_PEM", c.CAPEM)
	literal("The device's certificate and its issuer.", "DEVICE_CERT_PEM", c.CertificatePEM)
	if len(c.KeyPEM) > 0 {
		literal("The device's private key.", "DEVICE_KEY_PEM", c.KeyPEM)
	}
	return b.Bytes()
}

func (c *Credentials) pkcs12(leaf *x509.Certificate, others []*x509.Certificate, password string) ([]byte, error) {
	block, _ := pem.Decode(c.KeyPEM)
	if block == nil {
		return nil, errors.New("the private key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return pkcs12.Modern.Encode(key, leaf, others, password)
}

// chain parses the certificates: the device's, and those above it up to the root.
func (c *Credentials) chain() (leaf *x509.Certificate, others []*x509.Certificate, err error) {
	for rest := slices.Concat(c.CertificatePEM, c.CAPEM); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		others = append(others, cert)
	}
	if len(others) == 0 {
		return nil, nil, errors.New("they have no certificate")
	}
	return others[0], others[1:], nil
}

func (c *Credentials) fileName(leaf *x509.Certificate) string {
	name := c.Device.String()
	if name == "" {
		name = strings.Map(func(r rune) rune {
			if strings.ContainsRune("-_.:", r) || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z' {
				return r
			}
			return '_'
		}, leaf.Subject.CommonName)
	}
	if name == "" || name == "ca" || name[0] == '.' {
		name = "device-" + name
	}
	return name
}

package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"gatewayctl/pki/keystore"
	"gatewayctl/store"
)

// organization stands in the subject of the authority's own certificates.
const organization = "gatewayctl"

// create makes the authority of a new gateway. Cut off at any point, the next start makes another
// one: nothing of the first has left the machine.
func (a *Authority) create(ctx context.Context) (authorityRow, error) {
	status := a.clock.Status()
	if !status.Trusted {
		return authorityRow{}, fmt.Errorf("%w: %s, then start again", ErrClock, status.Reason)
	}
	if err := a.sweep(); err != nil {
		return authorityRow{}, err
	}
	tag, err := randomHex(4)
	if err != nil {
		return authorityRow{}, err
	}
	row := authorityRow{Root: issuerRow{Key: "root-" + tag}, Intermediate: issuerRow{Key: "intermediate-" + tag}}
	err = a.db.Update(ctx, func(tx *store.Tx) error {
		return store.PutJSON(stateBucket(tx), keyMaking, makingRow{[]string{row.Root.Key, row.Intermediate.Key}})
	})
	if err != nil {
		return authorityRow{}, err
	}
	if err := a.sign(&row, tag, status.Now.UTC().Truncate(time.Second)); err != nil {
		return authorityRow{}, err
	}
	err = a.db.Update(ctx, func(tx *store.Tx) error {
		state := stateBucket(tx)
		if err := state.Delete([]byte(keyMaking)); err != nil {
			return err
		}
		return store.PutJSON(state, keyAuthority, row)
	})
	if err != nil {
		return authorityRow{}, err
	}
	a.log.Info("made a certificate authority")
	return row, nil
}

// sweep removes the keys of a first run that was cut off. It refuses to go on when there are
// keys of an authority that the store knows nothing about: to replace it silently would lock
// every device out.
func (a *Authority) sweep() error {
	var making makingRow
	err := a.db.View(func(tx *store.Tx) (err error) {
		making, _, err = store.GetJSON[makingRow](stateBucket(tx), keyMaking)
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range making.Keys {
		if err := a.keys.Remove(name); err != nil {
			return err
		}
	}
	for _, prefix := range []string{"root-", "intermediate-"} {
		names, err := a.keys.List(prefix)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			return fmt.Errorf("private key %s is here, but the store knows no certificate authority; restore the store from a backup, or move the key directory away to begin with a new authority", a.keys.Path(names[0]))
		}
	}
	return nil
}

// sign makes the keys and certificates of row.
func (a *Authority) sign(row *authorityRow, tag string, now time.Time) error {
	rootKey, err := a.keys.Create(row.Root.Key)
	if err != nil {
		return err
	}
	key, err := a.keys.Create(row.Intermediate.Key)
	if err != nil {
		return err
	}
	template := func(name string, lifetime time.Duration, pub crypto.PublicKey) (*x509.Certificate, error) {
		serial, err := newSerial()
		if err != nil {
			return nil, err
		}
		return &x509.Certificate{
			SerialNumber:          serial,
			Subject:               pkix.Name{Organization: []string{organization}, CommonName: name},
			NotBefore:             now.Add(-backdate),
			NotAfter:              now.Add(-backdate).Add(lifetime),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
			BasicConstraintsValid: true,
			IsCA:                  true,
			SubjectKeyId:          keyID(pub),
		}, nil
	}
	root, err := template("gatewayctl root "+tag, rootLifetime, rootKey.Public())
	if err != nil {
		return err
	}
	if row.Root.DER, err = selfSign(root, rootKey); err != nil {
		return fmt.Errorf("sign root certificate: %w", err)
	}
	intermediate, err := template("gatewayctl issuing "+tag, intermediateLifetime, key.Public())
	if err != nil {
		return err
	}
	intermediate.MaxPathLenZero = true // it issues leaves only (RFC 5280 §4.2.1.9)
	intermediate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if row.Intermediate.DER, err = x509.CreateCertificate(rand.Reader, intermediate, root, key.Public(), rootKey); err != nil {
		return fmt.Errorf("sign intermediate certificate: %w", err)
	}
	row.Root.Created, row.Intermediate.Created = now, now
	return nil
}

func selfSign(cert *x509.Certificate, key *keystore.Key) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
}

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("random numbers: %w", err)
	}
	return strings.ToLower(hex.EncodeToString(b)), nil
}

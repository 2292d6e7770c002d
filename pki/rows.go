package pki

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gatewayctl/pki/identity"
	"gatewayctl/store"
)

// Schema is what this package keeps in the store: ("pki", "state") holds single rows,
// ("pki", "certificates") what is known of every certificate that was ever issued, by its ID;
// ("pki", "der") the certificate itself, apart because it would make rows slow to read and dear to
// change.
func Schema() store.Schema {
	return store.Schema{Name: "pki"}
}

const (
	keyAuthority = "authority"
	keyMaking    = "making"
	keyClock     = "clock"
	keyServer    = "server"
	keyCRL       = "crl"
)

func stateBucket(tx *store.Tx) *store.Bucket       { return tx.Bucket("pki", "state") }
func certificateBucket(tx *store.Tx) *store.Bucket { return tx.Bucket("pki", "certificates") }
func derBucket(tx *store.Tx) *store.Bucket         { return tx.Bucket("pki", "der") }

type clockRow struct {
	Recorded time.Time `json:"recorded"`
}

// An authorityRow names the certificates in use and the keys that belong to them.
type authorityRow struct {
	Root         issuerRow `json:"root"`
	Intermediate issuerRow `json:"intermediate"`
}

type issuerRow struct {
	DER     []byte    `json:"der"`
	Key     string    `json:"key"` // name in the key store
	Created time.Time `json:"created"`
}

// A makingRow is written before the first keys are made. It tells keys that a first run left
// behind when it was cut off from keys of an authority that the store has lost.
type makingRow struct {
	Keys []string `json:"keys"`
}

func (a *Authority) readAuthority() (row authorityRow, ok bool, err error) {
	err = a.db.View(func(tx *store.Tx) (err error) {
		row, ok, err = store.GetJSON[authorityRow](stateBucket(tx), keyAuthority)
		return err
	})
	return row, ok, err
}

// adopt makes the authority of row the one in use, after checking that all parts fit together.
func (a *Authority) adopt(row authorityRow) error {
	root, err := x509.ParseCertificate(row.Root.DER)
	if err != nil {
		return fmt.Errorf("root certificate in the store: %w", err)
	}
	intermediate, err := x509.ParseCertificate(row.Intermediate.DER)
	if err != nil {
		return fmt.Errorf("intermediate certificate in the store: %w", err)
	}
	if err := intermediate.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("intermediate certificate in the store does not belong to the root beside it; restore a backup: %w", err)
	}
	signer, err := a.keys.Load(row.Intermediate.Key)
	if err != nil {
		return err
	}
	if err := a.belongs(intermediate, row.Intermediate.Key, signer.Public()); err != nil {
		return err
	}
	switch key, err := a.keys.Load(row.Root.Key); {
	case errors.Is(err, fs.ErrNotExist):
		a.log.Warn("root key is not here: the next intermediate will need it", "err", err)
	case err != nil:
		return err
	default:
		if err := a.belongs(root, row.Root.Key, key.Public()); err != nil {
			return err
		}
	}
	a.root, a.intermediate, a.signer = root, intermediate, signer
	a.pool, a.between = x509.NewCertPool(), x509.NewCertPool()
	a.pool.AddCert(root)
	a.between.AddCert(intermediate)
	return nil
}

func (a *Authority) belongs(cert *x509.Certificate, name string, key any) error {
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); ok && pub.Equal(key) {
		return nil
	}
	return fmt.Errorf("private key %s does not belong to the certificate %q in the store; restore key directory and store from the same backup",
		a.keys.Path(name), cert.Subject.CommonName)
}

// index is every certificate on record. What it holds is never changed, only replaced.
type index struct {
	byID     map[string]*entry
	bySerial map[string]*entry
	byDevice map[identity.DeviceID][]*entry
	revoked  int
}

type entry struct {
	cert    *Certificate
	chained atomic.Bool // its signature chain was checked
}

func newIndex() index {
	return index{map[string]*entry{}, map[string]*entry{}, map[identity.DeviceID][]*entry{}, 0}
}

// put adds cert, or replaces the certificate with its ID.
func (x *index) put(cert *Certificate) {
	e := &entry{cert: cert}
	if cert.Revoked != nil {
		x.revoked++
	}
	if old, ok := x.byID[cert.ID]; ok {
		if old.cert.Revoked != nil {
			x.revoked--
		}
		same := x.byDevice[cert.Device]
		if i := slices.Index(same, old); i >= 0 {
			same[i] = e
		}
	} else if !cert.Device.IsZero() {
		x.byDevice[cert.Device] = append(x.byDevice[cert.Device], e)
	}
	x.byID[cert.ID], x.bySerial[cert.Serial] = e, e
}

// find accepts an ID or a serial number, the latter as OpenSSL and browsers print it, too.
func (x *index) find(serialOrID string) (*entry, bool) {
	if e, ok := x.byID[serialOrID]; ok {
		return e, true
	}
	s := strings.ToLower(strings.ReplaceAll(serialOrID, ":", ""))
	if e, ok := x.byID[s]; ok {
		return e, true
	}
	e, ok := x.bySerial[strings.TrimLeft(s, "0")]
	return e, ok
}

// load reads all certificates and the last CRL into memory.
func (a *Authority) load() error {
	return a.db.View(func(tx *store.Tx) error {
		err := certificateBucket(tx).ForEach(func(k, v []byte) error {
			cert := new(Certificate)
			if err := json.Unmarshal(v, cert); err != nil {
				return fmt.Errorf("certificate %s in the store: %w", k, err)
			}
			if cert.DER = derBucket(tx).Get(k); cert.DER == nil {
				return fmt.Errorf("certificate %s in the store: its DER encoding is missing", k)
			}
			a.index.put(cert)
			return nil
		})
		if err != nil {
			return err
		}
		a.crl, _, err = store.GetJSON[crlRow](stateBucket(tx), keyCRL)
		return err
	})
}

// Lookup returns the certificate with that ID or serial number. The certificate must not be changed.
func (a *Authority) Lookup(serialOrID string) (*Certificate, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	e, ok := a.index.find(serialOrID)
	if !ok {
		return nil, false
	}
	return e.cert, true
}

// List returns all certificates on record, oldest first. They must not be changed.
func (a *Authority) List() []*Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return sorted(slices.Collect(maps.Values(a.index.byID)))
}

// ForDevice returns the certificates that were issued to a device, oldest first. They must not
// be changed.
func (a *Authority) ForDevice(id identity.DeviceID) []*Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return sorted(a.index.byDevice[id])
}

func sorted(entries []*entry) []*Certificate {
	certs := make([]*Certificate, len(entries))
	for i, e := range entries {
		certs[i] = e.cert
	}
	slices.SortFunc(certs, func(a, b *Certificate) int {
		return cmp.Or(a.Issued.Compare(b.Issued), strings.Compare(a.ID, b.ID))
	})
	return certs
}

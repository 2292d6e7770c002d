package pki

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"gatewayctl/store"
)

// crlRow is the last CRL that was signed.
type crlRow struct {
	Number     uint64    `json:"number"`
	DER        []byte    `json:"der"`
	ThisUpdate time.Time `json:"this_update"`
	Revoked    int       `json:"revoked"` // how many certificates were revoked by then
}

// crlGrace is how long a certificate stays on the list after its own end: it must be on at least
// one list issued later (RFC 5280 §3.3).
const crlGrace = 30 * day

// CRL returns the current certificate revocation list (RFC 5280 §5) in DER, signed by the
// intermediate. Its number grows with every list. A list is used until something is revoked or
// half its life is over. While the clock cannot be trusted no list is signed: CRL returns the
// last one if it is complete, and [ErrClock] otherwise.
func (a *Authority) CRL(ctx context.Context) ([]byte, error) {
	a.crlMu.Lock()
	defer a.crlMu.Unlock()
	status := a.clock.Status()
	now := status.Now.UTC().Truncate(time.Second)
	entries, revoked := a.revokedEntries(now)
	complete := a.crl.DER != nil && a.crl.Revoked == revoked
	age := now.Sub(a.crl.ThisUpdate)
	switch {
	case complete && (!status.Trusted || age >= 0 && age < a.opts.CRLLifetime/2):
		return a.crl.DER, nil
	case !status.Trusted:
		return nil, fmt.Errorf("sign CRL: %w: %s", ErrClock, status.Reason)
	}
	row := crlRow{Number: a.crl.Number + 1, ThisUpdate: now, Revoked: revoked}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number:                    new(big.Int).SetUint64(row.Number),
		ThisUpdate:                now,
		NextUpdate:                now.Add(a.opts.CRLLifetime),
		RevokedCertificateEntries: entries,
	}, a.intermediate, a.signer)
	if err != nil {
		return nil, fmt.Errorf("sign CRL: %w", err)
	}
	row.DER = der
	err = a.db.Update(ctx, func(tx *store.Tx) error { return store.PutJSON(stateBucket(tx), keyCRL, row) })
	if err != nil {
		return nil, fmt.Errorf("record CRL %d: %w", row.Number, err)
	}
	a.crl = row
	return der, nil
}

// revokedEntries returns the list's entries, and how many certificates are revoked in all.
func (a *Authority) revokedEntries(now time.Time) ([]x509.RevocationListEntry, int) {
	a.mu.RLock()
	revoked := a.index.revoked
	a.mu.RUnlock()
	if revoked == 0 {
		return nil, 0
	}
	codes := reasons()
	var entries []x509.RevocationListEntry
	revoked = 0
	for _, c := range a.List() {
		if c.Revoked == nil {
			continue
		}
		revoked++
		serial, ok := new(big.Int).SetString(c.Serial, 16)
		if !ok || now.After(c.NotAfter.Add(crlGrace)) {
			continue
		}
		entries = append(entries, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: c.Revoked.At, ReasonCode: codes[c.Revoked.Reason],
		})
	}
	return entries, revoked
}

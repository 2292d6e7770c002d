package pki

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gatewayctl/store"
)

// A Revocation is the end of a certificate. There is no way back.
type Revocation struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"` // a name of RFC 5280 §5.3.1
}

// ReasonSuperseded is the reason of a certificate that another one has replaced.
const ReasonSuperseded = "superseded"

// reasons are the CRLReason names of RFC 5280 §5.3.1 with their codes. certificateHold and
// removeFromCRL are left out: a device is disabled for a time in the registry.
func reasons() map[string]int {
	return map[string]int{
		"unspecified": 0, "keyCompromise": 1, "cACompromise": 2, "affiliationChanged": 3, ReasonSuperseded: 4,
		"cessationOfOperation": 5, "privilegeWithdrawn": 9, "aACompromise": 10,
	}
}

// parseReason returns the standard's spelling of a reason; "" means unspecified.
func parseReason(s string) (string, error) {
	if s == "" {
		return "unspecified", nil
	}
	for name := range reasons() {
		if strings.EqualFold(name, s) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: %q; use keyCompromise, superseded, cessationOfOperation, privilegeWithdrawn, affiliationChanged or unspecified", ErrReason, s)
}

// Revoke ends the certificate with that ID or serial number for good. The reason is a name of
// RFC 5280 §5.3.1 in any case, "" means unspecified. When Revoke returns, [Authority.Verify]
// refuses the certificate and Options.OnRevoke has been called. A certificate that was revoked
// before is returned as it is. Errors: [ErrUnknownCertificate], [ErrReason].
//
// A peer may have been verified just before. Whoever keeps connections must make a new one known
// to what OnRevoke cuts before it calls Verify.
func (a *Authority) Revoke(ctx context.Context, serialOrID, reason string) (*Certificate, error) {
	cert, ok := a.Lookup(serialOrID)
	if !ok {
		return nil, fmt.Errorf("revoke certificate %q: %w", serialOrID, ErrUnknownCertificate)
	}
	if _, err := a.RevokeAll(ctx, []string{cert.ID}, reason, nil); err != nil {
		return nil, err
	}
	cert, _ = a.Lookup(cert.ID)
	return cert, nil
}

// RevokeAll revokes several certificates in one transaction and returns those that were not
// revoked before. also runs in the same transaction, possibly twice; its error undoes everything.
func (a *Authority) RevokeAll(ctx context.Context, serialsOrIDs []string, reason string, also func(*store.Tx) error) ([]*Certificate, error) {
	reason, err := parseReason(reason)
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	certs, err := a.revocations(serialsOrIDs, reason, a.clock.Now().UTC())
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	if len(certs) == 0 && also == nil {
		return nil, nil
	}
	err = a.db.Update(ctx, func(tx *store.Tx) error {
		if err := putCertificates(tx, certs...); err != nil {
			return err
		}
		if also != nil {
			return also(tx)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	a.publish(certs)
	return certs, nil
}

// revocations returns the records of those certificates that are not revoked yet, as they will
// be once they are.
func (a *Authority) revocations(serialsOrIDs []string, reason string, at time.Time) ([]*Certificate, error) {
	var certs []*Certificate
	for _, s := range serialsOrIDs {
		cert, ok := a.Lookup(s)
		if !ok {
			return nil, fmt.Errorf("certificate %q: %w", s, ErrUnknownCertificate)
		}
		if cert.Revoked == nil {
			revoked := *cert
			revoked.Revoked = &Revocation{At: at.Truncate(time.Second), Reason: reason}
			certs = append(certs, &revoked)
		}
	}
	return certs, nil
}

// publish lets committed revocations take effect.
func (a *Authority) publish(revoked []*Certificate) {
	a.mu.Lock()
	for _, c := range revoked {
		a.index.put(c)
	}
	a.mu.Unlock()
	for _, c := range revoked {
		a.log.Info("revoked "+string(c.Profile)+" certificate: "+c.Revoked.Reason, about(c)...)
		if a.opts.OnRevoke != nil {
			a.opts.OnRevoke(c)
		}
	}
}

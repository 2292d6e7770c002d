package api

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"

	"gatewayctl/pki/identity"
)

// How a caller reached the gateway.
const (
	ViaSocket      = "socket"      // the admin socket, guarded by file permissions
	ViaCertificate = "certificate" // HTTPS with a client certificate of our own CA
)

// A Caller is who asks. The zero value is nobody and may only ask whether the gateway lives.
type Caller struct {
	Name string        // for the audit trail: a common name, or "uid 1000"
	Role identity.Role // only [identity.RoleAdmin] may use the operations
	Via  string        // ViaSocket or ViaCertificate
	UID  int           // of the process at the other end of the socket; -1 when not by socket

	valid func() error // whether the caller still is who it was; nil means that nothing can change that
}

// Check reports why the caller is not accepted any more: its certificate was revoked or ended
// since. Streams ask before everything that they send.
func (c Caller) Check() error {
	if c.valid == nil {
		return nil
	}
	return c.valid()
}

type callerKey struct{}

// WithCaller returns a context that says who asks. The listener's side sets it: [ConnContext] for
// the admin socket, [WithCertificates] for HTTPS.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns who asks, the zero Caller if nobody said.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WithCertificates names the callers of requests that came with a TLS client certificate. verify
// is asked on every request, so that a revocation ends what an open connection may do; it is
// [pki.Authority.Verify]. A certificate that does not verify leaves the request without a caller,
// with the reason in the answer.
func WithCertificates(verify func([]*x509.Certificate) (identity.Peer, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		certs := r.TLS.PeerCertificates
		c := Caller{Via: ViaCertificate, UID: -1}
		peer, err := verify(certs)
		if err == nil {
			c.Name, c.Role = fmt.Sprintf("%s (certificate %s)", peer.CommonName, peer.Serial), peer.Role
		}
		c.valid = func() error {
			now, err := verify(certs)
			if err == nil && now.Role != peer.Role {
				err = fmt.Errorf("the certificate's role is %s now", now.Role)
			}
			return err
		}
		next.ServeHTTP(w, r.WithContext(WithCaller(r.Context(), c)))
	})
}

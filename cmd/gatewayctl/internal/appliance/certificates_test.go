package appliance_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
)

// A movable clock stands where it is put, and goes on from there.
type movableClock struct{ ahead atomic.Int64 }

func (c *movableClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *movableClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// Nobody gets a successful CONNACK but with the valid certificate of a registered device.
func TestCertificatesThatAreTurnedAway(t *testing.T) {
	t.Parallel()
	var clock movableClock
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) { s.Now = clock.now })
	ctx := appliancetest.Context(t)

	good := gw.Enroll(t, "lamp", api.CredentialsRequest{})
	revoked := gw.Enroll(t, "revoked", api.CredentialsRequest{})
	if _, err := gw.API.Revoke(ctx, api.RevokeRequest{Target: "revoked"}); err != nil {
		t.Fatal(err)
	}
	replaced := gw.Enroll(t, "replaced", api.CredentialsRequest{})
	gw.Enroll(t, "replaced", api.CredentialsRequest{Existing: api.ExistingReplace})
	disabled := gw.Enroll(t, "disabled", api.CredentialsRequest{})
	if _, err := gw.API.DisableDevice(ctx, "disabled"); err != nil {
		t.Fatal(err)
	}
	expired := gw.Enroll(t, "expired", api.CredentialsRequest{Lifetime: api.Duration(time.Hour)})
	clock.set(300 * 24 * time.Hour) // too far for the recorded time to follow
	early := gw.Enroll(t, "early", api.CredentialsRequest{})
	clock.set(2 * time.Hour)
	issued := func(profile string) tls.Certificate {
		c, err := gw.API.Issue(ctx, api.IssueRequest{Profile: profile, CommonName: "lamp"})
		if err != nil {
			t.Fatal(err)
		}
		return appliancetest.Pair(t, c)
	}
	for _, tc := range []struct {
		name  string
		certs []tls.Certificate
		why   string // in the event
	}{
		{"none", nil, "certificate"},
		{"of another CA", []tls.Certificate{foreign(t, "lamp")}, "another authority"},
		{"expired", []tls.Certificate{expired.Cert}, "expired"},
		{"not yet valid", []tls.Certificate{early.Cert}, "not yet valid"},
		{"revoked", []tls.Certificate{revoked.Cert}, "revoked"},
		{"replaced", []tls.Certificate{replaced.Cert}, "revoked"},
		{"of a disabled device", []tls.Certificate{disabled.Cert}, "disabled"},
		{"of an administrator", []tls.Certificate{issued("admin")}, "not one for devices"},
		{"of a gateway", []tls.Certificate{issued("gateway")}, "not one for devices"},
		{"of the gateway's listeners", []tls.Certificate{ownCertificate(t, gw)}, "not for clients"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, version := range []byte{plane.V311, plane.V5} {
				c, err := appliancetest.Dial(gw.Address(t, "mqtt"), gw.TLS(tc.certs...))
				if err != nil {
					continue // in the handshake
				}
				c.Version = version
				ack, err := c.Hello(plane.Connect{ClientID: "lamp", CleanStart: true})
				if err == nil && ack.Reason() == 0 {
					t.Errorf("version %d: a successful CONNACK", version)
				}
				c.Close()
			}
			gw.Event(t, func(e events.Event) bool { return e.Kind == "connect.refused" && strings.Contains(e.Text, tc.why) })
		})
	}
	good.Connect(t, plane.Connect{})
	if n := gw.Status(t).Devices.Online; n != 1 {
		t.Errorf("%d devices are online, want 1", n)
	}
}

// Revocation counts for those who have shaken hands and not said CONNECT yet.
func TestRevokedBetweenHandshakeAndConnect(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	lamp := gw.Enroll(t, "lamp", api.CredentialsRequest{})
	c, err := appliancetest.Dial(gw.Address(t, "mqtt"), gw.TLS(lamp.Cert))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other := gw.Device(t, "other") // a handshake later: the first one is over on the gateway's side, too
	other.MustPing(t)
	if _, err := gw.API.Revoke(appliancetest.Context(t), api.RevokeRequest{Target: "lamp"}); err != nil {
		t.Fatal(err)
	}
	if ack, err := c.Hello(plane.Connect{ClientID: "lamp"}); err == nil && ack.Reason() == 0 {
		t.Error("a successful CONNACK for a revoked certificate")
	}
}

// ownCertificate is what the gateway presents, with the key from its data directory.
func ownCertificate(t *testing.T, gw *appliancetest.Gateway) tls.Certificate {
	t.Helper()
	keys, err := filepath.Glob(filepath.Join(gw.Dir(), "keys", "server-*"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys of the server: %v, %v", keys, err)
	}
	text, err := os.ReadFile(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{PrivateKey: key}
	for _, c := range presented(t, gw, "https") {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// presented are the certificates that a listener shows to a client, its own first.
func presented(t *testing.T, gw *appliancetest.Gateway, listener string) []*x509.Certificate {
	t.Helper()
	nc, err := tls.Dial("tcp", gw.Address(t, listener), gw.TLS())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	return nc.ConnectionState().PeerCertificates
}

// foreign makes a certificate that nobody knows.
func foreign(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

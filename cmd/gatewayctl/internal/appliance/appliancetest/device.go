package appliancetest

import (
	"crypto/tls"
	"testing"

	"gatewayctl/broker/plane"
	"gatewayctl/gateway/api"
)

// A Device is a registered device with its credentials.
type Device struct {
	*Client // its newest connection; nil if it has none yet
	Name    string
	Issued  api.Credentials
	Cert    tls.Certificate

	gw *Gateway
}

// Device enrols a device and connects it over mutual TLS, with MQTT 5.0 and its name as client
// identifier.
func (g *Gateway) Device(tb testing.TB, name string) *Device {
	tb.Helper()
	d := g.Enroll(tb, name, api.CredentialsRequest{})
	d.Connect(tb, plane.Connect{})
	return d
}

// Enroll provisions a device over the admin API, and does not connect it.
func (g *Gateway) Enroll(tb testing.TB, name string, req api.CredentialsRequest) *Device {
	tb.Helper()
	c, err := g.API.Provision(Context(tb), name, req)
	if err != nil {
		tb.Fatal(err)
	}
	return &Device{Name: name, Issued: c, Cert: Pair(tb, c), gw: g}
}

// Pair is what a client presents that has these credentials.
func Pair(tb testing.TB, c api.Credentials) tls.Certificate {
	tb.Helper()
	pair, err := tls.X509KeyPair([]byte(c.CertificatePEM), []byte(c.KeyPEM))
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

// Connect connects the device once more, as hello says; without a client identifier it uses its
// name. The earlier connection stays as it is.
func (d *Device) Connect(tb testing.TB, hello plane.Connect) Packet {
	tb.Helper()
	ack, err := d.TryConnect(tb, hello)
	if err != nil || ack.Reason() != 0 {
		tb.Fatalf("device %s cannot connect: CONNACK %v, %v", d.Name, ack.Reason(), err)
	}
	return ack
}

// TryConnect is Connect for a test that expects a refusal: an error, or the reason of the CONNACK.
func (d *Device) TryConnect(tb testing.TB, hello plane.Connect) (Packet, error) {
	tb.Helper()
	c, err := Dial(d.gw.Address(tb, "mqtt"), d.gw.TLS(d.Cert))
	if err != nil {
		return Packet{}, err
	}
	tb.Cleanup(c.Close)
	if hello.Version != 0 {
		c.Version = hello.Version
	}
	if hello.ClientID == "" {
		hello.ClientID = d.Name
	}
	d.Client = c
	return c.Hello(hello)
}

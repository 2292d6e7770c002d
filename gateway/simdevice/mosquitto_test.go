package simdevice_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/pki/identity"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// authority is a CA for one test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// server returns a certificate for localhost.
func (a *authority) server() tls.Certificate {
	cert, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// client returns what a client called name needs.
func (a *authority) client(name string) *tls.Config {
	cert, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// mosquitto is Debian's broker, which demands client certificates of a.
type mosquitto struct {
	t       testing.TB
	dir     string
	address string
	cmd     *exec.Cmd
}

func startMosquitto(t testing.TB, a *authority) *mosquitto {
	t.Helper()
	m := &mosquitto{t: t, dir: t.TempDir()}
	server := a.server()
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"ca.crt":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}),
		"server.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Leaf.Raw}),
		"server.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(m.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(m.stop)
	for range 5 { // somebody else may take the port first
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m.address = l.Addr().String()
		l.Close()
		if m.start() {
			return m
		}
	}
	t.Fatal("mosquitto does not start")
	return nil
}

// start starts the broker at its address and reports whether it runs.
func (m *mosquitto) start() bool {
	m.t.Helper()
	_, port, _ := net.SplitHostPort(m.address)
	config := fmt.Appendf(nil, "user root\nlistener %s 127.0.0.1\ncafile %s/ca.crt\ncertfile %[2]s/server.crt\nkeyfile %[2]s/server.key\n"+
		"require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nlog_dest stderr\n", port, m.dir)
	if err := os.WriteFile(filepath.Join(m.dir, "mosquitto.conf"), config, 0o600); err != nil {
		m.t.Fatal(err)
	}
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program = "/usr/sbin/mosquitto" // not in the PATH of ordinary users
	}
	m.cmd = exec.Command(program, "-c", filepath.Join(m.dir, "mosquitto.conf"))
	log, err := m.cmd.StderrPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatalf("%v: `make test` installs it", err)
	}
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "running") {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return true
		}
	}
	m.stop()
	return false
}

// stop kills the broker as a power cut would.
func (m *mosquitto) stop() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	m.cmd = nil
}

// bus is the gateway's side of the broker. Who published an answer is not to be had from
// mosquitto; the topic stands in for it.
type bus struct {
	c paho.Client
}

func dialBus(t testing.TB, m *mosquitto, config *tls.Config) *bus {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tls://" + m.address).SetTLSConfig(config).SetClientID("gateway").SetAutoReconnect(false))
	if tok := c.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	t.Cleanup(func() { c.Disconnect(100) })
	return &bus{c: c}
}

func (b *bus) Publish(_ context.Context, m mqtt.Message) error {
	tok := b.c.Publish(m.Topic, byte(m.QoS), m.Retain, m.Payload)
	tok.WaitTimeout(patience)
	return tok.Error()
}

func (b *bus) Subscribe(f mqtt.Filter, h func(mqtt.Message)) (func(), error) {
	tok := b.c.Subscribe(string(f), 1, func(_ paho.Client, m paho.Message) {
		name, _, _ := strings.Cut(m.Topic(), "/")
		id, err := identity.ParseDeviceID(name)
		if err != nil {
			return
		}
		h(mqtt.Message{Topic: m.Topic(), Payload: m.Payload(), QoS: mqtt.QoS(m.Qos()), Publisher: mqtt.Publisher{Device: id}})
	})
	tok.WaitTimeout(patience)
	return func() { b.c.Unsubscribe(string(f)).WaitTimeout(patience) }, tok.Error()
}

package client_test

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/pki"
	"gatewayctl/pki/keystore"
	"gatewayctl/pki/pkitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dataDir is a directory whose path is short enough for a socket.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "client")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newClient is client.New, closed when the test ends.
func newClient(t *testing.T, opts client.Options) *client.Client {
	t.Helper()
	c, err := client.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// startIn serves s on the admin socket of dir until the test ends.
func startIn(t *testing.T, dir string, s api.Services) *api.API {
	t.Helper()
	a := api.New(s, api.Options{})
	l, _, err := api.ListenSocket(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	run(t, a, a, l)
	return a
}

func start(t *testing.T, s api.Services) *client.Client {
	t.Helper()
	dir := dataDir(t)
	startIn(t, dir, s)
	return newClient(t, client.Options{Data: dir})
}

func run(t *testing.T, a *api.API, h http.Handler, l net.Listener) {
	server := api.NewServer(h, api.ServerOptions{OnShutdown: a.Stop})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(t.Context()); err != nil {
			server.Close()
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// remote is a gateway's HTTPS port with its own CA.
type remote struct {
	ca  *pkitest.CA
	url string
	dir string
}

// startTLS serves s by HTTPS, as the composition root does.
func startTLS(t *testing.T, s api.Services) *remote {
	t.Helper()
	r := &remote{ca: pkitest.New(t, pkitest.Options{}), dir: t.TempDir()}
	server, err := r.ca.NewServer(t.Context(), pki.ServerOptions{Names: func() ([]string, []net.IP, error) {
		return []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.ca.ServerTLS(server, false)
	cfg.NextProtos = []string{"h2", "http/1.1"}
	a := api.New(s, api.Options{})
	run(t, a, api.WithCertificates(r.ca.Verify, a), tls.NewListener(l, cfg))
	r.url = "https://" + l.Addr().String()
	return r
}

func (r *remote) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// options writes a certificate of ca under req to files and returns how to use it.
func (r *remote) options(t *testing.T, ca *pkitest.CA, req pki.Request) (client.Options, *pki.Certificate) {
	t.Helper()
	key := pkitest.Key(t)
	req.PublicKey = key.Public()
	cert, err := ca.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := keystore.Encode(key)
	if err != nil {
		t.Fatal(err)
	}
	return client.Options{
		URL: r.url, CA: r.write(t, "ca.crt", r.ca.RootPEM()),
		Cert: r.write(t, cert.Serial+".crt", append(cert.PEM(), ca.IntermediatePEM()...)), Key: r.write(t, cert.Serial+".key", pem),
	}, cert
}

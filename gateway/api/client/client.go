// Package client is the Go client of the gateway's admin API. It speaks over the admin socket of
// a gateway on this machine, or over HTTPS with an administrator's certificate.
//
// Every failure of an operation is an [*Error], with the API's stable code, a remedy for people
// and the exit code that commands use; it wraps the context's error when that was the reason.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"gatewayctl/gateway/api"
)

// Options says where the gateway is. URL wins over Socket, Socket over Data.
type Options struct {
	Data   string // data directory of a gateway on this machine; it tells where the socket is
	Socket string // path of the admin socket

	URL  string // such as https://hub.local:8443
	Cert string // file with the administrator's certificate, PEM
	Key  string // file with its private key, PEM; "" means that it is in Cert
	CA   string // file with the gateway's root certificate, PEM; "" means the system's roots

	// StreamTimeout is for how long a stream may be silent before the gateway counts as gone;
	// its heartbeats come every 15 s. 0 means 60 s.
	StreamTimeout time.Duration
}

// A Client talks to one gateway. It is safe for concurrent use.
type Client struct {
	base   string // scheme and host
	host   string // with its port; "" on a socket
	where  func() string
	http   *http.Client
	tls    *tls.Config // nil on a socket
	silent time.Duration
}

// New returns a client. It reads the certificate files, and connects only when it is used.
func New(opts Options) (*Client, error) {
	c := &Client{silent: opts.StreamTimeout}
	if c.silent <= 0 {
		c.silent = time.Minute
	}
	t := &http.Transport{
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 5 * time.Second, // an upload waits for the gateway's consent
		DisableCompression:    true,
	}
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	switch {
	case opts.URL != "":
		u, err := url.Parse(opts.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Path != "" && u.Path != "/" {
			return nil, usage("gateway address %q is not like https://hub.local:8443", opts.URL)
		}
		c.base, c.host = "https://"+u.Host, u.Host
		if u.Port() == "" {
			c.host = net.JoinHostPort(u.Hostname(), "443")
		}
		c.where = func() string { return c.base }
		if c.tls, err = tlsConfig(opts); err != nil {
			return nil, err
		}
		t.TLSClientConfig = c.tls
		dialer := &net.Dialer{Timeout: 10 * time.Second}
		t.DialContext = dialer.DialContext
	case opts.Socket != "" || opts.Data != "":
		c.base = "http://gatewayctl"
		find := func() (string, error) {
			if opts.Socket != "" {
				return opts.Socket, nil
			}
			return api.FindSocket(opts.Data)
		}
		c.where = func() string {
			if path, err := find(); err == nil {
				return path
			}
			return opts.Data
		}
		// The place is looked up for every connection: the gateway may start after the client.
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			path, err := find()
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	default:
		return nil, usage("neither a socket, a data directory nor an address of a gateway is given")
	}
	return c, nil
}

// Close ends idle connections. Running operations are not touched.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Where says which gateway the client talks to: a socket's path or an address.
func (c *Client) Where() string { return c.where() }

func tlsConfig(opts Options) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if opts.CA != "" {
		pem, err := os.ReadFile(opts.CA)
		if err != nil {
			return nil, usage("read the gateway's CA certificate: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usage("%s holds no certificate in PEM", opts.CA)
		}
	}
	if opts.Cert == "" {
		if opts.Key != "" {
			return nil, usage("a private key is given without the certificate that belongs to it")
		}
		return cfg, nil
	}
	key := opts.Key
	if key == "" {
		key = opts.Cert
	}
	pair, err := tls.LoadX509KeyPair(opts.Cert, key)
	if err != nil {
		return nil, usage("read the administrator's certificate %s and key %s: %w", opts.Cert, key, err)
	}
	// Always sent, whatever authorities the server names: its answer tells best what is wrong.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return cfg, nil
}

// usage is an error in how the client was set up.
func usage(format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: api.CodeInvalid, Message: err.Error(), err: err}
}

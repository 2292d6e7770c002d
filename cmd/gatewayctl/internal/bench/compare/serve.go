package compare

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sync/errgroup"

	"gatewayctl/cmd/gatewayctl/internal/bench/relay"
)

// Kind is a broker that this binary can be, to be compared with.
type Kind string

// The kinds.
const (
	Relay Kind = "relay" // passes messages on and does nothing else
	Mochi Kind = "mochi" // mochi-mqtt as it comes
)

// ServeOptions configures [Serve].
type ServeOptions struct {
	Cert, Key, CA string    // PEM files: the server's own certificate, and who signs clients'
	Out           io.Writer // is told the addresses, as one line of JSON
	Alive         io.Reader // its end stops the broker; nil: only the context does
}

// addresses is what Serve prints.
type addresses struct {
	Plain string `json:"plain"`
	TLS   string `json:"tls"`
}

// Serve is a broker of the given kind on free ports of the loopback interface, one plain and one
// with mutual TLS, until ctx ends.
func Serve(ctx context.Context, kind Kind, opts ServeOptions) error {
	cfg, err := serverTLS(opts.Cert, opts.Key, opts.CA)
	if err != nil {
		return err
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	if err := json.NewEncoder(opts.Out).Encode(addresses{plain.Addr().String(), secure.Addr().String()}); err != nil {
		return errors.Join(err, plain.Close(), secure.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if opts.Alive != nil {
		go func() { // ends with the process; nothing waits for a pipe
			_, _ = io.Copy(io.Discard, opts.Alive)
			cancel()
		}()
	}
	switch kind {
	case Mochi:
		return serveMochi(ctx, plain, secure, cfg)
	case Relay:
		var r relay.Relay
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return r.Serve(ctx, plain, nil) })
		g.Go(func() error { return r.Serve(ctx, secure, cfg) })
		return g.Wait()
	}
	return errors.Join(fmt.Errorf("there is no broker of kind %q", kind), plain.Close(), secure.Close())
}

func serverTLS(cert, key, ca string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	pool, err := loadPool(ca)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}, nil
}

func loadPool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("CA certificate: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

// ClientTLS is what connections to a broker need: whom to trust, and a certificate unless cert
// is empty. Without ca the system's authorities are trusted. Sessions are never resumed.
func ClientTLS(cert, key, ca string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pool, err := loadPool(ca)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = pool
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

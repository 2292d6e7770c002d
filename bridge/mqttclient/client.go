// Package mqttclient is the bridge's upstream for any MQTT 3.1.1 broker, plain or over TLS.
//
// # Design
//
// The wire format comes from paho.mqtt.golang's packets package. Its client is not used, because
// it cannot promise what bridge.Upstream does (version 1.5.1, read and measured): with a
// persistent session the tokens of publishes that are in flight never complete when a connection
// ends; Publish blocks for up to its write timeout, without a way to cancel it, when the connection
// ends at the wrong moment; its store sends again on its own, beside the message log; a message
// handler that waits also holds back the PUBACKs of the other direction; Disconnect may return
// before its goroutines have ended; a SUBACK with one code too many panics in a goroutine of its
// own, and a length field is believed up to 256 MiB. It also needs a system call and three channel
// hops per message, and so two to two and a half times the processor time of this one.
//
// So a [Client] has one goroutine that reads, one that writes whatever has gathered since its last
// write, and one that watches for silence. It keeps no message: everything unacknowledged is
// reported lost when the connection ends, and only the bridge's message log sends again.
package mqttclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"gatewayctl/bridge"
	"gatewayctl/broker/mqtt"
)

// Options configures a [Client]. Files are read when the client is made, so that mistakes show
// early, and again for every connection, so that renewed credentials are used.
type Options struct {
	CA           string           // PEM file of the authorities to trust; "" means the system's
	Cert, Key    string           // PEM files of a client certificate and its key; both or none
	Username     string           // "" means none
	PasswordFile string           // its content, without the end of its last line, is the password; needs Username
	KeepAlive    time.Duration    // a silent connection is given up after this long; 0 means 30s, at most 30s
	Timeout      time.Duration    // until a connection is ready, from the first SYN to the last SUBACK; 0 means 15s
	MaxPacket    int              // largest packet that is accepted from upstream, in bytes; 0 means 1 MiB
	Now          func() time.Time // judges the broker's certificate; nil means time.Now
	Log          *slog.Logger     // nil discards
}

// A Client is a [bridge.Upstream]. It is safe for concurrent use as far as that contract asks.
type Client struct {
	url      *url.URL
	address  string // host:port
	clientID string
	opts     Options
}

// New returns a client for the broker at address, which is mqtt://HOST[:PORT] or
// mqtts://HOST[:PORT]. clientID must be the same over restarts, and used by nobody else: the
// broker keeps subscriptions and messages under it (MQTT 3.1.1 §3.1.3.1).
func New(address, clientID string, opts Options) (*Client, error) {
	u, err := parseURL(address)
	if err != nil {
		return nil, err
	}
	if clientID == "" || len(clientID) > mqtt.MaxStringBytes { // [MQTT-3.1.3-8]
		return nil, fmt.Errorf("client_id for %s has %d bytes: 1 to %d are needed, to find the same session again", address, len(clientID), mqtt.MaxStringBytes)
	}
	if opts.KeepAlive == 0 {
		opts.KeepAlive = 30 * time.Second
	}
	if opts.KeepAlive < time.Second || opts.KeepAlive > 30*time.Second {
		return nil, fmt.Errorf("keepalive %v for %s: write 1s to 30s", opts.KeepAlive, address)
	}
	if opts.Timeout == 0 {
		opts.Timeout = 15 * time.Second
	}
	if opts.MaxPacket == 0 {
		opts.MaxPacket = 1 << 20
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{url: u, address: u.Host, clientID: clientID, opts: opts}
	if _, err := c.tlsConfig(); err != nil {
		return nil, err
	}
	if _, err := c.password(); err != nil {
		return nil, err
	}
	return c, nil
}

// Describe implements [bridge.Upstream].
func (c *Client) Describe() bridge.Description {
	return bridge.Description{Address: c.url.String(), Broker: strings.ToLower(c.address)}
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("url %q: %w", s, errors.Unwrap(err))
	}
	port := ""
	switch u.Scheme {
	case "mqtt":
		port = "1883"
	case "mqtts":
		port = "8883"
	case "aws":
		return nil, fmt.Errorf("url %q: AWS IoT Core is not offered as an upstream yet: use an mqtt:// or mqtts:// broker", s)
	default:
		return nil, fmt.Errorf("url %q: write mqtt://HOST[:PORT] or mqtts://HOST[:PORT]", s)
	}
	switch {
	case u.Hostname() == "":
		return nil, fmt.Errorf("url %q has no host: write %s://HOST[:PORT]", s, u.Scheme)
	case u.User != nil:
		return nil, fmt.Errorf("url of %s has a user name in it: write it as username and the password into password_file", u.Host)
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return nil, fmt.Errorf("url %q has more than a host and a port: write %s://%s", s, u.Scheme, u.Host)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// tlsConfig reads the files anew; nil means no TLS.
func (c *Client) tlsConfig() (*tls.Config, error) {
	o := c.opts
	if c.url.Scheme == "mqtt" {
		if o.CA != "" || o.Cert != "" || o.Key != "" {
			return nil, fmt.Errorf("%s is not encrypted, so ca, cert and key have no use: write mqtts:// or leave them out", c.url)
		}
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.url.Hostname(), Time: o.Now}
	if o.CA != "" {
		pem, err := os.ReadFile(o.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca %s holds no certificate: it must be a PEM file", o.CA)
		}
	}
	if (o.Cert == "") != (o.Key == "") {
		return nil, fmt.Errorf("cert and key for %s belong together: one of them is missing", c.url)
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("cert %s, key %s: %w", o.Cert, o.Key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// A secret never shows in logs and errors.
type secret string

func (secret) String() string       { return "redacted" }
func (secret) LogValue() slog.Value { return slog.StringValue("redacted") }

func (c *Client) password() (secret, error) {
	o := c.opts
	if o.PasswordFile == "" {
		return "", nil
	}
	if o.Username == "" { // [MQTT-3.1.2-22]
		return "", fmt.Errorf("password_file for %s needs a username", c.url)
	}
	b, err := os.ReadFile(o.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	p := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if p == "" || len(p) > math.MaxUint16 {
		return "", fmt.Errorf("password_file %s has %d bytes before its end of line: 1 to %d are needed", o.PasswordFile, len(p), math.MaxUint16)
	}
	return secret(p), nil
}

// dial opens the transport and, with TLS, checks who answers.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	cfg, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.url, err)
	}
	if cfg == nil {
		return nc, nil
	}
	tc := tls.Client(nc, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("connect to %s: %w%s", c.url, err, c.tlsHint(err))
	}
	return tc, nil
}

// tlsHint says what to do about a failed handshake.
func (c *Client) tlsHint(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown) && c.opts.CA != "":
		return fmt.Sprintf(": the broker's certificate is of no authority in %s", c.opts.CA)
	case errors.As(err, &unknown):
		return ": the broker's certificate is of no authority that this system trusts: set ca"
	case errors.As(err, &host):
		return ": write the url with a name that is in the broker's certificate"
	case errors.As(err, &record):
		return ": the port does not speak TLS: write its TLS port, or mqtt:// for none"
	}
	return ""
}

package appliancetest

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatewayctl/gateway/api"
)

// HTTPS is a client of the HTTPS listener that presents certs, or nothing. Requests to it have the
// URL https://gateway/ and a path.
func (g *Gateway) HTTPS(tb testing.TB, certs ...tls.Certificate) *http.Client {
	tb.Helper()
	address, cfg := g.Address(tb, "https"), g.TLS(certs...)
	return httpClient(tb, &http.Transport{
		TLSClientConfig: cfg, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	})
}

// Socket is a client of the admin socket. Requests to it have the URL http://gateway/ and a path.
func (g *Gateway) Socket(tb testing.TB) *http.Client {
	tb.Helper()
	return httpClient(tb, &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			path, err := api.FindSocket(g.setup.Data)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	})
}

func httpClient(tb testing.TB, t *http.Transport) *http.Client {
	tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: Patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Get returns the status and the body of the answer.
func Get(tb testing.TB, c *http.Client, url string) (int, string) {
	tb.Helper()
	res, err := c.Get(url)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// Metrics are the gateway's, by name with labels, as they are written.
func (g *Gateway) Metrics(tb testing.TB) map[string]float64 {
	tb.Helper()
	c := g.Socket(tb)
	defer c.CloseIdleConnections()
	code, text := Get(tb, c, "http://gateway/metrics")
	if code != http.StatusOK {
		tb.Fatalf("metrics: %d %s", code, text)
	}
	out := map[string]float64{}
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		line := s.Text()
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			tb.Fatalf("metrics: %q: %v", line, err)
		}
		out[line[:at]] = v
	}
	return out
}

// DialFrom is [Dial] from one address of this machine, such as 127.0.0.2.
func DialFrom(from, address string, cfg *tls.Config) (*Client, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: Patience}
	nc, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return over(nc, cfg)
}

// soon is the deadline of one step.
func soon() time.Time { return time.Now().Add(Patience) }

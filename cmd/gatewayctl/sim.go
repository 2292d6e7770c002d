package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/simdevice"
)

// simFlags say what `sim` simulates.
type simFlags struct {
	count     int
	kind      string
	prefix    string
	telemetry time.Duration
}

func (a *app) simCmd() *cobra.Command {
	var flags simFlags
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Run simulated devices that know only the wire",
		Long: "Run simulated Mongoose OS devices against the gateway, until Ctrl-C. Each makes its own key, gets a\n" +
			"certificate for it, connects over mutual TLS, publishes telemetry on NAME/data and answers calls.\n" +
			"A device that exists already gets a new certificate; its old ones are revoked.",
		Args: cobra.NoArgs,
	}
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		if flags.kind != string(simdevice.KindMongooseOS) {
			return usage(cmd, fmt.Errorf("--kind %q: only %s is simulated", flags.kind, simdevice.KindMongooseOS))
		}
		if flags.count < 1 || flags.count > 100_000 {
			return usage(cmd, fmt.Errorf("--count %d: must be 1 to 100000", flags.count))
		}
		return a.runSim(ctx, c, flags)
	})
	f := cmd.Flags()
	f.IntVar(&flags.count, "count", 1, "how many devices")
	f.StringVar(&flags.kind, "kind", string(simdevice.KindMongooseOS), "what kind of device: mos")
	f.StringVar(&flags.prefix, "prefix", "sim-", "names are this and a number")
	f.DurationVar(&flags.telemetry, "telemetry", 5*time.Second, "how often each publishes on NAME/data (0: never)")
	cmd.AddCommand(a.simFirmwareCmd())
	return cmd
}

func (a *app) runSim(ctx context.Context, c *client.Client, flags simFlags) error {
	address, err := a.mqttAddress(ctx, c)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range flags.count {
		name := fmt.Sprintf("%s%d", flags.prefix, i+1)
		cfg, err := enrolSim(ctx, c, name, address)
		if err != nil {
			return fmt.Errorf("enrol %s: %w", name, err)
		}
		dev := simdevice.New(simdevice.Config{
			ID: name, Address: address, TLS: cfg, Telemetry: flags.telemetry, BootTime: time.Millisecond,
			OnReady: func() { a.simReady(name) },
		})
		group.Go(func() error { return dev.Run(ctx) })
	}
	return group.Wait()
}

// simReady says that a device has connected, each time that it does.
func (a *app) simReady(name string) {
	a.note("%s is connected", name)
	if a.json {
		_ = a.printLine(map[string]string{"device": name, "state": "connected"}) // it is there whoever reads this
	}
}

// mqttAddress is where devices on this machine, or on the one that --url names, reach the broker.
func (a *app) mqttAddress(ctx context.Context, c *client.Client) (string, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	for _, l := range s.Listeners {
		if l.Kind != "mqtts" {
			continue
		}
		host, port, err := net.SplitHostPort(l.Address)
		if err != nil {
			return "", fmt.Errorf("address of listener %s: %w", l.Name, err)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
			host = "localhost"
		}
		if u, err := url.Parse(a.url); a.url != "" && err == nil {
			host = u.Hostname()
		}
		return net.JoinHostPort(host, port), nil
	}
	return "", fail(exitFailed, "Configure one of type mqtts.", "the gateway has no listener for devices")
}

// enrolSim makes a key that stays here, gets it certified for name, and returns how the device
// talks to the gateway.
func enrolSim(ctx context.Context, c *client.Client, name, address string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	cred, err := c.Provision(ctx, name, api.CredentialsRequest{
		CSR:  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		Type: "simulated", Existing: api.ExistingReplace,
	})
	if err != nil {
		return nil, err
	}
	return deviceTLS(cred, key, address)
}

// deviceTLS is a device's side of mutual TLS with the gateway at address.
func deviceTLS(cred api.Credentials, key *ecdsa.PrivateKey, address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cert := tls.Certificate{PrivateKey: key}
	for rest := []byte(cred.CertificatePEM); ; {
		block, more := pem.Decode(rest)
		if block == nil {
			break
		}
		cert.Certificate, rest = append(cert.Certificate, block.Bytes), more
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(cred.CAPEM)) {
		return nil, errors.New("the gateway sent no CA certificate")
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: host}, nil
}

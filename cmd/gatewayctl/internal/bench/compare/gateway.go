package compare

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

// gatewayConfig is the default but for listeners on loopback, silence on the network and a limit
// on connections from one address that the load needs higher.
const gatewayConfig = `listeners:
  mqtt:  {type: mqtts, address: "127.0.0.1:0"}
  https: {type: https, address: "127.0.0.1:0"}
  plain: {type: mqtt, address: "127.0.0.1:0"}
mdns: {announce: false}
limits: {max_per_address: 10000}
`

const policyName = "bench"

// policy lets clients of the load generator do what they must.
const policy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/bench-*"},
    {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": "arn:aws:iot:*:*:topic/bench/*"},
    {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topicfilter/bench/*"}
  ]
}
`

// gateway is `gatewayctl serve` with a data directory of its own. Its devices get certificates
// through the admin API at the first start.
func gateway(version, dir, binary, profile string) (*broker, error) {
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "policies"), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(data, "gatewayctl.yaml"), []byte(gatewayConfig), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(data, "policies", policyName+".json"), []byte(policy), 0o600); err != nil {
		return nil, err
	}
	args := []string{"serve", "--data", data}
	if profile != "" {
		args = []string{"bench", "broker", "gateway", "--data", data, "--cpuprofile", profile}
	}
	b := &broker{name: ours, version: version, dir: dir}
	b.launch = func(ctx context.Context) (*process, addresses, error) {
		p, err := start(filepath.Join(dir, "gateway.log"), false, binary, args...)
		if err != nil {
			return nil, addresses{}, err
		}
		c, err := client.New(client.Options{Data: data})
		if err != nil {
			return p, addresses{}, err
		}
		defer c.Close()
		at, err := gatewayAddresses(ctx, p, c)
		if err == nil && b.client == nil {
			b.client, err = enroll(ctx, c, dir)
		}
		return p, at, err
	}
	return b, nil
}

func gatewayAddresses(ctx context.Context, p *process, c *client.Client) (at addresses, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a gateway that ends is not waited for
		select {
		case <-p.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := c.Wait(ctx); err != nil {
		return at, err
	}
	s, err := c.Status(ctx)
	if err != nil {
		return at, err
	}
	for _, l := range s.Listeners {
		switch l.Name {
		case "plain":
			at.Plain = l.Address
		case "mqtt":
			at.TLS = l.Address
		}
	}
	if at.Plain == "" || at.TLS == "" {
		return at, fmt.Errorf("it does not listen: %+v", s.Listeners)
	}
	return at, nil
}

// enroll provisions the devices that the load generator is.
func enroll(ctx context.Context, c *client.Client, dir string) ([]*tls.Config, error) {
	a := &authority{dir: dir}
	var out []*tls.Config
	for i := range identities {
		cred, err := c.Provision(ctx, deviceName(i), api.CredentialsRequest{Policies: []string{policyName}})
		if err != nil {
			return nil, err
		}
		ca := filepath.Join(dir, "gateway-ca.pem")
		if err := os.WriteFile(ca, []byte(cred.CAPEM), 0o600); err != nil {
			return nil, err
		}
		f, err := a.write("gateway-"+deviceName(i), []byte(cred.CertificatePEM), []byte(cred.KeyPEM), ca)
		if err != nil {
			return nil, err
		}
		cfg, err := ClientTLS(f.cert, f.key, f.ca)
		if err != nil {
			return nil, err
		}
		out = append(out, cfg)
	}
	return out, nil
}

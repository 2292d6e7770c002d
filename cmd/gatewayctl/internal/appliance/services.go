package appliance

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"gatewayctl/broker"
	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/discovery"
	"gatewayctl/gateway/provision"
	"gatewayctl/pki"
	"gatewayctl/pki/identity"
)

// services are what the admin API acts on.
func (g *Gateway) services() api.Services {
	s := api.Services{
		Status: g.status, Ready: g.isReady, Metrics: g.metrics.handler(), Events: g.events,
		Devices: g.devices, Device: g.device, RemoveDevice: g.removeDevice, SetDeviceDisabled: g.setDisabled,
		Provision: g.provision, Call: caller{g}.Call,
		Publish: g.publish, Subscribe: g.broker.Subscribe,
		Discover: g.discover, Upstreams: g.upstreams,
		PKI: g.pkiStatus, Certificates: g.certificates, Revoke: g.revoke, Issue: g.issue, CA: g.authority.RootPEM,
	}
	g.firmwareServices(&s)
	return s
}

// publish is for administrators. The broker's own errors are told here, as the API knows no broker.
func (g *Gateway) publish(ctx context.Context, m mqtt.Message) error {
	m.Publisher = mqtt.Publisher{Origin: "admin"}
	err := g.broker.Publish(ctx, m)
	for _, known := range []struct {
		err          error
		code, remedy string
	}{
		{broker.ErrNotPublishable, api.CodeRefused, ""},
		{broker.ErrTooLarge, api.CodeTooLarge, "limits.max_packet of the configuration is the bound."},
		{broker.ErrNoRoom, api.CodeRefused, "Publish an empty retained message to topics that are of no use any more."},
	} {
		if errors.Is(err, known.err) {
			return api.NewProblem(known.code, "", known.remedy).WithCause(err)
		}
	}
	return err
}

func (g *Gateway) devices(_ context.Context, q api.DeviceQuery) ([]api.Device, error) {
	query := gateway.Query{Tag: q.Tag, Type: q.Type, Prefix: q.Prefix}
	switch q.Online {
	case "true", "false":
		online := q.Online == "true"
		query.Online = &online
	}
	out := []api.Device{}
	for _, d := range g.registry.List(query) {
		out = append(out, g.shown(d))
	}
	return out, nil
}

func (g *Gateway) device(_ context.Context, id identity.DeviceID) (api.Device, error) {
	d, err := g.registry.Get(id)
	return g.shown(d), err
}

// shown is a device as the API shows it.
func (g *Gateway) shown(d gateway.Device) api.Device {
	p := g.registry.Presence(d.Name)
	return api.Device{
		Name: d.Name.String(), Type: d.Type, Attributes: d.Attributes, Tags: d.Tags, Policies: d.Policies, Certificates: d.Certificates,
		Disabled: d.Disabled, Created: d.Created, Changed: d.Changed, LastSeen: d.LastSeen,
		Info: api.DeviceInfo(d.Info), Presence: api.Presence(p),
	}
}

// removeDevice takes a device out of the registry and revokes its certificates with it.
func (g *Gateway) removeDevice(ctx context.Context, id identity.DeviceID) (api.Device, error) {
	d, err := g.enrolment.Remove(ctx, id)
	return g.shown(d), err
}

func (g *Gateway) setDisabled(ctx context.Context, id identity.DeviceID, disabled bool) (api.Device, error) {
	if err := g.registry.SetDisabled(ctx, id, disabled); err != nil {
		return api.Device{}, err
	}
	return g.device(ctx, id)
}

// provision issues credentials for a device.
func (g *Gateway) provision(ctx context.Context, id identity.DeviceID, req api.CredentialsRequest) (api.Credentials, error) {
	for _, name := range req.Policies {
		if _, err := g.policies.set([]string{name}); err != nil {
			code := api.CodeInvalid
			if errors.Is(err, errNoPolicy) {
				code = api.CodeUnknownPolicy
			}
			return api.Credentials{}, api.NewProblem(code, err.Error(), "")
		}
	}
	existing := map[string]provision.Existing{api.ExistingRefuse: provision.Refuse, api.ExistingReplace: provision.Replace, api.ExistingAdditional: provision.Additional}
	c, err := g.enrolment.Enroll(ctx, provision.Enrollment{
		Device: id, CSR: []byte(req.CSR), Policies: req.Policies, Type: req.Type, Lifetime: req.Lifetime.Std(), Existing: existing[req.Existing],
	})
	if err != nil {
		return api.Credentials{}, err
	}
	return credentials(c), nil
}

func (g *Gateway) issue(ctx context.Context, req api.IssueRequest) (api.Credentials, error) {
	c, err := g.enrolment.Issue(ctx, provision.Request{
		Profile: pki.Profile(req.Profile), CommonName: req.CommonName, CSR: []byte(req.CSR), Lifetime: req.Lifetime.Std(),
	})
	if err != nil {
		return api.Credentials{}, err
	}
	return credentials(c), nil
}

func credentials(c *provision.Credentials) api.Credentials {
	out := api.Credentials{
		Device: c.Device.String(), CertificateID: c.Certificate.ID, Serial: c.Certificate.Serial, NotAfter: c.Certificate.NotAfter,
		CertificatePEM: string(c.CertificatePEM), KeyPEM: string(c.KeyPEM), CAPEM: string(c.CAPEM),
	}
	for _, old := range c.Revoked {
		out.Revoked = append(out.Revoked, old.ID)
	}
	return out
}

func (g *Gateway) pkiStatus(context.Context) (api.PKI, error) {
	p := api.PKI{Root: shownX509(g.authority.Root(), "root"), Intermediate: shownX509(g.authority.Intermediate(), "intermediate"), Server: shownX509(g.server.Certificate().Leaf, "server")}
	for _, c := range g.authority.List() {
		p.Issued++
		if c.Revoked != nil {
			p.Revoked++
		}
	}
	return p, nil
}

func (g *Gateway) certificates(_ context.Context, q api.CertificateQuery) ([]api.Certificate, error) {
	out := []api.Certificate{}
	for _, c := range g.authority.List() {
		if q.Device != "" && q.Device != c.Device.String() || q.Profile != "" && q.Profile != string(c.Profile) || c.Revoked != nil && !q.Revoked {
			continue
		}
		out = append(out, shownCertificate(c))
	}
	return out, nil
}

// revoke takes a serial number, a certificate id, or the name of a device for all that it has.
func (g *Gateway) revoke(ctx context.Context, target, reason string) ([]api.Certificate, error) {
	var serials []string
	if _, ok := g.authority.Lookup(target); ok {
		serials = []string{target}
	} else if id, err := identity.ParseDeviceID(target); err == nil && g.registry.Has(target) {
		for _, c := range g.authority.ForDevice(id) {
			if c.Revoked == nil {
				serials = append(serials, c.Serial)
			}
		}
		if len(serials) == 0 {
			return nil, api.NewProblem(api.CodeRefused, fmt.Sprintf("device %s has no certificate that is not revoked", target), "")
		}
	} else {
		return nil, api.NewProblem(api.CodeUnknownCertificate, fmt.Sprintf("%q is neither a certificate on record nor a device", target), "`gatewayctl pki show` lists the certificates.")
	}
	revoked, err := g.authority.RevokeAll(ctx, serials, reason, nil)
	if err != nil {
		return nil, err
	}
	out := []api.Certificate{}
	for _, c := range revoked {
		out = append(out, shownCertificate(c))
	}
	return out, nil
}

func shownCertificate(c *pki.Certificate) api.Certificate {
	out := api.Certificate{
		ID: c.ID, Serial: c.Serial, Profile: string(c.Profile), CommonName: c.CommonName, Device: c.Device.String(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Issued: c.Issued, Certificate: string(c.PEM()),
	}
	if x, err := c.X509(); err == nil {
		out.Names = names(x)
	}
	if c.Revoked != nil {
		out.RevokedAt, out.RevokedWhy = c.Revoked.At, c.Revoked.Reason
	}
	return out
}

func shownX509(c *x509.Certificate, profile string) api.Certificate {
	return api.Certificate{
		ID: fingerprint(c), Serial: c.SerialNumber.Text(16), Profile: profile, CommonName: c.Subject.CommonName, Names: names(c),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
}

func names(c *x509.Certificate) []string {
	out := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// discover reports what announces itself, with the device of the registry that it is.
func (g *Gateway) discover(ctx context.Context, found func(api.Found)) error {
	return discovery.Watch(ctx, discovery.ScanOptions{Log: g.log}, func(f discovery.Found) { found(g.found(f)) })
}

func (g *Gateway) found(f discovery.Found) api.Found {
	out := api.Found{
		Instance: f.Instance, Service: f.Service, Kind: string(f.Kind), ID: f.DeviceID, Host: f.Host, Port: f.Port, TXT: f.TXT, Gone: f.Gone, Seen: f.Seen,
	}
	for _, a := range f.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	// The announced identifier is a hint, not a proof of identity: it says which row to look at.
	for _, name := range []string{f.DeviceID, f.Instance, strings.ToLower(f.DeviceID)} {
		if name != "" && g.registry.Has(name) {
			out.Provisioned, out.Device = true, name
			break
		}
	}
	return out
}

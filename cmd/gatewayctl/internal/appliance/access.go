package appliance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"gatewayctl/broker"
	"gatewayctl/broker/acl"
	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway"
	"gatewayctl/pki/identity"
)

// The policies that come with the binary.
const (
	policyDevice = "device" // a thing's own topics
	policyLocal  = "local"  // loopback and in-process administrators
)

// access decides who a connecting client is and what it may do. It is the broker's Authority.
type access struct {
	registry  *gateway.Registry
	policies  *policies
	passwords map[string]*passwords // by listener; none for those that trust the machine's users
	arn       string                // prefix of the resources of requests, such as arn:aws:iot:local:000000000000:
	log       *slog.Logger

	// verify judges a certificate again: it may have been revoked since the handshake.
	verify func([]*x509.Certificate) (identity.Peer, error)
}

func (a *access) Registered(name string) bool { return a.registry.Has(name) }

// Authenticate names the client's principal and binds its policies to this connection.
func (a *access) Authenticate(_ context.Context, c broker.ConnInfo) (broker.Principal, error) {
	p, names, err := a.principal(c)
	if err != nil {
		return broker.Principal{}, err
	}
	set, err := a.policies.set(names)
	if err != nil {
		a.log.Error("policy cannot be used, client refused", "device", p.Device, "err", err)
		return broker.Principal{}, refuse("its policy cannot be used: %v", err)
	}
	if c.ClientID == "" { // one is assigned now, because policies may ask for it
		name, _, _ := strings.Cut(p.Key, ":")
		if !p.Device.IsZero() {
			name = p.Device.String()
		}
		p.ClientID = broker.AssignClientID(name)
		c.ClientID = p.ClientID
	}
	p.Access = set.Bind(a.connection(c, p), a.arn)
	return p, nil
}

// principal says who c is and which policies apply.
func (a *access) principal(c broker.ConnInfo) (broker.Principal, []string, error) {
	if c.Secure {
		peer, err := a.verify([]*x509.Certificate{c.Certificate})
		if err != nil {
			return broker.Principal{}, nil, refuse("%v", err)
		}
		if peer.Role != identity.RoleDevice { // administrators have the admin API
			return broker.Principal{}, nil, refuse("its certificate is not one for devices")
		}
		dev, ok := a.registry.ByCertificate(peer.CertificateID)
		if !ok {
			return broker.Principal{}, nil, refuse("its certificate %s is attached to no device", peer.Serial)
		}
		if dev.Disabled {
			return broker.Principal{}, nil, refuse("device %s is disabled", dev.Name)
		}
		names := dev.Policies
		if len(names) == 0 {
			names = []string{policyDevice}
		}
		return broker.Principal{Name: "device " + dev.Name.String(), Key: deviceKey(dev.Name), Device: dev.Name}, names, nil
	}
	if users := a.passwords[c.Listener]; users != nil {
		if c.UserName == "" || !users.match(c.UserName, []byte(c.Password)) {
			return broker.Principal{}, nil, &broker.Refusal{Reason: mqtt.BadUserNameOrPassword, Why: "user name or password is wrong"}
		}
		return broker.Principal{Name: "user " + c.UserName, Key: "user:" + c.UserName}, []string{c.UserName}, nil
	}
	return broker.Principal{Name: "local", Key: "local"}, []string{policyLocal}, nil
}

// deviceKey is who owns the sessions of a device.
func deviceKey(id identity.DeviceID) string { return "device:" + id.String() }

// unusable says which policies cannot be used, and why: broken files, and those that users of a
// password file have not got.
func (a *access) unusable() []error {
	errs := a.policies.broken()
	for _, listener := range slices.Sorted(maps.Keys(a.passwords)) {
		for _, user := range slices.Sorted(maps.Keys(a.passwords[listener].hashes)) {
			if _, err := a.policies.set([]string{user}); errors.Is(err, errNoPolicy) {
				errs = append(errs, fmt.Errorf("user %s of listener %s: %w", user, listener, err))
			}
		}
	}
	return errs
}

// connection is what policies may ask of c: condition keys and variables.
func (a *access) connection(c broker.ConnInfo, p broker.Principal) acl.Context {
	conn := acl.Connection{
		ClientID: c.ClientID, ServerName: c.ServerName, Certificate: c.Certificate,
		PersistentConnect: c.PersistentConnect, LastWill: c.LastWill, WillTopic: c.WillTopic,
		// A certificate is attached to one thing only, so the thing is known whatever the client identifier.
		Thing: p.Device,
	}
	if at, err := netip.ParseAddrPort(c.RemoteAddr.String()); err == nil {
		conn.Source = at.Addr()
	}
	if dev, err := a.registry.Get(p.Device); err == nil {
		conn.ThingType, conn.Attributes = dev.Type, dev.Attributes
	}
	return conn.Context(a.arn)
}

func refuse(format string, args ...any) error {
	return &broker.Refusal{Reason: mqtt.NotAuthorized, Why: fmt.Sprintf(format, args...)}
}

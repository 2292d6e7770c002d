package acl

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"gatewayctl/pki/identity"
)

// A Context is what is known of a request: condition keys, which are also the names of the
// variables, and their values (reference §5.3). A key that is missing, or has no values, is
// absent. Nothing is derived from another key. Names of keys are not case-sensitive, but for an
// attribute's name in brackets.
type Context map[string][]string

// Set gives a key its values; without any the key counts as absent.
func (c Context) Set(key string, values ...string) { c[key] = values }

// A Connection is what the gateway knows of an MQTT connection when its policies are bound. Zero
// values are not known.
type Connection struct {
	ClientID   string
	Source     netip.Addr
	ServerName string // TLS server name indication

	// Thing is what the connection's certificate is attached to; the zero value leaves every
	// thing variable absent and IsAttached false.
	Thing      identity.DeviceID
	ThingType  string
	Attributes map[string]string

	Certificate *x509.Certificate // verified leaf

	PersistentConnect bool
	LastWill          bool
	WillTopic         string // when LastWill
}

// Context returns the condition keys of c; prefix is that of the will topic's ARN, as in
// [Set.Bind].
func (c Connection) Context(prefix string) Context {
	ctx := Context{"iot:Connection.Thing.IsAttached": {fmt.Sprint(!c.Thing.IsZero())}}
	set := func(key, value string) {
		if value != "" {
			ctx[key] = []string{value}
		}
	}
	set("iot:ClientId", c.ClientID)
	set("iot:DomainName", c.ServerName)
	if c.Source.IsValid() {
		set("aws:SourceIp", c.Source.WithZone("").Unmap().String())
	}
	if !c.Thing.IsZero() {
		set("iot:Connection.Thing.ThingName", c.Thing.String())
		set("iot:Connection.Thing.ThingTypeName", c.ThingType)
		for name, value := range c.Attributes {
			set("iot:Connection.Thing.Attributes["+name+"]", value)
		}
	}
	attributes := []string{}
	if c.PersistentConnect {
		attributes = append(attributes, "PersistentConnect")
	}
	if c.LastWill {
		attributes = append(attributes, "LastWill")
		set("iot:LastWillTopic", ARN(prefix, Topic, c.WillTopic))
	}
	ctx["iot:ConnectAttributes"] = attributes
	if c.Certificate != nil {
		addCertificate(ctx, c.Certificate)
	}
	return ctx
}

// maxCertificateValues is how many values of an attribute AWS looks at.
const maxCertificateValues = 5

func addCertificate(ctx Context, cert *x509.Certificate) {
	var keys []string
	add := func(key string, list []string) {
		if len(list) == 0 {
			return
		}
		list = list[:min(len(list), maxCertificateValues)]
		ctx[key] = list[:1]
		ctx[key+".List"] = list
		for i := 1; i < len(list); i++ { // the guide's own example calls the second value .1
			ctx[fmt.Sprintf("%s.%d", key, i)] = list[i : i+1]
		}
		keys = append(keys, key)
	}
	for _, side := range []struct {
		key  string
		name pkix.Name
		alt  asn1.ObjectIdentifier
	}{
		{"iot:Certificate.Subject.", cert.Subject, asn1.ObjectIdentifier{2, 5, 29, 17}},
		{"iot:Certificate.Issuer.", cert.Issuer, asn1.ObjectIdentifier{2, 5, 29, 18}},
	} {
		for _, a := range nameAttributes() {
			add(side.key+a.key, nameValues(side.name, a.oid))
		}
		for _, ext := range cert.Extensions {
			if ext.Id.Equal(side.alt) {
				for _, alt := range alternativeNames(ext.Value) {
					add(side.key+"AlternativeName."+alt.key, alt.values)
				}
			}
		}
	}
	if cert.SerialNumber != nil {
		const key = "iot:Certificate.SerialNumber"
		ctx[key] = []string{cert.SerialNumber.String()} // decimal, as AWS writes it
		keys = append(keys, key)
	}
	slices.Sort(keys)
	if len(keys) > 0 {
		ctx["iot:Certificate.AvailableKeys"] = keys
	}
}

type nameAttribute struct {
	key string
	oid asn1.ObjectIdentifier
}

// nameAttributes lists the attributes of a distinguished name that policies can use.
func nameAttributes() []nameAttribute {
	at := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 4, n} }
	return []nameAttribute{
		{"CommonName", at(3)}, {"Surname", at(4)}, {"SerialNumber", at(5)}, {"Country", at(6)}, {"State", at(8)},
		{"Organization", at(10)}, {"OrganizationalUnit", at(11)}, {"Title", at(12)}, {"GivenName", at(42)},
		{"Initials", at(43)}, {"GenerationQualifier", at(44)}, {"DistinguishedNameQualifier", at(46)}, {"Pseudonym", at(65)},
	}
}

func nameValues(name pkix.Name, oid asn1.ObjectIdentifier) []string {
	var out []string
	for _, a := range name.Names {
		if s, ok := a.Value.(string); ok && a.Type.Equal(oid) {
			out = append(out, s)
		}
	}
	return out
}

type alternativeName struct {
	key    string
	values []string
}

// alternativeNames reads a GeneralNames extension (RFC 5280 §4.2.1.6). What it does not know or
// cannot read is left out.
func alternativeNames(der []byte) []alternativeName {
	out := []alternativeName{{key: "RFC822Name"}, {key: "DNSName"}, {key: "DirectoryName"}, {key: "UniformResourceIdentifier"}, {key: "IPAddress"}}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) > 0 {
		return nil
	}
	for _, n := range names {
		if n.Class != asn1.ClassContextSpecific {
			continue
		}
		switch n.Tag {
		case 1:
			out[0].values = append(out[0].values, string(n.Bytes))
		case 2:
			out[1].values = append(out[1].values, string(n.Bytes))
		case 4:
			if s := directoryName(n.Bytes); s != "" {
				out[2].values = append(out[2].values, s)
			}
		case 6:
			out[3].values = append(out[3].values, string(n.Bytes))
		case 7:
			if len(n.Bytes) == net.IPv4len || len(n.Bytes) == net.IPv6len {
				out[4].values = append(out[4].values, net.IP(n.Bytes).String())
			}
		}
	}
	return out
}

// directoryName writes a distinguished name as AWS shows it: last part first, attribute types in
// lower case.
func directoryName(der []byte) string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return ""
	}
	parts := strings.Split(rdns.String(), ",")
	for i, p := range parts {
		if kind, value, ok := strings.Cut(p, "="); ok {
			parts[i] = strings.ToLower(kind) + "=" + value
		}
	}
	return strings.Join(parts, ",")
}

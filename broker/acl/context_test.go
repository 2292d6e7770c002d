package acl_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/broker/acl"
	"gatewayctl/pki/identity"
)

func TestConnectionContext(t *testing.T) {
	t.Parallel()
	lamp, err := identity.ParseDeviceID("lamp")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		conn acl.Connection
		want acl.Context
	}{
		{"nothing is known", acl.Connection{}, acl.Context{"iot:Connection.Thing.IsAttached": {"false"}, "iot:ConnectAttributes": {}}},
		{
			"everything is known",
			acl.Connection{
				ClientID: "lamp#1", Source: netip.MustParseAddr("::ffff:192.168.7.20"), ServerName: "gw.lan",
				Thing: lamp, ThingType: "bulb", Attributes: map[string]string{"site": "plant", "empty": ""},
				PersistentConnect: true, LastWill: true, WillTopic: "lamp/online",
			},
			acl.Context{
				"iot:ClientId": {"lamp#1"}, "aws:SourceIp": {"192.168.7.20"}, "iot:DomainName": {"gw.lan"},
				"iot:Connection.Thing.ThingName": {"lamp"}, "iot:Connection.Thing.ThingTypeName": {"bulb"},
				"iot:Connection.Thing.IsAttached": {"true"}, "iot:Connection.Thing.Attributes[site]": {"plant"},
				"iot:ConnectAttributes": {"PersistentConnect", "LastWill"}, "iot:LastWillTopic": {"arn:aws:iot:eu-west-1:1:topic/lamp/online"},
			},
		},
		{
			"not attached: type and attributes belong to nothing", acl.Connection{ThingType: "bulb", Attributes: map[string]string{"a": "b"}},
			acl.Context{"iot:Connection.Thing.IsAttached": {"false"}, "iot:ConnectAttributes": {}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, tc.conn.Context("arn:aws:iot:eu-west-1:1:")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// certificate signs a certificate as the guide's example has it: several values of one
// attribute, every kind of alternative name.
func certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	oid := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 4, n} }
	name := func(cn string) pkix.Name {
		var n pkix.Name
		for _, a := range []struct {
			oid   int
			value string
		}{
			{6, "US"}, {10, "IoT"}, {11, "a"}, {11, "b"}, {11, "c"}, {11, "d"}, {11, "e"}, {11, "f"}, {8, "NY"}, {3, cn}, {42, "Bulb"}, {43, "ZZ"},
			{46, "Bulb001"}, {4, "Multi Color"}, {12, "RGB"}, {65, "RGB Device"}, {44, "4"}, {5, "123"},
		} {
			n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{Type: oid(a.oid), Value: a.value})
		}
		return n
	}
	directory, err := asn1.Marshal(pkix.Name{Country: []string{"US"}, Organization: []string{"Issuer"}, CommonName: "Primary"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	alternative, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("issuer.example")},
		{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory},
		{Class: asn1.ClassContextSpecific, Tag: 7, Bytes: []byte{5, 6, 7}}, // no address
		{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{42}},      // registered id: unknown to policies
	})
	if err != nil {
		t.Fatal(err)
	}
	template := func(cn string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: new(big.Int).SetBytes([]byte{0x92, 0x12, 0x85, 0xcb, 0xb7, 0xa5, 0xe0, 0x86}), Subject: name(cn),
			NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0),
		}
	}
	leaf := template("Bulb Device")
	leaf.DNSNames, leaf.EmailAddresses = []string{"example.com", "example.org"}, []string{"device1@example.com"}
	leaf.IPAddresses, leaf.URIs = []net.IP{net.IPv4(1, 2, 3, 4)}, []*url.URL{{Scheme: "urn", Opaque: "x:1"}}
	leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 18}, Value: alternative}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, template("Bulb CA"), key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificateContext(t *testing.T) {
	t.Parallel()
	got := acl.Connection{Certificate: certificate(t)}.Context("")
	want := acl.Context{
		"iot:Certificate.Subject.CommonName":                                {"Bulb Device"},
		"iot:Certificate.Issuer.CommonName":                                 {"Bulb CA"},
		"iot:Certificate.Subject.Country":                                   {"US"},
		"iot:Certificate.Subject.Organization":                              {"IoT"},
		"iot:Certificate.Subject.Organization.List":                         {"IoT"},
		"iot:Certificate.Subject.Organization.1":                            nil,
		"iot:Certificate.Subject.OrganizationalUnit":                        {"a"},
		"iot:Certificate.Subject.OrganizationalUnit.1":                      {"b"},
		"iot:Certificate.Subject.OrganizationalUnit.4":                      {"e"},
		"iot:Certificate.Subject.OrganizationalUnit.5":                      nil, // at most five
		"iot:Certificate.Subject.OrganizationalUnit.List":                   {"a", "b", "c", "d", "e"},
		"iot:Certificate.Subject.State":                                     {"NY"},
		"iot:Certificate.Subject.SerialNumber":                              {"123"},
		"iot:Certificate.Subject.Title":                                     {"RGB"},
		"iot:Certificate.Subject.Surname":                                   {"Multi Color"},
		"iot:Certificate.Subject.GivenName":                                 {"Bulb"},
		"iot:Certificate.Subject.Initials":                                  {"ZZ"},
		"iot:Certificate.Subject.Pseudonym":                                 {"RGB Device"},
		"iot:Certificate.Subject.GenerationQualifier":                       {"4"},
		"iot:Certificate.Subject.DistinguishedNameQualifier":                {"Bulb001"},
		"iot:Certificate.Subject.AlternativeName.DNSName":                   {"example.com"},
		"iot:Certificate.Subject.AlternativeName.DNSName.1":                 {"example.org"},
		"iot:Certificate.Subject.AlternativeName.RFC822Name":                {"device1@example.com"},
		"iot:Certificate.Subject.AlternativeName.IPAddress":                 {"1.2.3.4"},
		"iot:Certificate.Subject.AlternativeName.UniformResourceIdentifier": {"urn:x:1"},
		"iot:Certificate.Subject.AlternativeName.DirectoryName":             nil,
		"iot:Certificate.Issuer.AlternativeName.DNSName":                    {"issuer.example"},
		"iot:Certificate.Issuer.AlternativeName.DirectoryName":              {"cn=Primary,o=Issuer,c=US"},
		"iot:Certificate.Issuer.AlternativeName.IPAddress":                  nil,
		"iot:Certificate.SerialNumber":                                      {"10525622389124227206"},
	}
	for key, want := range want {
		if diff := cmp.Diff(want, acl.Context{key: got[key]}[key]); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	available := got["iot:Certificate.AvailableKeys"]
	if len(available) != 13+13+4+2+1 {
		t.Errorf("%d available keys: %v", len(available), available)
	}
	for _, key := range available {
		if len(got[key]) != 1 {
			t.Errorf("%s is said to be available and has %v", key, got[key])
		}
	}
}

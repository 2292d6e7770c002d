package broker

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"net"
	"strings"

	"gatewayctl/broker/acl"
	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/pki/identity"
)

// A Secret is a password. It prints and logs as "redacted".
type Secret = plane.Secret

// A ConnInfo is what a client says and shows when it connects.
type ConnInfo struct {
	Listener    string            // name of the listener
	Secure      bool              // the connection is under TLS
	Peer        identity.Peer     // whom the client certificate names; zero without one
	Certificate *x509.Certificate // the client certificate; nil without one
	ServerName  string            // TLS server name indication
	RemoteAddr  net.Addr

	ProtocolVersion   byte   // 4 is MQTT 3.1.1, 5 is MQTT 5.0
	ClientID          string // "" asks for an assigned one
	UserName          string
	Password          Secret // nil without one
	PersistentConnect bool   // the session outlives the connection
	LastWill          bool
	WillTopic         string // when LastWill
}

// A Principal is whom a connection acts for.
type Principal struct {
	Name   string            // for people and the audit, such as "device lamp" or "local"
	Key    string            // who owns the session; a session is never handed to another key
	Device identity.DeviceID // the thing; zero for anyone else
	Access Access            // what it may do; nil means nothing

	// ClientID is the client identifier to assign when the client sent none. Empty means
	// [AssignClientID] of the device, or of Key without a device.
	ClientID string
}

// An Access decides what a connection may do. [*acl.Bound] is one. The answers are for one
// connection and may change at any time. Its methods must be safe for concurrent use.
type Access interface {
	Connect(clientID string) acl.Decision
	Publish(topic string) acl.Decision
	RetainPublish(topic string) acl.Decision
	Subscribe(filter string) acl.Decision
	Receive(topic string) acl.Decision
}

// An Authority says who connects and what they may do.
type Authority interface {
	// Authenticate returns whom the connection acts for. A [*Refusal] says what the client is
	// told; any other error is answered with "server unavailable" and logged. It is asked again
	// for the same connection when [Broker.Disconnect] was called meanwhile.
	//
	// Whether the principal may use the client identifier is not its business: the broker asks
	// Access.Connect.
	Authenticate(ctx context.Context, c ConnInfo) (Principal, error)

	// Registered reports whether name is the name of a thing in the registry. Nobody else
	// connects under it.
	Registered(name string) bool
}

// A Refusal is an error that turns a connection away.
type Refusal struct {
	Reason mqtt.ReasonCode // zero means [mqtt.NotAuthorized]
	Why    string          // for events and logs; the client is not told
}

func (r *Refusal) Error() string {
	if r.Why == "" {
		return r.code().String()
	}
	return r.code().String() + ": " + r.Why
}

func (r *Refusal) code() mqtt.ReasonCode {
	if r.Reason.Failed() {
		return r.Reason
	}
	return mqtt.NotAuthorized
}

// AssignClientID makes a client identifier for a client that sent none: name, "#" and 16 random
// characters (80 bits).
func AssignClientID(name string) string {
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return name + "#" + strings.ToLower(base32.HexEncoding.EncodeToString(random[:]))
}

// maxClientIDBytes has room for the longest thing name, "#" and a suffix.
const maxClientIDBytes = 256

// identify decides the client identifier of a connection that was authenticated as p, and
// whether p may use it.
func (b *Broker) identify(sent string, p *Principal) (id string, refused *refusal) {
	id = sent
	if id == "" {
		id = p.ClientID
	}
	if id == "" {
		name := p.Device.String()
		if name == "" {
			name = p.Key
		}
		id = AssignClientID(name)
	}
	if len(id) > maxClientIDBytes {
		return id, &refusal{reason: mqtt.ClientIdentifierNotValid, why: fmt.Sprintf("client identifier of %d bytes: at most %d are allowed", len(id), maxClientIDBytes)}
	}
	name, _, _ := strings.Cut(id, "#")
	for _, n := range []string{id, name} {
		if n != p.Device.String() && b.auth.Registered(n) {
			return id, &refusal{reason: mqtt.NotAuthorized, why: "the client identifier is another thing's name"}
		}
	}
	if p.Access == nil {
		return id, &refusal{reason: mqtt.NotAuthorized, why: acl.Decision{}.String()}
	}
	if d := p.Access.Connect(id); !d.Allowed() {
		return id, deny(d)
	}
	return id, nil
}

// mayLeave decides whether p may leave w with the broker. A will needs what its publish needs.
func (b *Broker) mayLeave(w *plane.Will, p *Principal) *refusal {
	if w == nil {
		return nil
	}
	r := b.mayPublish(&w.Message, p.Access)
	if r != nil {
		r.why = "will: " + r.why
		r.topic = w.Message.Topic
		r.reason = mqtt.NotAuthorized
	}
	return r
}

// mayPublish decides whether m may be published.
func (b *Broker) mayPublish(m *mqtt.Message, access Access) *refusal {
	if err := b.publishable(m); err != nil {
		return &refusal{reason: mqtt.TopicNameInvalid, why: err.Error()}
	}
	if d := access.Publish(m.Topic); !d.Allowed() {
		return deny(d)
	}
	if !m.Retain {
		return nil
	}
	if isRPCTopic(m.Topic) {
		return &refusal{reason: mqtt.NotAuthorized, why: errRetainedRPC.Error()}
	}
	if d := access.RetainPublish(m.Topic); !d.Allowed() {
		return deny(d)
	}
	return nil
}

// isRPCTopic reports whether topic carries calls: `+/rpc` or `+/rpc/#`. A retained call would be
// executed again at every reconnect.
func isRPCTopic(topic string) bool {
	_, rest, ok := strings.Cut(topic, "/")
	return ok && (rest == "rpc" || strings.HasPrefix(rest, "rpc/"))
}

// A refusal is why something was not done: what the client is told, and what an event shows.
type refusal struct {
	reason            mqtt.ReasonCode
	why               string
	topic             string
	policy, statement string
}

func deny(d acl.Decision) *refusal {
	return &refusal{reason: mqtt.NotAuthorized, why: d.String(), policy: d.Policy, statement: d.Statement}
}

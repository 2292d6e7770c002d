package api

import (
	"time"

	"gatewayctl/gateway/events"
)

// Status is the gateway on one screen.
type Status struct {
	Health        string           `json:"health" enum:"ok,degraded" doc:"degraded: it works, but warnings need an operator"`
	Ready         bool             `json:"ready" doc:"devices can connect"`
	Version       string           `json:"version"`
	PID           int              `json:"pid"`
	Started       time.Time        `json:"started"`
	UptimeSeconds float64          `json:"uptime_s"`
	DataDir       string           `json:"data_dir"`
	Socket        string           `json:"socket,omitempty" doc:"the admin socket's path"`
	Clock         Clock            `json:"clock"`
	Listeners     []Listener       `json:"listeners" nullable:"false"`
	Devices       DeviceCounts     `json:"devices"`
	Bridges       []BridgeSummary  `json:"bridges" nullable:"false"`
	Store         StoreStatus      `json:"store"`
	MessageLog    MessageLogStatus `json:"msglog"`
	CA            CertificateTimes `json:"ca"`
	Server        CertificateTimes `json:"server_certificate"`
	Warnings      []string         `json:"warnings" nullable:"false" doc:"one line each, with what to do about it"`
}

// Clock says whether the gateway trusts the machine's time. While it does not, nothing is issued
// and nothing is judged expired.
type Clock struct {
	Now      time.Time `json:"now"`
	Trusted  bool      `json:"trusted"`
	Reason   string    `json:"reason,omitempty" doc:"why the time is not trusted"`
	Recorded time.Time `json:"recorded,omitzero" doc:"the latest time that the gateway is sure of"`
}

// A Listener is one way in.
type Listener struct {
	Name        string `json:"name"`
	Kind        string `json:"kind" doc:"mqtts, mqtt, unix, https or admin"`
	Address     string `json:"address" doc:"host:port as bound, or a path"`
	Connections int    `json:"connections"`
}

// DeviceCounts counts the devices of the registry.
type DeviceCounts struct {
	Total  int `json:"total"`
	Online int `json:"online"`
}

// BridgeSummary is one upstream in a line; [Upstream] has the rest.
type BridgeSummary struct {
	Name          string    `json:"name"`
	State         string    `json:"state" doc:"as in the upstream's own status"`
	Since         time.Time `json:"since,omitzero"`
	DepthMessages int64     `json:"depth_messages"`
	DepthBytes    int64     `json:"depth_bytes"`
	Oldest        time.Time `json:"oldest,omitzero" doc:"when the oldest waiting message was stored"`
	LastError     string    `json:"last_error,omitempty"`
}

// StoreStatus is the state file's.
type StoreStatus struct {
	Path      string `json:"path,omitempty"`
	SizeBytes int64  `json:"size_bytes"`
	FreeBytes int64  `json:"free_bytes" doc:"left for the gateway on the file system of the data directory; -1 when that is not known"`
}

// MessageLogStatus is the message log's.
type MessageLogStatus struct {
	SizeBytes  int64  `json:"size_bytes"`
	MaxBytes   int64  `json:"max_bytes"`
	Segments   int    `json:"segments"`
	Consumers  int    `json:"consumers"`
	Durability string `json:"durability,omitempty" doc:"always, second or never"`
	Degraded   string `json:"degraded,omitempty" doc:"what was set aside as damaged"`
}

// CertificateTimes is what one certificate is and until when it holds.
type CertificateTimes struct {
	Subject     string    `json:"subject,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty" doc:"SHA-256 of the DER encoding, lower-case hex"`
	NotAfter    time.Time `json:"not_after"`
}

// A Device is one row of the registry and whether it is there.
type Device struct {
	Name         string            `json:"name"`
	Type         string            `json:"type,omitempty"`
	Attributes   map[string]string `json:"attributes,omitempty"`
	Tags         []string          `json:"tags,omitempty"`
	Policies     []string          `json:"policies,omitempty"`
	Certificates []string          `json:"certificates,omitempty" doc:"certificate ids"`
	Disabled     bool              `json:"disabled"`
	Created      time.Time         `json:"created,omitzero"`
	Changed      time.Time         `json:"changed,omitzero"`
	LastSeen     time.Time         `json:"last_seen,omitzero"`
	Info         DeviceInfo        `json:"info,omitzero"`
	Presence     Presence          `json:"presence"`
}

// DeviceInfo is what a device says of itself.
type DeviceInfo struct {
	App             string `json:"app,omitempty"`
	Arch            string `json:"arch,omitempty"`
	FirmwareVersion string `json:"firmware_version,omitempty"`
	FirmwareID      string `json:"firmware_id,omitempty"`
	MAC             string `json:"mac,omitempty"`
	Address         string `json:"address,omitempty"`
}

// Presence says whether a device is connected and since when it is or is not.
type Presence struct {
	Online   bool      `json:"online"`
	Since    time.Time `json:"since,omitzero"`
	ClientID string    `json:"client_id,omitempty"`
	Address  string    `json:"address,omitempty"`
	Listener string    `json:"listener,omitempty"`
	Reason   string    `json:"reason,omitempty" doc:"why the last connection ended"`
}

// A DeviceQuery chooses devices; its zero value chooses all.
type DeviceQuery struct {
	Tag    string
	Type   string
	Prefix string // of the name
	Online string // "true", "false" or "" for both
}

// What to do when a device that is to get credentials has a valid certificate already.
const (
	ExistingRefuse     = "refuse"     // answer exists; the default
	ExistingReplace    = "replace"    // revoke the present ones (superseded) once the new one is recorded
	ExistingAdditional = "additional" // the device has several from now on
)

// A CredentialsRequest asks for a certificate for a device, which is registered if it is new.
type CredentialsRequest struct {
	CSR      string   `json:"csr,omitempty" doc:"certificate signing request in PEM; without one the key is made by the gateway, returned once and not kept" maxLength:"65536"`
	Policies []string `json:"policies,omitempty" doc:"names of policies; none means the default one" maxItems:"32" nullable:"false"`
	Type     string   `json:"type,omitempty" doc:"the device's type, free text" maxLength:"128"`
	Existing string   `json:"existing,omitempty" enum:"refuse,replace,additional" default:"refuse" doc:"what to do when the device has a valid certificate already"`
	Lifetime Duration `json:"lifetime,omitempty" doc:"such as 720h; absent means the configured one"`
}

// Credentials are what a device or an administrator needs to connect. Key is a secret.
type Credentials struct {
	Device         string    `json:"device,omitempty"`
	CertificateID  string    `json:"certificate_id"`
	Serial         string    `json:"serial"`
	NotAfter       time.Time `json:"not_after"`
	CertificatePEM string    `json:"certificate_pem" doc:"the certificate and the intermediate that issued it"`
	KeyPEM         string    `json:"key_pem,omitempty" doc:"PKCS#8; absent when a CSR was sent"`
	CAPEM          string    `json:"ca_pem" doc:"the root, to verify the gateway with"`
	Revoked        []string  `json:"revoked,omitempty" doc:"ids of the certificates that were replaced"`
}

// A Message is one MQTT application message.
type Message struct {
	Topic           string         `json:"topic" minLength:"1" maxLength:"65535"`
	Payload         []byte         `json:"payload,omitempty" doc:"base64"`
	QoS             int            `json:"qos,omitempty" minimum:"0" maximum:"2"`
	Retain          bool           `json:"retain,omitempty"`
	ExpirySeconds   uint32         `json:"expiry_s,omitempty" doc:"0 means that it does not expire"`
	PayloadIsUTF8   bool           `json:"payload_is_utf8,omitempty"`
	ContentType     string         `json:"content_type,omitempty" maxLength:"65535"`
	ResponseTopic   string         `json:"response_topic,omitempty" maxLength:"65535"`
	CorrelationData []byte         `json:"correlation_data,omitempty" doc:"base64"`
	UserProperties  []UserProperty `json:"user_properties,omitempty" maxItems:"256" nullable:"false"`
	Publisher       *Publisher     `json:"publisher,omitempty" readOnly:"true" doc:"set by the gateway, ignored when publishing"`
}

// A UserProperty is a name and value pair of MQTT 5.0.
type UserProperty struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// A Publisher says where a message came from.
type Publisher struct {
	ClientID string `json:"client_id,omitempty"`
	Device   string `json:"device,omitempty"`
	Origin   string `json:"origin,omitempty" doc:"such as bridge:cloud, for what did not come from a client of this gateway"`
}

// An Event is something that happened; see package events.
type Event = events.Event

// An EventQuery chooses events; its zero value chooses the newest hundred.
type EventQuery struct {
	After    uint64          // only events with a greater number
	Since    time.Time       // only events at or after; zero means no bound
	Kind     string          // this kind or all below it: "device" covers "device.connected"
	Device   string          // this device only
	Severity events.Severity // at least this
	Limit    int             // the newest so many; 0 means 100, or none when following
}

// Found is something that announces itself by DNS-SD.
type Found struct {
	Instance    string            `json:"instance"`
	Service     string            `json:"service" doc:"such as _http._tcp"`
	Kind        string            `json:"kind,omitempty" doc:"such as mongoose-os, shelly, esphome, mqtt-broker, gatewayctl"`
	ID          string            `json:"id,omitempty" doc:"the device identifier that it announces"`
	Host        string            `json:"host,omitempty"`
	Port        int               `json:"port,omitempty"`
	Addresses   []string          `json:"addresses,omitempty"`
	TXT         map[string]string `json:"txt,omitempty"`
	Provisioned bool              `json:"provisioned" doc:"a device of that name is registered"`
	Device      string            `json:"device,omitempty" doc:"the registered device that it is"`
	Gone        bool              `json:"gone,omitempty" doc:"it said goodbye or was not heard any more"`
	Seen        time.Time         `json:"seen,omitzero"`
}

// An Upstream is one broker that the gateway is bridged to.
type Upstream struct {
	Name      string       `json:"name"`
	URL       string       `json:"url"`
	State     string       `json:"state" doc:"such as connected, connecting, offline"`
	Since     time.Time    `json:"since,omitzero"`
	LastError string       `json:"last_error,omitempty"`
	Rules     []BridgeRule `json:"rules" nullable:"false"`
}

// A BridgeRule is one rule of an upstream and how it is doing.
type BridgeRule struct {
	Name          string           `json:"name"`
	Local         string           `json:"local"`
	Direction     string           `json:"direction" enum:"up,down,both"`
	RemotePrefix  string           `json:"remote_prefix,omitempty"`
	QoS           int              `json:"qos"`
	DepthMessages int64            `json:"depth_messages" doc:"stored and not yet acknowledged by the upstream"`
	DepthBytes    int64            `json:"depth_bytes"`
	Oldest        time.Time        `json:"oldest,omitzero"`
	Sent          uint64           `json:"sent"`
	Received      uint64           `json:"received"`
	Dropped       map[string]int64 `json:"dropped,omitempty" doc:"by reason"`
}

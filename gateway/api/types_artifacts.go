package api

import (
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// An Image is one firmware image of the repository.
type Image struct {
	SHA256      string    `json:"sha256" doc:"of the file, lower-case hex"`
	Name        string    `json:"name" doc:"the application, or the file's name"`
	File        string    `json:"file,omitempty" doc:"the name under which it was added"`
	Version     string    `json:"version,omitempty"`
	Platform    string    `json:"platform,omitempty"`
	BuildID     string    `json:"build_id,omitempty"`
	Format      string    `json:"format,omitempty" doc:"such as mongoose-os"`
	SizeBytes   int64     `json:"size_bytes"`
	Added       time.Time `json:"added,omitzero"`
	Description string    `json:"description,omitempty"`
}

// An UpdateRequest asks for an image to be put on a device.
type UpdateRequest struct {
	Image   string   `json:"image" minLength:"1" maxLength:"256" doc:"SHA-256 or the start of it, name@version, or name"`
	Timeout Duration `json:"timeout,omitempty" doc:"for the whole update, 10m if absent, 2h at most"`
}

// UpdateProgress is one step of an update.
type UpdateProgress struct {
	Time  time.Time `json:"time"`
	Step  string    `json:"step" doc:"a word such as offer, download, restart, confirm"`
	Text  string    `json:"text,omitempty" doc:"one line for people"`
	Done  int64     `json:"done,omitempty" doc:"bytes, where a step counts them"`
	Total int64     `json:"total,omitempty"`
}

// UpdateResult is how an update ended well.
type UpdateResult struct {
	Device     string  `json:"device"`
	Image      Image   `json:"image"`
	From       string  `json:"from,omitempty" doc:"the version before"`
	To         string  `json:"to" doc:"the version that the device reports now"`
	ElapsedSec float64 `json:"elapsed_s"`
}

// PKI is the certificate authority and what it has issued for the gateway itself.
type PKI struct {
	Root         Certificate `json:"root"`
	Intermediate Certificate `json:"intermediate"`
	Server       Certificate `json:"server"`
	Issued       int         `json:"issued" doc:"certificates on record"`
	Revoked      int         `json:"revoked" doc:"of these, revoked"`
}

// A Certificate is one certificate on record.
type Certificate struct {
	ID          string    `json:"id" doc:"SHA-256 of the DER encoding, lower-case hex; AWS's certificateId"`
	Serial      string    `json:"serial" doc:"lower-case hex"`
	Profile     string    `json:"profile" doc:"root, intermediate, server, device, admin or gateway"`
	CommonName  string    `json:"common_name"`
	Device      string    `json:"device,omitempty"`
	Names       []string  `json:"names,omitempty" doc:"host names and addresses"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Issued      time.Time `json:"issued,omitzero"`
	RevokedAt   time.Time `json:"revoked_at,omitzero"`
	RevokedWhy  string    `json:"revoked_reason,omitempty" doc:"RFC 5280 §5.3.1"`
	Certificate string    `json:"certificate_pem,omitempty"`
}

// A CertificateQuery chooses certificates; its zero value chooses all that are not revoked.
type CertificateQuery struct {
	Device  string
	Profile string
	Revoked bool // the revoked ones too
}

// A RevokeRequest names what is to be revoked.
type RevokeRequest struct {
	Target string `json:"target" minLength:"1" maxLength:"128" doc:"a serial number, a certificate id, or a device's name for all of its certificates"`
	Reason string `json:"reason,omitempty" maxLength:"64" doc:"a name of RFC 5280 §5.3.1, such as keyCompromise, superseded or cessationOfOperation; absent: unspecified"`
}

// An IssueRequest asks for a certificate that is not a device's.
type IssueRequest struct {
	Profile    string   `json:"profile" enum:"admin,gateway"`
	CommonName string   `json:"common_name" minLength:"1" maxLength:"64" doc:"for people and the audit trail"`
	CSR        string   `json:"csr,omitempty" maxLength:"65536" doc:"certificate signing request in PEM; without one the key is made by the gateway and returned once"`
	Lifetime   Duration `json:"lifetime,omitempty" doc:"such as 720h; absent means the configured one"`
}

// A Duration is written as Go does it: "30s", "12h".
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns d as [time.Duration] writes it.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. A duration is never negative.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 30s, 5m or 12h", b)
	}
	*d = Duration(v)
	return nil
}

// Schema implements [huma.SchemaProvider].
func (Duration) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`,
		PatternDescription: "duration such as 30s, 5m or 12h",
		Examples:           []any{"30s"},
	}
}

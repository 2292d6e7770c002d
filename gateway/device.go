// Package gateway is what is known of each device, and whether it is there.
//
// # Design
//
// The store is the truth; [Registry] keeps a copy of every row in memory and replaces it after a
// commit, so that reading costs no transaction. Rows change in one of two ways: by a method that
// commits by itself, or by a ...Tx method inside somebody else's transaction, who calls
// [Registry.Reload] once it has committed. Either way the hooks of [RegistryOptions] run after
// the copy has changed, never inside a transaction.
//
// Whether a device is connected is not stored. When it was last seen is, but seldom: SD cards wear.
package gateway

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"gatewayctl/pki/identity"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("no such device")
	ErrExists   = errors.New("there is such a device already")
	ErrAttached = errors.New("the certificate is attached to another device")
	ErrInvalid  = errors.New("not allowed in a device's description")
)

// A Device is a thing in the registry. Its limits are those of AWS IoT's CreateThing.
type Device struct {
	Name         identity.DeviceID `json:"name"`
	Type         string            `json:"type,omitempty"`         // a word for its kind, such as "lamp"
	Attributes   map[string]string `json:"attributes,omitempty"`   // up to 50, policies can refer to them
	Tags         []string          `json:"tags,omitempty"`         // for choosing devices, sorted
	Policies     []string          `json:"policies,omitempty"`     // names, sorted; none means the gateway's default policy
	Certificates []string          `json:"certificates,omitempty"` // IDs of those attached, oldest first
	Disabled     bool              `json:"disabled,omitempty"`     // it may not connect
	Created      time.Time         `json:"created"`
	Changed      time.Time         `json:"changed"`
	Info         Info              `json:"info,omitzero"`
	LastSeen     time.Time         `json:"last_seen,omitzero"` // now while it is connected; zero: never
}

// Info is what a device told about itself. It is shown to people and decides nothing.
type Info struct {
	App             string `json:"app,omitempty"`
	Arch            string `json:"arch,omitempty"`
	FirmwareVersion string `json:"firmware_version,omitempty"`
	FirmwareID      string `json:"firmware_id,omitempty"`
	MAC             string `json:"mac,omitempty"`
	Address         string `json:"address,omitempty"`
}

// A Presence says whether a device is connected.
type Presence struct {
	Online   bool      `json:"online"`
	Since    time.Time `json:"since,omitzero"`      // when that began; zero: never connected since the gateway's start
	ClientID string    `json:"client_id,omitempty"` // of the latest connection
	Address  string    `json:"address,omitempty"`
	Listener string    `json:"listener,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why the last connection ended, when offline
}

const (
	maxAttributes     = 50
	maxAttributeValue = 800
	maxTags           = 50
	maxPolicies       = 10
	maxWord           = 128
	maxInfo           = 256
)

// clone returns a copy that shares nothing with d.
func (d Device) clone() Device {
	d.Attributes = maps.Clone(d.Attributes)
	d.Tags = slices.Clone(d.Tags)
	d.Policies = slices.Clone(d.Policies)
	d.Certificates = slices.Clone(d.Certificates)
	return d
}

// normalize brings d into the form in which it is stored, and refuses what is not allowed.
func (d *Device) normalize() error {
	if d.Name.IsZero() {
		return fmt.Errorf("%w: it has no name", ErrInvalid)
	}
	if d.Type != "" && !word(d.Type, ":_-") {
		return invalid("type", d.Type, "a-z A-Z 0-9 : _ -")
	}
	if len(d.Attributes) > maxAttributes {
		return fmt.Errorf("%w: %d attributes, where %d are the most", ErrInvalid, len(d.Attributes), maxAttributes)
	}
	for name, value := range d.Attributes {
		if !word(name, "_.,@/:#-") {
			return invalid("attribute name", name, "a-z A-Z 0-9 _ . , @ / : # -")
		}
		if len(value) > maxAttributeValue || !only(value, "_.,@/:#=[]-") {
			return invalid("value of attribute "+name, value, "a-z A-Z 0-9 _ . , @ / : # = [ ] -")
		}
	}
	for _, tag := range d.Tags {
		if !word(tag, "_.,@/:=+-") {
			return invalid("tag", tag, "a-z A-Z 0-9 _ . , @ / : = + -")
		}
	}
	for _, policy := range d.Policies {
		if !word(policy, "_+=,.@-") {
			return invalid("policy name", policy, "a-z A-Z 0-9 _ + = , . @ -")
		}
	}
	d.Tags, d.Policies = set(d.Tags), set(d.Policies)
	if len(d.Tags) > maxTags || len(d.Policies) > maxPolicies {
		return fmt.Errorf("%w: %d tags and %d policies, where %d and %d are the most", ErrInvalid, len(d.Tags), len(d.Policies), maxTags, maxPolicies)
	}
	if len(d.Attributes) == 0 {
		d.Attributes = nil
	}
	if len(d.Certificates) == 0 {
		d.Certificates = nil
	}
	for _, s := range []*string{&d.Info.App, &d.Info.Arch, &d.Info.FirmwareVersion, &d.Info.FirmwareID, &d.Info.MAC, &d.Info.Address} {
		*s = printable(*s)
	}
	d.LastSeen = time.Time{} // kept beside the row
	return nil
}

func invalid(what, value, allowed string) error {
	return fmt.Errorf("%w: %s %.40q; use 1 to %d of %s", ErrInvalid, what, value, maxWord, allowed)
}

// word reports whether s has 1 to 128 letters, digits and characters of others.
func word(s, others string) bool { return s != "" && len(s) <= maxWord && only(s, others) }

func only(s, others string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(others, c) >= 0:
		default:
			return false
		}
	}
	return true
}

// set returns the elements of s, sorted and each once; nil if there are none.
func set(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// printable makes a device's own words safe to show.
func printable(s string) string {
	if len(s) > maxInfo {
		s = s[:maxInfo]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

package firmware

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	manifestName     = "manifest.json"
	maxManifestBytes = 64 << 10
	maxText          = 120 // bytes of a name, platform, version, build id
	maxEntryName     = 49  // updaters hold a name in 50 bytes
	maxParts         = 64
)

// A Manifest is what a Mongoose OS bundle says about itself. Fields that only the device needs
// are not kept; a bundle is always passed on with the manifest's own bytes.
type Manifest struct {
	Name           string          // application
	Platform       string          // the arch of the devices that it is for
	Version        string          // with BuildID, what the device reports as fw_version and fw_id
	BuildID        string          //
	BuildTimestamp time.Time       // zero if it is missing or not RFC 3339
	Description    string          //
	Parts          map[string]Part // by name
}

// A Part is one piece of a bundle: the application, a file system, a boot loader.
type Part struct {
	Type      string // app, fs, boot, …: the platform's words
	Src       string // entry of the ZIP file; "" for a part without data, such as one that is filled
	SizeBytes int64  // of the data; 0 if the manifest does not say
	SHA1      string // of the data, lower-case hex; "" if the manifest does not say
	SHA256    string // the same
}

// ParseManifest reads and checks a manifest. The names of its fields are case-sensitive, as they
// are to a device.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > maxManifestBytes {
		return nil, invalid("the manifest has %d bytes: at most %d are allowed", len(b), maxManifestBytes)
	}
	fields, err := object(b)
	if err != nil {
		return nil, invalid("the manifest is not a JSON object: %w", err)
	}
	m := &Manifest{}
	for _, f := range []struct {
		name string
		into *string
		must bool
	}{
		{"name", &m.Name, false}, {"platform", &m.Platform, true}, {"version", &m.Version, true},
		{"build_id", &m.BuildID, true}, {"description", &m.Description, false},
	} {
		if *f.into, err = text(fields, f.name); err != nil {
			return nil, invalid("the manifest's %s %w", f.name, err)
		}
		if f.must && *f.into == "" {
			return nil, invalid("the manifest has no %s", f.name)
		}
	}
	if stamp, err := text(fields, "build_timestamp"); err == nil {
		m.BuildTimestamp, _ = time.Parse(time.RFC3339, stamp) // informs only
	}
	parts, err := object(fields["parts"])
	switch {
	case err != nil:
		return nil, invalid("the manifest's parts are not a JSON object: %w", err)
	case len(parts) == 0:
		return nil, invalid("the manifest lists no parts")
	case len(parts) > maxParts:
		return nil, invalid("the manifest lists %d parts: at most %d are allowed", len(parts), maxParts)
	}
	m.Parts = make(map[string]Part, len(parts))
	for _, name := range slices.Sorted(maps.Keys(parts)) { // sorted: the same error each time
		if m.Parts[name], err = parsePart(parts[name]); err != nil {
			return nil, invalid("part %.40q of the manifest: %w", name, err)
		}
	}
	return m, nil
}

func parsePart(raw json.RawMessage) (p Part, err error) {
	fields, err := object(raw)
	if err != nil {
		return Part{}, fmt.Errorf("not a JSON object: %w", err)
	}
	for _, f := range []struct {
		name string
		into *string
	}{{"type", &p.Type}, {"src", &p.Src}, {"cs_sha1", &p.SHA1}, {"cs_sha256", &p.SHA256}} {
		if *f.into, err = text(fields, f.name); err != nil {
			return Part{}, fmt.Errorf("%s %w", f.name, err)
		}
	}
	if p.Src != "" {
		if err := checkEntryName(p.Src); err != nil {
			return Part{}, fmt.Errorf("src: %w", err)
		}
		if strings.Contains(p.Src, "/") {
			return Part{}, fmt.Errorf("src %q is a path: the name of an entry is needed", p.Src)
		}
	}
	if raw, ok := fields["size"]; ok {
		if json.Unmarshal(raw, &p.SizeBytes) != nil || p.SizeBytes < 0 {
			return Part{}, fmt.Errorf("size %.40s is not a number of bytes", raw)
		}
	}
	if err := checkDigest("cs_sha1", p.SHA1, 20); err != nil {
		return Part{}, err
	}
	return p, checkDigest("cs_sha256", p.SHA256, 32)
}

func checkDigest(name, digest string, sizeBytes int) error {
	if digest == "" {
		return nil
	}
	if b, err := hex.DecodeString(digest); err != nil || len(b) != sizeBytes || digest != strings.ToLower(digest) {
		return fmt.Errorf("%s %.80q is not %d lower-case hexadecimal digits", name, digest, 2*sizeBytes)
	}
	return nil
}

// checkEntryName refuses names that would leave a directory into which they are unpacked, or that
// an updater has no room for. A directory prefix is allowed.
func checkEntryName(name string) error {
	base := name[strings.LastIndexByte(name, '/')+1:]
	switch {
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }):
		return fmt.Errorf("name %.80q has characters that cannot be printed", name)
	case strings.HasPrefix(name, "/") || strings.ContainsAny(name, `\:`):
		return fmt.Errorf("name %.80q is not a plain relative name", name)
	case slices.Contains(strings.Split(name, "/"), ".."):
		return fmt.Errorf("name %.80q leaves its directory", name)
	case base == "" || base == ".":
		return fmt.Errorf("name %.80q names no file", name)
	case len(base) > maxEntryName:
		return fmt.Errorf("name %.80q has more than the %d characters that devices allow", base, maxEntryName)
	}
	return nil
}

// object splits a JSON object into its fields; encoding/json alone would match names in any case.
func object(raw []byte) (map[string]json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, errors.New("it is missing")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("it is null")
	}
	return fields, nil
}

// text returns a field that is a short printable text, "" if it is missing.
func text(fields map[string]json.RawMessage, name string) (string, error) {
	raw, ok := fields[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", errors.New("is not a text")
	}
	switch {
	case len(s) > maxText && name != "description":
		return "", fmt.Errorf("has %d bytes: at most %d are allowed", len(s), maxText)
	case strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) && (name != "description" || !unicode.IsSpace(c)) }):
		return "", errors.New("has characters that cannot be printed")
	}
	return s, nil
}

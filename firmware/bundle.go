package firmware

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// errNoManifest tells a ZIP file that is no bundle from a bundle that is broken.
var errNoManifest = errors.New("no manifest.json in the ZIP file")

// A Bundle is a Mongoose OS firmware bundle that was read to its end and found whole: every
// part is there with the size and the checksums that the manifest gives.
type Bundle struct {
	Manifest Manifest

	r          io.ReaderAt
	manifest   entry
	parts      []entry // referenced by the manifest, in the order of the file
	streamable bool
}

// OpenBundle reads the bundle of sizeBytes bytes in r, which must stay readable while the Bundle is
// in use. It refuses what is damaged, what claims more than limits allow, and what two readers could
// read in two ways. Compressed entries, data descriptors and any order are accepted here; see [Bundle.Streamable].
func OpenBundle(r io.ReaderAt, sizeBytes int64, limits Limits) (*Bundle, error) {
	limits = limits.withDefaults()
	entries, directory, err := readDirectory(r, sizeBytes, limits)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(entries, func(e entry) bool { return e.base == manifestName })
	if at < 0 {
		return nil, invalid("%w", errNoManifest)
	}
	b := &Bundle{r: r, manifest: entries[at]}
	if b.manifest.bytes > maxManifestBytes {
		return nil, invalid("the manifest has %d bytes: at most %d are allowed", b.manifest.bytes, maxManifestBytes)
	}
	raw, err := b.manifestBytes()
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	b.Manifest = *m
	used := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(m.Parts)) {
		p := m.Parts[name]
		if p.Src == "" {
			continue
		}
		i := slices.IndexFunc(entries, func(e entry) bool { return e.base == p.Src })
		if i < 0 {
			return nil, invalid("part %q of the manifest: the ZIP file has no entry %q", name, p.Src)
		}
		if err := b.checkPart(entries[i], p); err != nil {
			return nil, err
		}
		used[p.Src] = true
	}
	for _, e := range entries {
		if used[e.base] {
			b.parts = append(b.parts, e)
		}
	}
	b.streamable = at == 0 && len(entries) == 1+len(b.parts) && gapless(entries, directory)
	return b, nil
}

// gapless reports whether the entries follow each other from the first byte to the directory,
// with headers that a streaming reader understands.
func gapless(entries []entry, directory int64) bool {
	at := int64(0)
	for _, e := range entries {
		if !e.streamable || e.local != at {
			return false
		}
		at = e.data + e.packed
	}
	return at == directory
}

func (b *Bundle) manifestBytes() ([]byte, error) {
	var buf bytes.Buffer
	if err := b.manifest.copyTo(&buf, b.r); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// checkPart reads the data of a part and compares it with what the manifest says.
func (b *Bundle) checkPart(e entry, p Part) error {
	if p.SizeBytes != 0 && p.SizeBytes != e.bytes {
		return invalid("entry %q has %d bytes, the manifest says %d", e.base, e.bytes, p.SizeBytes)
	}
	sum1, sum256 := sha1.New(), sha256.New()
	if err := e.copyTo(io.MultiWriter(sum1, sum256), b.r); err != nil {
		return err
	}
	for _, d := range []struct{ name, want, got string }{
		{"SHA-256", p.SHA256, hex.EncodeToString(sum256.Sum(nil))},
		{"SHA-1", p.SHA1, hex.EncodeToString(sum1.Sum(nil))},
	} {
		if d.want != "" && d.want != d.got {
			return invalid("the %s of entry %q is %s, the manifest says %s", d.name, e.base, d.got, d.want)
		}
	}
	return nil
}

// Signed reports whether the manifest carries signatures. They are not checked.
func (b *Bundle) Signed() bool { return b.manifest.signature != nil }

// Streamable reports whether devices can install the file as it is, while they read it: the manifest is
// the first entry, nothing is compressed, and every local header has the sizes and the checksum
// of its data.
func (b *Bundle) Streamable() bool { return b.streamable }

// WriteStreamable writes the bundle to w in the form that [Bundle.Streamable] asks for, with the
// manifest's own bytes and signatures, and without entries that the manifest does not mention.
// Equal bundles give equal bytes.
func (b *Bundle) WriteStreamable(w io.Writer) error {
	z := zip.NewWriter(w)
	for _, e := range append([]entry{b.manifest}, b.parts...) {
		f, err := createEntry(z, e.base, e.crc, e.bytes, e.signature)
		if err != nil {
			return err
		}
		if err := e.copyTo(f, b.r); err != nil {
			return err
		}
	}
	return z.Close()
}

// createEntry starts an entry whose size and checksum stand in its local header; the library's
// ordinary way puts them after the data.
func createEntry(z *zip.Writer, name string, crc uint32, sizeBytes int64, extra []byte) (io.Writer, error) {
	return z.CreateRaw(&zip.FileHeader{
		Name: name, Method: zip.Store, CRC32: crc, Extra: extra,
		CompressedSize64: uint64(sizeBytes), UncompressedSize64: uint64(sizeBytes),
	})
}

// A BundlePart is the data of one part of a bundle that is built.
type BundlePart struct {
	Name string // of the part in the manifest
	Type string // "" means app
	Src  string // name of the entry; "" means Name.bin
	Data []byte
}

// A BundleSpec says what [BuildBundle] builds.
type BundleSpec struct {
	Name, Platform, Version, BuildID, Description string
	BuildTimestamp                                time.Time // the zero time is left out
	Parts                                         []BundlePart
}

// BuildBundle returns the bundle of spec, such as a demo or a test needs, in the form that devices can install while they
// read it. Equal specs give equal bytes.
func BuildBundle(spec BundleSpec) ([]byte, error) {
	type part struct {
		Type   string `json:"type"`
		Src    string `json:"src"`
		Size   int    `json:"size"`
		SHA1   string `json:"cs_sha1"`
		SHA256 string `json:"cs_sha256"`
	}
	m := struct {
		Name        string          `json:"name,omitzero"`
		Platform    string          `json:"platform"`
		Version     string          `json:"version"`
		BuildID     string          `json:"build_id"`
		Timestamp   time.Time       `json:"build_timestamp,omitzero"`
		Description string          `json:"description,omitzero"`
		Parts       map[string]part `json:"parts"`
	}{spec.Name, spec.Platform, spec.Version, spec.BuildID, spec.BuildTimestamp, spec.Description, map[string]part{}}
	files := [][]byte{nil}
	names := []string{manifestName}
	for _, p := range spec.Parts {
		src := cmp.Or(p.Src, p.Name+".bin")
		sum1, sum256 := sha1.Sum(p.Data), sha256.Sum256(p.Data)
		m.Parts[p.Name] = part{cmp.Or(p.Type, "app"), src, len(p.Data), hex.EncodeToString(sum1[:]), hex.EncodeToString(sum256[:])}
		files, names = append(files, p.Data), append(names, src)
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("manifest of a bundle: %w", err)
	}
	if _, err := ParseManifest(manifest); err != nil {
		return nil, err
	}
	files[0] = manifest
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for i, name := range names {
		f, err := createEntry(z, name, crc32Of(files[i]), int64(len(files[i])), nil)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(files[i]); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

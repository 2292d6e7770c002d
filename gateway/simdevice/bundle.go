package simdevice

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"path"
)

const (
	maxBundleManifest = 16 << 10 // the manifest must fit into RAM
	maxBundleName     = 49       // fixed buffers
)

// bundleReader reads a firmware bundle from its local headers, as a device does that has no room
// for the whole of it: what comes first decides what happens with the rest.
type bundleReader struct {
	r        io.Reader
	arch     string
	progress func(file string, n int)
	manifest *bundleManifest
	seen     map[string]bool
}

type bundleManifest struct {
	Name     string                `json:"name"`
	Platform string                `json:"platform"`
	Version  string                `json:"version"`
	BuildID  string                `json:"build_id"`
	Parts    map[string]bundlePart `json:"parts"`
}

type bundlePart struct {
	Type   string `json:"type"`
	Src    string `json:"src"`
	Size   int64  `json:"size"`
	Update *bool  `json:"update"`
	SHA1   string `json:"cs_sha1"`
	SHA256 string `json:"cs_sha256"`
}

// bundleEntry is a local header.
type bundleEntry struct {
	name string
	crc  uint32
	size int64
}

// install reads the bundle to its end.
func (b *bundleReader) install() (slot, error) {
	b.seen = map[string]bool{}
	for {
		e, err := b.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return slot{}, err
		}
		if err := b.entry(e); err != nil {
			return slot{}, err
		}
	}
	if b.manifest == nil {
		return slot{}, errors.New("no manifest")
	}
	for name, p := range b.manifest.Parts {
		if p.Src != "" && (p.Update == nil || *p.Update) && !b.seen[p.Src] {
			return slot{}, fmt.Errorf("missing part: %s", name)
		}
	}
	buf := make([]byte, 512)
	for { // the directory, of which a device makes nothing
		n, err := b.r.Read(buf)
		b.progress("", n)
		if err == io.EOF {
			return slot{used: true, app: b.manifest.Name, version: b.manifest.Version, buildID: b.manifest.BuildID, files: map[string][]byte{}}, nil
		}
		if err != nil {
			return slot{}, err
		}
	}
}

// next reads a local header; io.EOF stands for the beginning of the directory.
func (b *bundleReader) next() (bundleEntry, error) {
	var head [30]byte
	if err := b.read(head[:4]); err != nil {
		return bundleEntry{}, err
	}
	switch string(head[:4]) {
	case "PK\x01\x02", "PK\x05\x06":
		return bundleEntry{}, io.EOF
	case "PK\x03\x04":
	default:
		return bundleEntry{}, errors.New("malformed .zip: bad signature")
	}
	if err := b.read(head[4:]); err != nil {
		return bundleEntry{}, err
	}
	le := binary.LittleEndian
	e := bundleEntry{crc: le.Uint32(head[14:]), size: int64(le.Uint32(head[22:]))}
	switch {
	case le.Uint16(head[8:]) != 0:
		return e, errors.New("cannot handle compressed .zip")
	case le.Uint16(head[6:])&8 != 0 || int64(le.Uint32(head[18:])) != e.size:
		return e, errors.New("malformed .zip: no size in the local header")
	case le.Uint16(head[26:]) > maxBundleName:
		return e, errors.New("too long file name")
	}
	variable := make([]byte, int(le.Uint16(head[26:]))+int(le.Uint16(head[28:])))
	if err := b.read(variable); err != nil {
		return e, err
	}
	e.name = path.Base(string(variable[:le.Uint16(head[26:])]))
	return e, nil
}

// entry handles the data of one file.
func (b *bundleReader) entry(e bundleEntry) error {
	if b.manifest == nil {
		if e.name != "manifest.json" {
			return errors.New("the manifest is not the first file")
		}
		return b.readManifest(e)
	}
	var part *bundlePart
	for _, p := range b.manifest.Parts {
		if p.Src == e.name {
			part = &p
		}
	}
	sum1, sum256 := sha1.New(), sha256.New()
	if err := b.data(e, sum1, sum256); err != nil || part == nil {
		return err
	}
	switch {
	case part.Size != 0 && part.Size != e.size:
		return fmt.Errorf("%s: wrong size", e.name)
	case part.SHA1 != "" && part.SHA1 != hex.EncodeToString(sum1.Sum(nil)), part.SHA256 != "" && part.SHA256 != hex.EncodeToString(sum256.Sum(nil)):
		return fmt.Errorf("%s: invalid checksum", e.name)
	}
	b.seen[e.name] = true
	return nil
}

func (b *bundleReader) readManifest(e bundleEntry) error {
	if e.size > maxBundleManifest {
		return errors.New("manifest is too big")
	}
	raw := make([]byte, e.size)
	if err := b.read(raw); err != nil {
		return err
	}
	if crc32.ChecksumIEEE(raw) != e.crc {
		return errors.New("invalid CRC of manifest.json")
	}
	var m bundleManifest
	if err := json.Unmarshal(raw, &m); err != nil || m.Version == "" || m.BuildID == "" || len(m.Parts) == 0 {
		return errors.New("failed to parse manifest")
	}
	if m.Platform != b.arch {
		return fmt.Errorf("wrong platform: want %s, got %s", b.arch, m.Platform)
	}
	b.progress(e.name, len(raw))
	b.manifest = &m
	return nil
}

// data reads the data of one file through the given hashes and compares its CRC.
func (b *bundleReader) data(e bundleEntry, hashes ...hash.Hash) error {
	crc := crc32.NewIEEE()
	var buf [1024]byte // a flash sector's worth; thousands of devices may update at once
	for left := e.size; left > 0; {
		chunk := buf[:min(left, int64(len(buf)))]
		if err := b.read(chunk); err != nil {
			return err
		}
		crc.Write(chunk)
		for _, h := range hashes {
			h.Write(chunk)
		}
		left -= int64(len(chunk))
		b.progress(e.name, len(chunk))
	}
	if crc.Sum32() != e.crc {
		return fmt.Errorf("invalid CRC of %s", e.name)
	}
	return nil
}

// read fills p; an end in the middle of it is an error.
func (b *bundleReader) read(p []byte) error {
	_, err := io.ReadFull(b.r, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("the file ended too soon")
	}
	return err
}

// Package firmware reads and writes firmware images: what an image says about itself, whether it
// is whole, and how a Mongoose OS bundle must lie in its ZIP file so that a device can install it
// while it arrives. It touches no disk and no network.
package firmware

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ErrInvalid is wrapped by every error that says that an image is damaged, dangerous or not what
// it claims to be.
var ErrInvalid = errors.New("not a usable firmware image")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// A Kind says what an image is made for.
type Kind string

// The kinds.
const (
	KindMongooseOS Kind = "mongoose-os" // a bundle: ZIP with manifest.json
	KindOpaque     Kind = "opaque"      // bytes that the gateway keeps and serves but cannot judge
)

// An Image describes one firmware image. SHA256 identifies it.
type Image struct {
	SHA256      string    `json:"sha256"` // of the bytes that a device fetches, 64 lower-case hex digits
	Kind        Kind      `json:"kind"`
	Name        string    `json:"name"`          // the application, or the file's name without .zip
	File        string    `json:"file,omitzero"` // the name under which it was added
	Version     Version   `json:"version,omitzero"`
	BuildID     string    `json:"build_id,omitzero"`
	Platform    string    `json:"platform,omitzero"` // must equal a device's arch
	Description string    `json:"description,omitzero"`
	SizeBytes   int64     `json:"size_bytes"`
	Built       time.Time `json:"built,omitzero"`
	Added       time.Time `json:"added,omitzero"`
	Signed      bool      `json:"signed,omitzero"` // carries signatures; says nothing about their worth
}

// Ref returns the name by which people ask for the image: name@version, or name.
func (i Image) Ref() string {
	if i.Version == "" {
		return i.Name
	}
	return i.Name + "@" + string(i.Version)
}

// Limits bound what reading an image may cost. The zero value is right for a gateway.
type Limits struct {
	MaxUnpackedBytes int64 // of all entries of a bundle together; 0 means 64 MiB
	MaxEntries       int   // of a bundle; 0 means 64
}

func (l Limits) withDefaults() Limits {
	l.MaxUnpackedBytes = cmp.Or(l.MaxUnpackedBytes, 64<<20)
	l.MaxEntries = cmp.Or(l.MaxEntries, 64)
	return l
}

// Inspect tells what the sizeBytes bytes of r are. A ZIP file that contains a manifest.json is a
// Mongoose OS bundle and must be a good one: it is read to its end and returned as well. A file that starts like a
// ZIP file but is none is an error. Anything else is opaque, and the Bundle is nil.
//
// SHA256, File and Added of the Image are left empty. fileName names an image that does not name itself.
func Inspect(r io.ReaderAt, sizeBytes int64, fileName string, limits Limits) (Image, *Bundle, error) {
	if sizeBytes == 0 {
		return Image{}, nil, invalid("the file is empty")
	}
	img := Image{Kind: KindOpaque, Name: plainName(fileName), SizeBytes: sizeBytes}
	var magic [4]byte
	if _, err := r.ReadAt(magic[:min(4, sizeBytes)], 0); err != nil && err != io.EOF {
		return Image{}, nil, err
	}
	if string(magic[:]) != localMagic && string(magic[:]) != endMagic {
		return img, nil, nil
	}
	b, err := OpenBundle(r, sizeBytes, limits)
	switch {
	case errors.Is(err, errNoManifest):
		return img, nil, nil
	case err != nil:
		return Image{}, nil, err
	}
	m := b.Manifest
	img.Kind, img.Version, img.BuildID, img.Platform = KindMongooseOS, Version(m.Version), m.BuildID, m.Platform
	img.Description, img.Built, img.Signed = m.Description, m.BuildTimestamp, b.Signed()
	if m.Name != "" {
		img.Name = plainName(m.Name)
	}
	return img, b, nil
}

// plainName makes a name for an image out of the name of a file.
func plainName(file string) string {
	if i := strings.LastIndexAny(file, `/\`); i >= 0 {
		file = file[i+1:]
	}
	file = strings.TrimSuffix(file, ".zip")
	clean := strings.Map(func(c rune) rune {
		if c <= ' ' || c == '@' || c == 0x7f || c == '\ufffd' {
			return '-'
		}
		return c
	}, strings.ToValidUTF8(file, "-"))
	if len(clean) > maxText {
		clean = strings.ToValidUTF8(clean[:maxText], "")
	}
	return cmp.Or(clean, "image")
}

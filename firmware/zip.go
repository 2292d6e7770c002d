package firmware

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
)

// The ZIP format as far as bundles need it (APPNOTE.TXT 6.3.3 §4.3). The standard library's reader
// is not used because what a device sees are the local headers, and what a reader like it sees
// is the central directory: a file in which they differ must not get through. It also trusts
// the directory's length.
const (
	localMagic     = "PK\x03\x04"
	directoryMagic = "PK\x01\x02"
	endMagic       = "PK\x05\x06"

	localBytes     = 30
	directoryBytes = 46
	endBytes       = 22

	flagEncrypted  = 1 << 0
	flagDescriptor = 1 << 3

	methodStore   = 0
	methodDeflate = 8

	signatureExtra = 0x293a // extra field with the signatures of the manifest
)

// entry is one file of a ZIP file.
type entry struct {
	name          string // with directories, as in the central directory
	base          string // without
	method        uint16
	crc           uint32
	packed, bytes int64 // length as stored, and unpacked
	local, data   int64 // offsets of the local header and of the data
	signature     []byte
	streamable    bool // the local header alone tells all that a streaming reader needs
}

// readDirectory lists the entries of a ZIP file by their offset. It accepts only files that every
// reader reads alike: one volume, no 64-bit sizes, nothing before the first entry that overlaps,
// names and sizes equal in both headers.
func readDirectory(r io.ReaderAt, size int64, limits Limits) (entries []entry, directory int64, err error) {
	count, directory, length, err := readEnd(r, size)
	switch {
	case err != nil:
		return nil, 0, err
	case count > limits.MaxEntries:
		return nil, 0, invalid("the ZIP file has %d entries: at most %d are allowed", count, limits.MaxEntries)
	case length > int64(limits.MaxEntries)*(directoryBytes+3<<10):
		return nil, 0, invalid("the directory of the ZIP file has %d bytes", length)
	}
	raw := make([]byte, length)
	if err := readAt(r, raw, directory); err != nil {
		return nil, 0, err
	}
	total := int64(0)
	for range count {
		var e entry
		if raw, err = e.parseDirectory(raw); err != nil {
			return nil, 0, err
		}
		if err := e.readLocal(r, directory); err != nil {
			return nil, 0, err
		}
		if total += e.bytes; total > limits.MaxUnpackedBytes {
			return nil, 0, invalid("the ZIP file unpacks to more than %d bytes", limits.MaxUnpackedBytes)
		}
		if e.base == "" { // a directory
			continue
		}
		if slices.ContainsFunc(entries, func(o entry) bool { return o.base == e.base }) {
			return nil, 0, invalid("the ZIP file has two entries named %q", e.base)
		}
		entries = append(entries, e)
	}
	if len(raw) > 0 {
		return nil, 0, invalid("the directory of the ZIP file has more entries than it says")
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.local, b.local) })
	for i := 1; i < len(entries); i++ {
		if prev := entries[i-1]; prev.data+prev.packed > entries[i].local {
			return nil, 0, invalid("entries %q and %q of the ZIP file overlap", prev.base, entries[i].base)
		}
	}
	return entries, directory, nil
}

// readEnd reads the record at the end of a ZIP file.
func readEnd(r io.ReaderAt, size int64) (count int, directory, length int64, err error) {
	tail := make([]byte, min(size, endBytes+1<<16))
	if err := readAt(r, tail, size-int64(len(tail))); err != nil {
		return 0, 0, 0, err
	}
	for i := bytes.LastIndex(tail, []byte(endMagic)); i >= 0; i = bytes.LastIndex(tail[:i], []byte(endMagic)) {
		end := tail[i:]
		if len(end) < endBytes || endBytes+int(binary.LittleEndian.Uint16(end[20:])) != len(end) {
			continue // these bytes stand in a comment by chance
		}
		count = int(binary.LittleEndian.Uint16(end[10:]))
		length, directory = int64(binary.LittleEndian.Uint32(end[12:])), int64(binary.LittleEndian.Uint32(end[16:]))
		switch {
		case binary.LittleEndian.Uint32(end[4:]) != 0 || int(binary.LittleEndian.Uint16(end[8:])) != count:
			return 0, 0, 0, invalid("the ZIP file is split into volumes")
		case directory+length != size-int64(len(end)):
			return 0, 0, 0, invalid("the ZIP file is damaged: its directory is not where it should be")
		}
		return count, directory, length, nil
	}
	return 0, 0, 0, invalid("the ZIP file is cut off: its directory is missing")
}

// parseDirectory reads one record of the central directory and returns the bytes after it.
func (e *entry) parseDirectory(b []byte) (rest []byte, err error) {
	if len(b) < directoryBytes || string(b[:4]) != directoryMagic {
		return nil, invalid("the directory of the ZIP file is damaged")
	}
	flags := binary.LittleEndian.Uint16(b[8:])
	e.method, e.crc = binary.LittleEndian.Uint16(b[10:]), binary.LittleEndian.Uint32(b[16:])
	e.packed, e.bytes = int64(binary.LittleEndian.Uint32(b[20:])), int64(binary.LittleEndian.Uint32(b[24:]))
	e.local = int64(binary.LittleEndian.Uint32(b[42:]))
	name, extra := int(binary.LittleEndian.Uint16(b[28:])), int(binary.LittleEndian.Uint16(b[30:]))
	next := directoryBytes + name + extra + int(binary.LittleEndian.Uint16(b[32:]))
	if next > len(b) {
		return nil, invalid("the directory of the ZIP file is cut off")
	}
	e.name = string(b[directoryBytes:][:name])
	if dir, ok := strings.CutSuffix(e.name, "/"); ok && e.bytes == 0 {
		return b[next:], wrapInvalid(checkEntryName(dir))
	}
	if err := checkEntryName(e.name); err != nil {
		return nil, wrapInvalid(err)
	}
	e.base = e.name[strings.LastIndexByte(e.name, '/')+1:]
	e.signature = findExtra(b[directoryBytes+name:][:extra])
	switch {
	case flags&flagEncrypted != 0:
		return nil, invalid("entry %q of the ZIP file is encrypted", e.base)
	case e.method != methodStore && e.method != methodDeflate:
		return nil, invalid("entry %q of the ZIP file uses compression method %d: only Store and Deflate are known", e.base, e.method)
	case e.method == methodStore && e.packed != e.bytes:
		return nil, invalid("entry %q of the ZIP file has two different sizes", e.base)
	}
	return b[next:], nil
}

// readLocal reads the header in front of the data and compares it with the directory's.
func (e *entry) readLocal(r io.ReaderAt, directory int64) error {
	if e.local+localBytes > directory {
		return invalid("entry %q of the ZIP file lies outside of it", e.name)
	}
	var head [localBytes]byte
	if err := readAt(r, head[:], e.local); err != nil {
		return err
	}
	if string(head[:4]) != localMagic {
		return invalid("entry %q of the ZIP file has no header", e.name)
	}
	name, extra := int(binary.LittleEndian.Uint16(head[26:])), int(binary.LittleEndian.Uint16(head[28:]))
	e.data = e.local + localBytes + int64(name) + int64(extra)
	if e.data+e.packed > directory {
		return invalid("entry %q of the ZIP file is cut off", e.name)
	}
	variable := make([]byte, name+extra)
	if err := readAt(r, variable, e.local+localBytes); err != nil {
		return err
	}
	if string(variable[:name]) != e.name || binary.LittleEndian.Uint16(head[8:]) != e.method {
		return invalid("the two headers of entry %q of the ZIP file differ", e.name)
	}
	if sig := findExtra(variable[name:]); sig != nil {
		e.signature = sig // this one is what a device reads
	}
	flags := binary.LittleEndian.Uint16(head[6:])
	if flags&flagDescriptor == 0 && (binary.LittleEndian.Uint32(head[14:]) != e.crc ||
		int64(binary.LittleEndian.Uint32(head[18:])) != e.packed || int64(binary.LittleEndian.Uint32(head[22:])) != e.bytes) {
		return invalid("the two headers of entry %q of the ZIP file differ", e.name)
	}
	e.streamable = flags&flagDescriptor == 0 && e.method == methodStore && len(e.name) <= maxEntryName
	return nil
}

// copyTo writes the unpacked data to w and checks its length and checksum.
func (e *entry) copyTo(w io.Writer, r io.ReaderAt) error {
	var src io.Reader = io.NewSectionReader(r, e.data, e.packed)
	if e.method == methodDeflate {
		src = flate.NewReader(src)
	}
	crc := crc32.NewIEEE()
	out := &writeErr{w: io.MultiWriter(w, crc)}
	n, err := io.Copy(out, io.LimitReader(src, e.bytes+1))
	switch {
	case out.err != nil:
		return out.err
	case err != nil:
		return invalid("entry %q of the ZIP file is damaged: %w", e.base, err)
	case n != e.bytes:
		return invalid("entry %q of the ZIP file does not have the %d bytes that its header gives", e.base, e.bytes)
	case crc.Sum32() != e.crc:
		return invalid("entry %q of the ZIP file is damaged: its CRC-32 is %08x, not %08x", e.base, crc.Sum32(), e.crc)
	}
	return nil
}

// writeErr keeps the error of the writer apart from that of the reader.
type writeErr struct {
	w   io.Writer
	err error
}

func (w *writeErr) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

// findExtra returns the extra field with the signatures, header included, or nil.
func findExtra(b []byte) []byte {
	for len(b) >= 4 {
		n := 4 + int(binary.LittleEndian.Uint16(b[2:]))
		if n > len(b) {
			return nil
		}
		if binary.LittleEndian.Uint16(b) == signatureExtra {
			return slices.Clone(b[:n])
		}
		b = b[n:]
	}
	return nil
}

func wrapInvalid(err error) error {
	if err == nil {
		return nil
	}
	return invalid("entry of the ZIP file: %w", err)
}

// readAt fills b, and tells a file that ended too soon from a disk that cannot be read.
func readAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return invalid("the ZIP file is cut off")
	}
	return fmt.Errorf("read the ZIP file: %w", err)
}

func crc32Of(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

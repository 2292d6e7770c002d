package msglog

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"gatewayctl/store/atomicfile"
)

// Recovery tells what opening the log, and reading it since, has found.
type Recovery struct {
	// Cut is the tail that the last power cut has left unfinished. Nothing in it was ever
	// reported as durable.
	Cut *Cut
	// SetAside are damaged ranges before the tail: messages that were durable are lost. Each stays
	// in a file of its own until the operator removes that file.
	SetAside []Damage
	// Missing are segments that should be there and are not; a file of that name with the
	// suffix ".missing" records each until the operator removes it.
	Missing []uint64
	// Rebuilt is why the checkpoint could not be used, so that the whole log was read; empty if it
	// was.
	Rebuilt string

	Scanned int64         // bytes that were read
	Elapsed time.Duration // how long it took
}

// A Cut is a tail that was cut off.
type Cut struct {
	Segment       uint64
	Offset, Bytes int64
}

// A Damage is a range of a segment that cannot be used.
type Damage struct {
	Segment       uint64
	Offset, Bytes int64
	File          string // the copy; empty if there was no room for one
}

// Degraded reports whether messages that were durable are lost.
func (r Recovery) Degraded() bool { return len(r.SetAside) > 0 || len(r.Missing) > 0 }

// Recovery returns what was found so far.
func (l *Log) Recovery() Recovery {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.recovery
	r.SetAside = append([]Damage(nil), r.SetAside...)
	r.Missing = append([]uint64(nil), r.Missing...)
	return r
}

const (
	damagedSuffix = ".damaged"
	missingSuffix = ".missing"
)

func damagedName(seg uint64, off int64) string {
	return fmt.Sprintf("%016x-%010x%s", seg, off, damagedSuffix)
}

func parseDamagedName(name string) (seg uint64, off int64, ok bool) {
	digits, ok := strings.CutSuffix(name, damagedSuffix)
	if !ok {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(digits, "%16x-%10x", &seg, &off)
	return seg, off, n == 2 && err == nil && name == damagedName(seg, off)
}

func missingName(seg uint64) string { return fmt.Sprintf("%016x%s", seg, missingSuffix) }

func parseMissingName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, missingSuffix)
	if !ok {
		return 0, false
	}
	return parseSegmentName(digits + segmentSuffix)
}

// pass goes over damage that begins at off and returns where the segment can be read again. What
// was not known yet is set aside.
func (l *Log) pass(s *segment, w *window, off, limit int64, first uint64) (int64, error) {
	l.mu.Lock()
	for _, d := range l.damage[s.number] {
		if int64(d.start) <= off && off < int64(d.end) {
			l.mu.Unlock()
			return min(int64(d.end), limit), nil
		}
	}
	name := s.data.name
	l.mu.Unlock()
	end, err := w.resync(off+1, limit, first)
	if err != nil {
		return off, err
	}
	l.setAside(w.r, s.number, name, off, end)
	return end, nil
}

// setAside copies a damaged range into a file of its own and remembers it.
func (l *Log) setAside(r io.ReaderAt, seg uint64, name string, off, end int64) {
	l.mu.Lock()
	if l.knownDamage(seg, off) || off == end { // another consumer has found it
		l.mu.Unlock()
		return
	}
	l.damage[seg] = append(l.damage[seg], span{uint64(off), uint64(end)})
	l.mu.Unlock()

	d := Damage{Segment: seg, Offset: off, Bytes: end - off, File: damagedName(seg, off)}
	err := atomicfile.WriteIn(l.fs, d.File, 0o600, func(w io.Writer) error { return salvage(w, r, off, end) })
	if err != nil {
		d.File = ""
	}
	l.log.Error("message log is damaged; the range was set aside and messages in it are lost",
		"path", l.path(name), "offset", off, "bytes", end-off, "copy", d.File, "err", err)
	l.mu.Lock()
	l.recovery.SetAside = append(l.recovery.SetAside, d)
	l.mu.Unlock()
}

// salvage copies what can be read of a range, with zeros for the rest.
func salvage(w io.Writer, r io.ReaderAt, off, end int64) error {
	var buf [4096]byte
	for off < end {
		b := buf[:min(int64(len(buf)), end-off)]
		clear(b)
		if _, err := r.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EIO) {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

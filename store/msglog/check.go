package msglog

import (
	"errors"
	"fmt"
)

// A Report is what [Check] has found.
type Report struct {
	Segments  int
	Bytes     int64
	Batches   uint64
	Messages  uint64 // those of which some consumer may be done
	Consumers []ConsumerReport
	// Tail is what the next Open will cut off. While the log is in use it may be a batch that
	// is being written.
	Tail     *Cut
	Damaged  []Damage // ranges that are damaged and were not set aside yet
	SetAside []Damage // ranges that were set aside earlier
	Missing  []uint64 // numbers of segments that should be there
	Rebuilt  string   // why the checkpoint cannot be used; empty if it can
}

// A ConsumerReport tells what is kept for one consumer.
type ConsumerReport struct {
	Name         string
	ID           ConsumerID
	Depth, Bytes int64
}

// OK reports whether nothing that was durable is lost.
func (r Report) OK() bool { return len(r.Damaged)+len(r.SetAside)+len(r.Missing) == 0 }

// Check reads the whole log in dir without writing and tells what is wrong with it. It takes no
// lock: a log that is in use may be checked, but segments may be deleted meanwhile, so ask again
// before believing that something is missing.
func Check(dir string) (Report, error) {
	fs, err := readDir(dir)
	if err != nil {
		return Report{}, fmt.Errorf("check message log: %w", err)
	}
	r, err := checkFS(fs)
	if err := errors.Join(err, fs.Close()); err != nil {
		return Report{}, fmt.Errorf("check message log %s: %w", dir, err)
	}
	return r, nil
}

func checkFS(fs FS) (Report, error) {
	l := newLog("", Options{FS: fs}.withDefaults())
	s, err := l.survey()
	if err != nil {
		return Report{}, err
	}
	r := Report{
		Segments: len(l.segs), Bytes: l.used, SetAside: l.recovery.SetAside,
		Missing: append(l.recovery.Missing, s.missing...), Rebuilt: s.rebuilt,
	}
	if s.cutAt != nil {
		r.Tail = s.cut()
	}
	for _, g := range s.gaps {
		if g.at == nil {
			r.Missing = append(r.Missing, g.seg)
		}
	}
	for _, seg := range l.segs {
		if err := r.verify(l, seg); err != nil {
			return r, err
		}
	}
	for _, c := range l.ordered() {
		r.Consumers = append(r.Consumers, ConsumerReport{Name: c.name, ID: c.id, Depth: c.depth.messages, Bytes: c.depth.bytes})
	}
	return r, nil
}

// verify reads every batch of seg.
func (r *Report) verify(l *Log, seg *segment) error {
	f, err := l.fs.Open(seg.data.name)
	if err != nil {
		return err
	}
	var w window
	w.reset(f, seg.data.salt)
	limit, next := seg.data.size.Load(), uint64(0)
	for off := int64(segmentHeader); off < limit; {
		h, _, err := w.batch(off, limit)
		if err == nil && h.first >= next {
			r.Batches++
			r.Messages += uint64(h.messages)
			next = h.end()
			off += int64(batchHeader + h.payload)
			continue
		}
		if err != nil && !errors.Is(err, errDamaged) {
			return errors.Join(err, f.Close())
		}
		end, err := w.resync(off+1, limit, next)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		if !l.knownDamage(seg.number, off) {
			r.Damaged = append(r.Damaged, Damage{Segment: seg.number, Offset: off, Bytes: end - off})
		}
		off = end
	}
	return f.Close()
}

// knownDamage reports whether a range that holds off was set aside.
func (l *Log) knownDamage(seg uint64, off int64) bool {
	for _, d := range l.damage[seg] {
		if int64(d.start) <= off && off < int64(d.end) {
			return true
		}
	}
	return false
}

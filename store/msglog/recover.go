package msglog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"gatewayctl/store/atomicfile"
)

// recover reads the directory, repairs what a power cut or damage has left, and gets ready to
// append.
func (l *Log) recover() error {
	began := time.Now()
	s, err := l.survey()
	if err != nil {
		return err
	}
	if err := l.repair(s); err != nil {
		return err
	}
	used := s.cp != nil || len(l.segs) > 0
	if l.id == (logID{}) {
		rand.Read(l.id[:]) // never fails
	}
	if used {
		l.nextSeq += seqJump
	}
	l.recovery.Rebuilt, l.recovery.Scanned = s.rebuilt, s.scanned
	if err := l.resume(); err != nil {
		return err
	}
	// What follows may be read before it is durable, and somebody may remember its number: a
	// later opening must not give that number to another message.
	l.unstamped = true
	err = l.checkpoint()
	if err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	if err == nil {
		if err := l.removeFiles(s.emptied); err != nil {
			return err
		}
	}
	l.recovery.Elapsed = time.Since(began)
	if l.recovery.Cut != nil || l.recovery.Rebuilt != "" || l.recovery.Degraded() {
		r := l.recovery
		l.log.Warn("message log recovered", "path", l.dir, "cut", cutBytes(r.Cut), "damaged_ranges", len(r.SetAside),
			"missing_segments", len(r.Missing), "rebuilt", r.Rebuilt, "bytes", r.Scanned, "elapsed", r.Elapsed)
	}
	return nil
}

func cutBytes(c *Cut) int64 {
	if c == nil {
		return 0
	}
	return c.Bytes
}

// repair does what the survey has found necessary.
func (l *Log) repair(s *survey) error {
	for _, g := range s.gaps {
		if g.at == nil {
			s.missing = append(s.missing, g.seg)
			continue
		}
		if err := l.repairGap(g); err != nil {
			return err
		}
	}
	for _, n := range s.missing {
		l.recovery.Missing = append(l.recovery.Missing, n)
		l.log.Error("a segment of the message log is missing; messages in it are lost", "path", l.path(segmentName(n)))
		err := atomicfile.WriteIn(l.fs, missingName(n), 0o600, func(io.Writer) error { return nil })
		if err != nil && !isFull(err) {
			return err
		}
	}
	if s.cutAt != nil {
		if err := l.repairTail(s); err != nil {
			return err
		}
	}
	return l.removeFiles(s.remove)
}

func (l *Log) removeFiles(names []string) error {
	for _, name := range names {
		if err := l.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", l.path(name), err)
		}
	}
	return nil
}

// repairGap sets a damaged range aside, unless that was done before.
func (l *Log) repairGap(g gap) error {
	f, err := l.fs.Open(segmentName(g.seg))
	if err != nil {
		return err
	}
	l.setAside(f, g.seg, segmentName(g.seg), g.off, g.end)
	return f.Close()
}

// cut tells what is to be cut off.
func (s *survey) cut() *Cut {
	cut := &Cut{Segment: s.cutAt.seg, Offset: s.cutAt.off}
	for _, f := range s.scan {
		if f.number == cut.Segment && cut.Offset >= segmentHeader {
			cut.Bytes += f.size - cut.Offset
		} else if f.number >= cut.Segment {
			cut.Bytes += f.size
		}
	}
	if cut.Bytes == 0 {
		return nil
	}
	return cut
}

// repairTail cuts the tail off.
func (l *Log) repairTail(s *survey) error {
	l.recovery.Cut = s.cut()
	for _, f := range s.scan {
		name := segmentName(f.number)
		if f.number > s.cutAt.seg || f.number == s.cutAt.seg && s.cutAt.off < segmentHeader {
			s.remove = append(s.remove, name)
			continue
		}
		if f.number < s.cutAt.seg {
			continue
		}
		file, err := l.fs.Open(name)
		if err != nil {
			return err
		}
		// Synced with the checkpoint that follows.
		if err := errors.Join(file.Truncate(s.cutAt.off), file.Close()); err != nil {
			return fmt.Errorf("cut the tail of %s: %w", l.path(name), err)
		}
	}
	return nil
}

// resume makes the last segment the active one, unless it is damaged: positions in it would mean
// something else than the marks say.
func (l *Log) resume() error {
	n := len(l.segs)
	if n == 0 {
		l.mark = position{l.nextSegment - 1, 0}
		return nil
	}
	last := l.segs[n-1]
	if err := l.acquire(last.data); err != nil {
		return err
	}
	l.active, l.file, l.end = last, last.data.f, last.data.size.Load()
	l.synced, l.dirUnsynced = 0, true
	if len(l.damage[last.number]) == 0 && last.through == last.number {
		last.sealed = false
		return nil
	}
	if err := l.sync(); err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	l.retire()
	return nil
}

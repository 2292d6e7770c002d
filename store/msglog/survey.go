package msglog

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sort"

	"gatewayctl/store/atomicfile"
)

// A survey is what reading a log directory has found, and what has to be done about it. It
// changes nothing on the disk; the state of the log is built in the Log it belongs to.
type survey struct {
	l     *Log
	names []string
	cp    *checkpointed // nil: the whole log is read
	files map[uint64]*surveyed
	scan  []*surveyed // to be read: the segment with the checkpoint's tail, and those after it
	gaps  []gap
	mark  position // the newest
	next  uint64   // sequence number after the last valid batch

	remove  []string // files that nobody needs
	emptied []string // the same, but only once a checkpoint no longer lists them
	missing []uint64
	cutAt   *gap // where the tail is to be cut
	rebuilt string
	scanned int64
}

// A surveyed is a segment file.
type surveyed struct {
	number uint64
	head   segmentHead
	headOK bool
	size   int64
	from   int64 // where to begin reading
	seg    *segment
	win    window
	file   File
	// recount says that the segment was compacted after the checkpoint: messages were left out
	// because of acknowledgments that may be lost, so the checkpoint's counts are too high.
	recount bool
}

// A gap is a range without valid batches; end is exclusive. at is nil if the whole segment is
// missing.
type gap struct {
	at       *surveyed
	seg      uint64
	off, end int64
}

func (g gap) pos() position { return position{g.seg, g.off} }

// survey reads the directory.
func (l *Log) survey() (*survey, error) {
	s := &survey{l: l, files: make(map[uint64]*surveyed)}
	if err := s.list(); err != nil {
		return nil, err
	}
	cp, err := readCheckpoint(l.fs)
	switch {
	case errors.Is(err, ErrNewer):
		return nil, fmt.Errorf("%w: install the newer gatewayctl again", err)
	case errors.Is(err, errDamaged):
		s.rebuilt = "the checkpoint is damaged"
	case err != nil:
		return nil, fmt.Errorf("read checkpoint: %w", err)
	case cp == nil && len(s.files) > 0:
		s.rebuilt = "there is no checkpoint"
	}
	s.cp = cp
	defer s.close()
	if err := s.open(); err != nil {
		return nil, err
	}
	s.choose()
	if err := s.read(); err != nil {
		return nil, err
	}
	s.classify()
	if err := s.replay(); err != nil {
		return nil, err
	}
	s.finish()
	return s, nil
}

// list sorts the files by what they are.
func (s *survey) list() error {
	names, err := s.l.fs.Names()
	if err != nil {
		return err
	}
	sort.Strings(names)
	s.names = names
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
			s.files[n] = &surveyed{number: n}
		} else if atomicfile.IsTemp(name) || isCompaction(name) {
			s.remove = append(s.remove, name)
		} else if seg, off, ok := parseDamagedName(name); ok {
			f, err := s.l.fs.Open(name)
			if err != nil {
				return err
			}
			size, err := f.Size()
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			s.l.damage[seg] = append(s.l.damage[seg], span{uint64(off), uint64(off + size)})
			s.l.recovery.SetAside = append(s.l.recovery.SetAside, Damage{Segment: seg, Offset: off, Bytes: size, File: name})
		} else if n, ok := parseMissingName(name); ok {
			s.l.recovery.Missing = append(s.l.recovery.Missing, n)
		}
	}
	return nil
}

// sorted returns the segment files by number.
func (s *survey) sorted() []*surveyed {
	all := make([]*surveyed, 0, len(s.files))
	for _, f := range s.files {
		all = append(all, f)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].number < all[j].number })
	return all
}

// open reads the header of every segment file.
func (s *survey) open() error {
	if s.cp != nil {
		s.l.id = s.cp.id
	}
	for _, f := range s.sorted() {
		file, err := s.l.fs.Open(segmentName(f.number))
		if err != nil {
			return err
		}
		f.file = file
		if f.size, err = file.Size(); err != nil {
			return err
		}
		var b [segmentHeader]byte
		n, err := file.ReadAt(b[:], 0)
		if err != nil && !errors.Is(err, io.EOF) && n < segmentHeader {
			continue // unreadable: as damaged
		}
		head, err := parseSegmentHead(b[:n])
		if errors.Is(err, ErrNewer) {
			return fmt.Errorf("%s: %w: install the newer gatewayctl again", s.l.path(segmentName(f.number)), err)
		}
		if err != nil || head.number != f.number {
			continue
		}
		if s.l.id == (logID{}) {
			s.l.id = head.id
		}
		f.head, f.headOK = head, head.id == s.l.id
	}
	return nil
}

func (s *survey) close() {
	for _, f := range s.files {
		if f.file != nil {
			f.file.Close() // only read: nothing can be lost
			f.file = nil
		}
	}
}

// choose decides which files belong to the log, and which of them are to be read.
func (s *survey) choose() {
	for _, f := range s.sorted() { // a compacted segment stands for several
		if f.headOK && s.files[f.number] == f {
			for n := range s.files {
				if n > f.number && n <= f.head.through {
					s.drop(n)
				}
			}
		}
	}
	if s.cp == nil {
		s.next = 0
		for _, f := range s.sorted() {
			if f.size == 0 {
				s.drop(f.number)
				continue
			}
			s.take(f, segmentHead{number: f.number, through: max(f.number, f.head.through), generation: f.head.generation, first: f.head.first}, 0)
		}
		return
	}
	s.mark, s.next = s.cp.tail, s.cp.nextSeq
	listed := make(map[uint64]bool)
	for _, c := range s.cp.segments {
		listed[c.number] = true
		s.chooseListed(c)
	}
	for _, f := range s.sorted() {
		switch {
		case listed[f.number]:
		case f.number < s.cp.nextSegment:
			s.drop(f.number) // dead, and a power cut has brought the name back
		default:
			s.take(f, segmentHead{number: f.number, through: f.number, first: f.head.first}, 0)
		}
	}
}

// chooseListed takes a segment that the checkpoint knows.
func (s *survey) chooseListed(c cpSegment) {
	f := s.files[c.number]
	switch {
	case f == nil && s.merge(c):
		return // its records are in an earlier segment now
	case f == nil:
		s.missing = append(s.missing, c.number)
		return
	case f.size == 0: // emptied on purpose, see emptyOut
		s.drop(c.number)
		last := len(s.remove) - 1
		s.emptied, s.remove = append(s.emptied, s.remove[last]), s.remove[:last]
		return
	}
	from := int64(math.MaxInt64)
	if c.number == s.cp.tail.seg {
		from = s.cp.tail.off
	}
	f.recount = f.headOK && f.head.generation != c.generation
	s.take(f, segmentHead{number: c.number, through: max(c.through, f.head.through), first: c.first}, from)
	f.seg.last, f.seg.generation = c.last, max(c.generation, f.head.generation)
	if f.recount {
		return
	}
	for _, e := range c.live {
		f.seg.add(e.id, e.messages, e.bytes)
	}
}

// merge finds the segment that one was compacted into after the checkpoint.
func (s *survey) merge(c cpSegment) bool {
	n := len(s.l.segs)
	if n == 0 || s.l.segs[n-1].through < c.through {
		return false
	}
	into := s.l.segs[n-1]
	into.last = max(into.last, c.last)
	return true // it is counted again
}

// take puts a file into the log; it is read from the offset from on.
func (s *survey) take(f *surveyed, head segmentHead, from int64) {
	head.id = s.l.id
	if head.first == 0 { // its header is lost: the first batch will tell
		head.first = unknownFirst
	}
	f.seg = newSegment(head, f.size)
	f.seg.sealed = true
	f.from = from
	f.win.reset(f.file, f.seg.data.salt)
	s.l.segs = append(s.l.segs, f.seg)
	if from < math.MaxInt64 {
		s.scan = append(s.scan, f)
	}
}

// unknownFirst keeps the order of the segments' sequence numbers while one is not known.
const unknownFirst = maxNumber

// drop leaves a file out of the log and has it deleted.
func (s *survey) drop(n uint64) {
	f := s.files[n]
	f.file.Close() // only read
	delete(s.files, n)
	s.remove = append(s.remove, segmentName(n))
}

// read goes over what the checkpoint does not cover: it finds the gaps, the newest mark, and
// replays what comes before the first gap.
func (s *survey) read() error {
	s.begin()
	last := uint64(0)
	for i, f := range s.scan {
		if s.cp != nil && f.number >= s.cp.nextSegment {
			want := s.cp.nextSegment
			if i > 0 {
				want = max(want, last+1)
			}
			if f.number != want {
				s.gaps = append(s.gaps, gap{seg: want})
			}
		}
		last = f.number
		if err := s.readFile(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *survey) readFile(f *surveyed) error {
	off := f.from
	if f.size == 0 {
		s.gaps = append(s.gaps, gap{seg: f.number})
		return nil
	}
	if off == 0 {
		off = segmentHeader
		if !f.headOK {
			var err error
			if off, err = f.win.resync(0, f.size, s.next); err != nil {
				return err
			}
			s.gaps = append(s.gaps, gap{f, f.number, 0, off})
		}
	}
	if off > f.size { // the checkpoint has seen more than there is
		s.gaps = append(s.gaps, gap{f, f.number, f.size, off})
	}
	for off < f.size {
		h, payload, err := f.win.batch(off, f.size)
		if err == nil && h.first < s.next {
			err = errDamaged // left over from before a cut
		}
		if errors.Is(err, errDamaged) {
			end, err := f.win.resync(off+1, f.size, s.next)
			if err != nil {
				return err
			}
			s.gaps = append(s.gaps, gap{f, f.number, off, end})
			off = end
			continue
		}
		if err != nil {
			return err
		}
		s.next = h.end()
		if s.mark.before(h.mark) {
			s.mark = h.mark
		}
		if len(s.gaps) == 0 {
			if err := s.replayBatch(f.seg, h, payload); err != nil {
				return err
			}
		}
		off += int64(batchHeader + h.payload)
		s.scanned += int64(batchHeader + h.payload)
	}
	return nil
}

// classify finds where the tail begins: damage at or beyond the newest mark was never durable.
func (s *survey) classify() {
	for i, g := range s.gaps {
		if !g.pos().before(s.mark) {
			s.cutAt = &g
			s.gaps = s.gaps[:i]
			return
		}
	}
}

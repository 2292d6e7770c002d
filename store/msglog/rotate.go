package msglog

import (
	"encoding/binary"
	"errors"
	"sort"
)

// rotate seals the active segment, if there is one, and begins the next. A segment is durable
// before it is followed by another, so that at most one is ever unsynced.
func (l *Log) rotate() error {
	if l.active != nil {
		if err := l.sync(); err != nil {
			return err
		}
		l.mu.Lock()
		l.active.sealed = true
		l.mu.Unlock()
		if err := l.checkpoint(); err != nil {
			// Costs a longer start, and dead segments stay for now.
			l.overdue = true
			l.log.Warn("write checkpoint of message log", "path", l.dir, "err", err)
		}
		l.retire()
	}
	return l.begin()
}

// retire lets go of the active segment.
func (l *Log) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(l.active.data)
	l.active, l.file, l.end, l.synced = nil, nil, 0, 0
}

// begin creates the next segment: its header, and a snapshot of all consumers, so that the log
// can be read from any segment on.
func (l *Log) begin() error {
	head := segmentHead{number: l.nextSegment, through: l.nextSegment, first: l.nextSeq, id: l.id}
	s := newSegment(head, 0)
	l.mu.Lock()
	snap := append(make([]byte, batchHeader), l.snapshot()...)
	l.mu.Unlock()
	putBatchHead(snap, batchHead{first: l.nextSeq, time: l.now(), mark: l.mark}, s.data.salt, segmentHeader)
	b := append(head.append(nil), snap...)

	f, err := l.fs.Create(s.data.name)
	if err != nil {
		return l.writeError("create segment", err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return l.writeError("begin segment", errors.Join(err, f.Close(), l.fs.Remove(s.data.name)))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.data.f, s.data.refs = f, 1
	s.data.size.Store(int64(len(b)))
	l.segs = append(l.segs, s)
	l.used += int64(len(b))
	l.stats.Written += int64(len(b))
	l.active, l.file, l.end, l.synced = s, f, int64(len(b)), 0
	l.dirUnsynced, l.suspect, l.wasCut = true, false, false
	l.nextSegment++
	return nil
}

// snapshot is the record of all consumers. Under Log.mu.
func (l *Log) snapshot() []byte {
	content := binary.AppendUvarint(nil, uint64(l.nextID))
	content = binary.AppendUvarint(content, uint64(len(l.byID)))
	for _, c := range l.ordered() {
		content = binary.AppendUvarint(content, uint64(c.id))
		content = appendString(content, c.name)
		content = c.acked.append(content)
	}
	return appendRecord(nil, kindSnapshot, content)
}

// ordered returns the consumers by number. Under Log.mu.
func (l *Log) ordered() []*Consumer {
	all := make([]*Consumer, 0, len(l.byID))
	for _, c := range l.byID {
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].id < all[j].id })
	return all
}

package msglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// The layout is described byte by byte in the package comment.
const (
	segmentMagic   = "GWMSGLOG"
	segmentVersion = 1
	segmentHeader  = 64

	batchMagic  = "gwB\x01"
	batchHeader = 48

	kindMessage  = 1 // a message and who needs it
	kindAck      = 2 // what a consumer is done with
	kindDefine   = 3 // a consumer's number gets its name
	kindRemove   = 4 // a consumer is gone
	kindSnapshot = 5 // every consumer as it was when the segment began
	// 6 to 15 are reserved for the references of session queues.
	// maxNumber bounds sequence and segment numbers, so that sums of them do not overflow.
	maxNumber = 1 << 62

	kindSkippable = 128 // from here on, a reader that does not know a kind passes over it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var le = binary.LittleEndian

// errDamaged says that the bytes at a position are not what was written there.
var errDamaged = errors.New("damaged")

// A position is a place in the log: everything before it in the order of segments and offsets.
type position struct {
	seg uint64
	off int64
}

func (p position) before(q position) bool {
	return p.seg < q.seg || p.seg == q.seg && p.off < q.off
}

// logID tells the segments of one log from those of another.
type logID [16]byte

// A segmentHead is the header of a segment file.
type segmentHead struct {
	number, through, first uint64
	generation             uint32 // how often it was compacted
	id                     logID
}

func (h segmentHead) append(b []byte) []byte {
	at := len(b)
	b = append(b, segmentMagic...)
	b = le.AppendUint16(b, segmentVersion)
	b = le.AppendUint16(b, segmentHeader)
	b = le.AppendUint32(b, h.generation)
	b = le.AppendUint64(b, h.number)
	b = le.AppendUint64(b, h.through)
	b = le.AppendUint64(b, h.first)
	b = append(b, h.id[:]...)
	b = le.AppendUint32(b, 0)
	return le.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func parseSegmentHead(b []byte) (segmentHead, error) {
	var h segmentHead
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic || crc32.Checksum(b[:segmentHeader-4], castagnoli) != le.Uint32(b[segmentHeader-4:]) {
		return h, errDamaged
	}
	if v := le.Uint16(b[8:]); v != segmentVersion {
		return h, fmt.Errorf("%w: segment format %d, this binary knows %d", ErrNewer, v, segmentVersion)
	}
	h.generation = le.Uint32(b[12:])
	h.number, h.through, h.first = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	copy(h.id[:], b[40:])
	if h.through < h.number || h.through > maxNumber || h.first > maxNumber {
		return h, errDamaged
	}
	return h, nil
}

// salt is the initial value of the checksum of every batch of one segment: a batch that turns up
// in another segment, or in a block that another file left on the disk, does not fit.
func salt(id logID, segment uint64) uint32 {
	var b [24]byte
	copy(b[:], id[:])
	le.PutUint64(b[16:], segment)
	return crc32.Checksum(b[:], castagnoli)
}

// A batchHead is the header of a batch.
type batchHead struct {
	payload  int      // bytes after the header
	messages uint32   // message records in it
	first    uint64   // sequence number of the first of them, or of the next one to come
	time     int64    // µs since 1970, what the records' times count from
	mark     position // the end of the last synced batch when this one was written
}

func (h batchHead) end() uint64 { return h.first + uint64(h.messages) }

// putBatchHead fills in the first bytes of b, a whole batch that is to be written at off.
func putBatchHead(b []byte, h batchHead, salt uint32, off int64) {
	copy(b, batchMagic)
	le.PutUint32(b[8:], uint32(len(b)-batchHeader))
	le.PutUint32(b[12:], h.messages)
	le.PutUint64(b[16:], h.first)
	le.PutUint64(b[24:], uint64(h.time))
	le.PutUint64(b[32:], h.mark.seg)
	le.PutUint32(b[40:], uint32(h.mark.off))
	le.PutUint32(b[44:], 0)
	le.PutUint32(b[4:], batchSum(b, salt, off))
}

func batchSum(b []byte, salt uint32, off int64) uint32 {
	var o [8]byte
	le.PutUint64(o[:], uint64(off))
	return crc32.Update(crc32.Update(salt, castagnoli, o[:]), castagnoli, b[8:])
}

// parseBatchHead reads a header; its checksum is not checked yet.
func parseBatchHead(b []byte) (batchHead, error) {
	if len(b) < batchHeader || string(b[:4]) != batchMagic {
		return batchHead{}, errDamaged
	}
	h := batchHead{
		payload:  int(le.Uint32(b[8:])),
		messages: le.Uint32(b[12:]),
		first:    le.Uint64(b[16:]),
		time:     int64(le.Uint64(b[24:])),
		mark:     position{le.Uint64(b[32:]), int64(le.Uint32(b[40:]))},
	}
	if h.payload > maxPayload || h.first > maxNumber {
		return h, errDamaged
	}
	return h, nil
}

// maxPayload bounds a batch; one record may fill it.
const maxPayload = MaxBody + 64<<10*binary.MaxVarintLen32

// nextRecord splits the first record off a payload.
func nextRecord(p []byte) (kind byte, rec, rest []byte, err error) {
	if len(p) < 2 {
		return 0, nil, nil, errDamaged
	}
	n, used := binary.Uvarint(p[1:])
	if used <= 0 || n > uint64(len(p)-1-used) {
		return 0, nil, nil, errDamaged
	}
	at := 1 + used
	return p[0], p[at : at+int(n)], p[at+int(n):], nil
}

// appendRecord adds a record of which only the content is known.
func appendRecord(b []byte, kind byte, content []byte) []byte {
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(len(content)))
	return append(b, content...)
}

// A message is the content of a message record; its slices point into the batch.
type message struct {
	time      int64  // µs since 1970
	lifetime  uint64 // 0: never expires; else ms after time, plus one
	consumers []byte // uvarints
	body      []byte
}

// uvarintLen is how many bytes binary.AppendUvarint takes for v.
func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// lifetimeOf encodes when a message of time t (µs) expires, rounded up to a millisecond.
func lifetimeOf(t int64, expires time.Time) uint64 {
	if expires.IsZero() {
		return 0
	}
	us := expires.UnixMicro() - t
	if us <= 0 {
		return 1
	}
	return uint64(us+999)/1000 + 1
}

// expires is the inverse of lifetimeOf, in µs since 1970; ok is false if it never happens.
func (m *message) expires() (us int64, ok bool) {
	if m.lifetime == 0 || m.lifetime-1 > uint64(math.MaxInt64-max(m.time, 0))/1000 {
		return 0, false
	}
	return m.time + int64(m.lifetime-1)*1000, true
}

// appendMessage adds a message record whose time is delta after that of its batch. consumers
// are uvarints, n of them.
func appendMessage(b []byte, delta int64, lifetime uint64, n int, consumers, body []byte) []byte {
	d := zigzag(delta)
	size := uvarintLen(d) + uvarintLen(lifetime) + uvarintLen(uint64(n)) + len(consumers) + len(body)
	b = append(b, kindMessage)
	b = binary.AppendUvarint(b, uint64(size))
	b = binary.AppendUvarint(b, d)
	b = binary.AppendUvarint(b, lifetime)
	b = binary.AppendUvarint(b, uint64(n))
	b = append(b, consumers...)
	return append(b, body...)
}

// parseMessage reads the content of a message record of a batch of the given time.
func parseMessage(rec []byte, batchTime int64, m *message) error {
	r := reader{b: rec}
	m.time = batchTime + unzigzag(r.uvarint())
	m.lifetime = r.uvarint()
	n := r.uvarint()
	if r.failed || n > uint64(len(r.b)) {
		return errDamaged
	}
	list := r.b
	for range n {
		if r.uvarint() > math.MaxUint32 {
			r.failed = true
		}
	}
	if r.failed {
		return errDamaged
	}
	m.consumers, m.body = list[:len(list)-len(r.b)], r.b
	return nil
}

// needs reports whether consumer id is in the list.
func (m *message) needs(id ConsumerID) bool {
	for list := m.consumers; len(list) > 0; {
		v, n := uint64(list[0]), 1
		if v >= 0x80 {
			v, n = binary.Uvarint(list)
		}
		if v == uint64(id) {
			return true
		}
		list = list[n:]
	}
	return false
}

// A reader takes numbers and strings off a byte slice and remembers whether one was missing.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed = true
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.failed = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// count reads a number of things that take at least size bytes each.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.failed = true
		return 0
	}
	return int(n)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

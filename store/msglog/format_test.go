package msglog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

func TestMessageRoundTrip(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 3, 2, 1, 123456000, time.UTC)
	for _, tc := range []struct {
		name          string
		batch, time   time.Time
		expires, want time.Time
		consumers     []ConsumerID
	}{
		{"never expires", now, now, time.Time{}, time.Time{}, []ConsumerID{1}},
		{"whole milliseconds", now, now, now.Add(time.Hour), now.Add(time.Hour), []ConsumerID{1, 200, math.MaxUint32}},
		{"rounded up", now, now, now.Add(1500 * time.Microsecond), now.Add(2 * time.Millisecond), []ConsumerID{7}},
		{"expired already", now, now, now.Add(-time.Hour), now, []ConsumerID{7}},
		{"later in the batch", now, now.Add(77 * time.Millisecond), time.Time{}, time.Time{}, []ConsumerID{7}},
		{"the clock was set back", now, now.Add(-240 * time.Hour), now, now, []ConsumerID{7}},
		{"before 1970", now, time.Unix(-5, 0), time.Unix(5, 0), time.Unix(5, 0), []ConsumerID{7}},
	} {
		var ids []byte
		for _, id := range tc.consumers {
			ids = binary.AppendUvarint(ids, uint64(id))
		}
		b := appendMessage([]byte("before"), tc.time.UnixMicro()-tc.batch.UnixMicro(), lifetimeOf(tc.time.UnixMicro(), tc.expires), len(tc.consumers), ids, []byte("body"))
		kind, rec, rest, err := nextRecord(append(b[len("before"):], "after"...))
		if err != nil || kind != kindMessage || string(rest) != "after" {
			t.Fatalf("%s: record %d, rest %q, %v", tc.name, kind, rest, err)
		}
		var m message
		if err := parseMessage(rec, tc.batch.UnixMicro(), &m); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		var expires time.Time
		if us, ok := m.expires(); ok {
			expires = time.UnixMicro(us)
		}
		if m.time != tc.time.UnixMicro() || !expires.Equal(tc.want) || string(m.body) != "body" {
			t.Errorf("%s: time %v, expires %v, body %q", tc.name, time.UnixMicro(m.time), expires, m.body)
		}
		for _, id := range tc.consumers {
			if !m.needs(id) {
				t.Errorf("%s: consumer %d is not in the list", tc.name, id)
			}
		}
		if m.needs(99) {
			t.Errorf("%s: consumer 99 is in the list", tc.name)
		}
	}
}

func TestCheckpointRoundTrip(t *testing.T) {
	t.Parallel()
	c := checkpointed{
		id: logID{1, 2, 3}, tail: position{9, 1 << 20}, nextSeq: 1 << 40, nextSegment: 10, nextID: 77,
		segments: []cpSegment{
			{number: 2, through: 4, first: 100, last: 99, generation: 3},
			{number: 9, through: 9, first: 1 << 39, last: 1 << 40, live: []cpLoad{{5, load{1, 2}}, {76, load{1 << 33, 1 << 50}}}},
		},
		consumers: []cpConsumer{
			{id: 5, name: "bridge/cloud/0", acked: ackset{pos: 12, beyond: []span{{14, 14}, {20, 1 << 39}}}, done: 9, dropped: Dropped{1, 2, 3, 4}},
			{id: 76, name: "shadow"},
		},
	}
	b := c.append(nil)
	got, err := parseCheckpoint(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&c, got, cmp.AllowUnexported(checkpointed{}, cpSegment{}, cpConsumer{}, cpLoad{}, load{}, ackset{}, span{}, position{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if _, err := parseCheckpoint(bad); !errors.Is(err, errDamaged) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := parseCheckpoint(b[:i]); !errors.Is(err, errDamaged) {
			t.Fatalf("cut at byte %d: %v", i, err)
		}
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	disk := newCrashFS()
	l := open(t, "log", Options{FS: disk, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{})
	l.cur.buf = appendRecord(l.cur.buf, kindSkippable, []byte("passed over"))
	if _, err := push(t, l, "x", c); err != nil {
		t.Fatal(err)
	}
	before := disk.after(keepAll())
	l.cur.buf = appendRecord(l.cur.buf, 6, []byte("a session's reference"))
	if _, err := push(t, l, "y", c); err != nil {
		t.Fatal(err)
	}
	after := disk.after(keepAll())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, "log", Options{FS: before, manual: true})
	got, _ := drain(t, consumer(t, l, "c", ConsumerOptions{}), 1)
	equal(t, "read", got, []string{"x"})
	if _, err := Open("log", Options{FS: after, manual: true}); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "install") {
		t.Errorf("unknown record: %v", err)
	}
	head := segmentHead{number: 1, through: 1, first: 1}.append(nil)
	le.PutUint16(head[8:], segmentVersion+1)
	le.PutUint32(head[60:], crc32.Checksum(head[:60], castagnoli))
	if _, err := parseSegmentHead(head); !errors.Is(err, ErrNewer) {
		t.Errorf("unknown segment: %v", err)
	}
}

// keepAll is a source of chance that lets everything survive a power cut.
func keepAll() *rand.Rand {
	for seed := uint64(0); ; seed++ {
		if rand.New(rand.NewPCG(seed, 0)).IntN(4) == 1 {
			return rand.New(rand.NewPCG(seed, 0))
		}
	}
}

// sampleSegments are the seeds of the fuzz test: real segments, written by this package.
func sampleSegments(t *testing.T) map[string][]byte {
	t.Helper()
	disk := newCrashFS()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := open(t, "log", Options{FS: disk, SegmentBytes: 4 << 10, Now: func() time.Time { return now }, manual: true})
	l.id = logID{1, 2, 3, 4}
	a, b := consumer(t, l, "a", ConsumerOptions{}), consumer(t, l, "b", ConsumerOptions{})
	for i, body := range numbered("message ", 0, 60) {
		now = now.Add(time.Millisecond)
		e := Entry{Body: []byte(body + strings.Repeat("-", 3*i)), Consumers: []ConsumerID{a.ID()}, Expires: now.Add(time.Duration(i%3) * time.Minute)}
		if i%2 == 0 {
			e.Consumers = append(e.Consumers, b.ID())
		}
		if err := l.AppendAsync(e, nil); err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			l.commit()
		}
		if i%10 == 9 {
			_, seqs := drain(t, a, 5)
			a.Ack(seqs[0], seqs[2], seqs[3])
		}
	}
	l.commit()
	if err := l.RemoveConsumer("b"); err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]byte)
	for name := range disk.names {
		if strings.HasSuffix(name, segmentSuffix) {
			out[name] = bytes.Clone(disk.at(name).now)
		}
	}
	return out
}

// TestFormatIsFinal compares what is written with the files in testdata: a log in the field must
// stay readable, so a change here needs a new version and a reader for this one.
func TestFormatIsFinal(t *testing.T) {
	t.Parallel()
	got := sampleSegments(t)
	dir := filepath.Join("testdata", "segments")
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, b := range got {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(got) < 2 {
		t.Fatalf("%d segments", len(got))
	}
	for name, b := range got {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s differs from what was written before (%v)", name, err)
		}
	}
}

// FuzzSegment opens a directory that holds one arbitrary segment, made valid up to its
// checksums so that the parsers behind them are reached.
func FuzzSegment(f *testing.F) {
	addSeeds(f, filepath.Join("testdata", "segments"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		head, headErr := parseSegmentHead(b)
		if headErr != nil || head.number > maxNumber/2 || head.through > maxNumber/2 || head.first > maxNumber/2 {
			head = segmentHead{number: 1, through: 1, first: 1, id: logID{1}}
			b = append(head.append(nil), b...)
		}
		mend(b, head)
		disk := newCrashFS()
		disk.names[segmentName(head.number)] = []*inode{{now: b}}
		if _, err := checkFS(disk); err != nil && !errors.Is(err, ErrNewer) {
			t.Fatalf("check: %v", err)
		}
		l, err := Open("log", Options{FS: disk, manual: true})
		if errors.Is(err, ErrNewer) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range l.ordered() {
			for range 100 {
				records, err := c.read(50)
				if err != nil || len(records) == 0 {
					break
				}
				for _, r := range records {
					if err := c.Ack(r.Seq); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		c := consumer(t, l, "fuzz", ConsumerOptions{})
		if _, err := push(t, l, "still works", c); err != nil {
			t.Fatal(err)
		}
		if records, err := c.read(2); err != nil || len(records) != 1 || string(records[0].Body) != "still works" {
			t.Fatalf("read %v, %v", records, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// mend gives every batch in b the checksum that it should have.
func mend(b []byte, head segmentHead) {
	for off := segmentHeader; off+batchHeader <= len(b); {
		h, err := parseBatchHead(b[off:])
		if err != nil || h.payload > len(b)-off-batchHeader || h.first > maxNumber/2 { // as far as a log can get
			off++
			continue
		}
		whole := b[off : off+batchHeader+h.payload]
		le.PutUint32(whole[4:], batchSum(whole, salt(head.id, head.number), int64(off)))
		off += len(whole)
	}
}

// addSeeds adds every file of a directory; it fails when it finds none.
func addSeeds(f *testing.F, dir string) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) == 0 {
		f.Fatalf("no seeds in %s: %v", dir, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

package msglog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// filled makes a log of small segments with n messages for consumer "c" and returns the numbers
// of the segments.
func filled(t *testing.T, dir string, n int) []uint64 {
	t.Helper()
	l := open(t, dir, Options{SegmentBytes: 4 << 10, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{})
	for _, body := range numbered("message number ", 0, n) {
		if _, err := push(t, l, body+strings.Repeat(".", 80), c); err != nil {
			t.Fatal(err)
		}
	}
	var numbers []uint64
	for _, s := range l.segs {
		numbers = append(numbers, s.number)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return numbers
}

// survivors opens the log, reads everything and tells which messages are there.
func survivors(t *testing.T, l *Log) []int {
	t.Helper()
	c := consumer(t, l, "c", ConsumerOptions{})
	var got []int
	for {
		records, err := c.read(100)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			return got
		}
		for _, r := range records {
			var i int
			if _, err := fmt.Sscanf(string(r.Body), "message number %d", &i); err != nil || len(got) > 0 && i <= got[len(got)-1] {
				t.Fatalf("read %q after %v", r.Body, got)
			}
			got = append(got, i)
		}
	}
}

func spoil(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func zero(from, to int) func([]byte) []byte {
	return func(b []byte) []byte { clear(b[from:to]); return b }
}

func TestDamage(t *testing.T) {
	t.Parallel()
	const n = 150
	for _, tc := range []struct {
		name string
		// spoil damages the log in dir, whose segments have these numbers.
		spoil func(t *testing.T, dir string, segs []uint64)
		// lost is how many messages may be lost at most, and at least one is.
		lost    int
		atRead  bool // found by reading, not by opening
		missing bool
		rebuilt bool
	}{
		{name: "a sector in an old segment", lost: 6, atRead: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[1])), zero(1024, 1536))
		}},
		{name: "one bit", lost: 1, atRead: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[1])), func(b []byte) []byte { b[2000] ^= 4; return b })
		}},
		{name: "the end of an old segment", lost: 8, atRead: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[1])), func(b []byte) []byte { return b[:len(b)-1000] })
		}},
		{name: "an old segment is gone", lost: 40, missing: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			os.Remove(filepath.Join(dir, segmentName(segs[1])))
		}},
		{name: "the segment with the tail is gone", lost: 40, missing: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			os.Remove(filepath.Join(dir, segmentName(segs[len(segs)-1])))
		}},
		{name: "the synced end", lost: 8, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[len(segs)-1])), func(b []byte) []byte { return b[:len(b)-500] })
		}},
		{name: "a sector, and no checkpoint", lost: 6, rebuilt: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[1])), zero(1024, 1536))
			os.Remove(filepath.Join(dir, checkpointName))
		}},
		{name: "a header, and no checkpoint", lost: 5, rebuilt: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[1])), zero(0, 512))
			os.Remove(filepath.Join(dir, checkpointName))
		}},
		{name: "a batch copied to another place", lost: 2, atRead: true, spoil: func(t *testing.T, dir string, segs []uint64) {
			spoil(t, filepath.Join(dir, segmentName(segs[1])), func(b []byte) []byte {
				i := bytes.Index(b[500:], []byte(batchMagic)) + 500
				j := bytes.Index(b[2500:], []byte(batchMagic)) + 2500
				copy(b[j:], b[i:i+140])
				return b
			})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			segs := filled(t, dir, n)
			tc.spoil(t, dir, segs)

			report, err := Check(dir)
			if err != nil || report.OK() || (len(report.Missing) > 0) != tc.missing || (report.Rebuilt != "") != tc.rebuilt {
				t.Errorf("Check: %+v, %v", report, err)
			}
			l := open(t, dir, Options{SegmentBytes: 4 << 10, manual: true})
			if r := l.Recovery(); r.Degraded() == tc.atRead || r.Cut != nil || (r.Rebuilt != "") != tc.rebuilt {
				t.Errorf("recovery when opened: %+v", r)
			}
			got := survivors(t, l)
			if len(got) >= n || len(got) < n-tc.lost {
				t.Errorf("%d of %d messages are there, at most %d should be lost", len(got), n, tc.lost)
			}
			r := l.Recovery()
			if !r.Degraded() || !l.Stats().Degraded || (len(r.Missing) > 0) != tc.missing {
				t.Errorf("recovery: %+v", r)
			}
			c := consumer(t, l, "c", ConsumerOptions{})
			if s := c.Stats(); int(s.Depth) != len(got) || !tc.missing && !tc.rebuilt && tc.atRead && s.Dropped.Damaged != uint64(n-len(got)) {
				t.Errorf("stats %+v with %d messages", s, len(got))
			}
			if _, err := push(t, l, "message number 1000", c); err != nil {
				t.Error(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			// The next start knows, sets nothing aside again, and says so until the operator acts.
			before := sideFiles(t, dir)
			l = open(t, dir, Options{SegmentBytes: 4 << 10, manual: true})
			again := survivors(t, l)
			if !slices.Equal(again, append(got, 1000)) {
				t.Errorf("the next start finds %d messages, the first had %d", len(again), len(got))
			}
			if r := l.Recovery(); !r.Degraded() || r.Rebuilt != "" || r.Cut != nil {
				t.Errorf("recovery at the next start: %+v", r)
			}
			if after := sideFiles(t, dir); !slices.Equal(before, after) || len(after) == 0 {
				t.Errorf("side files %q, then %q", before, after)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			for _, name := range sideFiles(t, dir) {
				os.Remove(filepath.Join(dir, name))
			}
			l = open(t, dir, Options{SegmentBytes: 4 << 10, manual: true})
			if tc.missing && l.Recovery().Degraded() {
				t.Errorf("still degraded: %+v", l.Recovery())
			}
		})
	}
}

func sideFiles(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); strings.HasSuffix(n, damagedSuffix) || strings.HasSuffix(n, missingSuffix) {
			names = append(names, n)
		}
	}
	return names
}

// TestTornTailIsCut: what was never reported as durable is cut and reported, and is no damage.
func TestTornTailIsCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	segs := filled(t, dir, 20)
	last := filepath.Join(dir, segmentName(segs[len(segs)-1]))
	spoil(t, last, func(b []byte) []byte { return append(b, "gwB\x01 half a batch"...) })
	if r, err := Check(dir); err != nil || !r.OK() || r.Tail == nil || r.Tail.Bytes != 17 || len(r.Consumers) != 1 || r.Consumers[0].Depth != 20 {
		t.Errorf("Check: %+v, %v", r, err)
	}
	if n := len(sideFiles(t, dir)); n > 0 {
		t.Errorf("Check has written %d files", n)
	}
	l := open(t, dir, Options{manual: true})
	if r := l.Recovery(); r.Degraded() || r.Cut == nil || r.Cut.Bytes != 17 || r.Cut.Segment != segs[len(segs)-1] {
		t.Errorf("recovery %+v, cut %+v", r, r.Cut)
	}
	if got := survivors(t, l); len(got) != 20 {
		t.Errorf("%d messages", len(got))
	}
}

// TestUnreadableSector: the medium reports an error for a part of a segment.
func TestUnreadableSector(t *testing.T) {
	t.Parallel()
	disk := newCrashFS()
	l := open(t, "log", Options{FS: disk, SegmentBytes: 4 << 10, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{})
	for _, body := range numbered("message number ", 0, 100) {
		if _, err := push(t, l, body+strings.Repeat(".", 80), c); err != nil {
			t.Fatal(err)
		}
	}
	bad := segmentName(2)
	disk.fault = func(op, name string) error {
		if op == "read" && name == bad {
			return syscall.EIO
		}
		return nil
	}
	if got := survivors(t, l); len(got) >= 100 || len(got) < 60 {
		t.Errorf("%d messages", len(got))
	}
	if r := l.Recovery(); len(r.SetAside) != 1 || r.SetAside[0].Segment != 2 {
		t.Errorf("recovery %+v", r)
	}
	disk.fault = nil
}

// TestDamageAnywhere changes bytes of any file at random: the log always opens, never panics, and
// what can be read was appended.
func TestDamageAnywhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	filled(t, dir, 60)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	good := newCrashFS()
	for _, path := range names {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		good.names[filepath.Base(path)] = []*inode{{now: b}}
	}
	slices.Sort(names)
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		disk := newCrashFS()
		for name, v := range good.names {
			disk.names[name] = []*inode{{now: append([]byte(nil), v[0].now...)}}
		}
		for range 1 + rnd.IntN(3) {
			name := filepath.Base(names[rnd.IntN(len(names))])
			if disk.at(name) == nil || len(disk.at(name).now) == 0 {
				continue
			}
			switch b := disk.at(name).now; rnd.IntN(4) {
			case 0:
				b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			case 1:
				disk.at(name).now = b[:rnd.IntN(len(b))]
			case 2:
				from := rnd.IntN(len(b))
				clear(b[from:min(len(b), from+rnd.IntN(2000))])
			case 3:
				delete(disk.names, name)
			}
		}
		if _, err := checkFS(disk); err != nil {
			t.Fatalf("seed %d: check: %v", seed, err)
		}
		l, err := Open("log", Options{FS: disk, SegmentBytes: 4 << 10, manual: true})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got := survivors(t, l)
		if len(got) > 60 {
			t.Errorf("seed %d: %d messages", seed, len(got))
		}
		c := consumer(t, l, "c", ConsumerOptions{})
		if _, err := push(t, l, "message number 1000", c); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := l.Close(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

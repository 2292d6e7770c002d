package msglog

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDiskFull: no room, nothing is acknowledged, nothing is lost, and it goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	for _, room := range []int64{0, 10, 100, 700, 2000, 5000, 9000} {
		t.Run(fmt.Sprint(room, " bytes left"), func(t *testing.T) {
			t.Parallel()
			disk := newCrashFS()
			l := open(t, "log", Options{FS: disk, SegmentBytes: 4 << 10, manual: true})
			c := consumer(t, l, "c", ConsumerOptions{})
			var want []string
			try := func(body string) error {
				body += strings.Repeat("-", 200)
				_, err := push(t, l, body, c)
				if err == nil {
					want = append(want, body)
				} else if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				return err
			}
			for _, body := range numbered("before", 0, 30) {
				if err := try(body); err != nil {
					t.Fatal(err)
				}
			}
			disk.capacity = disk.used() + room + 1
			full := 0
			for _, body := range numbered("full", 0, 60) {
				if try(body) != nil {
					full++
				}
			}
			if full < 15 || !l.Stats().Full {
				t.Errorf("%d of 60 were refused, stats %+v", full, l.Stats())
			}
			// What was acknowledged before can be read and acknowledged while there is no room,
			// and that alone makes room again.
			got, seqs := drain(t, c, len(want))
			equal(t, "while full", got, want)
			c.Ack(seqs[:20]...)
			for range 3 {
				l.round(true)
			}
			if err := try("after acknowledgments"); err != nil {
				t.Error(err)
			}
			disk.capacity = 0
			if err := try("after room was made"); err != nil {
				t.Error(err)
			}
			got, _ = drain(t, c, len(want)-len(got))
			equal(t, "at last", got, want[len(want)-len(got):])
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, "log", Options{FS: disk, SegmentBytes: 4 << 10, manual: true})
			if r := l.Recovery(); r.Degraded() || r.Cut != nil {
				t.Errorf("recovery %+v", r)
			}
			got, _ = drain(t, consumer(t, l, "c", ConsumerOptions{}), len(want)-20)
			equal(t, "reopened", got, want[20:])
		})
	}
}

// TestOpenOnAFullDisk: the log opens, gives out what it has, and takes nothing until there is room.
func TestOpenOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := newCrashFS()
	l := open(t, "log", Options{FS: disk, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{})
	if _, err := push(t, l, "kept", c); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	disk.capacity = disk.used()
	l = open(t, "log", Options{FS: disk, manual: true})
	c = consumer(t, l, "c", ConsumerOptions{})
	if _, err := push(t, l, "refused", c); !errors.Is(err, ErrFull) {
		t.Errorf("append: %v", err)
	}
	got, _ := drain(t, c, 1)
	equal(t, "read", got, []string{"kept"})
	disk.capacity = 0
	if _, err := push(t, l, "again", c); err != nil {
		t.Error(err)
	}
}

// TestFailedSync: the message is not acknowledged, and what was written before it is written
// again before the next sync is believed.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	disk := newCrashFS()
	l := open(t, "log", Options{FS: disk, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{})
	lazy := Entry{Body: make([]byte, 1000), Consumers: []ConsumerID{c.ID()}}
	if err := l.AppendAsync(lazy, nil); err != nil {
		t.Fatal(err)
	}
	l.commit()
	disk.fault = func(op, _ string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	}
	if _, err := push(t, l, "fails", c); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrFull) {
		t.Errorf("append: %v", err)
	}
	disk.fault = nil
	before := disk.written
	if _, err := push(t, l, "works", c); err != nil {
		t.Fatal(err)
	}
	if again := disk.written - before; again < 1000 {
		t.Errorf("%d bytes were written: not what the failed sync may have lost", again)
	}
	got, _ := drain(t, c, 2)
	equal(t, "read", got, []string{string(make([]byte, 1000)), "works"})
}

// TestBudget: at the bound ErrFull, acknowledgments still have room, and then there is room again.
func TestBudget(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{MaxBytes: 256 << 10, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{MaxBytes: -1})
	n := 0
	for ; ; n++ {
		if _, err := push(t, l, string(make([]byte, 1000)), c); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if s := l.Stats(); s.Bytes > 256<<10 || n < 200 || !s.Full {
		t.Fatalf("after %d messages: %+v", n, s)
	}
	_, seqs := drain(t, c, n)
	c.Ack(seqs[:n/2]...)
	l.round(true)
	if _, err := push(t, l, "room again", c); err != nil {
		t.Error(err)
	}
	if s := l.Stats(); s.Full || s.Bytes > 200<<10 {
		t.Errorf("stats %+v", s)
	}
}

// TestTrickleDoesNotHoldTheDisk: one consumer is offline and gets a message now and then, another
// gets very many and keeps up. The first holds a bit of every segment.
func TestTrickleDoesNotHoldTheDisk(t *testing.T) {
	t.Parallel()
	disk := newCrashFS()
	opts := Options{FS: disk, MaxBytes: 256 << 10, manual: true}
	l := open(t, "log", opts)
	busy, slow := consumer(t, l, "busy", ConsumerOptions{}), consumer(t, l, "slow", ConsumerOptions{})
	var want []string
	for i := range 3000 { // 3 MB through a log of 256 KiB
		if _, err := push(t, l, string(make([]byte, 1000)), busy); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		_, seqs := drain(t, busy, 1)
		busy.Ack(seqs...)
		if i%20 == 0 {
			body := fmt.Sprint("slow", i)
			want = append(want, body)
			if _, err := push(t, l, body, slow); err != nil {
				t.Fatal(err)
			}
			if i == 1000 { // some are handed out before their segments are compacted
				got, _ := drain(t, slow, 20)
				equal(t, "handed out", got, want[:20])
			}
		}
		if i%50 == 0 {
			l.round(true)
			l.housekeep()
		}
	}
	slow.Rewind()
	got, _ := drain(t, slow, len(want))
	equal(t, "slow", got, want)
	if s := slow.Stats(); int(s.Depth) != len(want) || s.Dropped != (Dropped{}) {
		t.Errorf("stats %+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, rebuild := range []bool{false, true} {
		if rebuild {
			disk.Remove(checkpointName)
		}
		l = open(t, "log", opts)
		if r := l.Recovery(); r.Degraded() || r.Cut != nil {
			t.Errorf("recovery %+v", r)
		}
		slow = consumer(t, l, "slow", ConsumerOptions{})
		got, _ = drain(t, slow, len(want))
		equal(t, "reopened", got, want)
		nothing(t, slow)
		nothing(t, consumer(t, l, "busy", ConsumerOptions{}))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWrittenBytes: an SD card lives as long as what is written to it is little.
func TestWrittenBytes(t *testing.T) {
	t.Parallel()
	disk := newCrashFS()
	l := open(t, "log", Options{FS: disk, Durability: Never})
	c := consumer(t, l, "c", ConsumerOptions{})
	e := Entry{Body: make([]byte, 1024), Consumers: []ConsumerID{c.ID()}, Sync: true}
	const n = 20000
	done := make(chan error, n)
	for range n {
		if err := l.AppendAsync(e, func(_ uint64, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if ratio := float64(disk.written) / (n * 1024); ratio > 1.05 {
		t.Errorf("%.3f bytes were written per byte of payload", ratio)
	}
}

// TestMemoryDoesNotGrowWithTheBacklog queues 30 MB and compares the heap.
func TestMemoryDoesNotGrowWithTheBacklog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{Durability: Never, SegmentBytes: 1 << 20})
	c := consumer(t, l, "c", ConsumerOptions{MaxMessages: -1})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	e := Entry{Body: make([]byte, 100), Consumers: []ConsumerID{c.ID()}}
	fill := func(n int) {
		for range n {
			if err := l.AppendAsync(e, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fill(10_000)
	before := heap()
	fill(300_000)
	if after := heap(); after > before+8<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", before, after)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{Durability: Never, SegmentBytes: 1 << 20})
	if r := l.Recovery(); r.Scanned > 2<<20 {
		t.Errorf("opening has read %d bytes", r.Scanned)
	}
	c = consumer(t, l, "c", ConsumerOptions{MaxMessages: -1})
	if s := c.Stats(); s.Depth != 310_000 || s.Bytes != 31_000_000 {
		t.Errorf("stats %+v", s)
	}
}

// TestExpiredMakeRoom: when the disk gets full, expired messages of a consumer that nobody reads
// go first.
func TestExpiredMakeRoom(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := open(t, t.TempDir(), Options{MaxBytes: 256 << 10, Now: func() time.Time { return now }, manual: true})
	c := consumer(t, l, "c", ConsumerOptions{MaxBytes: -1})
	for i := range 1000 {
		now = now.Add(time.Second)
		err := l.AppendAsync(Entry{Body: make([]byte, 1000), Expires: now.Add(time.Minute), Consumers: []ConsumerID{c.ID()}}, nil)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		l.commit()
		l.housekeep()
		l.round(i%10 == 0)
	}
	if s := c.Stats(); s.Dropped.Expired < 700 || s.Depth < 60 {
		t.Errorf("stats %+v", s)
	}
}

package msglog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestBounds(t *testing.T) {
	t.Parallel()
	t.Run("drop-oldest by messages", func(t *testing.T) {
		t.Parallel()
		l := open(t, t.TempDir(), Options{})
		c := consumer(t, l, "c", ConsumerOptions{MaxMessages: 10})
		for _, body := range numbered("m", 0, 10) {
			appendTo(t, l, body, c)
		}
		got, _ := drain(t, c, 4) // handed out: must stay
		for _, body := range numbered("m", 10, 30) {
			appendTo(t, l, body, c)
		}
		more, _ := drain(t, c, 6)
		equal(t, "read", append(got, more...), append(numbered("m", 0, 4), numbered("m", 24, 30)...))
		if s := c.Stats(); s.Dropped != (Dropped{Oldest: 20}) || s.Depth != 10 {
			t.Errorf("stats %+v", s)
		}
		c.Rewind()
		got, _ = drain(t, c, 10)
		equal(t, "read again", got, append(numbered("m", 0, 4), numbered("m", 24, 30)...))
	})
	t.Run("drop-oldest by bytes", func(t *testing.T) {
		t.Parallel()
		l := open(t, t.TempDir(), Options{})
		c := consumer(t, l, "c", ConsumerOptions{MaxBytes: 1000})
		for i := range 20 {
			appendTo(t, l, fmt.Sprintf("%0*d", 100, i), c)
		}
		got, _ := drain(t, c, 10)
		if got[0] != fmt.Sprintf("%0*d", 100, 10) {
			t.Errorf("first is %q", got[0])
		}
	})
	t.Run("drop-newest", func(t *testing.T) {
		t.Parallel()
		l := open(t, t.TempDir(), Options{})
		c := consumer(t, l, "c", ConsumerOptions{MaxMessages: 10, WhenFull: DropNewest})
		other := consumer(t, l, "other", ConsumerOptions{})
		for i, body := range numbered("m", 0, 30) {
			seq := appendTo(t, l, body, c)
			if (seq == 0) != (i >= 5) {
				t.Errorf("message %d has number %d", i, seq)
			}
			appendTo(t, l, body, c, other)
		}
		got, _ := drain(t, c, 10)
		equal(t, "read", got, []string{"m0", "m0", "m1", "m1", "m2", "m2", "m3", "m3", "m4", "m4"})
		if s := c.Stats(); s.Dropped != (Dropped{Newest: 50}) {
			t.Errorf("stats %+v", s)
		}
		drain(t, other, 30)
	})
	t.Run("block", func(t *testing.T) {
		t.Parallel()
		l := open(t, t.TempDir(), Options{})
		c := consumer(t, l, "c", ConsumerOptions{MaxMessages: 10, WhenFull: Block})
		for _, body := range numbered("m", 0, 10) {
			appendTo(t, l, body, c)
		}
		err := l.AppendAsync(Entry{Body: []byte("x"), Consumers: []ConsumerID{c.ID()}}, func(uint64, error) { t.Error("done is called") })
		if !errors.Is(err, ErrBlocked) {
			t.Errorf("AppendAsync: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Append(ctx, Entry{Body: []byte("x"), Consumers: []ConsumerID{c.ID()}}); !errors.Is(err, context.Canceled) {
			t.Errorf("Append: %v", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := l.Append(context.Background(), Entry{Body: []byte("m10"), Consumers: []ConsumerID{c.ID()}, Sync: true}); err != nil {
				t.Error(err)
			}
		})
		_, seqs := drain(t, c, 10)
		c.Ack(seqs[3])
		got, _ := drain(t, c, 1)
		equal(t, "read", got, []string{"m10"})
		wg.Wait()
	})
}

func TestExpiredAreSkippedAndCounted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	l := open(t, t.TempDir(), Options{Now: clock})
	c := consumer(t, l, "c", ConsumerOptions{})
	for i := range 10 {
		e := Entry{Body: fmt.Append(nil, i), Consumers: []ConsumerID{c.ID()}, Sync: true}
		if i%2 == 0 {
			e.Expires = now.Add(time.Duration(i) * time.Second)
		}
		if _, err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	now = now.Add(5 * time.Second)
	mu.Unlock()
	records, err := c.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		got = append(got, string(r.Body))
		if want := now.Add(-5 * time.Second); !r.Time.Equal(want) {
			t.Errorf("time %v, want %v", r.Time, want)
		}
		if string(r.Body) == "6" && !r.Expires.Equal(now.Add(time.Second)) {
			t.Errorf("expires %v", r.Expires)
		}
	}
	equal(t, "read", got, []string{"1", "3", "5", "6", "7", "8", "9"})
	if s := c.Stats(); s.Dropped != (Dropped{Expired: 3}) || s.Depth != 7 {
		t.Errorf("stats %+v", s)
	}
}

func TestSegmentsAreDeleted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{SegmentBytes: 4 << 10, manual: true})
	a, b := consumer(t, l, "a", ConsumerOptions{}), consumer(t, l, "b", ConsumerOptions{})
	files := func() int {
		names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		return len(names)
	}
	for range 40 {
		push(t, l, string(make([]byte, 1000)), a, b)
	}
	all := files()
	if all < 10 {
		t.Fatalf("%d segments", all)
	}
	_, seqs := drain(t, a, 40)
	a.Ack(seqs...)
	l.round(true)
	if n := files(); n != all {
		t.Fatalf("%d segments of %d although b needs all of them", n, all)
	}
	_, seqs = drain(t, b, 40)
	b.Ack(seqs[:20]...)
	l.round(true)
	if n := files(); n < all/2-1 || n > all/2+1 {
		t.Fatalf("%d segments of %d, b needs half of them", n, all)
	}
	if err := l.RemoveConsumer("b"); err != nil {
		t.Fatal(err)
	}
	l.round(true)
	if n := files(); n != 1 {
		t.Fatalf("%d segments although nobody needs them", n)
	}
}

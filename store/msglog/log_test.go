package msglog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MSGLOG_TEST_DIR"); dir != "" {
		fmt.Println(playAppender(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string, opts Options) *Log {
	t.Helper()
	l, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func consumer(t testing.TB, l *Log, name string, opts ConsumerOptions) *Consumer {
	t.Helper()
	c, err := l.Consumer(name, opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func appendTo(t testing.TB, l *Log, body string, consumers ...*Consumer) uint64 {
	t.Helper()
	e := Entry{Body: []byte(body), Sync: true}
	for _, c := range consumers {
		e.Consumers = append(e.Consumers, c.ID())
	}
	seq, err := l.Append(t.Context(), e)
	if err != nil {
		t.Fatalf("append %q: %v", body, err)
	}
	return seq
}

// drain reads n messages and returns bodies and numbers.
func drain(t testing.TB, c *Consumer, n int) (bodies []string, seqs []uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(bodies) < n {
		records, err := c.Read(ctx, n-len(bodies))
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(bodies), n, err)
		}
		for _, r := range records {
			bodies, seqs = append(bodies, string(r.Body)), append(seqs, r.Seq)
		}
	}
	return bodies, seqs
}

// nothing checks that there is no message to be read now.
func nothing(t testing.TB, c *Consumer) {
	t.Helper()
	if records, err := c.read(10); err != nil || len(records) > 0 {
		t.Errorf("read %d messages, %v; want none", len(records), err)
	}
}

func numbered(prefix string, from, to int) []string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprintf("%s%d", prefix, i))
	}
	return list
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d messages, want %d: %.200q", what, len(got), len(want), got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: message %d is %.80q, want %.80q", what, i, got[i], want[i])
		}
	}
}

func TestEachConsumerGetsWhatNamesIt(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	a, b := consumer(t, l, "a", ConsumerOptions{}), consumer(t, l, "b", ConsumerOptions{})
	for i := range 100 {
		switch i % 3 {
		case 0:
			appendTo(t, l, fmt.Sprint("both", i), a, b)
		case 1:
			appendTo(t, l, fmt.Sprint("a", i), a)
		case 2:
			appendTo(t, l, fmt.Sprint("nobody", i))
		}
	}
	bodies, seqs := drain(t, a, 67)
	if bodies[0] != "both0" || bodies[1] != "a1" || bodies[66] != "both99" {
		t.Errorf("a got %q", bodies)
	}
	for i := 1; i < len(seqs); i++ {
		if seqs[i] <= seqs[i-1] {
			t.Fatalf("numbers do not ascend: %d", seqs)
		}
	}
	if bodies, _ := drain(t, b, 34); bodies[1] != "both3" {
		t.Errorf("b got %q", bodies)
	}
	nothing(t, a)
	nothing(t, b)
	if s := a.Stats(); s.Depth != 67 || s.InFlight != 67 || s.Oldest.IsZero() {
		t.Errorf("stats %+v", s)
	}
	if err := a.Ack(seqs...); err != nil {
		t.Fatal(err)
	}
	if s := a.Stats(); s.Depth != 0 || s.Bytes != 0 || s.Acked != 67 || !s.Oldest.IsZero() {
		t.Errorf("stats %+v", s)
	}
}

func TestPositionSurvivesReopening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := numbered("m", 0, 500)
	func() {
		l := open(t, dir, Options{SegmentBytes: 4 << 10})
		c := consumer(t, l, "c", ConsumerOptions{})
		for _, body := range want {
			appendTo(t, l, body, c)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	for round := 0; len(want) > 0; round++ {
		l := open(t, dir, Options{SegmentBytes: 4 << 10})
		if r := l.Recovery(); r.Cut != nil || r.Rebuilt != "" || r.Degraded() {
			t.Fatalf("recovery %+v", r)
		}
		c := consumer(t, l, "c", ConsumerOptions{})
		if s := c.Stats(); int(s.Depth) != len(want) {
			t.Fatalf("round %d: depth %d, want %d", round, s.Depth, len(want))
		}
		got, seqs := drain(t, c, len(want))
		equal(t, fmt.Sprint("round ", round), got, want)
		// Acknowledge the first 60, and every third of the next 90.
		var acks []uint64
		want = nil
		for i, seq := range seqs {
			if i < 60 || i < 150 && i%3 == 0 {
				acks = append(acks, seq)
			} else {
				want = append(want, got[i])
			}
		}
		if err := c.Ack(acks...); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRewind(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	c := consumer(t, l, "c", ConsumerOptions{})
	for _, body := range numbered("m", 0, 10) {
		appendTo(t, l, body, c)
	}
	_, seqs := drain(t, c, 6)
	c.Ack(seqs[0], seqs[2], seqs[3])
	c.Rewind()
	got, _ := drain(t, c, 7)
	equal(t, "after rewind", got, []string{"m1", "m4", "m5", "m6", "m7", "m8", "m9"})
	nothing(t, c)
	c.Rewind()
	got, _ = drain(t, c, 2)
	equal(t, "part", got, []string{"m1", "m4"})
	c.Ack(seqs[5])
	appendTo(t, l, "m10", c)
	got, seqs = drain(t, c, 5)
	equal(t, "rest", got, []string{"m6", "m7", "m8", "m9", "m10"})
	c.Ack(seqs...)
	c.Rewind()
	got, _ = drain(t, c, 2)
	equal(t, "last", got, []string{"m1", "m4"})
}

// push appends to a log in manual mode and commits.
func push(t testing.TB, l *Log, body string, consumers ...*Consumer) (seq uint64, err error) {
	t.Helper()
	e := Entry{Body: []byte(body), Sync: true}
	for _, c := range consumers {
		e.Consumers = append(e.Consumers, c.ID())
	}
	if aerr := l.AppendAsync(e, func(s uint64, derr error) { seq, err = s, derr }); aerr != nil {
		return 0, aerr
	}
	l.commit()
	return seq, err
}

func TestRemovedConsumer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	c := consumer(t, l, "c", ConsumerOptions{})
	id := c.ID()
	appendTo(t, l, "x", c)
	var wg sync.WaitGroup
	drain(t, c, 1)
	wg.Go(func() {
		if _, err := c.Read(context.Background(), 1); !errors.Is(err, ErrRemoved) {
			t.Errorf("Read: %v", err)
		}
	})
	if err := errors.Join(l.RemoveConsumer("c"), l.RemoveConsumer("c"), l.RemoveConsumer("never")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := c.Ack(1); !errors.Is(err, ErrRemoved) {
		t.Errorf("Ack: %v", err)
	}
	if seq := appendTo(t, l, "y", c); seq != 0 {
		t.Errorf("number %d for a message that nobody needs", seq)
	}
	again := consumer(t, l, "c", ConsumerOptions{})
	if again.ID() == id {
		t.Error("the number was given twice")
	}
	nothing(t, again)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Options{})
	if names := l.Consumers(); len(names) != 1 || names[0] != "c" {
		t.Errorf("consumers %q", names)
	}
	if c := consumer(t, l, "c", ConsumerOptions{}); c.ID() != again.ID() || c.Stats().Depth != 0 {
		t.Errorf("consumer %d, %+v; want %d", c.ID(), c.Stats(), again.ID())
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	c := consumer(t, l, "c", ConsumerOptions{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Read(context.Background(), 1); !errors.Is(err, ErrClosed) {
			t.Errorf("Read: %v", err)
		}
	})
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := l.Append(t.Context(), Entry{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Append: %v", err)
	}
	if err := l.Sync(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Sync: %v", err)
	}
	if _, err := l.Consumer("x", ConsumerOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Consumer: %v", err)
	}
	if err := c.Ack(1); !errors.Is(err, ErrClosed) {
		t.Errorf("Ack: %v", err)
	}
	c.Rewind()
	c.Stats()
	l.Stats()
}

package msglog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestGroupCommit: many who wait share few syncs, and are answered in order.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{})
	c := consumer(t, l, "c", ConsumerOptions{})
	const n = 5000
	var order []uint64
	done := make(chan struct{})
	for range n {
		err := l.AppendAsync(Entry{Body: []byte("x"), Consumers: []ConsumerID{c.ID()}, Sync: true}, func(seq uint64, err error) {
			if err != nil {
				t.Error(err)
			}
			if order = append(order, seq); len(order) == n {
				close(done)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	<-done
	for i := 1; i < n; i++ {
		if order[i] != order[i-1]+1 {
			t.Fatalf("message %d has number %d after %d", i, order[i], order[i-1])
		}
	}
	if s := l.Stats(); s.Syncs > n/4 || s.Appended != n {
		t.Errorf("stats %+v", s)
	}
}

// TestLazyWork: what nobody waits for is written in time all the same.
func TestLazyWork(t *testing.T) {
	t.Parallel()
	for _, d := range []Durability{Always, Second, Never} {
		synctest.Test(t, func(t *testing.T) {
			disk := newCrashFS()
			l := open(t, "log", Options{FS: disk, Durability: d})
			c := consumer(t, l, "c", ConsumerOptions{})
			if err := l.AppendAsync(Entry{Body: []byte("x"), Consumers: []ConsumerID{c.ID()}}, nil); err != nil {
				t.Fatal(err)
			}
			_, seqs := drain(t, c, 1) // is there at once
			synctest.Wait()
			before, syncs := disk.counts()
			c.Ack(seqs...)
			synctest.Wait()
			if now, _ := disk.counts(); now != before {
				t.Errorf("durability %d: the acknowledgment was written at once", d)
			}
			time.Sleep(2 * lazyInterval)
			synctest.Wait()
			now, nowSyncs := disk.counts()
			if now == before {
				t.Errorf("durability %d: the acknowledgment is still not written", d)
			}
			if synced := nowSyncs > syncs; synced != (d == Second) {
				t.Errorf("durability %d: synced: %v", d, synced)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestManyAtOnce lets appenders, readers, acknowledgers, removals, compaction and a small budget
// meet. Every message that was accepted arrives exactly once per consumer and in the order of
// its publisher.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), Options{MaxBytes: 1 << 20, SegmentBytes: 16 << 10})
	const publishers, consumers, each = 4, 3, 400
	var readers []*Consumer
	for i := range consumers {
		readers = append(readers, consumer(t, l, fmt.Sprint("c", i), ConsumerOptions{MaxBytes: -1, WhenFull: Policy(i % 3)}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg, pubs sync.WaitGroup
	for p := range publishers {
		pubs.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(p), 1))
			for i := range each {
				e := Entry{Body: fmt.Appendf(nil, "%d %d %s", p, i, strings.Repeat("x", rnd.IntN(2000))), Sync: i%3 > 0}
				for _, c := range readers {
					e.Consumers = append(e.Consumers, c.ID())
				}
				for {
					_, err := l.Append(ctx, e)
					if err == nil {
						break
					}
					if !errors.Is(err, ErrFull) {
						t.Error(err)
						return
					}
					if err := l.Sync(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for i, c := range readers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 2))
			next := make([]int, publishers)
			seen := make(map[uint64]bool)
			for total := 0; total < publishers*each; {
				records, err := c.Read(ctx, 1+rnd.IntN(50))
				if err != nil {
					t.Errorf("%s after %d: %v", c.Name(), total, err)
					return
				}
				for _, r := range records {
					var p, n int
					if _, err := fmt.Sscanf(string(r.Body), "%d %d", &p, &n); err != nil {
						t.Errorf("read %.30q", r.Body)
						return
					}
					if seen[r.Seq] { // again, after a rewind
						continue
					}
					if n != next[p] {
						t.Errorf("%s: message %d of publisher %d after %d", c.Name(), n, p, next[p]-1)
						return
					}
					if rnd.IntN(10) == 0 { // leave it for later, and what follows it
						c.Rewind()
						break
					}
					seen[r.Seq] = true
					next[p]++
					total++
					if err := c.Ack(r.Seq); err != nil {
						t.Error(err)
					}
				}
				if rnd.IntN(20) == 0 {
					c.Stats()
					l.Stats()
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			c, err := l.Consumer("brief", ConsumerOptions{})
			if err == nil {
				_, err = l.Append(ctx, Entry{Body: []byte("x"), Consumers: []ConsumerID{c.ID()}, Sync: true})
			}
			if err == nil && i%2 == 0 {
				_, err = c.Read(ctx, 1)
			}
			if err := errors.Join(err, l.RemoveConsumer("brief")); err != nil && !errors.Is(err, ErrFull) {
				t.Error(err)
			}
		}
	})
	pubs.Wait()
	wg.Wait()
	for _, c := range readers {
		if s := c.Stats(); s.Depth != 0 || s.Acked != publishers*each || s.Dropped != (Dropped{}) {
			t.Errorf("%+v", s)
		}
	}
}

// TestKilled kills a process while it appends: what it has reported is there, in order.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	next := 0
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MSGLOG_TEST_DIR="+dir, "MSGLOG_TEST_FROM="+strconv.Itoa(next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, from := bufio.NewScanner(out), next
		for lines.Scan() {
			if next, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(lines.Text())
			}
			if next++; next >= from+300 {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // reported before it was killed
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				next = n + 1
			}
		}
		cmd.Wait()
		l := open(t, dir, Options{})
		if r := l.Recovery(); r.Degraded() || r.Rebuilt != "" {
			t.Errorf("recovery %+v", r)
		}
		got, _ := drain(t, consumer(t, l, "c", ConsumerOptions{}), next)
		equal(t, "after the kill", got, numbered("", 0, next))
		if s := consumer(t, l, "c", ConsumerOptions{}).Stats(); int(s.Depth) > next {
			next = int(s.Depth) // appended and not reported
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// playAppender appends numbers until it is killed and prints each when it is durable.
func playAppender(dir string) error {
	l, err := Open(dir, Options{SegmentBytes: 8 << 10})
	if err != nil {
		return err
	}
	c, err := l.Consumer("c", ConsumerOptions{})
	if err != nil {
		return err
	}
	from, err := strconv.Atoi(os.Getenv("MSGLOG_TEST_FROM"))
	if err != nil {
		return err
	}
	var failed atomic.Bool
	for i := from; !failed.Load(); i++ {
		err := l.AppendAsync(Entry{Body: fmt.Append(nil, i), Consumers: []ConsumerID{c.ID()}, Sync: true}, func(_ uint64, err error) {
			if err != nil {
				failed.Store(true)
				return
			}
			fmt.Println(i)
		})
		if err != nil {
			return err
		}
		if i%50 == 0 {
			if err := l.Sync(context.Background()); err != nil {
				return err
			}
		}
	}
	return errors.New("append failed")
}

package bridge

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(10)
		take := func(ctx context.Context, want int) chan int {
			got := make(chan int, 1)
			go func() {
				n, err := w.acquire(ctx, want)
				if err != nil {
					n = -1
				}
				got <- n
			}()
			synctest.Wait()
			return got
		}
		expect := func(what string, got chan int, want int) {
			t.Helper()
			synctest.Wait()
			select {
			case n := <-got:
				if n != want {
					t.Errorf("%s: got %d places, want %d", what, n, want)
				}
			default:
				if want != 0 {
					t.Errorf("%s: still waits, want %d places", what, want)
				}
			}
		}
		expect("there is room", take(t.Context(), 7), 7)
		expect("what is left", take(t.Context(), 7), 3)
		ctx, cancel := context.WithCancel(t.Context())
		first, second, third := take(t.Context(), 2), take(ctx, 5), take(t.Context(), 5)
		expect("full", first, 0)
		w.release(3)
		expect("first come", first, 2)
		expect("first served", second, 1)
		expect("not yet", third, 0)
		second = take(ctx, 5)
		cancel()
		expect("gave up", second, -1)
		expect("gave up before", take(ctx, 1), -1)
		w.resize(1)
		w.release(9)
		expect("smaller now", third, 0)
		w.release(1)
		expect("alone", third, 1)
		if w.idle() {
			t.Error("idle with a place in use")
		}
		w.resize(4)
		w.release(1)
		if !w.idle() {
			t.Error("not idle")
		}
		expect("larger again", take(t.Context(), 9), 4)
	})
}

// TestWindowBound: however many compete and give up, the bound holds and no place is lost.
func TestWindowBound(t *testing.T) {
	t.Parallel()
	const limit = 5
	w := newWindow(limit)
	var used, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for round := range 500 {
				ctx, cancel := context.WithCancel(context.Background())
				if (i+round)%3 == 0 {
					go cancel()
				}
				n, err := w.acquire(ctx, 1+round%4)
				cancel()
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					continue
				}
				if u := used.Add(int64(n)); u > most.Load() {
					most.Store(u)
				}
				used.Add(int64(-n))
				w.release(n)
			}
		})
	}
	wg.Wait()
	if most.Load() > limit || !w.idle() {
		t.Errorf("%d places in use at a time, idle at the end: %v; want at most %d, and true", most.Load(), w.idle(), limit)
	}
}

func TestBackoffIsFullJitter(t *testing.T) {
	t.Parallel()
	b := backoff{first: time.Second, most: 8 * time.Second}
	for range 100 {
		bound := time.Second
		for range 6 {
			if d := b.next(); d <= 0 || d > bound {
				t.Fatalf("waits %v, want more than nothing and at most %v", d, bound)
			}
			bound = min(2*bound, 8*time.Second)
		}
		b.reset()
	}
	spread := make(map[time.Duration]bool)
	for range 50 {
		b.reset()
		spread[b.next()/(100*time.Millisecond)] = true
	}
	if len(spread) < 5 {
		t.Errorf("all waits are alike: %v", spread)
	}
}

func TestSuspects(t *testing.T) {
	t.Parallel()
	out := func(seq uint64, topic string) outgoing { return outgoing{seq: seq, topic: topic} }
	s := suspects{limit: 2}
	if s.any() || s.over(out(1, "a")) {
		t.Error("suspects from the beginning")
	}
	s.blame(1)
	if !s.any() || s.over(out(1, "a")) {
		t.Error("stepped over after one try")
	}
	s.blame(1)
	if !s.over(out(1, "a")) || s.over(out(2, "b")) {
		t.Error("only the first is to be stepped over")
	}
	list := []outgoing{out(2, "a"), out(3, "b"), out(4, "b"), out(5, "c")}
	s.pick(list)
	if list[0].seq != 3 || list[1].seq != 2 || list[2].seq != 4 {
		t.Errorf("picked %v, want the first of another topic in front", list)
	}
	same := []outgoing{out(2, "a"), out(3, "a")}
	if s.pick(same); same[0].seq != 2 {
		t.Error("without another topic the order stays")
	}
	if o, ok := s.trial(); !ok || o.seq != 1 {
		t.Errorf("trial of %v, %v", o, ok)
	}
	if _, ok := s.trial(); ok {
		t.Error("a second trial on one connection")
	}
	s.blame(3)
	s.clear(4) // 3 is gone from the log; 1 waits for its trial
	if s.tries[3] != 0 || s.tries[1] != 2 {
		t.Errorf("tries %v", s.tries)
	}
	s.clear(1)
	if s.any() {
		t.Error("still suspects something")
	}
	for seq := range uint64(maxSuspects + 1) {
		s.blame(seq)
		s.blame(seq)
	}
	if s.any() {
		t.Error("so many are not the messages' fault")
	}
}

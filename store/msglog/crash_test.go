package msglog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// crashPoints is how many seeds a test tries, of up to five power cuts each: `make crash` asks for
// thousands.
func crashPoints(t *testing.T, standard int) int {
	n, err := strconv.Atoi(os.Getenv("GATEWAYCTL_CRASH_POINTS"))
	if err != nil {
		return standard
	}
	return n
}

// TestPowerCut appends, reads, acknowledges, fills the disk and reopens at random, cuts the power
// at a random call, and does it again with what is left. Nothing that was durable may be missing,
// no tail may look like damage, no number may stand for two messages. GATEWAYCTL_CRASH_SEED
// runs one seed again and tells what it does.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	if seed, err := strconv.ParseUint(os.Getenv("GATEWAYCTL_CRASH_SEED"), 10, 64); err == nil {
		if err := powerCuts(seed, nil, t.Logf); err != nil {
			t.Fatal(err)
		}
		return
	}
	for seed := range uint64(crashPoints(t, 100)) {
		if err := powerCuts(seed, nil, nil); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestPowerCutFindsForgottenSyncs is the test of the test: a log that forgets one of its syncs
// must not get through.
func TestPowerCutFindsForgottenSyncs(t *testing.T) {
	t.Parallel()
	isLog := func(name string) bool { return strings.HasSuffix(name, segmentSuffix) }
	for _, tc := range []struct {
		name   string
		forget func(op, name string) bool
	}{
		{"batch", func(op, name string) bool {
			return op == "sync" && isLog(name) && calledBy("writeRun") && !calledBy("rotate")
		}},
		{"segment before the next", func(op, name string) bool { return op == "sync" && isLog(name) && calledBy("rotate") }},
		{"log before the checkpoint", func(op, name string) bool { return op == "sync" && isLog(name) && calledBy("checkpoint") }},
		{"name of a new segment", func(op, name string) bool { return op == "syncdir" && isLog(name) && !calledBy("exchange") }},
		{"content of the checkpoint", func(op, name string) bool { return op == "sync" && !isLog(name) && calledBy("writeCheckpoint") }},
		{"content of a compacted segment", func(op, name string) bool { return op == "sync" && isCompaction(name) }},
		{"name of a compacted segment", func(op, name string) bool { return op == "syncdir" && calledBy("exchange") }},
		{"name of the checkpoint", func(op, name string) bool { return op == "syncdir" && name == checkpointName }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			forgotten := false
			for seed := range uint64(2000) {
				err := powerCuts(seed, func(op, name string) bool {
					f := tc.forget(op, name)
					forgotten = forgotten || f
					return f
				}, nil)
				if err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not noticed; forgotten at least once: %v", forgotten)
		})
	}
}

// A crashWorld is what should be in the log, and what may be.
type crashWorld struct {
	rnd       *rand.Rand
	log       *Log
	disk      *crashFS
	consumers []*crashConsumer
	bodies    map[int]string
	last      int            // number of the last message
	bySeq     map[uint64]int // which message a sequence number stood for
	problem   error
}

type crashConsumer struct {
	name    string
	bounded bool
	c       *Consumer
	state   map[int]state // by message
	order   []int         // messages appended for it
}

type state int

const (
	maybe   state = iota // appended; may be there after a cut
	durable              // must be there
	acked                // acknowledged: may be there
	gone                 // must not be there
)

// powerCuts runs one seed: some lives of a log, each ended by a power cut.
func powerCuts(seed uint64, forget func(op, name string) bool, trace func(string, ...any)) error {
	w := &crashWorld{
		rnd: rand.New(rand.NewPCG(seed, 7)), disk: newCrashFS(),
		bodies: make(map[int]string), bySeq: make(map[uint64]int),
	}
	w.disk.forget, w.disk.trace = forget, trace
	for life := range 4 {
		w.disk.cutAt = w.disk.ops + 1 + w.rnd.IntN(60<<w.rnd.IntN(4))
		if err := w.open(); err == nil {
			if err := w.verify(); err != nil {
				return fmt.Errorf("life %d: %w", life, err)
			}
			for !w.disk.isCut() && w.problem == nil {
				w.act()
			}
		} else if !w.disk.isCut() {
			return fmt.Errorf("life %d: %w", life, err)
		}
		if w.problem != nil {
			return fmt.Errorf("life %d: %w", life, w.problem)
		}
		w.disk = w.disk.after(w.rnd)
		w.disk.forget = forget
	}
	if err := w.open(); err != nil {
		return err
	}
	return w.verify()
}

var crashDurabilities = []Durability{Always, Always, Always, Second, Never}

func (w *crashWorld) open() error {
	l, err := Open("log", Options{
		FS: w.disk, SegmentBytes: 4 << 10, MaxBytes: 256 << 10, manual: true,
		Durability: crashDurabilities[w.rnd.IntN(len(crashDurabilities))],
	})
	if err != nil {
		return err
	}
	w.log = l
	if r := l.Recovery(); r.Degraded() || r.Rebuilt != "" {
		return fmt.Errorf("a power cut looks like damage: %+v", r)
	}
	for _, k := range w.consumers {
		if k.c, err = l.Consumer(k.name, k.options()); err != nil {
			return err
		}
	}
	if len(w.consumers) == 0 {
		for _, k := range []*crashConsumer{{name: "a"}, {name: "b"}, {name: "bounded", bounded: true}} {
			if k.c, err = l.Consumer(k.name, k.options()); err != nil {
				return err
			}
			k.state = make(map[int]state)
			w.consumers = append(w.consumers, k)
		}
	}
	return nil
}

func (k *crashConsumer) options() ConsumerOptions {
	if k.bounded {
		return ConsumerOptions{MaxMessages: 15}
	}
	return ConsumerOptions{MaxMessages: -1, MaxBytes: -1}
}

func (w *crashWorld) act() {
	k := w.consumers[w.rnd.IntN(len(w.consumers))]
	switch w.rnd.IntN(20) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		for range 1 + w.rnd.IntN(4) {
			w.append()
		}
	case 8, 9, 10, 11:
		w.log.commit()
	case 12:
		w.log.round(true)
	case 13, 14, 15:
		w.read(k)
	case 16:
		k.c.Rewind()
	case 17:
		w.log.housekeep()
		w.log.compact()
	case 18:
		if w.disk.capacity = 0; w.rnd.IntN(2) == 0 {
			w.disk.capacity = w.disk.used() + int64(w.rnd.IntN(3000))
		}
	case 19:
		if w.rnd.IntN(4) > 0 {
			return
		}
		err := w.log.Close()
		if w.disk.isCut() || errors.Is(err, ErrFull) && w.disk.capacity > 0 {
			if w.disk.capacity = 0; !w.disk.isCut() {
				w.reopen()
			}
			return
		}
		if err != nil {
			w.problem = fmt.Errorf("close: %w", err)
			return
		}
		w.reopen()
	}
}

func (w *crashWorld) reopen() {
	if err := w.open(); err != nil && !w.disk.isCut() && !errors.Is(err, ErrFull) {
		w.problem = fmt.Errorf("reopen: %w", err)
	}
}

func (w *crashWorld) append() {
	w.last++
	id := w.last
	e := Entry{Sync: w.rnd.IntN(3) > 0}
	var needs []*crashConsumer
	for _, k := range w.consumers {
		if w.rnd.IntN(2) == 0 {
			needs = append(needs, k)
			e.Consumers = append(e.Consumers, k.c.ID())
		}
	}
	body := fmt.Sprintf("%d:%s", id, strings.Repeat(string(rune('a'+id%26)), w.rnd.IntN(10<<w.rnd.IntN(8))))
	e.Body = []byte(body)
	promised := e.Sync && w.log.opts.Durability == Always
	err := w.log.AppendAsync(e, func(_ uint64, err error) {
		for _, k := range needs {
			if err != nil && k.state[id] == maybe && !w.disk.isCut() {
				k.state[id] = gone
			} else if err == nil && promised && k.state[id] == maybe {
				k.state[id] = durable
			}
		}
	})
	if err == nil {
		w.bodies[id] = body
		for _, k := range needs {
			k.order = append(k.order, id)
			k.state[id] = maybe
		}
	} else if !errors.Is(err, ErrFull) && err != errBusy {
		w.problem = err
	}
}

// read reads some messages, checks that they are the next ones, and acknowledges some.
func (w *crashWorld) read(k *crashConsumer) {
	records, err := k.c.read(1 + w.rnd.IntN(10))
	if err != nil && !w.disk.isCut() {
		w.problem = fmt.Errorf("read: %w", err)
		return
	}
	for _, r := range records {
		id, err := w.check(k, r)
		if err != nil {
			w.problem = err
			return
		}
		if w.rnd.IntN(4) > 0 {
			if err := k.c.Ack(r.Seq); err != nil {
				w.problem = err
				return
			}
			k.state[id] = acked
		}
	}
}

// check tells which message a record is.
func (w *crashWorld) check(k *crashConsumer, r Record) (int, error) {
	number, _, _ := strings.Cut(string(r.Body), ":")
	id, err := strconv.Atoi(number)
	if err != nil || w.bodies[id] != string(r.Body) {
		return 0, fmt.Errorf("%s read %.40q, which was never appended", k.name, r.Body)
	}
	if known, ok := w.bySeq[r.Seq]; ok && known != id {
		return 0, fmt.Errorf("number %d stood for message %d, now for %d", r.Seq, known, id)
	}
	w.bySeq[r.Seq] = id
	if s, ok := k.state[id]; !ok || s == gone {
		return 0, fmt.Errorf("%s read message %d, which it must not get (state %d, %v)", k.name, id, s, ok)
	}
	return id, nil
}

// verify reads everything after a cut and compares.
func (w *crashWorld) verify() error {
	for _, k := range w.consumers {
		depth := k.c.Stats().Depth
		seen := make(map[int]bool)
		last := 0
		for {
			records, err := k.c.read(7)
			if err != nil {
				if w.disk.isCut() {
					return nil
				}
				return err
			}
			if len(records) == 0 {
				break
			}
			for _, r := range records {
				id, err := w.check(k, r)
				if err != nil {
					return err
				}
				if id <= last {
					return fmt.Errorf("%s read message %d after %d", k.name, id, last)
				}
				seen[id], last = true, id
			}
		}
		if w.disk.isCut() {
			return nil
		}
		if n := int64(len(seen)); n != depth && !k.bounded {
			return fmt.Errorf("%s has depth %d and %d messages", k.name, depth, n)
		}
		if s := k.c.Stats(); s.Depth != int64(len(seen)) || s.InFlight != len(seen) || s.Dropped.Damaged > 0 {
			return fmt.Errorf("%s has %d messages and stats %+v", k.name, len(seen), s)
		}
		for _, id := range k.order {
			switch s := k.state[id]; {
			case s == durable && !seen[id] && !k.bounded:
				return fmt.Errorf("%s lost message %d, which was durable", k.name, id)
			case seen[id]:
				k.state[id] = durable // Open has synced it
			case k.bounded:
				k.state[id] = acked // dropped perhaps, which is remembered as lazily
			default:
				k.state[id] = gone
			}
		}
		k.c.Rewind()
	}
	return nil
}

package msglog

import (
	"sync"
	"testing"
)

// BenchmarkAppendAsync is the rate of durable messages of 128 bytes, queued for one consumer.
func BenchmarkAppendAsync(b *testing.B) { benchAppend(b, 128, Always) }

func BenchmarkAppendAsync1K(b *testing.B) { benchAppend(b, 1024, Always) }

func BenchmarkAppendAsyncNever(b *testing.B) { benchAppend(b, 128, Never) }

func benchAppend(b *testing.B, size int, d Durability) {
	l := open(b, b.TempDir(), Options{MaxBytes: 8 << 30, Durability: d})
	c := consumer(b, l, "c", ConsumerOptions{MaxMessages: -1, MaxBytes: -1})
	e := Entry{Body: make([]byte, size), Consumers: []ConsumerID{c.ID()}, Sync: true}
	var wg sync.WaitGroup
	done := func(_ uint64, err error) {
		if err != nil {
			b.Error(err)
		}
		wg.Done()
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		wg.Add(1)
		if err := l.AppendAsync(e, done); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	s := l.Stats()
	b.ReportMetric(float64(s.Written)/float64(s.Appended)/float64(size), "written/payload")
	b.ReportMetric(float64(s.Appended)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkDrain is the rate at which a backlog is read and acknowledged.
func BenchmarkDrain(b *testing.B) {
	l := open(b, b.TempDir(), Options{MaxBytes: 8 << 30, Durability: Never})
	c := consumer(b, l, "c", ConsumerOptions{MaxMessages: -1, MaxBytes: -1})
	e := Entry{Body: make([]byte, 128), Consumers: []ConsumerID{c.ID()}}
	for range b.N {
		if err := l.AppendAsync(e, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		records, err := c.Read(b.Context(), 100)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range records {
			if err := c.Ack(r.Seq); err != nil {
				b.Fatal(err)
			}
		}
		n += len(records)
	}
}

// BenchmarkAppendAlone is one publisher that waits for every message.
func BenchmarkAppendAlone(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	c := consumer(b, l, "c", ConsumerOptions{MaxMessages: -1, MaxBytes: -1})
	e := Entry{Body: make([]byte, 128), Consumers: []ConsumerID{c.ID()}, Sync: true}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Append(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

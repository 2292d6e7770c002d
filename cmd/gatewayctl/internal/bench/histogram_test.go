package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramQuantiles(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func() time.Duration{
		"small, exact":  func() time.Duration { return time.Duration(r.IntN(256)) },
		"uniform":       func() time.Duration { return time.Duration(r.Int64N(int64(time.Second))) },
		"a long tail":   func() time.Duration { return time.Duration(math.Exp(r.NormFloat64()*3 + 12)) },
		"all the same":  func() time.Duration { return 12345678 },
		"enormous ones": func() time.Duration { return time.Duration(r.Int64()) },
	} {
		h, parts := new(Histogram), [2]Histogram{}
		var all []time.Duration
		for i := range 10_001 {
			d := next()
			all = append(all, d)
			h.Record(d)
			parts[i%2].Record(d)
		}
		slices.Sort(all)
		for _, q := range []float64{0, .001, .5, .9, .99, .999, 1} {
			want := all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
			got := h.Quantile(q)
			if got < want || float64(got-want) > .01*float64(want) {
				t.Errorf("%s: Quantile(%v) = %d, want %d to 1 %% above", name, q, got, want)
			}
		}
		if h.Max() != all[len(all)-1] || h.Count() != uint64(len(all)) {
			t.Errorf("%s: Max = %v, Count = %d", name, h.Max(), h.Count())
		}
		if parts[0].Add(&parts[1]); parts[0] != *h {
			t.Errorf("%s: two halves added are not the whole", name)
		}
	}
}

func TestHistogramEdges(t *testing.T) {
	t.Parallel()
	h := new(Histogram)
	if h.Quantile(.5) != 0 || h.Max() != 0 {
		t.Error("an empty one has values")
	}
	h.Record(-time.Second)
	h.Record(math.MaxInt64)
	if h.Quantile(0) != 0 || h.Quantile(1) != math.MaxInt64 {
		t.Errorf("Quantile(0) = %d, Quantile(1) = %d", h.Quantile(0), h.Quantile(1))
	}
}

// Every value lies in the bucket whose limit is the first that is not below it.
func TestHistogramBuckets(t *testing.T) {
	t.Parallel()
	for i := range len(Histogram{}.counts) - 1 {
		if limit(i) == math.MaxInt64 {
			break
		}
		if d := limit(i); bucket(d) != i || bucket(d+1) != i+1 {
			t.Fatalf("limit(%d) = %d lies in bucket %d, the next value in %d", i, d, bucket(d), bucket(d+1))
		}
	}
}

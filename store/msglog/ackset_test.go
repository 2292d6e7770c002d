package msglog

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestAckset compares the set with one that keeps every number.
func TestAckset(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		var a ackset
		plain := make(map[uint64]bool)
		const top = 80
		for range 1 + rnd.IntN(40) {
			start := uint64(1 + rnd.IntN(top))
			end := min(start+uint64(rnd.IntN(1+rnd.IntN(12))), top)
			a.add(start, end)
			for i := start; i <= end; i++ {
				plain[i] = true
			}
			for i := uint64(1); i <= top; i++ {
				if a.contains(i) != plain[i] {
					t.Fatalf("seed %d: after adding %d-%d, %d is %v in %+v", seed, start, end, i, a.contains(i), a)
				}
			}
			from := uint64(1 + rnd.IntN(top))
			to := from + uint64(rnd.IntN(5))
			all := true
			for i := from; i <= to; i++ {
				all = all && plain[i]
			}
			if a.containsAll(from, to) != all {
				t.Fatalf("seed %d: containsAll(%d, %d) = %v in %+v", seed, from, to, !all, a)
			}
		}
		last := a.pos
		for i, s := range a.beyond {
			if s.end < s.start || s.start < last+2 {
				t.Fatalf("seed %d: span %d of %+v is not in order or should have been joined", seed, i, a)
			}
			last = s.end
		}
		r := reader{b: a.append(nil)}
		again := r.ackset()
		if r.failed || len(r.b) > 0 || !cmp.Equal(a, again, cmp.AllowUnexported(ackset{}, span{})) {
			t.Fatalf("seed %d: %+v becomes %+v", seed, a, again)
		}
	}
}

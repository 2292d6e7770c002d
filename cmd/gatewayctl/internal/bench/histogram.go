package bench

import (
	"math/bits"
	"time"
)

// Values below 2^histogramBits ns are kept exactly, larger ones to within 1/2^(histogramBits-1).
const histogramBits = 8

// A Histogram counts durations with a relative error below 1 %. The zero value is empty. It is
// not safe for concurrent use; see [Histogram.Add].
type Histogram struct {
	counts [(64 - histogramBits + 2) << (histogramBits - 1)]uint64
	total  uint64
	max    time.Duration
}

// bucket is the index of d: the top bits of the value, and how far they were shifted.
func bucket(d time.Duration) int {
	shift := max(0, bits.Len64(uint64(d))-histogramBits)
	return shift<<(histogramBits-1) + int(uint64(d)>>shift)
}

// limit is the largest value in bucket i.
func limit(i int) time.Duration {
	if i < 1<<histogramBits {
		return time.Duration(i)
	}
	shift := i>>(histogramBits-1) - 1
	top := uint64(i - shift<<(histogramBits-1))
	return time.Duration((top+1)<<shift - 1)
}

// Record counts d; what is negative counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(d)]++
	h.total++
	h.max = max(h.max, d)
}

// Add counts all of o too.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// Count is how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the largest of them, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the smallest value that is not exceeded by the share q (0 to 1) of what was
// recorded; 0 when there is nothing.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.total))
	if float64(rank) < q*float64(h.total) || rank == 0 {
		rank++
	}
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return min(limit(i), h.max)
		}
	}
	return h.max
}

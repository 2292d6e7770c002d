package bridge

import (
	"math/rand/v2"
	"time"
)

// backoff chooses how long to wait before the next connection: at random between nothing and a
// bound that doubles ("full jitter"), so that many gateways do not come back at once.
type backoff struct {
	first, most time.Duration
	bound       time.Duration
}

func (b *backoff) next() time.Duration {
	if b.bound == 0 {
		b.bound = b.first
	}
	wait := rand.N(b.bound) + 1
	b.bound = min(2*b.bound, max(b.first, b.most))
	return wait
}

func (b *backoff) reset() { b.bound = 0 }

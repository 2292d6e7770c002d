package msglog

import "errors"

// tidyStep is how many messages are dropped before others get at the consumer.
const tidyStep = 1024

// janitor drops what is over the bounds and makes room, so that a consumer that nobody reads
// does not hold the disk.
func (l *Log) janitor() {
	for {
		select {
		case <-l.tidy:
			l.housekeep()
		case <-l.quit:
			return
		}
	}
}

// housekeep goes over all consumers once.
func (l *Log) housekeep() {
	l.mu.Lock()
	consumers := l.ordered()
	pressure := l.stats.Full || l.used > l.opts.MaxBytes/4*3
	l.mu.Unlock()
	for _, c := range consumers {
		for more := true; more && !l.quitting(); {
			more = c.trim(pressure)
		}
	}
	if pressure {
		l.compact()
	}
}

func (l *Log) quitting() bool {
	select {
	case <-l.quit:
		return true
	default:
		return false
	}
}

// trim drops messages at the head of c's queue that are over its bound or, if expired is set, have
// expired; it reports whether there may be more.
func (c *Consumer) trim(expired bool) bool {
	l := c.l
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for range tidyStep {
		l.mu.Lock()
		needed := !c.removed && c.depth.messages > int64(c.out.unacked) && (expired || c.over())
		l.mu.Unlock()
		if !needed {
			return false
		}
		m, err := c.next()
		if err != nil || m == nil {
			if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrRemoved) {
				l.log.Error("read message log", "path", l.dir, "err", err)
			}
			return false
		}
		l.mu.Lock()
		v, err := c.judge(m, false)
		l.mu.Unlock()
		if err != nil || v != skip {
			return false
		}
		c.cur.has = false
	}
	return true
}

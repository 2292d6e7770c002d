// Package events keeps what happened lately, for people: a bounded list in memory and
// subscribers that may miss some of it. Nothing may depend on an event; whoever must not miss a
// change reads it where it is kept.
package events

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// A Severity says how much an event matters. The zero value counts as [Info].
type Severity string

// The severities, in ascending order.
const (
	Info  Severity = "info"  // something happened
	Warn  Severity = "warn"  // something was refused, or works less well
	Error Severity = "error" // an operator must act
)

func (s Severity) rank() int {
	switch s {
	case Warn:
		return 1
	case Error:
		return 2
	}
	return 0
}

// An Event is something that happened. Longer texts than [MaxText] are cut.
type Event struct {
	Seq      uint64            `json:"seq"`  // 1, 2, 3, … since the gateway's start
	Time     time.Time         `json:"time"` // when it was added, unless it says
	Severity Severity          `json:"severity"`
	Kind     string            `json:"kind"` // words joined by dots, such as "device.connected"
	Device   string            `json:"device,omitempty"`
	Topic    string            `json:"topic,omitempty"`
	Text     string            `json:"text"` // one line for people
	Data     map[string]string `json:"data,omitempty"`
}

const (
	// MaxText is the longest text of an event, in bytes.
	MaxText = 1024
	// MaxData is how many pairs Event.Data may have; [Log.Add] drops the others.
	MaxData = 32

	defaultSize   = 10000
	maxSubscriber = 4096
)

// A Filter chooses events; its zero value chooses all.
type Filter struct {
	Kind     string   // this kind, or all kinds below it: "device" covers "device.connected"
	Device   string   // this device only
	Severity Severity // at least this
}

// Match reports whether f chooses e.
func (f Filter) Match(e Event) bool {
	if f.Kind != "" && e.Kind != f.Kind && !(strings.HasPrefix(e.Kind, f.Kind) && e.Kind[len(f.Kind)] == '.') {
		return false
	}
	return (f.Device == "" || f.Device == e.Device) && e.Severity.rank() >= f.Severity.rank()
}

// Options configures a [Log].
type Options struct {
	Size int              // how many events are kept; 0 means 10,000
	Now  func() time.Time // nil means time.Now
}

// A Log is the list of the latest events. Its methods are safe for concurrent use and never
// block.
type Log struct {
	now  func() time.Time
	size int

	mu          sync.Mutex
	ring        []Event // grows to size, then the oldest is overwritten
	last        uint64  // Seq of the newest
	subscribers map[*subscriber]struct{}
}

type subscriber struct{ ch chan Event }

// New returns an empty log.
func New(opts Options) *Log {
	l := &Log{now: opts.Now, size: opts.Size, subscribers: map[*subscriber]struct{}{}}
	if l.now == nil {
		l.now = time.Now
	}
	if l.size <= 0 {
		l.size = defaultSize
	}
	return l
}

// Add numbers e and gives it to the subscribers; those whose buffer is full miss it. The log
// keeps e.Data, which must not be changed afterwards.
func (l *Log) Add(e Event) {
	e = bounded(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	if e.Time.IsZero() {
		e.Time = l.now()
	}
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
	} else {
		l.ring[int((e.Seq-1)%uint64(l.size))] = e
	}
	for s := range l.subscribers {
		select {
		case s.ch <- e:
		default:
		}
	}
}

// bounded makes e as small as an event may be.
func bounded(e Event) Event {
	if e.Severity == "" {
		e.Severity = Info
	}
	cut := func(s string) string {
		if len(s) > MaxText {
			return strings.ToValidUTF8(s[:MaxText-3], "") + "…"
		}
		return s
	}
	e.Kind, e.Device, e.Topic, e.Text = cut(e.Kind), cut(e.Device), cut(e.Topic), cut(e.Text)
	fits := len(e.Data) <= MaxData
	for k, v := range e.Data {
		fits = fits && len(k) <= MaxText && len(v) <= MaxText
	}
	if fits {
		return e
	}
	data := map[string]string{}
	for k, v := range e.Data {
		if len(data) < MaxData {
			data[cut(k)] = cut(v)
		}
	}
	e.Data = data
	return e
}

// Last returns the number of the newest event, 0 if there was none.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Since returns the events after number seq that f chooses, oldest first; 0 means all that are
// kept. If the first of them is not the next after seq, those between were overwritten or not chosen.
func (l *Log) Since(seq uint64, f Filter) []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq >= l.last {
		return nil
	}
	first := l.last - uint64(len(l.ring)) + 1
	var out []Event
	for n := max(seq+1, first); n <= l.last; n++ {
		if e := l.ring[int((n-1)%uint64(l.size))]; f.Match(e) {
			out = append(out, e)
		}
	}
	return slices.Clip(out)
}

// Subscribe returns a channel on which all later events arrive, until cancel is called, which
// closes it. The channel holds buffer events, 1 to 4096; while it is full, events are lost to it,
// which shows as a gap in their numbers. cancel may be called more than once.
func (l *Log) Subscribe(buffer int) (events <-chan Event, cancel func()) {
	s := &subscriber{make(chan Event, min(max(buffer, 1), maxSubscriber))}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subscribers[s] = struct{}{}
	return s.ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, ok := l.subscribers[s]; ok {
			delete(l.subscribers, s)
			close(s.ch)
		}
	}
}

package events_test

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/gateway/events"
)

func numbers(list []events.Event) []uint64 {
	var out []uint64
	for _, e := range list {
		out = append(out, e.Seq)
	}
	return out
}

func TestRingKeepsTheLatest(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	l := events.New(events.Options{Size: 3, Now: func() time.Time { return at }})
	if got := l.Since(0, events.Filter{}); len(got) != 0 || l.Last() != 0 {
		t.Errorf("an empty log has %v, last %d", got, l.Last())
	}
	for range 5 {
		l.Add(events.Event{Kind: "x"})
	}
	for _, tc := range []struct {
		since uint64
		want  []uint64
	}{
		{0, []uint64{3, 4, 5}}, {1, []uint64{3, 4, 5}}, {3, []uint64{4, 5}}, {5, nil}, {99, nil}, {math.MaxUint64, nil},
	} {
		if diff := cmp.Diff(tc.want, numbers(l.Since(tc.since, events.Filter{}))); diff != "" {
			t.Errorf("Since(%d): %s", tc.since, diff)
		}
	}
	want := events.Event{Seq: 5, Time: at, Severity: events.Info, Kind: "x"}
	if diff := cmp.Diff([]events.Event{want}, l.Since(4, events.Filter{})); diff != "" {
		t.Error(diff)
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	e := events.Event{Kind: "device.connected", Device: "lamp", Severity: events.Warn}
	for _, tc := range []struct {
		name   string
		filter events.Filter
		want   bool
	}{
		{"zero value", events.Filter{}, true},
		{"kind", events.Filter{Kind: "device.connected"}, true},
		{"family of kinds", events.Filter{Kind: "device"}, true},
		{"beginning of a word", events.Filter{Kind: "dev"}, false},
		{"longer kind", events.Filter{Kind: "device.connected.now"}, false},
		{"device", events.Filter{Device: "lamp"}, true},
		{"another device", events.Filter{Device: "lamp2"}, false},
		{"lower severity", events.Filter{Severity: events.Info}, true},
		{"same severity", events.Filter{Severity: events.Warn}, true},
		{"higher severity", events.Filter{Severity: events.Error}, false},
	} {
		if got := tc.filter.Match(e); got != tc.want {
			t.Errorf("%s: Match = %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestSubscriberMissesWhatItHasNoRoomFor(t *testing.T) {
	t.Parallel()
	l := events.New(events.Options{})
	l.Add(events.Event{Kind: "before"})
	ch, cancel := l.Subscribe(2)
	for range 5 {
		l.Add(events.Event{Kind: "x"})
	}
	cancel()
	cancel()
	l.Add(events.Event{Kind: "after"})
	var got []uint64
	for e := range ch {
		got = append(got, e.Seq)
	}
	if diff := cmp.Diff([]uint64{2, 3}, got); diff != "" {
		t.Error(diff)
	}
}

func TestHugeEventsAreCut(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 70000)
	data := map[string]string{"long": long}
	for i := range 100 {
		data[strings.Repeat("k", i)] = ""
	}
	l := events.New(events.Options{})
	l.Add(events.Event{Kind: long, Device: long, Topic: long, Text: long, Data: data})
	e := l.Since(0, events.Filter{})[0]
	for name, s := range map[string]string{"kind": e.Kind, "device": e.Device, "topic": e.Topic, "text": e.Text, "data": e.Data["long"]} {
		if len(s) > events.MaxText || !utf8.ValidString(s) {
			t.Errorf("%s has %d bytes, valid UTF-8: %v", name, len(s), utf8.ValidString(s))
		}
	}
	if len(e.Data) != events.MaxData {
		t.Errorf("%d pairs of data, want %d", len(e.Data), events.MaxData)
	}
	if len(data) != 101 {
		t.Error("Add changed the caller's data")
	}
}

// TestConcurrentUse is for the race detector, and for the order that every subscriber sees.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	l := events.New(events.Options{Size: 50})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				l.Add(events.Event{Kind: "x"})
				l.Since(l.Last()-1, events.Filter{})
			}
		})
		wg.Go(func() {
			ch, cancel := l.Subscribe(4)
			l.Add(events.Event{Kind: "mine"})
			first := (<-ch).Seq
			cancel()
			for e := range ch {
				if e.Seq <= first {
					t.Errorf("event %d came after %d", e.Seq, first)
				}
			}
		})
	}
	wg.Wait()
	if l.Last() != 804 || len(l.Since(0, events.Filter{})) != 50 {
		t.Errorf("last is %d with %d kept", l.Last(), len(l.Since(0, events.Filter{})))
	}
}

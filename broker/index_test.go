package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
)

// The index finds what [mqtt.Filter.Match] matches, whatever was added and removed before.
func TestIndexMatchesAsFiltersDo(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	name := func(levels []string) string {
		list := make([]string, 1+random.IntN(4))
		for i := range list {
			list[i] = levels[random.IntN(len(levels))]
		}
		return strings.Join(list, "/")
	}
	x := newIndex()
	sessions := []*session{newSession(nil, "a", ""), newSession(nil, "b", "")}
	here := map[string]bool{} // session, filter
	for range 20_000 {
		s := sessions[random.IntN(2)]
		text := name([]string{"a", "b", "", "$x", "+", "+", "#"})
		if random.IntN(4) == 0 {
			text = "$share/g/" + text
		}
		filter, err := mqtt.ParseFilter(text, 0)
		if err != nil {
			continue
		}
		key := s.id + " " + text
		if random.IntN(3) > 0 {
			if existed, ok := x.add(&subscription{Subscription: plane.Subscription{Filter: filter}, owner: s}, 1000); !ok || existed != here[key] {
				t.Fatalf("add(%s): existed is %v", key, existed)
			}
			here[key] = true
		} else {
			if x.remove(s, filter) != here[key] {
				t.Fatalf("remove(%s): want %v", key, here[key])
			}
			delete(here, key)
		}
		topic := name([]string{"a", "b", "", "$x"})
		if topic == "" {
			continue
		}
		var m matches
		x.match(topic, &m)
		var got, want []string
		for _, sub := range m.subs {
			got = append(got, sub.owner.id+" "+string(sub.Filter))
		}
		for _, g := range m.shares {
			for _, sub := range g.members {
				got = append(got, sub.owner.id+" "+string(sub.Filter))
			}
		}
		for key := range here {
			if _, filter, _ := strings.Cut(key, " "); mqtt.Filter(filter).Match(topic) {
				want = append(want, key)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("match(%q) = %q, want %q", topic, got, want)
		}
		if x.size() != len(here) {
			t.Fatalf("size %d, want %d", x.size(), len(here))
		}
	}
	for _, s := range sessions {
		x.removeAll(s)
	}
	if x.size() != 0 || len(x.root.children) != 0 {
		t.Errorf("an empty index has %d subscriptions and %d nodes", x.size(), len(x.root.children))
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			x := newIndex()
			for i := range n {
				s := newSession(nil, fmt.Sprint(i), "")
				x.add(&subscription{Subscription: plane.Subscription{Filter: mqtt.Filter(fmt.Sprintf("site/%d/+", i))}, owner: s}, 10)
			}
			b.ReportAllocs()
			for b.Loop() {
				var m matches
				x.match("site/7/temperature", &m)
			}
		})
	}
}

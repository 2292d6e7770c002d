package mqtt_test

import (
	"strings"
	"testing"

	"gatewayctl/broker/mqtt"
)

func TestParseFilter(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, filter string
		maxLevels    int
		wantErr      string // "" for a valid filter
	}{
		{"one level", "a", 0, ""},
		{"only #, §4.7.1.2", "#", 0, ""},
		{"only +, §4.7.1.3", "+", 0, ""},
		{"# after a separator, §4.7.1.2", "sport/tennis/#", 0, ""},
		{"+ at any level, §4.7.1.3", "+/tennis/+/x", 0, ""},
		{"+ with #, §4.7.1.3", "+/tennis/#", 0, ""},
		{"only a separator, §4.7.3", "/", 0, ""},
		{"empty levels are levels, §4.7.1.1", "//a//", 0, ""},
		{"spaces, §4.7.3", "Accounts payable/+", 0, ""},
		{"case and beyond ASCII, §4.7.3", "Zähler/温度/#", 0, ""},
		{"$ topics may be subscribed, §4.7.2", "$SYS/#", 0, ""},
		{"a byte order mark is a character [MQTT-1.5.4-3]", "a/\uFEFF", 0, ""},
		{"longest [MQTT-4.7.3-3]", strings.Repeat("x", 65535), 0, ""},
		{"at the level limit", "a/b/#", 3, ""},
		{"shared, §4.8.2", "$share/g/a/+", 0, ""},
		{"shared root, §4.8.2", "$share/g//", 0, ""},
		{"a share's prefix is no level", "$share/g/a/b", 2, ""},
		{"$share alone is a plain filter", "$share", 0, ""},
		{"$shared is a plain filter", "$shared/x", 0, ""},

		{"empty [MQTT-4.7.3-1]", "", 0, "empty"},
		{"NUL [MQTT-4.7.3-2]", "a\x00b", 0, "NUL"},
		{"too long [MQTT-4.7.3-3]", strings.Repeat("x", 65536), 0, "65536 bytes"},
		{"invalid UTF-8 [MQTT-1.5.4-1]", "a/\xff", 0, "UTF-8"},
		{"encoded surrogate [MQTT-1.5.4-1]", "a/\xed\xa0\x80", 0, "UTF-8"},
		{"overlong NUL [MQTT-1.5.4-1]", "a/\xc0\x80", 0, "UTF-8"},
		{"# with text before [MQTT-4.7.1-1]", "a#", 0, "#"},
		{"# not last [MQTT-4.7.1-1]", "a/#/b", 0, "#"},
		{"# before a separator [MQTT-4.7.1-1]", "#/", 0, "#"},
		{"two # [MQTT-4.7.1-1]", "##", 0, "#"},
		{"+ with text before [MQTT-4.7.1-2]", "a+/b", 0, "+"},
		{"+ with text after [MQTT-4.7.1-2]", "+a", 0, "+"},
		{"two + [MQTT-4.7.1-2]", "a/++", 0, "+"},
		{"+# [MQTT-4.7.1-1]", "+#", 0, "is not"},
		{"above the level limit", "a/b/c/d", 3, "4 levels"},
		{"no share name [MQTT-4.8.2-1]", "$share//a", 0, "share name"},
		{"nothing after $share/ [MQTT-4.8.2-1]", "$share/", 0, "share name"},
		{"+ in the share name [MQTT-4.8.2-2]", "$share/g+/a", 0, "share name"},
		{"# in the share name [MQTT-4.8.2-2]", "$share/#/a", 0, "share name"},
		{"no filter after the share name [MQTT-4.8.2-2]", "$share/g", 0, "nothing after"},
		{"empty filter after the share name [MQTT-4.7.3-1]", "$share/g/", 0, "nothing after"},
		{"bad filter after the share name [MQTT-4.7.1-1]", "$share/g/a#", 0, "#"},
		{"shared twice", "$share/g/$share/h/a", 0, "twice"},
		{"above the level limit behind a share", "$share/g/a/b/c", 2, "3 levels"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f, err := mqtt.ParseFilter(tc.filter, tc.maxLevels)
			if tc.wantErr == "" {
				if err != nil || string(f) != tc.filter {
					t.Errorf("ParseFilter(%.40q, %d) = %.40q, %v, want it unchanged", tc.filter, tc.maxLevels, f, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.wantErr) || f != "" {
				t.Errorf("ParseFilter(%.40q, %d) = %.40q, %v, want an error with %q", tc.filter, tc.maxLevels, f, err, tc.wantErr)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestFilterMatch(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, filter, topic string
		want                bool
	}{
		{"equal", "a/b", "a/b", true},
		{"a prefix is no match", "a/b", "a/bc", false},
		{"a longer filter is no match", "a/bc", "a/b", false},
		{"case counts, §4.7.3", "ACCOUNTS", "Accounts", false},
		{"a leading separator makes a level, §4.7.3", "/a", "a", false},
		{"a trailing separator makes a level, §4.7.3", "a/", "a", false},
		{"no normalization [MQTT-4.7.3-4]", "caf\u00e9", "cafe\u0301", false},
		{"# matches everything, §4.7.1.2", "#", "a/b/c", true},
		{"# matches an empty level", "#", "/", true},
		{"# includes the parent, §4.7.1.2", "sport/tennis/player1/#", "sport/tennis/player1", true},
		{"# matches children, §4.7.1.2", "sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"# matches an empty child", "sport/#", "sport/", true},
		{"# is no text prefix", "lamp/#", "lamp2/x", false},
		{"# includes no grandparent", "a/b/#", "a", false},
		{"+ is one level, §4.7.1.3", "sport/tennis/+", "sport/tennis/player1", true},
		{"+ is not two levels, §4.7.1.3", "sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"+ needs its level, §4.7.1.3", "sport/+", "sport", false},
		{"+ may be empty, §4.7.1.3", "sport/+", "sport/", true},
		{"+/+ matches a leading separator, §4.7.1.3", "+/+", "/finance", true},
		{"/+ matches a leading separator, §4.7.1.3", "/+", "/finance", true},
		{"+ does not match a leading separator, §4.7.1.3", "+", "/finance", false},
		{"+ in the middle", "a/+/c", "a/b/c", true},
		{"+ in the middle, other end", "a/+/c", "a/b/d", false},
		{"+ and # with the parent", "+/#", "a", true},
		{"+ then # on an empty level", "a/+/#", "a/", true},
		{"# skips $ topics [MQTT-4.7.2-1]", "#", "$SYS/uptime", false},
		{"+ skips $ topics [MQTT-4.7.2-1]", "+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"a named $ level matches, §4.7.2", "$SYS/#", "$SYS/monitor/Clients", true},
		{"a named $ level with +, §4.7.2", "$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"$ matters only in front", "a/#", "a/$b", true},
		{"a shared filter matches as its filter, §4.8.2", "$share/g/a/+", "a/b", true},
		{"a shared wildcard skips $ topics [MQTT-4.7.2-1]", "$share/g/#", "$SYS/x", false},
		{"a shared filter of $ topics", "$share/g/$aws/#", "$aws/x", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f, err := mqtt.ParseFilter(tc.filter, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Match(tc.topic); got != tc.want {
				t.Errorf("Filter(%q).Match(%q) = %v, want %v", tc.filter, tc.topic, got, tc.want)
			}
		})
	}
}

func TestFilterShare(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ filter, name, rest string }{
		{"a/b", "", "a/b"},
		{"$share/g/a/b", "g", "a/b"},
		{"$share/g//", "g", "/"},
		{"$share", "", "$share"},
		{"$SYS/#", "", "$SYS/#"},
	} {
		if name, rest := mqtt.Filter(tc.filter).Share(); name != tc.name || string(rest) != tc.rest {
			t.Errorf("Filter(%q).Share() = %q, %q, want %q, %q", tc.filter, name, rest, tc.name, tc.rest)
		}
	}
}

func TestFilterHasWildcard(t *testing.T) {
	t.Parallel()
	for filter, want := range map[mqtt.Filter]bool{"a/b": false, "a/+": true, "#": true, "$share/g/a": false, "$share/g/#": true} {
		if got := filter.HasWildcard(); got != want {
			t.Errorf("Filter(%q).HasWildcard() = %v, want %v", filter, got, want)
		}
	}
}

func TestFilterMatchAllocatesNothing(t *testing.T) {
	f := mqtt.Filter("$share/g/site/+/data/#")
	if n := testing.AllocsPerRun(100, func() { f.Match("site/lamp/data/temperature") }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

// matchByLevels is §4.7 told once more, level by level.
func matchByLevels(filter, topic string) bool {
	if topic[0] == '$' && strings.ContainsAny(filter[:1], "+#") {
		return false
	}
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(t) || level != "+" && level != t[i] {
			return false
		}
	}
	return len(f) == len(t)
}

func FuzzFilterMatch(f *testing.F) {
	for _, s := range [][2]string{
		{"a/#", "a"}, {"+/+", "/a"}, {"#", "$SYS"}, {"$share/g/a/+", "a/"}, {"a#", "a"}, {"$share/g", "g"}, {"\xff", "a"}, {"a/+/#", "a/b"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, topic string) {
		p, err := mqtt.ParseFilter(filter, 0)
		if err != nil {
			mqtt.Filter(filter).Match(topic) // must not panic
			return
		}
		if mqtt.ValidateTopic(topic, 0) != nil {
			p.Match(topic) // must not panic
			return
		}
		_, rest := p.Share()
		if again, err := mqtt.ParseFilter(string(rest), 0); err != nil || again != rest {
			t.Errorf("ParseFilter accepts %q but not its filter %q: %v", filter, rest, err)
		}
		if got, want := p.Match(topic), matchByLevels(string(rest), topic); got != want {
			t.Errorf("Filter(%q).Match(%q) = %v, want %v", filter, topic, got, want)
		}
		if !rest.HasWildcard() && p.Match(topic) != (string(rest) == topic) {
			t.Errorf("Filter(%q) without wildcards matches another topic than itself: %q", filter, topic)
		}
	})
}

func BenchmarkFilterMatch(b *testing.B) {
	f := mqtt.Filter("site/+/data/#")
	for b.Loop() {
		f.Match("site/lamp-0017/data/temperature")
	}
}

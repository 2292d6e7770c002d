package mqtt

import (
	"fmt"
	"strings"
)

// A Filter is a topic filter (MQTT 5.0 §4.7), shared ones with their prefix (§4.8.2). It is not
// a topic: [ParseFilter] makes a valid one from foreign text; converting a string constant is
// right where the text is known to be valid.
type Filter string

// sharePrefix starts the filter of a shared subscription (MQTT 5.0 §4.8.2).
const sharePrefix = "$share/"

// ParseFilter checks s and returns it as a Filter, or says why it is none. maxLevels limits the
// number of levels, not counting the two of a `$share/NAME/` prefix; 0 means no limit.
//
// A filter that starts with `$share/` must have a share name and a filter after it; a shared
// filter within a shared filter is refused.
func ParseFilter(s string, maxLevels int) (Filter, error) {
	if err := validateString(s, "filter"); err != nil {
		return "", err
	}
	body := s
	if after, shared := strings.CutPrefix(s, sharePrefix); shared {
		name, rest, ok := strings.Cut(after, "/")
		switch {
		case name == "": // [MQTT-4.8.2-1]
			return "", fmt.Errorf("filter %s has no share name: write $share/NAME/FILTER", quote(s))
		case strings.ContainsAny(name, "+#"): // [MQTT-4.8.2-2]
			return "", fmt.Errorf("filter %s has a wildcard in its share name", quote(s))
		case !ok || rest == "": // [MQTT-4.8.2-2], [MQTT-4.7.3-1]
			return "", fmt.Errorf("filter %s has nothing after its share name: write $share/NAME/FILTER", quote(s))
		case strings.HasPrefix(rest, sharePrefix):
			return "", fmt.Errorf("filter %s is shared twice: write $share/NAME/FILTER once", quote(s))
		}
		body = rest
	}
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '#': // [MQTT-4.7.1-1]
			if i+1 != len(body) || i > 0 && body[i-1] != '/' {
				return "", fmt.Errorf("filter %s has a # that is not its whole last level", quote(s))
			}
		case '+': // [MQTT-4.7.1-2]
			if i > 0 && body[i-1] != '/' || i+1 < len(body) && body[i+1] != '/' {
				return "", fmt.Errorf("filter %s has a + that is not a whole level", quote(s))
			}
		}
	}
	if err := validateLevels(body, "filter", maxLevels); err != nil {
		return "", err
	}
	return Filter(s), nil
}

// Share splits the filter of a shared subscription into the share name and the filter that is
// matched (MQTT 5.0 §4.8.2). The name is "" and the filter f itself for any other.
func (f Filter) Share() (name string, filter Filter) {
	after, shared := strings.CutPrefix(string(f), sharePrefix)
	if !shared {
		return "", f
	}
	name, rest, ok := strings.Cut(after, "/")
	if !ok {
		return "", f
	}
	return name, Filter(rest)
}

// HasWildcard reports whether f may match more than one topic.
func (f Filter) HasWildcard() bool { return strings.ContainsAny(string(f), "+#") }

// Match reports whether f matches topic (MQTT 5.0 §4.7). A shared filter matches what the filter
// after its share name matches. Bytes are compared as they are [MQTT-4.7.3-4]. Both must be
// valid; Match never panics and does not allocate.
func (f Filter) Match(topic string) bool {
	_, f = f.Share()
	if f == "" || topic == "" {
		return false
	}
	if topic[0] == '$' && (f[0] == '+' || f[0] == '#') { // [MQTT-4.7.2-1]
		return false
	}
	t := 0
	for i := 0; i < len(f); i++ {
		switch {
		case f[i] == '#':
			return true
		case f[i] == '+':
			for t < len(topic) && topic[t] != '/' {
				t++
			}
		case t < len(topic) && f[i] == topic[t]:
			t++
		default: // "a/#" includes its parent "a" (§4.7.1.2)
			return t == len(topic) && f[i:] == "/#"
		}
	}
	return t == len(topic)
}

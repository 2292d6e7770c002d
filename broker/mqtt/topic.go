package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxStringBytes is the longest UTF-8 encoded string that MQTT can carry, and so the longest
// topic name and topic filter (MQTT 5.0 §1.5.4) [MQTT-4.7.3-3].
const MaxStringBytes = 65535

// ValidateTopic reports why s is no topic name (MQTT 5.0 §4.7), or nil. maxLevels limits the
// number of levels, which is one more than the number of slashes; 0 means no limit.
//
// Control characters other than NUL and Unicode non-characters are allowed, as the standard
// leaves it to the receiver (§1.5.4). Nothing is normalized [MQTT-4.7.3-4]. A valid topic costs
// no allocation.
func ValidateTopic(s string, maxLevels int) error {
	if err := validateString(s, "topic"); err != nil {
		return err
	}
	if i := strings.IndexAny(s, "+#"); i >= 0 { // [MQTT-4.7.0-1], [MQTT-3.3.2-2]
		return fmt.Errorf("topic %s has the wildcard %q at byte %d: a topic name cannot have one", quote(s), s[i], i)
	}
	return validateLevels(s, "topic", maxLevels)
}

// validateString checks what topic names and topic filters have in common.
func validateString(s, what string) error {
	switch {
	case s == "": // [MQTT-4.7.3-1]
		return errors.New(what + " is empty")
	case len(s) > MaxStringBytes: // [MQTT-4.7.3-3]
		return fmt.Errorf("%s %s has %d bytes: at most %d are allowed", what, quote(s), len(s), MaxStringBytes)
	case !utf8.ValidString(s): // [MQTT-1.5.4-1]
		return fmt.Errorf("%s %s is not valid UTF-8", what, quote(s))
	}
	if i := strings.IndexByte(s, 0); i >= 0 { // [MQTT-4.7.3-2]
		return fmt.Errorf("%s %s has a NUL at byte %d", what, quote(s), i)
	}
	return nil
}

func validateLevels(s, what string, maxLevels int) error {
	if maxLevels <= 0 {
		return nil
	}
	if n := strings.Count(s, "/") + 1; n > maxLevels {
		return fmt.Errorf("%s %s has %d levels: at most %d are allowed", what, quote(s), n, maxLevels)
	}
	return nil
}

// quote makes a foreign string fit for one line of an error message.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	cut := most
	for cut > most-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q…", s[:cut])
}

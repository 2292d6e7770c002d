package mqtt_test

import (
	"strings"
	"testing"

	"gatewayctl/broker/mqtt"
)

func TestValidateTopic(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, topic string
		maxLevels   int
		wantErr     string
	}{
		{"one level", "a", 0, ""},
		{"separators only, §4.7.3", "//", 0, ""},
		{"$ topic, §4.7.2", "$aws/things/lamp/shadow/update", 0, ""},
		{"space, §4.7.3", "Accounts payable", 0, ""},
		{"beyond ASCII", "Zähler/温度/\U0001F4A1", 0, ""},
		{"control character, §1.5.4 leaves it to us", "a\x01b", 0, ""},
		{"longest [MQTT-4.7.3-3]", strings.Repeat("x", 65535), 0, ""},
		{"policy wildcards are plain text", "a/*/?", 0, ""},
		{"at the level limit", "a/b/c", 3, ""},
		{"empty [MQTT-4.7.3-1]", "", 0, "empty"},
		{"NUL [MQTT-4.7.3-2]", "a\x00", 0, "NUL"},
		{"too long [MQTT-4.7.3-3]", strings.Repeat("é", 32768), 0, "65536 bytes"},
		{"invalid UTF-8 [MQTT-1.5.4-1]", "\x80", 0, "UTF-8"},
		{"+ [MQTT-4.7.0-1]", "a/+", 0, "wildcard"},
		{"# [MQTT-3.3.2-2]", "#", 0, "wildcard"},
		{"+ within a level [MQTT-4.7.0-1]", "a+b", 0, "wildcard"},
		{"above the level limit", "a/b/c/", 3, "4 levels"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := mqtt.ValidateTopic(tc.topic, tc.maxLevels)
			switch {
			case tc.wantErr == "" && err != nil:
				t.Errorf("ValidateTopic(%.40q, %d) = %v, want nil", tc.topic, tc.maxLevels, err)
			case tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)):
				t.Errorf("ValidateTopic(%.40q, %d) = %v, want an error with %q", tc.topic, tc.maxLevels, err, tc.wantErr)
			}
		})
	}
}

func TestValidateTopicAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = mqtt.ValidateTopic("site/lamp/data/temperature", 8) }); n != 0 {
		t.Errorf("ValidateTopic allocates %v times", n)
	}
}

func BenchmarkValidateTopic(b *testing.B) {
	for b.Loop() {
		_ = mqtt.ValidateTopic("site/lamp-0017/data/temperature", 8)
	}
}

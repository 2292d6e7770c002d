package identity_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/pki/identity"
)

func TestParseDeviceID(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in string
		ok bool
	}{
		{"lamp", true}, {"a", true}, {"esp32_A1B2C3", true}, {"Zz09:_-", true}, {"-", true}, {strings.Repeat("x", 128), true},
		{"", false}, {strings.Repeat("x", 129), false}, {"a b", false}, {"a/b", false}, {"a#1", false}, {"+", false}, {"a.b", false},
		{"lämp", false}, {"lamp\n", false}, {"a\x00", false},
	} {
		id, err := identity.ParseDeviceID(tc.in)
		if (err == nil) != tc.ok {
			t.Errorf("ParseDeviceID(%q): %v", tc.in, err)
		}
		if tc.ok && (id.String() != tc.in || id.IsZero()) || !tc.ok && !id.IsZero() {
			t.Errorf("ParseDeviceID(%q) = %q", tc.in, id)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("error of %q is not one line: %v", tc.in, err)
		}
	}
}

func TestDeviceIDInJSON(t *testing.T) {
	t.Parallel()
	type row struct {
		ID   identity.DeviceID            `json:"id,omitzero"`
		ByID map[identity.DeviceID]string `json:"by_id,omitempty"`
	}
	lamp, err := identity.ParseDeviceID("lamp")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		row  row
		text string
	}{
		{row{}, `{}`},
		{row{ID: lamp}, `{"id":"lamp"}`},
		{row{ByID: map[identity.DeviceID]string{lamp: "x"}}, `{"by_id":{"lamp":"x"}}`},
	} {
		b, err := json.Marshal(tc.row)
		if err != nil || string(b) != tc.text {
			t.Errorf("Marshal(%v) = %s, %v; want %s", tc.row, b, err, tc.text)
		}
		var got row
		if err := json.Unmarshal(b, &got); err != nil || !cmp.Equal(got, tc.row) {
			t.Errorf("Unmarshal(%s) = %v, %v", b, got, err)
		}
	}
	var got row
	if err := json.Unmarshal([]byte(`{"id":"a/b"}`), &got); err == nil {
		t.Errorf("a name that is not allowed was taken from JSON: %v", got)
	}
}

package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// MaxID is the greatest id that every peer can hold: some keep numbers as a float64.
const MaxID = 1 << 53

// An ID ties an answer to its request: an integer or a string. The zero value is no ID, as in a
// notification.
type ID struct {
	text   string
	quoted bool // a JSON string
}

// IntID returns the integer n as an ID.
func IntID(n int64) ID { return ID{text: strconv.FormatInt(n, 10)} }

// TextID returns the string s as an ID.
func TextID(s string) ID { return ID{text: s, quoted: true} }

// IsZero reports whether there is no ID.
func (i ID) IsZero() bool { return i == ID{} }

// String returns the ID as text, without quotes.
func (i ID) String() string { return i.text }

// Equal reports whether both are written the same way; it lets go-cmp compare IDs.
func (i ID) Equal(o ID) bool { return i == o }

// Answers reports whether an answer with the ID i belongs to a request with the ID req. Devices
// keep an id as text and answer digits as a number, so 5 and "5" are the same to them.
func (i ID) Answers(req ID) bool { return !i.IsZero() && !req.IsZero() && i.text == req.text }

// MarshalJSON implements [json.Marshaler]; no ID is null.
func (i ID) MarshalJSON() ([]byte, error) {
	switch {
	case i.IsZero():
		return []byte("null"), nil
	case i.quoted:
		return json.Marshal(i.text)
	}
	return []byte(i.text), nil
}

// UnmarshalJSON implements [json.Unmarshaler]. It takes an integer of 64 bits, also one written
// as 5.0 or 5e3, a string, or null.
func (i *ID) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "null":
		*i = ID{}
		return nil
	case len(b) > 0 && b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*i = TextID(s)
		return nil
	}
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		*i = IntID(n)
		return nil
	}
	x, err := strconv.ParseFloat(string(b), 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return errors.New("neither an integer nor a string")
	case x != math.Trunc(x) || math.Abs(x) > MaxID:
		return fmt.Errorf("%.40s is not an integer of at most 53 bits", b)
	}
	*i = IntID(int64(x))
	return nil
}

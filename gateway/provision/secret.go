package provision

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "redacted"

// A Secret is bytes that must not be printed or logged: however that is tried, it says
// "redacted". It can be used wherever bytes are wanted.
type Secret []byte

// String returns "redacted".
func (Secret) String() string { return redacted }

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format implements [fmt.Formatter] for all verbs.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler]; convert to bytes to send a secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

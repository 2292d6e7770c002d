package keystore

import (
	"crypto"
	"fmt"
	"io"
	"log/slog"
)

// A Key signs with a private key of a [Store] and never shows it: however it is printed or
// logged, only its name appears.
type Key struct {
	name   string
	signer crypto.Signer
}

// Name returns the name under which the store keeps the key.
func (k *Key) Name() string { return k.name }

// Public implements [crypto.Signer].
func (k *Key) Public() crypto.PublicKey { return k.signer.Public() }

// Sign implements [crypto.Signer].
func (k *Key) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.signer.Sign(rand, digest, opts)
}

// String returns the key's name and "redacted".
func (k *Key) String() string { return "private key " + k.name + " (redacted)" }

// LogValue implements [slog.LogValuer].
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Format implements [fmt.Formatter], so that no verb reaches the key.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText implements [encoding.TextMarshaler], so that no encoder reaches the key.
func (k *Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

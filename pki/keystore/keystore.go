// Package keystore keeps the gateway's private keys in one directory: PKCS#8 in PEM (RFC 7468
// §10), one file per key, readable by their owner only.
//
// # Design
//
// A key that others can read is no longer a secret, so [Store.Load] refuses it instead of
// repairing its mode: somebody has to decide whether it must be replaced. Every error names the
// file and what to do about it. Keys are handed out as [Key], which signs but never prints.
package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gatewayctl/store/atomicfile"
)

const (
	suffix   = ".key"
	pemType  = "PRIVATE KEY"
	maxBytes = 64 << 10 // a PKCS#8 file of RSA 8192 has 6.5 kB
)

// What [Error] wraps besides the errors of package fs.
var (
	ErrPermission = errors.New("others can read it")
	ErrInvalid    = errors.New("not a private key in PEM (PKCS#8)")
	ErrExists     = errors.New("there is one already")
)

// An Error says which file is not as it must be, why, and what an operator can do.
type Error struct {
	Path   string
	Err    error // wraps ErrPermission, ErrInvalid, ErrExists or an error of package fs
	Remedy string
}

func (e *Error) Error() string {
	return fmt.Sprintf("private key %s: %v; %s", e.Path, e.Err, e.Remedy)
}

func (e *Error) Unwrap() error { return e.Err }

// A Store is a directory of private keys. Its methods are safe for concurrent use as long as one
// process works on the directory.
type Store struct{ root *os.Root }

// Open returns the store in root, which stays open for as long as the store is used. It refuses
// a directory that others may write to, because they could exchange the keys, and removes what
// an interrupted Create left behind.
func Open(root *os.Root) (*Store, error) {
	info, err := root.Stat(".")
	if err != nil {
		return nil, fmt.Errorf("open key directory %s: %w", root.Name(), err)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return nil, fmt.Errorf("open key directory %s: mode %04o lets others exchange the keys; run: chmod 700 %[1]s", root.Name(), perm)
	}
	if err := atomicfile.Sweep(root, "."); err != nil { // they hold half-written keys
		return nil, fmt.Errorf("open key directory %s: %w", root.Name(), err)
	}
	return &Store{root}, nil
}

// Path returns the file of the named key, for messages.
func (s *Store) Path(name string) string { return filepath.Join(s.root.Name(), name+suffix) }

// Create makes an ECDSA P-256 key and returns it once it is on stable storage with mode 0600. It
// never overwrites a key: [ErrExists].
func (s *Store) Create(name string) (*Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if _, err := s.root.Lstat(name + suffix); err == nil {
		return nil, &Error{s.Path(name), ErrExists, "move it away if it is not needed any more"}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, s.fail(name, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make private key %s: %w", s.Path(name), err)
	}
	data, err := Encode(key)
	if err != nil {
		return nil, fmt.Errorf("make private key %s: %w", s.Path(name), err)
	}
	if err := atomicfile.WriteFile(s.root, name+suffix, data, 0o600); err != nil {
		return nil, s.fail(name, err)
	}
	return &Key{name: name, signer: key}, nil
}

// Load reads the named key. Its error is an [*Error] that wraps fs.ErrNotExist when there is
// none, [ErrPermission] when anybody but its owner may read it, and [ErrInvalid] when it is not
// one whole PKCS#8 key.
func (s *Store) Load(name string) (*Key, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := s.root.Open(name + suffix)
	if err != nil {
		return nil, s.fail(name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, s.fail(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, s.invalid(name, "it is not a regular file")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, &Error{s.Path(name), fmt.Errorf("mode %04o: %w", perm, ErrPermission),
			"if nobody has read it, run: chmod 600 " + s.Path(name)}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, s.fail(name, err)
	}
	if len(data) > maxBytes {
		return nil, s.invalid(name, "it is too long")
	}
	signer, err := parse(data)
	if err != nil {
		return nil, s.invalid(name, err.Error())
	}
	return &Key{name: name, signer: signer}, nil
}

// Remove deletes the named key; one that is not there is no error.
func (s *Store) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := s.root.Remove(name + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail(name, err)
	}
	return nil
}

// List returns the names of all keys that begin with prefix, sorted.
func (s *Store) List(prefix string) ([]string, error) {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list key directory %s: %w", s.root.Name(), err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), suffix); ok && strings.HasPrefix(name, prefix) && checkName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Encode returns key as PKCS#8 in PEM, the form in which the store keeps keys.
func Encode(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

func parse(data []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	switch {
	case len(data) == 0:
		return nil, errors.New("it is empty")
	case block == nil:
		return nil, errors.New("no PEM block, or one that is cut off")
	case block.Type != pemType:
		return nil, fmt.Errorf("a PEM block %q where %q belongs", block.Type, pemType)
	case len(strings.TrimSpace(string(rest))) > 0:
		return nil, errors.New("something follows the key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its content cannot be decoded")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

func (s *Store) invalid(name, why string) error {
	return &Error{s.Path(name), fmt.Errorf("%w: %s", ErrInvalid, why), "restore it from a backup"}
}

func (s *Store) fail(name string, err error) error {
	remedy := "check the file and the disk under it"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		remedy = "restore it from a backup"
	case errors.Is(err, fs.ErrPermission):
		remedy = "give it to the user that the gateway runs as, mode 600, in a directory of mode 700"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // the path is named already
	}
	return &Error{s.Path(name), err, remedy}
}

// checkName keeps names to one plain path element.
func checkName(name string) error {
	ok := name != "" && len(name) <= 100 && name[0] != '-'
	for i := range len(name) {
		c := name[i]
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("key name %q: use a-z 0-9 -", name)
	}
	return nil
}

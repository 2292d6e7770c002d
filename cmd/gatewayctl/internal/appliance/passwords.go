package appliance

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// passwords is a password file: lines of user:hash as `htpasswd -B` writes them, # for comments.
type passwords struct {
	hashes map[string][]byte
	decoy  []byte // compared for unknown users, so that they take as long as known ones
}

func loadPasswords(path string) (*passwords, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read password file: %w", err)
	}
	p := &passwords{hashes: map[string][]byte{}}
	for s, n := bufio.NewScanner(bytes.NewReader(b)), 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !ok || user == "" || err != nil {
			return nil, fmt.Errorf("password file %s, line %d: want user:hash with a bcrypt hash, as `htpasswd -B` writes it", path, n)
		}
		p.hashes[user], p.decoy = []byte(hash), []byte(hash)
	}
	if len(p.hashes) == 0 {
		return nil, fmt.Errorf("password file %s names no user", path)
	}
	return p, nil
}

// match reports whether password is the user's.
func (p *passwords) match(user string, password []byte) bool {
	hash, known := p.hashes[user]
	if !known {
		hash = p.decoy
	}
	return bcrypt.CompareHashAndPassword(hash, password) == nil && known
}

package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"gatewayctl/broker/acl"
	"gatewayctl/configs"
)

// policyName is AWS's grammar of policy names.
var policyName = regexp.MustCompile(`^[\w+=,.@-]{1,128}$`)

// errNoPolicy is returned for a policy that neither the data directory nor the binary holds.
var errNoPolicy = errors.New("there is no such policy")

// policies finds policy documents by name: DIR/NAME.json first, then those that came with the
// binary. Compiled sets are kept, so that connecting devices share one.
type policies struct {
	dir string

	mu   sync.Mutex
	sets map[string]*acl.Set // by the names, joined
}

func newPolicies(dir string) *policies { return &policies{dir: dir, sets: map[string]*acl.Set{}} }

// document reads and parses the named policy.
func (p *policies) document(name string) (*acl.Document, error) {
	if !policyName.MatchString(name) || name == "." || name == ".." {
		return nil, fmt.Errorf("policy name %q: use 1 to 128 letters, digits and _+=,.@-", name)
	}
	path := filepath.Join(p.dir, name+".json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = "policies/" + name + ".json"
		b, err = fs.ReadFile(configs.Policies, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("policy %s: %w: put its document at %s", name, errNoPolicy, filepath.Join(p.dir, name+".json"))
	}
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", name, err)
	}
	doc, err := acl.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %s: %w", name, path, err)
	}
	return doc, nil
}

// set compiles the named policies into one.
func (p *policies) set(names []string) (*acl.Set, error) {
	key := strings.Join(names, "\n")
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sets[key]; ok {
		return s, nil
	}
	named := make([]acl.Named, 0, len(names))
	for _, n := range names {
		doc, err := p.document(n)
		if err != nil {
			return nil, err
		}
		named = append(named, acl.Named{Name: n, Doc: doc})
	}
	s := acl.Compile(named...)
	p.sets[key] = s
	return s, nil
}

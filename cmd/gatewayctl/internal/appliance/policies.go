package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"gatewayctl/broker/acl"
	"gatewayctl/configs"
)

// policyName is AWS's grammar of policy names.
var policyName = regexp.MustCompile(`^[\w+=,.@-]{1,128}$`)

// errNoPolicy is returned for a policy that neither the data directory nor the binary holds.
var errNoPolicy = errors.New("there is no such policy")

// policies finds policy documents by name: DIR/NAME.json first, then those that came with the
// binary. Compiled sets are kept, so that connecting devices share one, until a file of theirs
// changes.
type policies struct {
	dir string

	mu   sync.Mutex
	sets map[string]compiled // by the names, joined
}

// compiled is a set and what its files were like.
type compiled struct {
	set   *acl.Set
	files []stamp
}

// A stamp tells one version of a file from another; the zero one stands for no file.
type stamp struct {
	inode    uint64
	size     int64
	modified time.Time
}

func newPolicies(dir string) *policies { return &policies{dir: dir, sets: map[string]compiled{}} }

func (p *policies) stamp(name string) stamp {
	info, err := os.Stat(p.path(name))
	if err != nil {
		return stamp{}
	}
	s := stamp{size: info.Size(), modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

func (p *policies) path(name string) string { return filepath.Join(p.dir, name+".json") }

// document reads and parses the named policy.
func (p *policies) document(name string) (*acl.Document, error) {
	if !policyName.MatchString(name) || name == "." || name == ".." {
		return nil, fmt.Errorf("policy name %q: use 1 to 128 letters, digits and _+=,.@-", name)
	}
	path := p.path(name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = "policies/" + name + ".json"
		b, err = fs.ReadFile(configs.Policies, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("policy %s: %w: put its document at %s", name, errNoPolicy, p.path(name))
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
	files := make([]stamp, len(names))
	for i, n := range names {
		files[i] = p.stamp(n) // before they are read: what changes meanwhile is read again
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.sets[key]; ok && slices.Equal(c.files, files) {
		return c.set, nil
	}
	delete(p.sets, key)
	named := make([]acl.Named, 0, len(names))
	for _, n := range names {
		doc, err := p.document(n)
		if err != nil {
			return nil, err
		}
		named = append(named, acl.Named{Name: n, Doc: doc})
	}
	s := acl.Compile(named...)
	p.sets[key] = compiled{s, files}
	return s, nil
}

// broken says of each file in the directory that cannot be used why.
func (p *policies) broken() (errs []error) {
	files, err := os.ReadDir(p.dir)
	if err != nil {
		return []error{fmt.Errorf("policies: %w", err)}
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".json"); ok {
			if _, err := p.set([]string{name}); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

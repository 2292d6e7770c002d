// Package repository keeps firmware images: the bytes as files named by their SHA-256, what is
// known about them in the store.
//
// # Design
//
// The row in the store makes an image exist. An image is written to a temporary file, synced,
// renamed and made durable before its row is committed, and its row is gone before its file is, so that
// a power cut leaves at most a file that no row mentions; [Open] removes those. Bundles that
// devices could not install while they read them are rewritten on the way in, and the
// SHA-256 is that of the bytes that devices fetch. So adding the same image twice, in either
// form, finds the first.
package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/store"
)

// What callers branch on.
var (
	ErrNotFound  = errors.New("no such firmware image")
	ErrAmbiguous = errors.New("several firmware images match")
	ErrTooLarge  = errors.New("the firmware image is too large")
)

// partSuffix ends the names of temporary files.
const partSuffix = ".part"

// Schema returns the repository's part of the database.
func Schema() store.Schema {
	return store.Schema{Name: "firmware", Migrations: []func(*store.Tx) error{func(*store.Tx) error { return nil }}}
}

func bucket(tx *store.Tx) *store.Bucket { return tx.Bucket("firmware") }

// Options configures a [Repository].
type Options struct {
	MaxBytes int64            // of one image, also unpacked; 0 means 256 MiB
	Now      func() time.Time // nil means time.Now
	Log      *slog.Logger     // nil discards
}

// A Repository holds the images of one gateway. It is safe for concurrent use.
type Repository struct {
	dir  directory
	db   *store.DB
	opts Options
	log  *slog.Logger

	changes sync.Mutex   // one commit at a time
	mu      sync.RWMutex // guards images
	images  map[string]firmware.Image
}

// Open returns the repository whose files lie in root, which nobody else may use, and removes
// what a power cut has left there.
func Open(root *os.Root, db *store.DB, opts Options) (*Repository, error) {
	return openDir(rootDir{root}, db, opts)
}

func openDir(dir directory, db *store.DB, opts Options) (*Repository, error) {
	opts.MaxBytes = cmp.Or(opts.MaxBytes, 256<<20)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	r := &Repository{dir: dir, db: db, opts: opts, log: opts.Log.With("component", "firmware"), images: map[string]firmware.Image{}}
	err := db.View(func(tx *store.Tx) error {
		return bucket(tx).ForEach(func(k, _ []byte) error {
			img, _, err := store.GetJSON[firmware.Image](bucket(tx), string(k))
			if err != nil || img.SHA256 != string(k) {
				return fmt.Errorf("firmware image %s: the row cannot be read: %w", k, err)
			}
			r.images[img.SHA256] = img
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open the firmware repository: %w", err)
	}
	if err := r.sweep(); err != nil {
		return nil, fmt.Errorf("open the firmware repository: %w", err)
	}
	return r, nil
}

// sweep removes files without a row and reports rows without a file.
func (r *Repository) sweep() error {
	names, err := r.dir.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, listed := r.images[name]; listed || !strings.HasSuffix(name, partSuffix) && !isDigest(name) {
			continue
		}
		if err := r.dir.Remove(name); err != nil {
			return err
		}
		r.log.Info("incomplete firmware image removed", "file", name)
	}
	for sha, img := range r.images {
		if size, err := r.dir.Size(sha); err != nil || size != img.SizeBytes {
			r.log.Error("firmware image is damaged: add it again or remove it", "image", img.Ref(), "sha256", sha, "bytes", size, "err", err)
		}
	}
	return nil
}

// List returns all images by name, the newest version of each first.
func (r *Repository) List() []firmware.Image {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]firmware.Image, 0, len(r.images))
	for _, img := range r.images {
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b firmware.Image) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), b.Version.Compare(a.Version), b.Added.Compare(a.Added), strings.Compare(a.SHA256, b.SHA256))
	})
	return out
}

// minPrefix is how much of a SHA-256 must be given.
const minPrefix = 6

// Get returns the image that ref names: name@version, a name (the application's, or that of the file), of
// which the newest version is meant, or a SHA-256 or the first digits of it, six at least. It
// returns [ErrNotFound] or, when images for different platforms match, [ErrAmbiguous].
func (r *Repository) Get(ref string) (firmware.Image, error) {
	all := r.List()
	named := func(img firmware.Image, name string) bool { return img.Name == name || img.File == name }
	for _, matches := range []func(firmware.Image) bool{
		func(img firmware.Image) bool { return img.SHA256 == ref },
		func(img firmware.Image) bool {
			i := strings.LastIndexByte(ref, '@')
			return i > 0 && named(img, ref[:i]) && string(img.Version) == ref[i+1:]
		},
		func(img firmware.Image) bool { return named(img, ref) },
	} {
		found := slices.DeleteFunc(slices.Clone(all), func(img firmware.Image) bool { return !matches(img) })
		if len(found) > 0 {
			return newest(ref, found)
		}
	}
	if len(ref) >= minPrefix {
		found := slices.DeleteFunc(all, func(img firmware.Image) bool { return !strings.HasPrefix(img.SHA256, strings.ToLower(ref)) })
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return firmware.Image{}, ambiguous(ref, found)
		}
	}
	return firmware.Image{}, fmt.Errorf("%q: %w", ref, ErrNotFound)
}

// newest chooses among images that have the same name.
func newest(ref string, found []firmware.Image) (firmware.Image, error) {
	best := found[0]
	for _, img := range found[1:] {
		if c := img.Version.Compare(best.Version); c > 0 || c == 0 && img.Added.After(best.Added) {
			best = img
		}
	}
	if slices.ContainsFunc(found, func(img firmware.Image) bool { return img.Platform != best.Platform || img.Name != best.Name }) {
		return firmware.Image{}, ambiguous(ref, found)
	}
	return best, nil
}

func ambiguous(ref string, found []firmware.Image) error {
	var list []string
	for _, img := range found {
		list = append(list, fmt.Sprintf("%s (%s for %s)", img.SHA256[:12], img.Ref(), cmp.Or(img.Platform, "anything")))
	}
	return fmt.Errorf("%q: %w: %s: give the beginning of the SHA-256", ref, ErrAmbiguous, strings.Join(list, ", "))
}

// Open opens the bytes of an image for reading. The caller closes them; they stay readable when
// the image is removed meanwhile.
func (r *Repository) Open(sha256 string) (io.ReadSeekCloser, firmware.Image, error) {
	r.mu.RLock()
	img, ok := r.images[sha256]
	r.mu.RUnlock()
	if !ok {
		return nil, firmware.Image{}, fmt.Errorf("%.64q: %w", sha256, ErrNotFound)
	}
	f, err := r.dir.Open(sha256)
	if err != nil {
		return nil, firmware.Image{}, fmt.Errorf("firmware image %s: %w: add it again", img.Ref(), err)
	}
	return f, img, nil
}

// Remove takes the image that ref names, as for [Repository.Get], out of the repository and
// returns it.
func (r *Repository) Remove(ctx context.Context, ref string) (firmware.Image, error) {
	r.changes.Lock()
	defer r.changes.Unlock()
	img, err := r.Get(ref)
	if err != nil {
		return firmware.Image{}, err
	}
	if err := r.db.Update(ctx, func(tx *store.Tx) error { return bucket(tx).Delete([]byte(img.SHA256)) }); err != nil {
		return firmware.Image{}, fmt.Errorf("remove firmware image %s: %w", img.Ref(), err)
	}
	r.mu.Lock()
	delete(r.images, img.SHA256)
	r.mu.Unlock()
	if err := r.dir.Remove(img.SHA256); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("file of a removed image stays until the next start", "sha256", img.SHA256, "err", err)
	}
	return img, nil
}

func isDigest(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

package repository

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"gatewayctl/firmware"
	"gatewayctl/store"
)

// Add reads an image from r and keeps it. name is that of its file; an opaque image can be given a
// version as well, name@version. An image that is there already is not stored again; what is known of it is
// returned as it is.
//
// The errors are [ErrTooLarge], [firmware.ErrInvalid], those of r and those of the disk and the
// store, such as [store.ErrFull]; in each case nothing is kept.
func (r *Repository) Add(ctx context.Context, name string, src io.Reader) (firmware.Image, error) {
	img, err := r.add(ctx, name, src)
	if err != nil {
		return firmware.Image{}, fmt.Errorf("add firmware image %.80q: %w", name, err)
	}
	r.log.Info("firmware image added", "image", img.Ref(), "sha256", img.SHA256, "bytes", img.SizeBytes)
	return img, nil
}

func (r *Repository) add(ctx context.Context, name string, src io.Reader) (firmware.Image, error) {
	up, err := r.receive(ctx, src)
	if err != nil {
		return firmware.Image{}, err
	}
	defer func() { up.discard() }()
	img, bundle, err := firmware.Inspect(up.file, up.sizeBytes, name, firmware.Limits{MaxUnpackedBytes: r.opts.MaxBytes})
	if err != nil {
		return firmware.Image{}, err
	}
	if bundle != nil && !bundle.Streamable() {
		rewritten, err := r.part(bundle.WriteStreamable)
		if err != nil {
			return firmware.Image{}, err
		}
		up.discard()
		up = rewritten
	}
	img.SHA256, img.SizeBytes, img.File, img.Added = up.digest(), up.sizeBytes, baseName(name), r.opts.Now().UTC()
	if plain, version, ok := strings.Cut(name, "@"); ok && img.Kind == firmware.KindOpaque && plain != "" {
		img.Name, img.File, img.Version = plain, plain, firmware.Version(version)
	}
	return r.commit(ctx, img, up)
}

func baseName(name string) string { return name[strings.LastIndexAny(name, `/\`)+1:] }

// commit gives the file its final name and makes the image exist.
func (r *Repository) commit(ctx context.Context, img firmware.Image, up *part) (firmware.Image, error) {
	r.changes.Lock()
	defer r.changes.Unlock()
	r.mu.RLock()
	known, exists := r.images[img.SHA256]
	r.mu.RUnlock()
	if exists {
		if size, err := r.dir.Size(img.SHA256); err == nil && size == known.SizeBytes {
			return known, nil
		}
		img = known // its file is damaged: this one takes its place
	}
	err := up.keep(img.SHA256)
	if err != nil && up.kept && !exists {
		err = errors.Join(err, r.dir.Remove(img.SHA256))
	}
	if err != nil || exists {
		return img, err
	}
	if err := r.db.Update(ctx, func(tx *store.Tx) error { return store.PutJSON(bucket(tx), img.SHA256, img) }); err != nil {
		return firmware.Image{}, errors.Join(err, r.dir.Remove(img.SHA256))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[img.SHA256] = img
	return img, nil
}

// part is a temporary file.
type part struct {
	dir       directory
	name      string
	file      file
	hash      hash.Hash
	sizeBytes int64
	kept      bool
}

// receive writes what comes from src to a temporary file.
func (r *Repository) receive(ctx context.Context, src io.Reader) (*part, error) {
	return r.part(func(w io.Writer) error {
		n, err := io.Copy(w, io.LimitReader(&ctxReader{ctx, src}, r.opts.MaxBytes+1))
		if err != nil {
			return err
		}
		if n > r.opts.MaxBytes {
			return fmt.Errorf("%w: at most %d bytes are allowed", ErrTooLarge, r.opts.MaxBytes)
		}
		return nil
	})
}

// part makes a temporary file with what fill writes.
func (r *Repository) part(fill func(io.Writer) error) (*part, error) {
	p := &part{dir: r.dir, name: strings.ToLower(rand.Text()) + partSuffix, hash: sha256.New()}
	var err error
	if p.file, err = r.dir.Create(p.name); err != nil {
		return nil, err
	}
	if err := fill(p); err != nil {
		p.discard()
		return nil, err
	}
	return p, nil
}

func (p *part) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.hash.Write(b[:n])
	p.sizeBytes += int64(n)
	return n, err
}

func (p *part) digest() string { return hex.EncodeToString(p.hash.Sum(nil)) }

// keep makes the file durable under its final name.
func (p *part) keep(name string) error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	if err := p.dir.Rename(p.name, name); err != nil {
		return err
	}
	p.kept = true
	return p.dir.Sync()
}

// discard closes the file and removes it, unless it was kept. What cannot be removed is by the
// next start.
func (p *part) discard() {
	_ = p.file.Close()
	if !p.kept {
		_ = p.dir.Remove(p.name)
	}
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gatewayctl/pki/identity"
	"gatewayctl/store"
)

// RegistryOptions configures a [Registry]. The hooks run after a change was committed and can be
// seen by every method; they must not block and may be called concurrently.
type RegistryOptions struct {
	Now func() time.Time // nil means time.Now
	Log *slog.Logger     // nil discards

	OnDisable func(identity.DeviceID) // the device may not connect any more
	OnRemove  func(identity.DeviceID) // the device is gone
	OnChange  func(identity.DeviceID) // after OnDisable and OnRemove, and for every other change
}

// A Registry holds the devices. Its methods are safe for concurrent use. What they return belongs
// to the caller.
type Registry struct {
	db   *store.DB
	opts RegistryOptions
	log  *slog.Logger

	reloading sync.Mutex // held from reading rows to replacing the copy, so that no older row wins

	mu           sync.RWMutex
	devices      map[string]*record
	certificates map[string]string // certificate ID to device name
}

// record is the copy of one row; what device points to is replaced, not changed.
type record struct {
	device Device
	presence
}

// NewRegistry reads all devices from db.
func NewRegistry(db *store.DB, opts RegistryOptions) (*Registry, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		db: db, opts: opts, log: log.With("component", "registry"),
		devices: map[string]*record{}, certificates: map[string]string{},
	}
	err := db.View(func(tx *store.Tx) error {
		err := deviceBucket(tx).ForEach(func(k, v []byte) error {
			d, err := decode(v)
			if err != nil {
				return fmt.Errorf("device %q: %w", k, err)
			}
			r.set(d)
			return nil
		})
		if err != nil {
			return err
		}
		return r.loadSeen(tx)
	})
	if err != nil {
		return nil, fmt.Errorf("read the device registry: %w", err)
	}
	return r, nil
}

func decode(row []byte) (Device, error) {
	var d Device
	err := json.Unmarshal(row, &d)
	return d, err
}

// set replaces the copy of d's row.
func (r *Registry) set(d Device) {
	name := d.Name.String()
	rec, ok := r.devices[name]
	if !ok {
		rec = &record{}
		r.devices[name] = rec
	}
	for _, id := range rec.device.Certificates {
		if r.certificates[id] == name {
			delete(r.certificates, id)
		}
	}
	for _, id := range d.Certificates {
		r.certificates[id] = name
	}
	rec.device = d
}

// drop removes the copy of a row.
func (r *Registry) drop(name string) {
	for _, id := range r.devices[name].device.Certificates {
		if r.certificates[id] == name {
			delete(r.certificates, id)
		}
	}
	delete(r.devices, name)
}

// Reload brings the registry up to date with what a transaction with its ...Tx methods committed
// for these devices, and runs the hooks. Until then readers see the old state.
func (r *Registry) Reload(ids ...identity.DeviceID) error {
	type change struct {
		id                 identity.DeviceID
		disabled, gone, ok bool
	}
	changes := make([]change, len(ids))
	r.reloading.Lock()
	err := r.db.View(func(tx *store.Tx) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, id := range ids {
			now, exists, err := r.GetTx(tx, id)
			if err != nil {
				return err
			}
			old, existed := r.devices[id.String()]
			c := change{id: id}
			switch {
			case exists:
				c.disabled = now.Disabled && (!existed || !old.device.Disabled)
				c.ok = !existed || !reflect.DeepEqual(old.device, now)
				r.set(now)
			case existed:
				c.gone, c.ok = true, true
				r.drop(id.String())
			}
			changes[i] = c
		}
		return nil
	})
	r.reloading.Unlock()
	if err != nil {
		return fmt.Errorf("reload devices: %w", err)
	}
	for _, c := range changes {
		if c.disabled && r.opts.OnDisable != nil {
			r.opts.OnDisable(c.id)
		}
		if c.gone && r.opts.OnRemove != nil {
			r.opts.OnRemove(c.id)
		}
		if c.ok && r.opts.OnChange != nil {
			r.opts.OnChange(c.id)
		}
	}
	return nil
}

// Get returns the device of that name, or [ErrNotFound].
func (r *Registry) Get(id identity.DeviceID) (Device, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rec, ok := r.devices[id.String()]
	if !ok {
		return Device{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return r.shown(rec), nil
}

// shown returns rec's device for a caller.
func (r *Registry) shown(rec *record) Device {
	d := rec.device.clone()
	d.LastSeen = rec.lastSeen(r.opts.Now())
	return d
}

// Has reports whether a device has that name. It does not allocate.
func (r *Registry) Has(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.devices[name]
	return ok
}

// ByCertificate returns the device that the certificate with that ID is attached to.
func (r *Registry) ByCertificate(certID string) (Device, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	name, ok := r.certificates[certID]
	if !ok {
		return Device{}, false
	}
	return r.shown(r.devices[name]), true
}

// A Query chooses devices; its zero value chooses all.
type Query struct {
	Tag    string
	Type   string
	Prefix string // of the name
	Online *bool
}

// List returns the devices that q chooses, sorted by name.
func (r *Registry) List(q Query) []Device {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Device
	for name, rec := range r.devices {
		d := &rec.device
		if (q.Tag == "" || slices.Contains(d.Tags, q.Tag)) && (q.Type == "" || q.Type == d.Type) &&
			strings.HasPrefix(name, q.Prefix) && (q.Online == nil || *q.Online == rec.online()) {
			out = append(out, r.shown(rec))
		}
	}
	slices.SortFunc(out, func(a, b Device) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	return out
}

// Online reports whether a client is connected as device id. It does not allocate.
func (r *Registry) Online(id identity.DeviceID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rec, ok := r.devices[id.String()]
	return ok && rec.online()
}

// Count returns how many devices there are, and how many of them are connected.
func (r *Registry) Count() (devices, online int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, rec := range r.devices {
		if rec.online() {
			online++
		}
	}
	return len(r.devices), online
}

// Create adds a device. Name is required; Created and Changed are set. Errors: [ErrExists],
// [ErrInvalid], [ErrAttached].
func (r *Registry) Create(ctx context.Context, d Device) error {
	if err := r.db.Update(ctx, func(tx *store.Tx) error { return r.CreateTx(tx, d) }); err != nil {
		return fmt.Errorf("create device %s: %w", d.Name, err)
	}
	return r.Reload(d.Name)
}

// Update changes a device by fn, which gets a copy and may run twice; its error undoes
// everything. Name and Created stay as they are. Nothing is written if nothing changes. Errors:
// [ErrNotFound], [ErrInvalid], [ErrAttached].
func (r *Registry) Update(ctx context.Context, id identity.DeviceID, fn func(*Device) error) error {
	err := r.db.Update(ctx, func(tx *store.Tx) error { return r.UpdateTx(tx, id, fn) })
	if err != nil {
		return fmt.Errorf("change device %s: %w", id, err)
	}
	return r.Reload(id)
}

// SetDisabled forbids a device to connect, or allows it again. Options.OnDisable has been called
// when it returns.
func (r *Registry) SetDisabled(ctx context.Context, id identity.DeviceID, disabled bool) error {
	return r.Update(ctx, id, func(d *Device) error { d.Disabled = disabled; return nil })
}

// Remove deletes a device and returns what it was. Its certificates are not revoked, but no
// longer attached to anything; provision.Service.Remove does both. Options.OnRemove has been
// called when it returns.
func (r *Registry) Remove(ctx context.Context, id identity.DeviceID) (Device, error) {
	var old Device
	err := r.db.Update(ctx, func(tx *store.Tx) (err error) { old, err = r.RemoveTx(tx, id); return err })
	if err != nil {
		return Device{}, fmt.Errorf("remove device %s: %w", id, err)
	}
	return old, r.Reload(id)
}

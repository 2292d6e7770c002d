package gateway

import (
	"fmt"
	"reflect"
	"slices"

	"gatewayctl/pki/identity"
	"gatewayctl/store"
)

// Schema is what the registry keeps in the store: ("gateway", "devices") one row for each device
// by its name; ("gateway", "certificates") the name of the device that a certificate is attached
// to, by the certificate's ID; ("gateway", "seen") when a device was last seen, by its name.
func Schema() store.Schema {
	return store.Schema{Name: "gateway"}
}

func deviceBucket(tx *store.Tx) *store.Bucket      { return tx.Bucket("gateway", "devices") }
func certificateBucket(tx *store.Tx) *store.Bucket { return tx.Bucket("gateway", "certificates") }
func seenBucket(tx *store.Tx) *store.Bucket        { return tx.Bucket("gateway", "seen") }

// GetTx reads a device inside a transaction; ok is false if there is none. LastSeen is not set.
func (r *Registry) GetTx(tx *store.Tx, id identity.DeviceID) (d Device, ok bool, err error) {
	return store.GetJSON[Device](deviceBucket(tx), id.String())
}

// CreateTx is [Registry.Create] inside the caller's transaction; call [Registry.Reload] after it.
func (r *Registry) CreateTx(tx *store.Tx, d Device) error {
	if _, exists, err := r.GetTx(tx, d.Name); err != nil {
		return err
	} else if exists {
		return fmt.Errorf("%w: %s", ErrExists, d.Name)
	}
	d = d.clone()
	d.Created = r.opts.Now().UTC().Round(0)
	d.Changed = d.Created
	return put(tx, nil, d)
}

// UpdateTx is [Registry.Update] inside the caller's transaction; call [Registry.Reload] after it.
func (r *Registry) UpdateTx(tx *store.Tx, id identity.DeviceID, fn func(*Device) error) error {
	old, exists, err := r.GetTx(tx, id)
	if err != nil {
		return err
	}
	if !exists {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	d := old.clone()
	if err := fn(&d); err != nil {
		return err
	}
	d.Name, d.Created, d.Changed = old.Name, old.Created, old.Changed
	if err := d.normalize(); err != nil {
		return err
	}
	if reflect.DeepEqual(d, old) {
		return nil
	}
	d.Changed = r.opts.Now().UTC().Round(0)
	return put(tx, old.Certificates, d)
}

// AttachTx attaches a certificate to a device inside the caller's transaction, and replaces the
// device's policies unless policies is empty; call [Registry.Reload] after it. Errors:
// [ErrNotFound], [ErrAttached], [ErrInvalid].
func (r *Registry) AttachTx(tx *store.Tx, id identity.DeviceID, certID string, policies []string) error {
	return r.UpdateTx(tx, id, func(d *Device) error {
		if !slices.Contains(d.Certificates, certID) {
			d.Certificates = append(d.Certificates, certID)
		}
		if len(policies) > 0 {
			d.Policies = policies
		}
		return nil
	})
}

// RemoveTx is [Registry.Remove] inside the caller's transaction; call [Registry.Reload] after it.
func (r *Registry) RemoveTx(tx *store.Tx, id identity.DeviceID) (Device, error) {
	old, exists, err := r.GetTx(tx, id)
	if err != nil {
		return Device{}, err
	}
	if !exists {
		return Device{}, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	for _, cert := range old.Certificates {
		if err := certificateBucket(tx).Delete([]byte(cert)); err != nil {
			return Device{}, err
		}
	}
	if err := seenBucket(tx).Delete([]byte(id.String())); err != nil {
		return Device{}, err
	}
	return old, deviceBucket(tx).Delete([]byte(id.String()))
}

// put writes d's row and keeps the index of certificates in step. A certificate is attached to
// one device at most, so that it names one.
func put(tx *store.Tx, attached []string, d Device) error {
	if err := d.normalize(); err != nil {
		return err
	}
	name, index := d.Name.String(), certificateBucket(tx)
	for _, cert := range attached {
		if !slices.Contains(d.Certificates, cert) {
			if err := index.Delete([]byte(cert)); err != nil {
				return err
			}
		}
	}
	for _, cert := range d.Certificates {
		if slices.Contains(attached, cert) {
			continue
		}
		if cert == "" {
			return fmt.Errorf("%w: a certificate without an ID", ErrInvalid)
		}
		if other := index.Get([]byte(cert)); other != nil && string(other) != name {
			return fmt.Errorf("%w: %s", ErrAttached, other)
		}
		if err := index.Put([]byte(cert), []byte(name)); err != nil {
			return err
		}
	}
	return store.PutJSON(deviceBucket(tx), name, d)
}

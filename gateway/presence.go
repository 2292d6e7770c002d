package gateway

import (
	"context"
	"fmt"
	"time"

	"gatewayctl/pki/identity"
	"gatewayctl/store"
)

const (
	flushInterval = 10 * time.Minute
	flushOnline   = time.Hour // how old the stored time of a connected device may be
)

// presence is who is connected as one device, and when it was last seen.
type presence struct {
	clients map[string]*client
	last    Presence // of the latest change
	seen    time.Time
	saved   time.Time // what the store holds
}

// client is the connections with one client identifier. When a connection takes over from an
// older one, the end of the old may be reported after the beginning of the new.
type client struct {
	connections int
	presence    Presence
}

func (p *presence) online() bool { return len(p.clients) > 0 }

func (p *presence) lastSeen(now time.Time) time.Time {
	if p.online() {
		return now
	}
	return p.seen
}

// current returns the newest connection, or how the last one ended.
func (p *presence) current() Presence {
	out := p.last
	if !p.online() {
		return out
	}
	out = Presence{}
	for _, c := range p.clients {
		if !out.Online || c.presence.Since.After(out.Since) {
			out = c.presence
		}
	}
	return out
}

// Connected notes that a client connected as device id; p says how, Online and Since are set. A
// device that is not in the registry is ignored.
func (r *Registry) Connected(id identity.DeviceID, p Presence) {
	now := r.opts.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.devices[id.String()]
	if !ok {
		return
	}
	p.Online, p.Since, p.Reason = true, now, ""
	if rec.clients == nil {
		rec.clients = map[string]*client{}
	}
	c := rec.clients[p.ClientID]
	if c == nil {
		c = &client{}
		rec.clients[p.ClientID] = c
	}
	c.connections++
	c.presence, rec.last, rec.seen = p, p, now
}

// Disconnected notes that a connection that [Registry.Connected] was told of has ended.
func (r *Registry) Disconnected(id identity.DeviceID, clientID, reason string) {
	now := r.opts.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, ok := r.devices[id.String()]
	if !ok {
		return
	}
	c := rec.clients[clientID]
	if c == nil {
		return
	}
	rec.seen = now
	if c.connections--; c.connections > 0 {
		return
	}
	delete(rec.clients, clientID)
	rec.last = c.presence
	rec.last.Online, rec.last.Since, rec.last.Reason = false, now, reason
}

// Presence tells whether a device is connected; the zero value if it is not known or was not
// there since the gateway started. A device is online while at least one client is.
func (r *Registry) Presence(id identity.DeviceID) Presence {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rec, ok := r.devices[id.String()]
	if !ok {
		return Presence{}
	}
	return rec.current()
}

// loadSeen reads when the devices were last seen.
func (r *Registry) loadSeen(tx *store.Tx) error {
	return seenBucket(tx).ForEach(func(k, v []byte) error {
		var at time.Time
		if err := at.UnmarshalBinary(v); err != nil {
			return fmt.Errorf("last seen of %q: %w", k, err)
		}
		if rec, ok := r.devices[string(k)]; ok {
			rec.seen, rec.saved = at, at
		}
		return nil
	})
}

// Flush stores when the devices were last seen. Those connected are written once an hour only,
// unless all is set.
func (r *Registry) Flush(ctx context.Context, all bool) error {
	now := r.opts.Now()
	seen := map[string]time.Time{}
	r.mu.RLock()
	for name, rec := range r.devices {
		at := rec.lastSeen(now)
		if at.Equal(rec.saved) || rec.online() && !all && at.Sub(rec.saved) < flushOnline {
			continue
		}
		seen[name] = at
	}
	r.mu.RUnlock()
	if len(seen) == 0 {
		return nil
	}
	err := r.db.Update(ctx, func(tx *store.Tx) error {
		for name, at := range seen {
			if deviceBucket(tx).Get([]byte(name)) == nil {
				continue // removed meanwhile
			}
			b, err := at.UTC().MarshalBinary()
			if err != nil {
				return err
			}
			if err := seenBucket(tx).Put([]byte(name), b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store when devices were last seen: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, at := range seen {
		if rec, ok := r.devices[name]; ok {
			rec.saved = at
		}
	}
	return nil
}

// Run stores every ten minutes, and when ctx ends, when devices were last seen.
func (r *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.Flush(ctx, false); err != nil && ctx.Err() == nil {
				r.log.Warn("presence not stored", "err", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := r.Flush(last, true); err != nil {
				r.log.Warn("presence not stored", "err", err)
			}
			return nil
		}
	}
}

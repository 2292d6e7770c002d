package gateway_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatewayctl/gateway"
	"gatewayctl/pki/identity"
	"gatewayctl/pki/pkitest"
	"gatewayctl/store"
)

func TestPresence(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	lamp := pkitest.Name(t, "lamp")
	must(t, f.Create(t.Context(), gateway.Device{Name: lamp}))
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	for i, step := range []struct {
		do   func()
		want gateway.Presence
	}{
		{func() {}, gateway.Presence{}},
		{func() {
			f.Connected(lamp, gateway.Presence{ClientID: "lamp", Address: "192.0.2.1:9", Listener: "mqtt"})
		},
			gateway.Presence{Online: true, Since: minute(1), ClientID: "lamp", Address: "192.0.2.1:9", Listener: "mqtt"}},
		{func() { f.Connected(lamp, gateway.Presence{ClientID: "lamp#2", Reason: "none of theirs"}) },
			gateway.Presence{Online: true, Since: minute(2), ClientID: "lamp#2"}},
		{func() { f.Disconnected(lamp, "lamp#2", "bye") },
			gateway.Presence{Online: true, Since: minute(1), ClientID: "lamp", Address: "192.0.2.1:9", Listener: "mqtt"}},
		{func() { f.Connected(lamp, gateway.Presence{ClientID: "lamp", Address: "192.0.2.1:10"}) }, // takes over …
			gateway.Presence{Online: true, Since: minute(4), ClientID: "lamp", Address: "192.0.2.1:10"}},
		{func() { f.Disconnected(lamp, "lamp", "taken over") }, // … and the end of the old comes late
			gateway.Presence{Online: true, Since: minute(4), ClientID: "lamp", Address: "192.0.2.1:10"}},
		{func() { f.Disconnected(lamp, "stranger", "") },
			gateway.Presence{Online: true, Since: minute(4), ClientID: "lamp", Address: "192.0.2.1:10"}},
		{func() { f.Disconnected(lamp, "lamp", "keepalive") },
			gateway.Presence{Since: minute(7), ClientID: "lamp", Address: "192.0.2.1:10", Reason: "keepalive"}},
		{func() { f.Disconnected(lamp, "lamp", "once more") },
			gateway.Presence{Since: minute(7), ClientID: "lamp", Address: "192.0.2.1:10", Reason: "keepalive"}},
	} {
		step.do()
		if diff := cmp.Diff(step.want, f.Presence(lamp)); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
		if f.Online(lamp) != step.want.Online {
			t.Errorf("step %d: Online = %v", i, f.Online(lamp))
		}
		d, err := f.Get(lamp)
		must(t, err)
		seen := minute(i) // now, while it is connected
		if i >= 7 {
			seen = minute(7)
		}
		if i == 0 {
			seen = time.Time{}
		}
		if !d.LastSeen.Equal(seen) {
			t.Errorf("step %d: last seen %v, want %v", i, d.LastSeen, seen)
		}
		f.pass(time.Minute)
	}
	nobody := pkitest.Name(t, "nobody")
	f.Connected(nobody, gateway.Presence{ClientID: "nobody"})
	f.Disconnected(nobody, "nobody", "")
	if p := f.Presence(nobody); p != (gateway.Presence{}) || f.Online(nobody) {
		t.Errorf("presence of a device that does not exist: %+v", p)
	}
}

// TestLastSeenIsStoredSeldom counts what Flush writes by what a restart then knows.
func TestLastSeenIsStoredSeldom(t *testing.T) {
	t.Parallel()
	f := start(t, openDB(t, t.TempDir()))
	on, off := pkitest.Name(t, "on"), pkitest.Name(t, "off")
	must(t, f.Create(t.Context(), gateway.Device{Name: on}))
	must(t, f.Create(t.Context(), gateway.Device{Name: off}))
	stored := func(id identity.DeviceID) time.Time {
		t.Helper()
		d, err := start(t, f.db).Get(id)
		must(t, err)
		return d.LastSeen
	}
	f.Connected(on, gateway.Presence{ClientID: "on"})
	f.Connected(off, gateway.Presence{ClientID: "off"})
	f.pass(time.Minute)
	f.Disconnected(off, "off", "")
	if !stored(off).IsZero() {
		t.Error("a disconnect was written at once")
	}
	must(t, f.Flush(t.Context(), false))
	first := noon.Add(time.Minute)
	if !stored(off).Equal(first) || !stored(on).Equal(first) {
		t.Errorf("stored %v and %v, want %v", stored(off), stored(on), first)
	}
	f.pass(30 * time.Minute)
	must(t, f.Flush(t.Context(), false))
	if !stored(on).Equal(first) {
		t.Error("a connected device was written twice within the hour")
	}
	f.pass(30 * time.Minute)
	must(t, f.Flush(t.Context(), false))
	if !stored(on).Equal(first.Add(time.Hour)) {
		t.Error("a connected device was not written for an hour")
	}
	f.pass(time.Minute)
	must(t, f.Flush(t.Context(), true))
	if !stored(on).Equal(first.Add(61 * time.Minute)) {
		t.Error("the last Flush did not write a connected device")
	}
	if !stored(off).Equal(first) {
		t.Error("a device that is away changed")
	}
	_, err := f.Remove(t.Context(), off)
	must(t, err)
	must(t, f.Create(t.Context(), gateway.Device{Name: off}))
	if !stored(off).IsZero() {
		t.Error("a new device was seen when the old one of its name was")
	}
}

func TestRunStoresPresence(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(filepath.Join(dir, "gateway.db"), []store.Schema{gateway.Schema()}, store.Options{NoSync: true})
		must(t, err)
		defer db.Close()
		r, err := gateway.NewRegistry(db, gateway.RegistryOptions{})
		must(t, err)
		lamp := pkitest.Name(t, "lamp")
		must(t, r.Create(t.Context(), gateway.Device{Name: lamp}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		stored := func() time.Time {
			again, err := gateway.NewRegistry(db, gateway.RegistryOptions{})
			must(t, err)
			d, err := again.Get(lamp)
			must(t, err)
			return d.LastSeen
		}
		r.Connected(lamp, gateway.Presence{ClientID: "lamp"})
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if since := time.Since(stored()); since != time.Minute {
			t.Errorf("the store is %v behind, want a minute", since)
		}
		cancel()
		must(t, <-done)
		if since := time.Since(stored()); since != 0 {
			t.Errorf("the store is %v behind after the end", since)
		}
	})
}

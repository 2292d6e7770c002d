package simdevice

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// errReset ends a boot.
var errReset = errors.New("reset")

// boot is the device between two resets: what its RAM holds.
type boot struct {
	d       *Device
	slot    int // that was booted
	started time.Time
	conf    settings
	methods []method

	reset context.CancelCauseFunc // pulls the plug
	wg    sync.WaitGroup          // everything that must have ended before the next boot

	// Guarded by Device.mu.
	resetting bool
	overrides map[string]json.RawMessage // running configuration, by path, where it differs from the defaults
	pins      map[int]*pin
	registers map[string]byte // of the I2C bus, by address and number
	updater   updater
	link      *link    // nil while there is no connection
	queue     []queued // publishes of QoS 1 that wait for one
}

// settings is the part of the configuration that the device itself obeys; like real firmware it
// looks at most of it at boot only.
type settings struct {
	id, clientID, server                   string
	mqtt, rpc, clean, wildcard, once       bool
	keepAlive, reconnectMin, reconnectMax  time.Duration
	recvLimit, maxQueue                    int
	willTopic, willMessage, user, password string
	willRetain                             bool
}

// boot starts the firmware that the boot loader chooses; nil if it crashes.
func (d *Device) boot() *boot {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.flash.load(d.faults.BootFails) {
		d.log.Info("new firmware crashed")
		return nil
	}
	b := &boot{d: d, slot: d.flash.active, started: time.Now()}
	b.overrides = b.loadOverrides()
	b.conf = b.settings()
	b.methods = b.allMethods()
	return b
}

// run lives until ctx ends or the device resets.
func (b *boot) run(ctx context.Context) {
	bootCtx, reset := context.WithCancelCause(ctx)
	b.reset = reset
	defer b.wg.Wait()
	defer reset(nil)
	b.commitOrRevert(bootCtx)
	b.wg.Go(func() { b.telemetry(bootCtx) })
	b.d.log.Info("booted", "version", b.firmware().version)
	if !b.conf.mqtt {
		<-bootCtx.Done()
		return
	}
	delay := b.conf.reconnectMin
	for bootCtx.Err() == nil {
		connected, err := b.connection(ctx, bootCtx)
		if bootCtx.Err() != nil {
			return
		}
		b.d.log.Info("connection ended", "err", err)
		if connected {
			delay = b.conf.reconnectMin
		}
		sleep(bootCtx, time.Duration(float64(delay)*(0.9+0.2*rand.Float64())))
		delay = min(2*delay, b.conf.reconnectMax)
	}
}

// connection makes one connection and serves it to its end.
func (b *boot) connection(ctx, bootCtx context.Context) (connected bool, err error) {
	conn, err := b.dial(bootCtx)
	if err != nil {
		return false, err
	}
	l := newLink(conn, b.conf.recvLimit)
	defer conn.Close()
	closed := make(chan struct{})
	stop := context.AfterFunc(bootCtx, func() {
		defer close(closed)
		if ctx.Err() != nil { // switched off in an orderly way, so no will; a reset says nothing
			l.goodbye()
		}
		conn.Close()
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	if err := b.handshake(l); err != nil {
		return false, err
	}
	defer b.setLink(nil)
	return true, b.serve(bootCtx, l)
}

func (b *boot) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, ioTimeout)
	defer cancel()
	if b.d.cfg.TLS == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", b.conf.server)
	}
	return (&tls.Dialer{Config: asMbedTLS(b.d.cfg.TLS)}).DialContext(ctx, "tcp", b.conf.server)
}

// asMbedTLS limits a configuration to what mbedTLS 2.16 can do.
func asMbedTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	c.CurvePreferences = []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521}
	c.ClientSessionCache = nil
	return c
}

// firmware is the slot that runs.
func (b *boot) firmware() *slot { return &b.d.flash.slots[b.slot] }

func (b *boot) uptime() time.Duration { return time.Since(b.started) }

// restart resets the device after delay; from then on it answers no call. Device.mu is held.
func (b *boot) restart(ctx context.Context, delay time.Duration) {
	b.resetting = true
	b.after(ctx, delay, func() { b.reset(errReset) })
}

// after runs fn in a while, unless the boot ends before.
func (b *boot) after(ctx context.Context, delay time.Duration, fn func()) {
	b.wg.Go(func() {
		if sleep(ctx, delay) {
			fn()
		}
	})
}

// sleep waits and reports whether ctx lasted.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

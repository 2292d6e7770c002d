// Package simdevice is a Mongoose OS device in software: it knows nothing of the gateway but the
// wire. Demos, tests and load generators run thousands of them in one process.
//
// It connects over MQTT 3.1.1 (TLS 1.2, as mbedTLS 2.16 speaks it), subscribes and answers like
// stock firmware, oddities included: a request on `<id>/rpc` runs twice, unknown configuration
// keys are ignored, passwords are told to anyone. It keeps files, configuration, pins and two
// firmware slots in memory, fetches updates over HTTPS, installs bundles while it reads them, and goes back
// to the old firmware when nobody commits the new one.
//
// # Design
//
// The package shares no code with the gateway's side of the protocol, so that an error in one
// shows against the other. Of paho.mqtt.golang it uses the packet codec only: the library's client
// needs nine goroutines, hides when it subscribes, and cannot drop dead as a rebooting device does.
package simdevice

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// A Kind is a sort of firmware.
type Kind string

// KindMongooseOS is firmware built with Mongoose OS.
const KindMongooseOS Kind = "mos"

// Config says what a [Device] is. ID and Address are required.
type Config struct {
	Kind     Kind        // "" means KindMongooseOS
	ID       string      // device.id, the first level of all topics
	ClientID string      // MQTT client identifier; "" means ID
	Address  string      // of the broker, host:port
	TLS      *tls.Config // nil means plain TCP; also used to fetch updates over HTTPS

	App     string // "" means "demo"
	Arch    string // "" means "esp32"
	Version string // of the first firmware; "" means "1.0.0"
	BuildID string // of the first firmware; "" means "20260101-000000/sim"
	MAC     string // twelve upper-case hex digits; "" means made from ID

	Telemetry      time.Duration // between messages on <id>/data; 0 means none
	SingleDelivery bool          // a request on <id>/rpc runs once: firmware from before June 2021

	BootTime     time.Duration // from reset to the first connection attempt; 0 means 1 s
	ReconnectMin time.Duration // mqtt.reconnect_timeout_min; 0 means 2 s
	ReconnectMax time.Duration // mqtt.reconnect_timeout_max; 0 means 60 s
	KeepAlive    time.Duration // mqtt.keep_alive, whole seconds; 0 means 60 s

	OnReady func()       // called each time the broker has acknowledged the subscriptions; must not block
	Log     *slog.Logger // nil discards
}

// Faults are misbehaviours of a device. The zero value behaves.
type Faults struct {
	Silent  bool          // never answers a call, though it runs it
	Slow    time.Duration // answers later by this much
	WrongID bool          // answers with an id that nobody asked for
	Garbage bool          // answers with bytes that are no frame

	BootFails    bool         // new firmware crashes before it connects, so that the boot loader goes back
	FalseVersion string       // told by Sys.GetInfo in place of the firmware's own, if not ""
	UpdateAnswer UpdateAnswer // how OTA.Update tells of success
}

// An UpdateAnswer is how OTA.Update tells of success; firmware differs.
type UpdateAnswer string

// The ways to tell of success.
const (
	AnswerNull      UpdateAnswer = ""           // a null result
	AnswerErrorZero UpdateAnswer = "error-zero" // an error with code 0, as old sources do
	AnswerNone      UpdateAnswer = "none"       // nothing: the answer was lost
)

// A Device is one simulated device. It does nothing until [Device.Run].
type Device struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex // guards what handlers, timers and the updater share: flash, faults, the boot's state
	flash  flash
	faults Faults
}

// New returns a device with fresh flash. Mistakes in cfg are errors of [Device.Run].
func New(cfg Config) *Device {
	cfg.Kind = cmp.Or(cfg.Kind, KindMongooseOS)
	cfg.App = cmp.Or(cfg.App, "demo")
	cfg.Arch = cmp.Or(cfg.Arch, "esp32")
	cfg.Version = cmp.Or(cfg.Version, "1.0.0")
	cfg.BuildID = cmp.Or(cfg.BuildID, "20260101-000000/sim")
	cfg.BootTime = cmp.Or(cfg.BootTime, time.Second)
	cfg.ReconnectMin = cmp.Or(cfg.ReconnectMin, 2*time.Second)
	cfg.ReconnectMax = cmp.Or(cfg.ReconnectMax, 60*time.Second)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, 60*time.Second)
	if cfg.MAC == "" {
		sum := sha256.Sum256([]byte(cfg.ID))
		sum[0] = sum[0]&^1 | 2 // a locally administered address
		cfg.MAC = strings.ToUpper(hex.EncodeToString(sum[:6]))
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	first := slot{app: cfg.App, version: cfg.Version, buildID: cfg.BuildID, used: true, files: map[string][]byte{
		"ca.pem":     nil,
		"index.html": []byte("<h1>" + cfg.App + "</h1>\n"),
	}}
	return &Device{
		cfg: cfg, log: log.With("component", "simdevice", "device", cfg.ID),
		flash: flash{slots: [2]slot{first, {}}, revert: 0, committed: true},
	}
}

// SetFaults makes the device misbehave from now on, or behave again.
func (d *Device) SetFaults(f Faults) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = f
}

func (d *Device) currentFaults() Faults {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.faults
}

// Run keeps the device switched on until ctx ends: it boots, connects, reconnects with backoff
// and jitter, and boots again after each reset. It returns nil then, and an error at once if the
// Config cannot be used. It must not be called twice at the same time; flash survives from one
// call to the next.
func (d *Device) Run(ctx context.Context) error {
	if err := d.cfg.check(); err != nil {
		return fmt.Errorf("simulated device %q: %w", d.cfg.ID, err)
	}
	for ctx.Err() == nil {
		if b := d.boot(); b != nil {
			b.run(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.cfg.BootTime):
		}
	}
	return nil
}

func (c Config) check() error {
	_, _, err := net.SplitHostPort(c.Address)
	switch {
	case c.Kind != KindMongooseOS:
		return fmt.Errorf("kind %q is not known: use %q", c.Kind, KindMongooseOS)
	case c.ID == "" || strings.ContainsAny(c.ID, "/+#\x00"):
		return errors.New("the id is empty or has one of the characters / + #")
	case err != nil:
		return fmt.Errorf("address of the broker: %w", err)
	}
	return nil
}

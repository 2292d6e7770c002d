// Package jobs carries out what a device is told to do and how that ends. Today this is one job:
// putting a firmware image on a Mongoose OS device over the air.
//
// # Design
//
// An update has succeeded when the device has proved it: it came back on a new connection, says
// that it runs the version and the build of the image, answers a ping, and has been told to keep the firmware.
// Until then the device itself is set to go back to the old firmware, so that an update that is
// given up, by a timeout, an operator or a power cut of the gateway, undoes itself. What the device answers to OTA.Update is a hint only:
// firmware answers when the update has ended, some of it reports success as an error
// with code 0, and the answer is easily lost because the device restarts right after it.
package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/gateway"
	"gatewayctl/pki/identity"
)

// What callers branch on, beside the errors of package rpc.
var (
	ErrBusy        = errors.New("an update of the device is under way")
	ErrUnsuitable  = errors.New("the image cannot be installed on the device")
	ErrUncommitted = errors.New("the device runs firmware that has not been committed")
	ErrFailed      = errors.New("the update failed")
)

// caller is the RPC router.
type caller interface {
	Call(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error)
}

// presence is the registry: it knows since when a device is connected.
type presence interface {
	Presence(id identity.DeviceID) gateway.Presence
}

// A Stage is how far an update has come.
type Stage string

// The stages, in their order.
const (
	StageCheck    Stage = "check"    // the device is asked what it is and what it runs
	StageOffer    Stage = "offer"    // the device is told where to fetch the image
	StageDownload Stage = "download" // it fetches and installs
	StageRestart  Stage = "restart"  // it boots the new firmware
	StageVerify   Stage = "verify"   // it is asked what it runs now
	StageConfirm  Stage = "confirm"  // it is told to keep it
	StageDone     Stage = "done"
)

// A Step is one piece of progress.
type Step struct {
	Stage     Stage
	Text      string           // one line for people
	Version   firmware.Version // what the device runs at this point, "" if that is not known
	SentBytes int64            // of the image, in StageDownload
	SizeBytes int64            // of the image, in StageDownload
}

// Options configures an [Installer].
type Options struct {
	CommitTimeout  time.Duration // after which the device goes back by itself; 0 means 5 min
	InstallTimeout time.Duration // for download and installation; 0 means 15 min
	RestartTimeout time.Duration // from the end of the installation to the next connection; 0 means 3 min
	CallTimeout    time.Duration // of one try of a short call; 0 means 5 s
	Poll           time.Duration // between looks at presence and progress; 0 means 250 ms
	Log            *slog.Logger  // nil discards
}

// An Installer puts images on devices. It is safe for concurrent use.
type Installer struct {
	caller    caller
	downloads *DownloadHandler
	presence  presence
	opts      Options

	mu   sync.Mutex
	busy map[identity.DeviceID]bool
}

// NewInstaller returns an Installer that calls devices with c, lets them fetch images from downloads,
// and sees in reg when they come back.
func NewInstaller(c caller, downloads *DownloadHandler, reg presence, opts Options) *Installer {
	opts.CommitTimeout = cmp.Or(opts.CommitTimeout, 5*time.Minute)
	opts.InstallTimeout = cmp.Or(opts.InstallTimeout, 15*time.Minute)
	opts.RestartTimeout = cmp.Or(opts.RestartTimeout, 3*time.Minute)
	opts.CallTimeout = cmp.Or(opts.CallTimeout, 5*time.Second)
	opts.Poll = cmp.Or(opts.Poll, 250*time.Millisecond)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Log = opts.Log.With("component", "installer")
	return &Installer{caller: c, downloads: downloads, presence: reg, opts: opts, busy: map[identity.DeviceID]bool{}}
}

// Install puts img on the device id and returns nil once the device has confirmed it. A device
// that runs the image already is left alone. progress, unless it is nil, is called in order and from this goroutine.
//
// [ErrUnsuitable], [ErrUncommitted] and [ErrBusy] come before anything has been changed, as
// do the errors of the first call. [ErrFailed] says why the new firmware does not run, or does not stay.
// When ctx ends in the middle the device may still install and start the new firmware, but goes
// back to the old one after Options.CommitTimeout.
func (in *Installer) Install(ctx context.Context, id identity.DeviceID, img firmware.Image, progress func(Step)) error {
	if !in.claim(id) {
		return fmt.Errorf("update %s to %s: %w", id, img.Ref(), ErrBusy)
	}
	defer in.release(id)
	u := &update{Installer: in, device: id, image: img, progress: progress, log: in.opts.Log.With("device", id, "image", img.Ref())}
	start := time.Now()
	if err := u.run(ctx); err != nil {
		u.log.Warn("update failed", "elapsed", time.Since(start), "err", err)
		return fmt.Errorf("update %s to %s: %w", id, img.Ref(), err)
	}
	u.log.Info("update done", "elapsed", time.Since(start))
	return nil
}

func (in *Installer) claim(id identity.DeviceID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.busy[id] {
		return false
	}
	in.busy[id] = true
	return true
}

func (in *Installer) release(id identity.DeviceID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.busy, id)
}

package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"
)

// update is one run of [Installer.Install].
type update struct {
	*Installer
	device   identity.DeviceID
	image    firmware.Image
	progress func(Step)
	log      *slog.Logger
}

// deviceInfo is what Sys.GetInfo tells.
type deviceInfo struct {
	App       string `json:"app"`
	Version   string `json:"fw_version"`
	BuildID   string `json:"fw_id"`
	Arch      string `json:"arch"`
	UptimeSec int64  `json:"uptime"`
}

// What OTA.Status calls state.
const (
	otaIdle       = 0
	otaInProgress = 1
	otaError      = 2
	otaSuccess    = 3 // about to restart
)

// otaStatus is what OTA.Status tells; firmware may leave out all but State.
type otaStatus struct {
	State     int    `json:"state"`
	Committed *bool  `json:"is_committed"`
	Message   string `json:"msg"`
}

func (s otaStatus) uncommitted() bool { return s.Committed != nil && !*s.Committed }

func failed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrFailed, fmt.Errorf(format, args...))
}

func (u *update) step(s Step) {
	u.log.Debug("update step", "stage", s.Stage, "text", s.Text)
	if u.progress != nil {
		u.progress(s)
	}
}

// run is the whole update.
func (u *update) run(ctx context.Context) error {
	if u.image.Kind != firmware.KindMongooseOS {
		return fmt.Errorf("%w: it is no Mongoose OS bundle, and the gateway knows no other way to install it", ErrUnsuitable)
	}
	info, err := u.info(ctx)
	if err != nil {
		return err
	}
	u.step(Step{Stage: StageCheck, Version: firmware.Version(info.Version),
		Text: fmt.Sprintf("runs %s %s (%s) on %s", info.App, info.Version, info.BuildID, info.Arch)})
	if info.Arch != u.image.Platform {
		return fmt.Errorf("%w: it is for %s and the device is %s", ErrUnsuitable, u.image.Platform, info.Arch)
	}
	status, err := u.status(ctx)
	if remote, ok := errors.AsType[*rpc.RemoteError](err); ok && remote.Code == rpc.CodeNoHandler {
		return fmt.Errorf("%w: its firmware has no OTA service", ErrUnsuitable)
	}
	if err != nil {
		return err
	}
	switch running := u.runs(info); {
	case running && status.uncommitted(): // an earlier update that nobody finished
		return u.confirm(ctx)
	case running:
		u.step(Step{Stage: StageDone, Version: u.image.Version, Text: "it runs this firmware already"})
		return nil
	case status.State == otaInProgress || status.State == otaSuccess:
		return fmt.Errorf("%w, started by somebody else: %s", ErrBusy, status.Message)
	case status.uncommitted():
		return fmt.Errorf("%w: version %s; commit it with OTA.Commit or take it back with OTA.Revert first", ErrUncommitted, info.Version)
	}
	if err := u.install(ctx, info.UptimeSec); err != nil {
		return err
	}
	return u.confirm(ctx)
}

// runs reports whether the device says that it runs the image.
func (u *update) runs(info deviceInfo) bool {
	return info.Version == string(u.image.Version) && (info.BuildID == u.image.BuildID || info.BuildID == "")
}

// confirm makes a device keep the firmware that it runs.
func (u *update) confirm(ctx context.Context) error {
	u.step(Step{Stage: StageVerify, Version: u.image.Version, Text: fmt.Sprintf("it runs version %s", u.image.Version)})
	ctx, cancel := context.WithTimeout(ctx, u.opts.CommitTimeout)
	defer cancel()
	if err := u.retry(ctx, "RPC.Ping", nil); err != nil {
		return failed("the new firmware does not answer and is not kept: %w", err)
	}
	u.step(Step{Stage: StageConfirm, Version: u.image.Version, Text: "telling it to keep the new firmware"})
	for {
		commitErr := u.call(ctx, "OTA.Commit", nil, nil)
		// Whatever came back, or did not: what counts is the state. -1 means that there was nothing
		// to commit, and a lost answer may mean that it is done.
		committed, known, err := u.committed(ctx)
		switch {
		case err != nil:
			return failed("the device could not be told to keep the new firmware: %w", errors.Join(commitErr, err))
		case committed || !known && commitErr == nil:
			u.step(Step{Stage: StageDone, Version: u.image.Version, Text: fmt.Sprintf("version %s is installed and kept", u.image.Version)})
			return nil
		case commitErr == nil:
			return failed("the device has accepted OTA.Commit, but does not keep the new firmware")
		case !isTransient(commitErr):
			return failed("the device does not keep the new firmware: %w", commitErr)
		}
	}
}

// committed asks whether the firmware that runs is there to stay; not all firmware tells.
func (u *update) committed(ctx context.Context) (committed, known bool, err error) {
	for _, method := range []string{"OTA.Status", "OTA.GetBootState"} {
		var status otaStatus
		err := u.retry(ctx, method, &status)
		if remote, ok := errors.AsType[*rpc.RemoteError](err); ok && remote.Code == rpc.CodeNoHandler {
			continue
		}
		if err != nil || status.Committed != nil {
			return err == nil && *status.Committed, err == nil, err
		}
	}
	return false, false, nil
}

func (u *update) info(ctx context.Context) (info deviceInfo, err error) {
	return info, u.call(ctx, "Sys.GetInfo", nil, &info)
}

func (u *update) status(ctx context.Context) (status otaStatus, err error) {
	return status, u.call(ctx, "OTA.Status", nil, &status)
}

// call makes one short call.
func (u *update) call(ctx context.Context, method string, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, u.opts.CallTimeout)
	defer cancel()
	var raw json.RawMessage
	if params != nil {
		var err error
		if raw, err = json.Marshal(params); err != nil {
			return err
		}
	}
	answer, err := u.caller.Call(ctx, u.device.String(), method, raw)
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(answer, result); err != nil {
		return fmt.Errorf("%s answered with what cannot be read: %w", method, err)
	}
	return nil
}

// retry makes a call that may be repeated until it succeeds, fails for good, or ctx ends. A device
// that has just connected may not have subscribed yet.
func (u *update) retry(ctx context.Context, method string, result any) error {
	for {
		err := u.call(ctx, method, nil, result)
		if err == nil || !isTransient(err) || ctx.Err() != nil {
			return err
		}
		if !u.pause(ctx) {
			return err
		}
	}
}

// isTransient tells what time can heal from what it cannot.
func isTransient(err error) bool {
	if remote, ok := errors.AsType[*rpc.RemoteError](err); ok {
		return remote.Code == codeRebooting
	}
	return errors.Is(err, rpc.ErrTimeout) || errors.Is(err, rpc.ErrOffline) || errors.Is(err, rpc.ErrBusy) || errors.Is(err, rpc.ErrBadAnswer)
}

// codeRebooting is the answer of a device that is about to restart.
const codeRebooting = 418

func (u *update) pause(ctx context.Context) bool {
	t := time.NewTimer(u.opts.Poll)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/gateway/rpc"
)

// verdict is what is known of an update in between.
type verdict int

const (
	undecided verdict = iota // still under way
	installed                // the device runs the image
)

// lookEvery is how often a device that does not answer OTA.Update is asked how it is getting on.
const lookEvery = 2 * time.Second

// install makes the device fetch and start the image, and returns once it runs it. Evidence comes in
// three ways, in any order: the answer to OTA.Update, a new connection, the status. uptimeSec is the
// device's from before.
func (u *update) install(ctx context.Context, uptimeSec int64) error {
	var looked time.Time
	connected := u.presence.Presence(u.device).Since
	link, grant, release, err := u.downloads.allow(u.device, u.image)
	if err != nil {
		return err
	}
	defer release()
	u.step(Step{Stage: StageOffer, Text: fmt.Sprintf("told to fetch %d bytes", u.image.SizeBytes)})
	answer, stop := u.order(ctx, link)
	defer stop()

	limit := time.NewTimer(u.opts.InstallTimeout)
	defer limit.Stop()
	tick := time.NewTicker(u.opts.Poll)
	defer tick.Stop()
	restarting, lost, sent := false, false, int64(0)
	download := func() {
		if n := grant.sent.Load(); n != sent && !restarting {
			sent = n
			u.step(Step{Stage: StageDownload, SentBytes: n, SizeBytes: u.image.SizeBytes, Text: fmt.Sprintf("%d of %d bytes", n, u.image.SizeBytes)})
		}
	}
	restart := func() {
		download()
		restarting = true
		limit.Reset(u.opts.RestartTimeout)
		u.step(Step{Stage: StageRestart, Text: "installed, restarting"})
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			if restarting {
				return failed("the device has not come back within %v of installing the image", u.opts.RestartTimeout)
			}
			return failed("the device has not installed the image within %v", u.opts.InstallTimeout)
		case err := <-answer:
			answer = nil
			switch remote, isRemote := errors.AsType[*rpc.RemoteError](err); {
			case err == nil, isRemote && remote.Code == 0: // old firmware tells success so
				if !restarting {
					restart()
				}
			case isRemote:
				return failed("%w", err)
			default:
				u.log.Info("no answer to OTA.Update, watching the device instead", "err", err)
				lost = true
			}
		case <-tick.C:
			download()
			now := u.presence.Presence(u.device)
			back := now.Online && !now.Since.Equal(connected)
			if !back && !(now.Online && lost && !restarting && time.Since(looked) >= lookEvery) {
				continue
			}
			looked = time.Now()
			v, applied, err := u.look(ctx, uptimeSec, lost || restarting || grant.used.Load())
			switch {
			case err != nil || v == installed:
				return err
			case applied && !restarting:
				restart()
			}
			connected = now.Since
		}
	}
}

// order calls OTA.Update, which lasts as long as the update does. Its error comes on the channel,
// once. stop gives the answer up and waits for the call to end.
func (u *update) order(ctx context.Context, link string) (answer <-chan error, stop func()) {
	ctx, cancel := context.WithTimeout(ctx, u.opts.InstallTimeout)
	outcome, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		params, err := json.Marshal(map[string]any{"url": link, "commit_timeout": max(1, int(u.opts.CommitTimeout/time.Second))})
		if err == nil {
			_, err = u.caller.Call(ctx, u.device.String(), "OTA.Update", params)
		}
		outcome <- err
	}()
	return outcome, func() {
		cancel()
		<-ended
	}
}

// look asks a device that has connected anew, or whose answer was lost, how the update stands. begun says
// that the device has begun the update, so that a device at rest has ended it. applied reports that the image is
// installed and the restart is still to come.
func (u *update) look(ctx context.Context, uptimeSec int64, begun bool) (v verdict, applied bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.opts.RestartTimeout)
	defer cancel()
	var info deviceInfo
	if err := u.retry(ctx, "Sys.GetInfo", &info); err != nil {
		return undecided, false, u.unlessGone(err)
	}
	if u.runs(info) {
		return installed, false, nil
	}
	var status otaStatus
	if err := u.retry(ctx, "OTA.Status", &status); err != nil {
		return undecided, false, u.unlessGone(err)
	}
	rebooted := info.UptimeSec < uptimeSec
	switch {
	case status.State == otaInProgress:
		return undecided, false, nil
	case status.State == otaSuccess:
		return undecided, true, nil
	case firmware.Version(info.Version) == u.image.Version:
		return undecided, false, failed("the device reports version %s, but build %s instead of %s", info.Version, info.BuildID, u.image.BuildID)
	case !begun && !rebooted:
		return undecided, false, nil // the order may not have arrived yet
	case status.State == otaError:
		return undecided, false, failed("the device reports: %s", status.Message)
	case status.uncommitted():
		return undecided, false, failed("the device has started firmware that reports version %s instead of %s; it is not kept", info.Version, u.image.Version)
	}
	return undecided, false, failed("the device runs version %s: the new firmware did not start, or the device has given it up", info.Version)
}

// unlessGone passes on errors that waiting does not heal. A device that went away again will be
// looked at when it comes back.
func (u *update) unlessGone(err error) error {
	if isTransient(err) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return failed("%w", err)
}

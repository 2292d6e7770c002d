package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifyReady tells systemd, when it asked, that the gateway serves.
func notifyReady(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("systemd was not told that the gateway is ready", "err", err)
	}
}

// notifyStopping tells systemd that the gateway has been asked to stop.
func notifyStopping() {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // it only changes what `systemctl status` shows
}

// watchdog tells systemd that the gateway lives, as often as its unit wants, as long as healthy
// says so. It returns when ctx ends.
func watchdog(ctx context.Context, healthy func() bool) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if healthy() {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) // systemd ends a process whose pings do not arrive
			}
		}
	}
}

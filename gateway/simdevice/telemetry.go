package simdevice

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
)

// reading is one message on <id>/data.
type reading struct {
	ID          string  `json:"id"`
	Seq         int     `json:"seq"` // counts from 1 at each boot
	Uptime      float64 `json:"uptime_s"`
	Temperature float64 `json:"temperature"`
	RAMFree     int     `json:"ram_free"`
}

// telemetry publishes readings until ctx ends. Devices that were switched on together start at different
// moments.
func (b *boot) telemetry(ctx context.Context) {
	every := b.d.cfg.Telemetry
	if every <= 0 || !sleep(ctx, rand.N(every)) {
		return
	}
	phase := rand.Float64()
	for seq := 1; ; seq++ {
		up := b.uptime().Seconds()
		payload, err := json.Marshal(reading{
			ID: b.conf.id, Seq: seq, Uptime: math.Round(up*1000) / 1000, RAMFree: 211212,
			Temperature: math.Round(10*(21+3*math.Sin(2*math.Pi*(phase+up/600)))) / 10,
		})
		if err == nil {
			b.publish(b.conf.id+"/data", payload)
		}
		if !sleep(ctx, every) {
			return
		}
	}
}

// commitOrRevert resets a device whose new firmware nobody commits in time; the boot loader then
// goes back.
func (b *boot) commitOrRevert(ctx context.Context) {
	b.d.mu.Lock()
	defer b.d.mu.Unlock()
	if b.d.flash.committed {
		return
	}
	b.after(ctx, b.d.flash.commitTimeout, func() {
		b.d.mu.Lock()
		defer b.d.mu.Unlock()
		if !b.d.flash.committed {
			b.d.log.Info("new firmware was not committed")
			b.restart(ctx, 0)
		}
	})
}

package appliance_test

import (
	"strings"
	"testing"
	"time"

	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
)

// A clock behind the build time: a first start says so and makes nothing; a gateway that exists
// starts, serves its devices, issues nothing and says why, until the clock is right again.
func TestClockBehindBuildTime(t *testing.T) {
	t.Parallel()
	var clock movableClock
	build := func(s *appliancetest.Setup) { s.Now, s.Build = clock.now, time.Now().Add(-time.Hour) }
	clock.set(-3 * time.Hour)
	if _, err := appliancetest.Try(t, build); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("a first start with the clock behind: %v, want an error that names the clock", err)
	}

	clock.set(0)
	gw := appliancetest.Start(t, build)
	lamp := gw.Device(t, "lamp")
	gw.Stop(t)
	clock.set(-3 * time.Hour)
	gw.Restart(t)
	lamp.Connect(t, plane.Connect{})
	status := gw.Status(t)
	if status.Clock.Trusted || status.Health != "degraded" || len(status.Warnings) == 0 {
		t.Errorf("status %q with warnings %q, clock trusted: %v", status.Health, status.Warnings, status.Clock.Trusted)
	}
	ctx := appliancetest.Context(t)
	var refused *client.Error
	_, err := gw.API.Provision(ctx, "pump", api.CredentialsRequest{})
	if refused, _ = err.(*client.Error); refused == nil || refused.Code != api.CodeClockUntrusted || refused.Remedy == "" {
		t.Errorf("provision while the clock is not trusted: %v, want %s with a remedy", err, api.CodeClockUntrusted)
	}
	clock.set(0)
	if _, err := gw.API.Provision(ctx, "pump", api.CredentialsRequest{}); err != nil {
		t.Errorf("provision with the clock right again: %v", err)
	}
}

package upstreamtest_test

import (
	"testing"

	"go.uber.org/goleak"

	"gatewayctl/bridge"
	"gatewayctl/bridge/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFake(t *testing.T) {
	upstreamtest.Run(t, func(*testing.T) (bridge.Upstream, upstreamtest.Far) {
		f := new(upstreamtest.Fake)
		return f, f
	})
}

package appliance_test

import (
	"testing"

	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
)

func TestMain(m *testing.M) { appliancetest.Main(m) }

package mqttclient_test

import (
	"testing"

	"go.uber.org/goleak"

	"gatewayctl/bridge"
	"gatewayctl/bridge/mqttclient"
	"gatewayctl/bridge/mqttclient/mosquittotest"
	"gatewayctl/bridge/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far is the other side of the contract suite: an observer and the process itself.
type far struct {
	*mosquittotest.Observer
	*mosquittotest.Broker
}

func newClient(t *testing.T, url string, opts mqttclient.Options) *mqttclient.Client {
	t.Helper()
	c, err := mqttclient.New(url, "bridge-under-test", opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMosquittoPlain(t *testing.T) {
	t.Parallel()
	upstreamtest.Run(t, func(t *testing.T) (bridge.Upstream, upstreamtest.Far) {
		b := mosquittotest.Start(t, mosquittotest.Config{})
		return newClient(t, b.URL(), mqttclient.Options{}), far{b.Observe(t, "#"), b}
	})
}

func TestMosquittoTLS(t *testing.T) {
	t.Parallel()
	upstreamtest.Run(t, func(t *testing.T) (bridge.Upstream, upstreamtest.Far) {
		ca := mosquittotest.NewAuthority(t)
		b := mosquittotest.Start(t, mosquittotest.Config{TLS: ca, NeedCert: true})
		cert, key := ca.Issue(t, "bridge")
		return newClient(t, b.URL(), mqttclient.Options{CA: ca.File, Cert: cert, Key: key}), far{b.Observe(t, "#"), b}
	})
}

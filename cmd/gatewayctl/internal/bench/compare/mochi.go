package compare

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// An openHook lets everybody do everything.
type openHook struct{ mochi.HookBase }

func (*openHook) ID() string { return "open" }

func (*openHook) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (*openHook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (*openHook) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// serveMochi runs plain mochi-mqtt with its defaults, open to everybody, until ctx ends.
func serveMochi(ctx context.Context, plain, secure net.Listener, cfg *tls.Config) error {
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(openHook), nil); err != nil {
		return fmt.Errorf("mochi: %w", err)
	}
	for name, l := range map[string]net.Listener{"plain": plain, "tls": tls.NewListener(secure, cfg)} {
		if err := server.AddListener(listeners.NewNet(name, l)); err != nil {
			return fmt.Errorf("mochi: listener %s: %w", name, err)
		}
	}
	if err := server.Serve(); err != nil {
		return fmt.Errorf("mochi: %w", err)
	}
	<-ctx.Done()
	return server.Close()
}

// moduleVersion is the version of a library in this binary.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

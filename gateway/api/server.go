package api

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"gatewayctl/pki/identity"
)

// ServerOptions configures what [NewServer] returns.
type ServerOptions struct {
	OnShutdown func()       // called when Shutdown begins; [API.Stop] belongs here
	Log        *slog.Logger // of the server's own complaints; nil discards
}

// NewServer returns an HTTP server for h with bounds on what a connection may cost. It serves the
// admin socket and TLS listeners alike; whoever connects by a Unix socket is named by
// [ConnContext].
func NewServer(h http.Handler, opts ServerOptions) *http.Server {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       ConnContext,
		// Strangers' handshakes fail all the time; that is not for an operator to act on.
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
		// Reads of bodies and writes have no bound here: API bounds each of them.
	}
	if opts.OnShutdown != nil {
		s.RegisterOnShutdown(opts.OnShutdown)
	}
	return s
}

// ConnContext names the caller of a connection by a Unix socket: the user of the process at the
// other end, who is an administrator because the socket's permissions let it in. Other connections
// get no caller. It is for [http.Server].ConnContext.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	uid, err := peerUID(u)
	if err != nil {
		return ctx
	}
	return WithCaller(ctx, Caller{Name: fmt.Sprintf("uid %d", uid), Role: identity.RoleAdmin, Via: ViaSocket, UID: uid})
}

// peerUID asks the kernel whose process is at the other end (unix(7), SO_PEERCRED).
func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	ctl := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if ctl != nil {
		return 0, ctl
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

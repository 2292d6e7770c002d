package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"gatewayctl/pki/identity"
)

// devices is what the Router needs to know of the registry.
type devices interface {
	Has(name string) bool                 // the name is registered
	Online(device identity.DeviceID) bool // the device is connected now
}

// Options configures a [Router].
type Options struct {
	Concurrent int           // calls to one device at once; 0 means 2, small devices hold no more
	MaxWaiting int           // calls that wait for one device; 0 means 64
	Timeout    time.Duration // of a call whose context has no deadline; 0 means 20 s, as the mos tool's
	Log        *slog.Logger  // nil discards
}

// A Router calls methods of registered devices. It is safe for concurrent use.
type Router struct {
	devices   devices
	transport Transport
	opts      Options
	gates     gates
}

// NewRouter returns a Router that calls the devices of reg over transport.
func NewRouter(reg devices, transport Transport, opts Options) *Router {
	opts.Concurrent = cmp.Or(opts.Concurrent, 2)
	opts.MaxWaiting = cmp.Or(opts.MaxWaiting, 64)
	opts.Timeout = cmp.Or(opts.Timeout, 20*time.Second)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Router{
		devices: reg, transport: transport, opts: opts,
		gates: gates{concurrent: opts.Concurrent, waiting: opts.MaxWaiting, open: map[identity.DeviceID]*gate{}},
	}
}

// Call calls method of the device with that registered name and returns its result, null if the
// method returns nothing. nil params are left out of the request.
//
// The deadline of ctx bounds the whole call, waiting for a turn included. The errors are
// [ErrBadRequest], [ErrUnknownDevice], [ErrOffline], [ErrBusy], [ErrTimeout], [ErrBadAnswer],
// [*RemoteError], and the context's own when it was canceled. After ErrTimeout the method may or
// may not have run.
func (r *Router) Call(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error) {
	start := time.Now()
	result, err := r.call(ctx, device, method, params)
	r.opts.Log.Debug("call", "device", device, "method", method, "elapsed", time.Since(start), "err", err)
	if err != nil {
		return nil, fmt.Errorf("call %s of %s: %w", method, device, err)
	}
	return result, nil
}

func (r *Router) call(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error) {
	if err := checkMethod(method); err != nil {
		return nil, err
	}
	if len(params) > 0 && !json.Valid(params) {
		return nil, fmt.Errorf("%w: the parameters are not JSON", ErrBadRequest)
	}
	id, err := identity.ParseDeviceID(device)
	if err != nil || !r.devices.Has(device) {
		return nil, ErrUnknownDevice
	}
	if !r.devices.Online(id) {
		return nil, ErrOffline
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.opts.Timeout)
		defer cancel()
	}
	leave, err := r.gates.enter(ctx, id)
	if err != nil {
		return nil, timeout(err, "earlier calls have not ended")
	}
	defer leave()
	answer, err := r.transport.Call(ctx, id, Frame{Method: method, Params: params})
	switch {
	case err != nil:
		return nil, timeout(err, "the device is connected but did not answer")
	case answer.Error != nil:
		return nil, answer.Error
	case answer.Result == nil: // old firmware leaves a null out
		return json.RawMessage("null"), nil
	}
	return answer.Result, nil
}

// timeout turns the end of a deadline into ErrTimeout. What the transport says beyond the
// deadline itself is kept, so that "the answer had another id" reaches the caller.
func timeout(err error, why string) error {
	switch {
	case err == context.DeadlineExceeded:
		return fmt.Errorf("%w: %s", ErrTimeout, why)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

// maxMethodLen is far beyond any real name and keeps topics short.
const maxMethodLen = 100

// checkMethod refuses what cannot be a method name: it becomes a topic level and part of a URL.
func checkMethod(method string) error {
	if method == "" {
		return fmt.Errorf("%w: the method is empty", ErrBadRequest)
	}
	if len(method) > maxMethodLen {
		return fmt.Errorf("%w: the method's name has more than %d characters", ErrBadRequest, maxMethodLen)
	}
	for _, c := range []byte(method) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-', c == ':':
		default:
			return fmt.Errorf("%w: the method's name has the character %q", ErrBadRequest, c)
		}
	}
	return nil
}

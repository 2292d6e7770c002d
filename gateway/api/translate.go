package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"reflect"
	"strings"
	"syscall"

	"github.com/danielgtaylor/huma/v2"

	"gatewayctl/firmware"
	"gatewayctl/firmware/repository"
	"gatewayctl/gateway"
	"gatewayctl/gateway/discovery"
	"gatewayctl/gateway/jobs"
	"gatewayctl/gateway/provision"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki"
	"gatewayctl/store"
	"gatewayctl/store/msglog"
)

// problem is the edge's one table from the services' errors to HTTP.
func (a *API) problem(ctx context.Context, operation string, err error) *Problem {
	var (
		p      *Problem
		remote *rpc.RemoteError
		large  *http.MaxBytesError
	)
	is := func(target error) bool { return errors.Is(err, target) }
	answer := func(code, remedy string) *Problem {
		p := NewProblem(code, err.Error(), remedy)
		p.cause = err
		return p
	}
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(context.Cause(ctx), errStopping):
		return NewProblem(CodeStopping, errStopping.Error(), "")
	case errors.As(err, &large):
		return NewProblem(CodeTooLarge, "the body is too large", "").WithCause(err)
	case is(os.ErrDeadlineExceeded): // of a connection: timed sets it
		p = NewProblem(CodeTimeout, "the rest of the body did not come", "").WithCause(err)
		p.Status = http.StatusRequestTimeout
		return p

	case is(rpc.ErrUnknownDevice):
		return answer(CodeUnknownDevice, remedyDevices)
	case is(rpc.ErrOffline):
		return answer(CodeOffline, "Check its power and its network; `gatewayctl device show` tells when it was last there.")
	case errors.As(err, &remote):
		return fromDevice(err, remote)
	case is(rpc.ErrBadRequest):
		return answer(CodeInvalid, "")
	case is(rpc.ErrBusy):
		return answer(CodeBusy, "Try again when earlier calls have ended.")
	case is(rpc.ErrBadAnswer):
		return answer(CodeDeviceError, "")
	case is(rpc.ErrTimeout), is(context.DeadlineExceeded):
		return answer(CodeTimeout, "What was asked for may still have happened. Check before you repeat it, or give it more time with --timeout.")

	case is(pki.ErrClock):
		return answer(CodeClockUntrusted, "Set the clock, for example with `timedatectl set-ntp true`.")
	case is(pki.ErrProfile), is(pki.ErrCSR), is(pki.ErrWeakKey), is(pki.ErrReason):
		return answer(CodeInvalid, "")
	case is(pki.ErrNoCertificate), is(pki.ErrUnknownCertificate):
		return answer(CodeUnknownCertificate, "`gatewayctl pki show` lists the certificates.")

	case is(provision.ErrExists):
		return answer(CodeExists, "Its credentials were handed out once. --replace revokes them and makes new ones, --additional leaves them valid beside new ones.")
	case is(provision.ErrDisabled):
		return answer(CodeRefused, "Enable it first: `gatewayctl device enable NAME`.")
	case is(provision.ErrChanged):
		return answer(CodeRefused, "Try again.")
	case is(provision.ErrFormat):
		return answer(CodeInvalid, "")

	case is(gateway.ErrNotFound):
		return answer(CodeUnknownDevice, remedyDevices)
	case is(gateway.ErrExists), is(gateway.ErrAttached):
		return answer(CodeExists, "")
	case is(gateway.ErrInvalid), is(firmware.ErrInvalid):
		return answer(CodeInvalid, "")

	case is(jobs.ErrUnsuitable):
		return answer(CodeRefused, "Choose an image for this device: `gatewayctl firmware list` shows their platforms.")
	case is(jobs.ErrUncommitted):
		return answer(CodeRefused, "Call OTA.Commit or OTA.Revert of the device first, or wait until it goes back by itself.")
	case is(jobs.ErrBusy):
		return answer(CodeBusy, "Wait for its end; `gatewayctl events --device NAME` shows it.")
	case is(jobs.ErrFailed):
		return answer(CodeDeviceError, "The device goes back to the firmware that it had, if it has not already.")
	case is(repository.ErrNotFound):
		return answer(CodeUnknownImage, "`gatewayctl firmware list` shows the images.")
	case is(repository.ErrAmbiguous):
		return answer(CodeInvalid, "Name it with its version, as name@version, or by more of its SHA-256.")
	case is(repository.ErrTooLarge), is(msglog.ErrTooLarge):
		return answer(CodeTooLarge, "")

	case is(msglog.ErrBlocked):
		return answer(CodeBusy, "A rule of the bridge that may block is full; `gatewayctl bridge status` shows which.")
	case is(msglog.ErrFull) && !is(syscall.ENOSPC) && !is(syscall.EDQUOT):
		return answer(CodeDiskFull, "`gatewayctl bridge status` shows for whom messages wait; store.max_log of the configuration is the budget.")
	case is(store.ErrFull), is(syscall.ENOSPC), is(syscall.EDQUOT):
		return answer(CodeDiskFull, "Make room on the disk of the data directory.")
	case is(discovery.ErrNoInterface):
		p = answer(CodeUnavailable, "Connect the machine to a network.")
		p.Status = http.StatusServiceUnavailable
		return p
	case is(store.ErrClosed), is(msglog.ErrClosed), is(rpc.ErrClosed), is(context.Canceled):
		return answer(CodeStopping, "") // or the client has left
	}
	a.log.Error("operation failed", "operation", operation, "err", err)
	return answer(CodeInternal, remedyLog)
}

const (
	remedyDevices = "`gatewayctl device list` shows the registered devices."
	remedyLog     = "See the gateway's log."
)

// fromDevice is the problem that a device's own error makes.
func fromDevice(err error, remote *rpc.RemoteError) *Problem {
	var p *Problem
	switch remote.Code {
	case rpc.CodeNoHandler:
		p = NewProblem(CodeUnknownMethod, err.Error(), "Call RPC.List to see which methods the device has.")
	default:
		p = NewProblem(CodeDeviceError, err.Error(), "")
	}
	p.Device = &DeviceError{Code: remote.Code, Message: remote.Message}
	p.cause = err
	return p
}

// fromHuma turns an error that huma made, about a request that is wrong in itself, into a problem.
func (a *API) fromHuma(m *huma.ErrorModel) *Problem {
	code := CodeInvalid
	switch m.Status {
	case http.StatusRequestEntityTooLarge:
		code = CodeTooLarge
	case http.StatusRequestTimeout:
		code = CodeTimeout
	case http.StatusInternalServerError:
		code = CodeInternal
	}
	p := NewProblem(code, m.Detail, "")
	p.Status = m.Status
	var details []string
	for _, e := range m.Errors {
		if e == nil {
			continue
		}
		p.Fields = append(p.Fields, FieldError{Field: e.Location, Message: e.Message})
		details = append(details, strings.TrimPrefix(e.Location+": "+e.Message, ": "))
	}
	if len(details) > 0 {
		p.Detail = strings.Join(details, "; ")
	}
	return p
}

// write sends p where no operation of huma's is at work.
func (a *API) write(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if err := json.NewEncoder(w).Encode(p); err != nil {
		a.log.Debug("answer not sent", "err", err)
	}
}

// problemResponse documents how operations fail.
func (a *API) problemResponse() *huma.Response {
	schema := a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	return &huma.Response{
		Description: "What failed, why, and what to do about it",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
	}
}

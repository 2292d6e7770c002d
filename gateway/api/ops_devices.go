package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"gatewayctl/pki/identity"
)

const (
	defaultCall = 20 * time.Second // the mos tool's
	maxCall     = 10 * time.Minute
)

// deviceInput names a device in the path.
type deviceInput struct {
	Name string `path:"name" maxLength:"128" doc:"the device's name"`
}

func (in *deviceInput) target() string { return in.Name }

type devicesInput struct {
	Tag    string `query:"tag" doc:"only devices with this tag"`
	Type   string `query:"type" doc:"only devices of this type"`
	Prefix string `query:"prefix" doc:"only devices whose name begins so"`
	Online string `query:"online" enum:"true,false" doc:"only devices that are, or are not, connected"`
}

type credentialsInput struct {
	Name string `path:"name" maxLength:"128" doc:"the device's name"`
	Body CredentialsRequest
}

type callInput struct {
	Name    string           `path:"name" maxLength:"128" doc:"the device's name"`
	Method  string           `path:"method" maxLength:"100" doc:"such as Sys.GetInfo"`
	Timeout durationParam    `query:"timeout" doc:"20s if absent, 10m at most"`
	Body    *json.RawMessage `doc:"the method's parameters, any JSON; may be absent"`
}

func (a *API) registerDevices() {
	s := a.services
	read(a, operation("device-list", http.MethodGet, "/devices", "devices", "Registered devices, by name", ""),
		s.Devices != nil, func(ctx context.Context, in *devicesInput) (DeviceList, error) {
			list, err := s.Devices(ctx, DeviceQuery{Tag: in.Tag, Type: in.Type, Prefix: in.Prefix, Online: in.Online})
			slices.SortFunc(list, func(x, y Device) int { return strings.Compare(x.Name, y.Name) })
			return DeviceList{orEmpty(list)}, err
		})
	read(a, operation("device-show", http.MethodGet, "/devices/{name}", "devices", "One device", ""),
		s.Device != nil, func(ctx context.Context, in *deviceInput) (Device, error) {
			return onDevice(in.Name, func(id identity.DeviceID) (Device, error) { return s.Device(ctx, id) })
		})
	change(a, operation("device-remove", http.MethodDelete, "/devices/{name}", "devices", "Remove a device",
		"Takes the device out of the registry, revokes its certificates and cuts its connections. Answers with what was removed."),
		s.RemoveDevice != nil, (*deviceInput).target, func(ctx context.Context, in *deviceInput) (Device, error) {
			return onDevice(in.Name, func(id identity.DeviceID) (Device, error) { return s.RemoveDevice(ctx, id) })
		})
	for verb, disabled := range map[string]bool{"disable": true, "enable": false} {
		summary := map[bool]string{true: "Cut a device off until it is enabled again", false: "Let a disabled device connect again"}[disabled]
		change(a, operation("device-"+verb, http.MethodPost, "/devices/{name}/"+verb, "devices", summary, ""),
			s.SetDeviceDisabled != nil, (*deviceInput).target, func(ctx context.Context, in *deviceInput) (Device, error) {
				return onDevice(in.Name, func(id identity.DeviceID) (Device, error) { return s.SetDeviceDisabled(ctx, id, disabled) })
			})
	}
	change(a, operation("device-provision", http.MethodPost, "/devices/{name}/credentials", "devices", "Issue credentials for a device",
		"Registers the device if it is new. Without a CSR the answer holds a private key, which the gateway does not keep; the answer must not be stored by anything in between."),
		s.Provision != nil, func(in *credentialsInput) string { return in.Name }, func(ctx context.Context, in *credentialsInput) (Credentials, error) {
			return onDevice(in.Name, func(id identity.DeviceID) (Credentials, error) {
				if in.Body.Existing == "" {
					in.Body.Existing = ExistingRefuse
				}
				return s.Provision(ctx, id, in.Body)
			})
		})
	change(a, operation("device-call", http.MethodPost, "/devices/{name}/rpc/{method}", "devices", "Call a method of a device",
		"The body is the parameters. The gateway gives up when the timeout is over; the method may have run all the same."),
		s.Call != nil, func(in *callInput) string { return in.Name + " " + in.Method }, a.call)
}

// onDevice calls fn with the device of that name.
func onDevice[T any](name string, fn func(identity.DeviceID) (T, error)) (T, error) {
	id, err := deviceID(name)
	if err != nil {
		var zero T
		return zero, err
	}
	return fn(id)
}

func deviceID(name string) (identity.DeviceID, error) {
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		return id, invalid("path.name", "%v", err)
	}
	return id, nil
}

func (a *API) call(ctx context.Context, in *callInput) (CallResult, error) {
	timeout, err := in.Timeout.within(defaultCall, maxCall)
	if err != nil {
		return CallResult{}, err
	}
	ctx, stop := a.untilStop(ctx)
	defer stop()
	timed, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var params json.RawMessage
	if in.Body != nil {
		params = *in.Body
	}
	result, err := a.services.Call(timed, in.Name, in.Method, params)
	if err != nil {
		return CallResult{}, a.problem(ctx, "device-call", err)
	}
	return CallResult{Result: result}, nil
}

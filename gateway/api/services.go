package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"gatewayctl/broker/mqtt"
	"gatewayctl/gateway/events"
	"gatewayctl/pki/identity"
)

// Services are what the operations act on, filled in by the composition root. An operation whose
// function is nil answers 501 with the code [CodeUnavailable].
//
// The functions are called from many goroutines. The context holds the [Caller]; it ends when the
// caller leaves, and for what may take long (calls, scans, uploads, updates, streams) also when
// its time is up and when the server shuts down. An error
// that is, or wraps, a [*Problem] is sent as it is; the known errors of packages rpc, pki,
// gateway, provision and the firmware packages are translated by one table; anything else is an
// internal error, logged here.
type Services struct {
	Status  func(ctx context.Context) (Status, error)
	Ready   func() error // why devices cannot connect yet; a nil function means that they can
	Metrics http.Handler // GET /metrics, for administrators
	Events  *events.Log

	Devices           func(ctx context.Context, q DeviceQuery) ([]Device, error)
	Device            func(ctx context.Context, name identity.DeviceID) (Device, error)
	RemoveDevice      func(ctx context.Context, name identity.DeviceID) (Device, error) // returns what was removed
	SetDeviceDisabled func(ctx context.Context, name identity.DeviceID, disabled bool) (Device, error)

	// Provision issues a certificate for a device, registered by it if it is new. When the device
	// has a valid certificate, req.Existing decides; it is never empty here.
	Provision func(ctx context.Context, name identity.DeviceID, req CredentialsRequest) (Credentials, error)

	// Call is [rpc.Router.Call]. ctx always has a deadline.
	Call func(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error)

	// Publish returns once the message is as durable as an acknowledgment promises.
	Publish func(ctx context.Context, m mqtt.Message) error
	// Subscribe gives deliver every message from its return on until cancel is called; deliver
	// does not block. It may give it the retained messages first.
	Subscribe func(f mqtt.Filter, deliver func(mqtt.Message)) (cancel func(), err error)

	// Discover reports each instance when it is first seen, when it changes and when it is gone,
	// until ctx ends; then it returns nil. found does not block.
	Discover func(ctx context.Context, found func(Found)) error

	Upstreams func(ctx context.Context) ([]Upstream, error)

	// AddImage reads an image to the end of r. name may be empty: then it is taken from the image.
	AddImage    func(ctx context.Context, name string, r io.Reader) (Image, error)
	Images      func(ctx context.Context) ([]Image, error)
	RemoveImage func(ctx context.Context, ref string) (Image, error)
	// Update puts an image on a device and returns once the device has confirmed it. progress
	// does not block and is not called after the return.
	Update func(ctx context.Context, device identity.DeviceID, image string, progress func(UpdateProgress)) (UpdateResult, error)

	PKI          func(ctx context.Context) (PKI, error)
	Certificates func(ctx context.Context, q CertificateQuery) ([]Certificate, error)
	// Revoke revokes the certificate with that serial number or id, or all of the device with
	// that name, and returns them. Open connections that use them are cut.
	Revoke func(ctx context.Context, target, reason string) ([]Certificate, error)
	Issue  func(ctx context.Context, req IssueRequest) (Credentials, error)
	CA     func() []byte // the root certificate, PEM
}

package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
)

// Status returns the gateway on one screen.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return get[api.Status](ctx, c, path("status"), nil)
}

// Ready returns nil when devices can connect, and why they cannot otherwise.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, request{method: http.MethodGet, path: "/readyz"}, nil)
}

// Wait returns nil once devices can connect. It waits for a gateway that is not running yet, and
// returns the last reason when ctx ends.
func (c *Client) Wait(ctx context.Context) error {
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	var last Error
	for {
		err := c.Ready(ctx)
		var e *Error
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			if !errors.As(err, &e) || !e.passes() {
				return err
			}
			last = *e
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) || last.Message == "" {
				return c.interrupted(ctx.Err())
			}
			return &Error{Code: api.CodeTimeout, Message: "the gateway is not ready in time: " + last.Message, Remedy: last.Remedy, err: ctx.Err()}
		}
	}
}

// passes reports whether a gateway that starts may end what e reports.
func (e *Error) passes() bool {
	return e.Code == CodeNoGateway || e.Code == CodeConnectionLost || e.Status == http.StatusServiceUnavailable
}

// Devices returns the registered devices that q chooses, by name.
func (c *Client) Devices(ctx context.Context, q api.DeviceQuery) ([]api.Device, error) {
	query := params{}.set("tag", q.Tag).set("type", q.Type).set("prefix", q.Prefix).set("online", q.Online)
	out, err := get[api.DeviceList](ctx, c, path("devices"), query)
	return out.Devices, err
}

// Device returns one device.
func (c *Client) Device(ctx context.Context, name string) (api.Device, error) {
	return get[api.Device](ctx, c, path("devices", name), nil)
}

// RemoveDevice takes a device out of the registry, cuts its connections, revokes its
// certificates, and returns what was removed.
func (c *Client) RemoveDevice(ctx context.Context, name string) (api.Device, error) {
	return send[api.Device](ctx, c, http.MethodDelete, path("devices", name), nil)
}

// DisableDevice cuts a device off until it is enabled again.
func (c *Client) DisableDevice(ctx context.Context, name string) (api.Device, error) {
	return send[api.Device](ctx, c, http.MethodPost, path("devices", name, "disable"), nil)
}

// EnableDevice lets a disabled device connect again.
func (c *Client) EnableDevice(ctx context.Context, name string) (api.Device, error) {
	return send[api.Device](ctx, c, http.MethodPost, path("devices", name, "enable"), nil)
}

// Provision issues credentials for a device, which is registered if it is new.
func (c *Client) Provision(ctx context.Context, name string, req api.CredentialsRequest) (api.Credentials, error) {
	return send[api.Credentials](ctx, c, http.MethodPost, path("devices", name, "credentials"), req)
}

// Call calls a method of a device and returns its result. nil args are left out; a zero timeout
// means 20 s. ctx should last a little longer than the timeout.
func (c *Client) Call(ctx context.Context, device, method string, args json.RawMessage, timeout time.Duration) (json.RawMessage, error) {
	r := request{method: http.MethodPost, path: path("devices", device, "rpc", method), query: params{}.duration("timeout", timeout)}
	if args != nil {
		r.body, r.size, r.kind = bytes.NewReader(args), int64(len(args)), "application/json"
	}
	var out api.CallResult
	err := c.do(ctx, r, &out)
	return out.Result, err
}

// Publish publishes a message as the local administrator and returns once the gateway answers for it.
func (c *Client) Publish(ctx context.Context, m api.Message) error {
	r, err := request{method: http.MethodPost, path: path("publish")}.jsonBody(m)
	if err != nil {
		return err
	}
	return c.do(ctx, r, nil)
}

// Subscribe returns the messages that match any of the filters, from now on. It returns once the
// subscription is in place.
func (c *Client) Subscribe(ctx context.Context, filters ...string) (*Stream[api.Message], error) {
	return openStream[api.Message](ctx, c, request{method: http.MethodGet, path: path("subscribe"), query: params{"filter": filters}})
}

func eventParams(q api.EventQuery) params {
	p := params{}.number("after", q.After).set("kind", q.Kind).set("device", q.Device).set("severity", string(q.Severity))
	if !q.Since.IsZero() {
		p.set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Limit > 0 {
		p.number("limit", uint64(q.Limit))
	}
	return p
}

// Events returns what happened, oldest first.
func (c *Client) Events(ctx context.Context, q api.EventQuery) ([]events.Event, error) {
	out, err := get[api.EventList](ctx, c, path("events"), eventParams(q))
	return out.Events, err
}

// FollowEvents returns the last events that q asks for, then those that happen from now on.
func (c *Client) FollowEvents(ctx context.Context, q api.EventQuery) (*Stream[events.Event], error) {
	return openStream[events.Event](ctx, c, request{method: http.MethodGet, path: path("events", "stream"), query: eventParams(q)})
}

// Discover listens for timeout (0 means 3 s) and returns what announces itself.
func (c *Client) Discover(ctx context.Context, timeout time.Duration) ([]api.Found, error) {
	out, err := get[api.FoundList](ctx, c, path("discover"), params{}.duration("timeout", timeout))
	return out.Found, err
}

// WatchDiscover returns what announces itself as it comes, changes and goes, for timeout or, when
// that is 0, until ctx ends.
func (c *Client) WatchDiscover(ctx context.Context, timeout time.Duration) (*Stream[api.Found], error) {
	return openStream[api.Found](ctx, c, request{method: http.MethodGet, path: path("discover", "stream"), query: params{}.duration("timeout", timeout)})
}

// Bridge returns the upstreams and their rules.
func (c *Client) Bridge(ctx context.Context) ([]api.Upstream, error) {
	out, err := get[api.UpstreamList](ctx, c, path("bridge"), nil)
	return out.Upstreams, err
}

// AddImage puts a firmware image of size bytes (-1: not known) into the repository. name may be
// empty: then it is taken from the image.
func (c *Client) AddImage(ctx context.Context, name string, r io.Reader, size int64) (api.Image, error) {
	var out api.Image
	err := c.do(ctx, request{
		method: http.MethodPost, path: path("firmware"), query: params{}.set("name", name),
		body: io.NopCloser(r), size: size, kind: "application/octet-stream",
	}, &out)
	return out, err
}

// Images returns the firmware images of the repository.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	out, err := get[api.ImageList](ctx, c, path("firmware"), nil)
	return out.Images, err
}

// RemoveImage takes an image out of the repository and returns what was removed.
func (c *Client) RemoveImage(ctx context.Context, ref string) (api.Image, error) {
	return send[api.Image](ctx, c, http.MethodDelete, path("firmware", ref), nil)
}

// Update puts an image on a device and returns once the device has confirmed it. progress, which
// may be nil, is called for each step. When ctx ends first, the update is given up.
func (c *Client) Update(ctx context.Context, device string, req api.UpdateRequest, progress func(api.UpdateProgress)) (api.UpdateResult, error) {
	var out api.UpdateResult
	r, err := request{method: http.MethodPost, path: path("devices", device, "update")}.jsonBody(req)
	if err != nil {
		return out, err
	}
	s, err := openStream[api.UpdateProgress](ctx, c, r)
	if err != nil {
		return out, err
	}
	for step, err := range s.All() {
		if err != nil {
			return out, err
		}
		if progress != nil {
			progress(step)
		}
	}
	if err := json.Unmarshal(s.result, &out); err != nil {
		return out, &Error{Code: CodeConnectionLost, Message: "the update ended without a result", err: err}
	}
	return out, nil
}

// PKI returns the certificate authority and the gateway's own certificate.
func (c *Client) PKI(ctx context.Context) (api.PKI, error) {
	return get[api.PKI](ctx, c, path("pki"), nil)
}

// Certificates returns the certificates on record that q chooses.
func (c *Client) Certificates(ctx context.Context, q api.CertificateQuery) ([]api.Certificate, error) {
	query := params{}.set("device", q.Device).set("profile", q.Profile).bool("revoked", q.Revoked)
	out, err := get[api.CertificateList](ctx, c, path("pki", "certificates"), query)
	return out.Certificates, err
}

// Revoke revokes a certificate, by serial number or id, or all of a device, by its name, and
// returns what was revoked.
func (c *Client) Revoke(ctx context.Context, req api.RevokeRequest) ([]api.Certificate, error) {
	out, err := send[api.CertificateList](ctx, c, http.MethodPost, path("pki", "revoke"), req)
	return out.Certificates, err
}

// Issue issues a certificate that is not a device's, such as an administrator's.
func (c *Client) Issue(ctx context.Context, req api.IssueRequest) (api.Credentials, error) {
	return send[api.Credentials](ctx, c, http.MethodPost, path("pki", "issue"), req)
}

// CA returns the root certificate in PEM.
func (c *Client) CA(ctx context.Context) ([]byte, error) {
	res, err := c.open(ctx, request{method: http.MethodGet, path: path("pki", "ca.pem"), accept: "application/x-pem-file"})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	pem, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, c.fromTransport(ctx, err)
	}
	return pem, nil
}

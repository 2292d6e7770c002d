package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"gatewayctl/gateway/api"
)

// Codes of errors that no gateway sent; the others are package api's.
const (
	CodeNoGateway        = "no-gateway"        // nobody listens there
	CodePermission       = "permission-denied" // the socket may not be opened
	CodeWrongCertificate = "wrong-certificate" // the gateway refused our certificate
	CodeWrongGateway     = "wrong-gateway"     // its certificate is not of the CA that we trust, or names another host
	CodeConnectionLost   = "connection-lost"   // the connection broke before the answer was complete
	CodeNotGateway       = "not-a-gateway"     // what answers is something else
)

// ErrNoGateway matches, with [errors.Is], an [*Error] that says that no gateway is running.
var ErrNoGateway = &Error{Code: CodeNoGateway}

// An Error is how an operation failed.
type Error struct {
	Status  int    // of HTTP; 0 when there was no answer
	Code    string // stable; one of package api's or of this package's
	Message string // what failed and why, in one line
	Remedy  string // what to do about it; "" when there is nothing to say
	Fields  []api.FieldError
	Device  *api.DeviceError // what the device answered to a call

	err error
}

// Error returns the message without the remedy.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what is behind e: the context's error, a network error, or nil.
func (e *Error) Unwrap() error { return e.err }

// Is reports whether target is an Error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// ExitCode is what a command that failed with e exits with: 2 wrong usage, 3 not found,
// 4 refused, 5 timed out, otherwise 1. A call ends with 3 for an unknown device, 4 for one that is
// not connected, 5 for one that does not answer, and 1 for an error that the device answered with.
func (e *Error) ExitCode() int {
	switch e.Code {
	case CodePermission, CodeWrongCertificate, CodeWrongGateway, api.CodeOffline:
		return 4
	case api.CodeUnknownMethod: // the device is there and answered
		return 1
	case api.CodeTimeout:
		return 5
	case api.CodeInvalid:
		return 2
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return 2
	case http.StatusNotFound:
		return 3
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusConflict:
		return 4
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return 5
	}
	return 1
}

// fromProblem is the error that an answer of the gateway reports.
func fromProblem(p api.Problem) *Error {
	return &Error{Status: p.Status, Code: p.Code, Message: p.Detail, Remedy: p.Remedy, Fields: p.Fields, Device: p.Device}
}

// fromTransport explains why there was no answer, or no end of it.
func (c *Client) fromTransport(ctx context.Context, err error) error {
	where := c.where()
	var (
		done *Error
		cert *tls.CertificateVerificationError
		host x509.HostnameError
		dns  *net.DNSError
		op   *net.OpError
	)
	fail := func(code, remedy, format string, args ...any) error {
		return &Error{Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy, err: err}
	}
	switch {
	case errors.As(err, &done):
		return done
	case ctx.Err() != nil:
		return c.interrupted(ctx.Err())
	case errors.Is(err, fs.ErrPermission):
		return fail(CodePermission, "Run the command as the gateway's user, as root, or as a member of the socket's group.",
			"the admin socket %s may not be opened: permission denied", where)
	case errors.As(err, &host):
		return fail(CodeWrongGateway, "Use a name or address that its certificate has.", "the gateway at %s has a certificate for another name: %v", where, host)
	case errors.As(err, &cert):
		return fail(CodeWrongGateway, "Name its CA certificate with --ca; `gatewayctl pki show --pem` on the gateway prints it.",
			"the gateway at %s does not have a certificate of the CA that is trusted here: %v", where, cert.Err)
	case isAlert(err):
		return c.wrongCertificate(err)
	case errors.As(err, &dns):
		return fail(CodeNoGateway, "Check the address.", "no gateway at %s: %v", where, dns)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR),
		errors.As(err, &op) && op.Op == "dial":
		return c.noGateway(where, err)
	}
	if alert := c.refusal(ctx); alert != nil {
		return c.wrongCertificate(alert)
	}
	return fail(CodeConnectionLost, "See the gateway's log for what happened; ask again whether the change was made.",
		"the connection to the gateway at %s broke: %v", where, err)
}

// isAlert reports whether err is a TLS alert from the other end.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" // as crypto/tls says
}

// refusal finds out whether the gateway refuses our certificate. In TLS 1.3 the client's part of
// the handshake ends before the server has looked at the certificate. When a request is on its way
// by then, the kernel may throw the server's alert away and report a broken connection instead;
// without one, the alert arrives.
func (c *Client) refusal(ctx context.Context) error {
	if c.tls == nil || c.tls.GetClientCertificate == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", c.host)
	if err == nil {
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
		defer stop()
		_, err = conn.Read(make([]byte, 1))
	}
	if isAlert(err) {
		return err
	}
	return nil
}

func (c *Client) wrongCertificate(err error) error {
	var op *net.OpError
	errors.As(err, &op)
	return &Error{
		Code: CodeWrongCertificate, Message: fmt.Sprintf("the gateway at %s refused the certificate: %v", c.where(), op.Err),
		Remedy: "Use an administrator's certificate of this gateway that is not revoked (--cert, --key).", err: err,
	}
}

// interrupted is the error of a request whose context ended.
func (c *Client) interrupted(cause error) error {
	if errors.Is(cause, context.DeadlineExceeded) {
		return &Error{Code: api.CodeTimeout, Message: "no answer from the gateway at " + c.where() + " in time", err: cause}
	}
	return fmt.Errorf("the request was interrupted: %w", cause)
}

func (c *Client) noGateway(where string, err error) error {
	e := &Error{Code: CodeNoGateway, Message: "no gateway answers on " + where, Remedy: "Start one with `gatewayctl serve`.", err: err}
	if c.base == "https://"+where || c.base == where {
		e.Remedy = "Check the address, and that the gateway runs (`gatewayctl serve`)."
	}
	return e
}

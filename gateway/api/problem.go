package api

import (
	"errors"
	"fmt"
	"net/http"
)

// The codes of problems. They are stable: clients branch on them.
const (
	CodeInvalid            = "invalid"             // 400, 422: the request itself is wrong; fields says where
	CodeTooLarge           = "too-large"           // 413
	CodeUnauthenticated    = "unauthenticated"     // 401: nobody said who asks
	CodeForbidden          = "forbidden"           // 403: the caller may not
	CodeNotFound           = "not-found"           // 404: no such operation, or no such thing of a kind without its own code
	CodeUnknownDevice      = "unknown-device"      // 404
	CodeUnknownMethod      = "unknown-method"      // 404: the device has no such method
	CodeUnknownImage       = "unknown-image"       // 404
	CodeUnknownCertificate = "unknown-certificate" // 404
	CodeUnknownPolicy      = "unknown-policy"      // 404
	CodeMethodNotAllowed   = "method-not-allowed"  // 405
	CodeExists             = "exists"              // 409: it is there already
	CodeRefused            = "refused"             // 409: the gateway's state or rules do not allow it
	CodeClockUntrusted     = "clock-untrusted"     // 409: nothing is issued while the time cannot be trusted
	CodeInternal           = "internal"            // 500
	CodeUnavailable        = "unavailable"         // 501, 503: not part of this gateway, or not now
	CodeDeviceError        = "device-error"        // 502: the device answered with an error
	CodeBusy               = "busy"                // 503
	CodeOffline            = "offline"             // 503: the device is not connected
	CodeStopping           = "stopping"            // 503: the gateway shuts down
	CodeTimeout            = "timeout"             // 504
	CodeDiskFull           = "disk-full"           // 507
)

// A Problem is how every operation fails: application/problem+json (RFC 9457) with a stable code
// and a remedy.
type Problem struct {
	Type   string       `json:"type" format:"uri-reference" doc:"stable for this kind of problem"`
	Title  string       `json:"title" doc:"the kind of problem in a few words"`
	Status int          `json:"status" doc:"the HTTP status"`
	Code   string       `json:"code" doc:"stable; what clients branch on"`
	Detail string       `json:"detail" doc:"what failed and why, in one line"`
	Remedy string       `json:"remedy,omitempty" doc:"what to do about it"`
	Fields []FieldError `json:"fields,omitempty" doc:"what is wrong in the request, when its code is invalid"`
	Device *DeviceError `json:"device_error,omitempty" doc:"what the device answered"`

	cause error
}

// A FieldError says what is wrong with one field of a request.
type FieldError struct {
	Field   string `json:"field" doc:"such as body.topic, query.timeout, path.name"`
	Message string `json:"message"`
}

// A DeviceError is the error that a device answered a call with.
type DeviceError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// NewProblem makes a problem with one of this package's codes; remedy may be empty.
func NewProblem(code, detail, remedy string) *Problem {
	k, ok := kinds(code)
	if !ok {
		k = kind{http.StatusInternalServerError, "Internal error"}
	}
	return &Problem{Type: "/problems/" + code, Title: k.title, Status: k.status, Code: code, Detail: detail, Remedy: remedy}
}

// WithCause returns p as the answer to err, whose text is added to the detail.
func (p *Problem) WithCause(err error) *Problem {
	q := *p
	q.cause = err
	if q.Detail == "" {
		q.Detail = err.Error()
	} else {
		q.Detail += ": " + err.Error()
	}
	return &q
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// Unwrap returns what caused p, nil if that is not known.
func (p *Problem) Unwrap() error { return p.cause }

// Is reports whether target is a problem with the same code.
func (p *Problem) Is(target error) bool {
	var q *Problem
	return errors.As(target, &q) && q.Code == p.Code
}

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma's filter of content types.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// invalid is a problem with one field of the request.
func invalid(field, format string, args ...any) *Problem {
	msg := fmt.Sprintf(format, args...)
	p := NewProblem(CodeInvalid, field+": "+msg, "")
	p.Fields = []FieldError{{field, msg}}
	return p
}

type kind struct {
	status int
	title  string
}

// kinds is the one table of what a code means in HTTP.
func kinds(code string) (kind, bool) {
	k, ok := map[string]kind{
		CodeInvalid:            {http.StatusUnprocessableEntity, "Invalid request"},
		CodeTooLarge:           {http.StatusRequestEntityTooLarge, "Too large"},
		CodeUnauthenticated:    {http.StatusUnauthorized, "Not authenticated"},
		CodeForbidden:          {http.StatusForbidden, "Not allowed"},
		CodeNotFound:           {http.StatusNotFound, "Not found"},
		CodeUnknownDevice:      {http.StatusNotFound, "Unknown device"},
		CodeUnknownMethod:      {http.StatusNotFound, "Unknown method"},
		CodeUnknownImage:       {http.StatusNotFound, "Unknown image"},
		CodeUnknownCertificate: {http.StatusNotFound, "Unknown certificate"},
		CodeUnknownPolicy:      {http.StatusNotFound, "Unknown policy"},
		CodeMethodNotAllowed:   {http.StatusMethodNotAllowed, "Method not allowed"},
		CodeExists:             {http.StatusConflict, "Already there"},
		CodeRefused:            {http.StatusConflict, "Refused"},
		CodeClockUntrusted:     {http.StatusConflict, "Clock not trusted"},
		CodeInternal:           {http.StatusInternalServerError, "Internal error"},
		CodeUnavailable:        {http.StatusNotImplemented, "Not available"},
		CodeDeviceError:        {http.StatusBadGateway, "The device reported an error"},
		CodeBusy:               {http.StatusServiceUnavailable, "Busy"},
		CodeOffline:            {http.StatusServiceUnavailable, "Device offline"},
		CodeStopping:           {http.StatusServiceUnavailable, "The gateway is stopping"},
		CodeTimeout:            {http.StatusGatewayTimeout, "Timed out"},
		CodeDiskFull:           {http.StatusInsufficientStorage, "Disk full"},
	}[code]
	return k, ok
}

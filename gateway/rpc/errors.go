package rpc

import (
	"errors"
	"fmt"
)

// The outcomes of a call that the caller may want to tell apart; [*RemoteError] is the other one.
var (
	ErrUnknownDevice = errors.New("no such device is registered")
	ErrOffline       = errors.New("the device is not connected")
	ErrTimeout       = errors.New("no answer in time")
	ErrBusy          = errors.New("too many calls wait for the device")
	ErrBadAnswer     = errors.New("the device sent an answer that cannot be used")
	ErrBadRequest    = errors.New("the call is not well-formed")
	ErrClosed        = errors.New("the transport is shut down")
)

// Codes of [RemoteError] that Mongoose OS and Shelly share.
const (
	CodeBadArgument  = 400
	CodeUnauthorized = 401
	CodeForbidden    = 403
	CodeNoHandler    = 404
)

// A RemoteError is a failure that the device reported. Old firmware reports the success of
// OTA.Update as an error with code 0.
type RemoteError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Error implements error.
func (e *RemoteError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the device answered with error %d", e.Code)
	}
	return fmt.Sprintf("the device answered with error %d: %s", e.Code, e.Message)
}

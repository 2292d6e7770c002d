// Package rpctest holds what tests of RPC need: the contract suite of [rpc.Transport] and a fake
// that passes it.
package rpctest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"

	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"
)

// Serve is the far end of a transport: a device. It gets each request once and calls reply with
// the bytes of each answer, as often, as late and as wrong as it likes, from any goroutine. It must not block.
type Serve func(request rpc.Frame, reply func([]byte))

// maxAnswer is what the fake takes for too large.
const maxAnswer = 256 << 10

// A Fake is an [rpc.Transport] to devices that are functions. The zero value has no device.
type Fake struct {
	mu      sync.Mutex
	devices map[identity.DeviceID]Serve
	last    atomic.Int64
}

// Device puts serve at the far end under the name id.
func (f *Fake) Device(id identity.DeviceID, serve Serve) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.devices == nil {
		f.devices = map[identity.DeviceID]Serve{}
	}
	f.devices[id] = serve
}

// Call implements [rpc.Transport]. A request to a name without a device is lost.
func (f *Fake) Call(ctx context.Context, dev identity.DeviceID, req rpc.Frame) (rpc.Frame, error) {
	if err := ctx.Err(); err != nil {
		return rpc.Frame{}, err
	}
	f.mu.Lock()
	serve := f.devices[dev]
	f.mu.Unlock()
	req.ID, req.Src, req.Dst = rpc.IntID(1000+f.last.Add(1)), "fake", dev.String()
	answers := make(chan []byte, 8)
	if serve != nil {
		serve(req, func(b []byte) {
			select {
			case answers <- b:
			default:
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return rpc.Frame{}, ctx.Err()
		case b := <-answers:
			if len(b) > maxAnswer {
				return rpc.Frame{}, fmt.Errorf("%w: %d bytes", rpc.ErrBadAnswer, len(b))
			}
			answer, err := rpc.ParseFrame(b)
			if err != nil {
				return rpc.Frame{}, fmt.Errorf("%w: %w", rpc.ErrBadAnswer, err)
			}
			if answer.ID.Answers(req.ID) {
				return answer, nil
			}
		}
	}
}

// Reply makes the answer of a well-behaved device to request: result is any JSON value, or an
// [*rpc.RemoteError].
func Reply(request rpc.Frame, result any) []byte {
	f := rpc.Frame{ID: request.ID, Src: request.Dst, Dst: request.Src, Tag: request.Tag}
	if failure, ok := result.(*rpc.RemoteError); ok {
		f.Error = failure
		return f.Append(nil)
	}
	raw, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	f.Result = raw
	return f.Append(nil)
}

package rpc

import (
	"context"

	"gatewayctl/pki/identity"
)

// A Transport carries one call to a device over one kind of channel. Its implementations pass the
// contract suite in rpctest.
type Transport interface {
	// Call sends the request f to dev and returns the frame that answers it, which may hold an
	// Error. The transport chooses ID and Src of what it sends, and sets Dst where the channel
	// needs it; Method and Params go out as they are.
	//
	// Call returns when the answer is there or ctx ends, with ctx's error in the latter case. An
	// answer that is no frame or is too large gives [ErrBadAnswer]. Answers with another id, of
	// another device or after the first are ignored. It is safe for concurrent use.
	Call(ctx context.Context, dev identity.DeviceID, f Frame) (Frame, error)
}

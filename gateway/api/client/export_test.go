package client

import "context"

// ExplainTransport is what a client of the socket makes of a failed connection.
func ExplainTransport(socket string, err error) error {
	c := &Client{where: func() string { return socket }}
	return c.fromTransport(context.Background(), err)
}

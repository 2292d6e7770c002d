package broker

import (
	"bufio"
	"io"
	"sync"
)

// A fuzzConn is one connection of a client, which reads all the time.
type fuzzConn struct {
	id      string
	nc      *buffered
	version byte

	mu     sync.Mutex
	frames [][]byte
	ended  bool
}

func (c *fuzzConn) receive() {
	reader := bufio.NewReader(c.nc)
	for {
		frame, err := readFrame(reader)
		c.mu.Lock()
		if err != nil {
			c.ended = true
			c.mu.Unlock()
			return
		}
		c.frames = append(c.frames, frame)
		c.mu.Unlock()
	}
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	frame := make([]byte, 1)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	size := 0
	for shift := 0; ; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		frame = append(frame, b)
		size |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
	}
	body := make([]byte, size)
	_, err := io.ReadFull(r, body)
	return append(frame, body...), err
}

func (c *fuzzConn) take() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames := c.frames
	c.frames = nil
	return frames
}

func (c *fuzzConn) done() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

package relay

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
	"syscall"

	"gatewayctl/broker/plane"
)

// A rawConn is a socket.
type rawConn interface {
	net.Conn
	syscall.Conn
}

const (
	maxOutbound = 8 << 20 // bytes that may wait for a reader
	keepBytes   = 256 << 10
)

// An outbound is what waits to be sent to a client.
type outbound struct {
	raw  rawConn
	tls  *tls.Conn // nil: plain
	sink *sink     // where tls writes to

	mu      sync.Mutex
	buf     []byte
	spare   []byte
	pending bool // somebody is going to flush
	writing bool // somebody does
	closed  bool
	lastID  uint16 // packet identifier that was used last

	rest  []byte // what write is about to send, and how that went
	sent  int
	err   error
	sock  syscall.RawConn
	write func(fd uintptr) bool
	done  sync.WaitGroup // the goroutine that writes to a full socket
}

func newOutbound(raw rawConn) (*outbound, error) {
	sock, err := raw.SyscallConn()
	if err != nil {
		return nil, err
	}
	o := &outbound{raw: raw, sock: sock}
	o.write = func(fd uintptr) bool { // made once, as it would be allocated at each use
		for {
			o.sent, o.err = syscall.Write(int(fd), o.rest)
			if o.err != syscall.EINTR {
				return true
			}
		}
	}
	return o, nil
}

// A message is a PUBLISH frame and where its parts are.
type message struct {
	frame           []byte
	start, topicEnd int
	qos             byte
}

// add appends m with the given QoS, on behalf of by, who will flush. It returns false when the
// client does not read and there is no room left.
func (o *outbound) add(m message, qos byte, by *conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return true
	}
	if len(o.buf)+len(m.frame) > maxOutbound {
		return false
	}
	const dupAndRetain = 0b1001
	at := len(o.buf)
	if qos == m.qos {
		o.buf = append(o.buf, m.frame...)
		o.buf[at] &^= dupAndRetain
	} else { // QoS 1 to a subscription with QoS 0: the packet identifier falls out
		payload := m.frame[m.topicEnd+2:]
		o.buf = append(o.buf, byte(plane.PUBLISH)<<4)
		o.buf = binary.AppendUvarint(o.buf, uint64(m.topicEnd-m.start+len(payload)))
		o.buf = append(o.buf, m.frame[m.start:m.topicEnd]...)
		o.buf = append(o.buf, payload...)
	}
	if qos == 1 {
		if o.lastID++; o.lastID == 0 {
			o.lastID = 1
		}
		binary.BigEndian.PutUint16(o.buf[at+m.topicEnd:], o.lastID)
	}
	o.touch(by)
	return true
}

// touch makes by flush, unless somebody else will. It is called with mu held.
func (o *outbound) touch(by *conn) {
	if !o.pending {
		o.pending = true
		by.touched = append(by.touched, o)
	}
}

// flush sends what there is, as far as the socket takes it.
func (o *outbound) flush() {
	o.mu.Lock()
	o.pending = false
	if o.writing || o.closed {
		o.mu.Unlock()
		return
	}
	o.writing = true
	for len(o.buf) > 0 {
		b := o.take()
		o.mu.Unlock()
		left, err := o.send(b)
		o.mu.Lock()
		o.give(b)
		if err != nil {
			o.closed = true
			_ = o.raw.Close()
			break
		}
		if len(left) > 0 && !o.closed {
			o.done.Add(1)
			go o.push(left)
			o.mu.Unlock()
			return
		}
	}
	o.writing = false
	o.mu.Unlock()
}

// take and give swap two buffers; both are called with mu held.
func (o *outbound) take() []byte {
	b := o.buf
	o.buf, o.spare = o.spare[:0], nil
	return b
}

func (o *outbound) give(b []byte) {
	if cap(b) <= keepBytes {
		o.spare = b
	}
}

// seal is what b is on the wire. The result may be used until the next call.
func (o *outbound) seal(b []byte) ([]byte, error) {
	if o.tls == nil {
		return b, nil
	}
	_, err := o.tls.Write(b)
	return o.sink.swap(), err
}

// send writes without blocking and returns what the socket did not take.
func (o *outbound) send(b []byte) (left []byte, err error) {
	if o.rest, err = o.seal(b); err != nil {
		return nil, err
	}
	if err := o.sock.Write(o.write); err != nil {
		return nil, err
	}
	switch o.err {
	case nil:
	case syscall.EAGAIN:
		o.sent = 0
	default:
		return nil, o.err
	}
	if left = o.rest[o.sent:]; len(left) > 0 && o.tls == nil {
		left = append([]byte(nil), left...) // b is used again
	}
	return left, nil
}

// push writes to a socket that is full, and whatever else comes meanwhile.
func (o *outbound) push(left []byte) {
	defer o.done.Done()
	_, err := o.raw.Write(left)
	for err == nil {
		o.mu.Lock()
		if len(o.buf) == 0 || o.closed {
			o.writing = false
			o.mu.Unlock()
			return
		}
		b := o.take()
		o.mu.Unlock()
		if left, err = o.seal(b); err == nil {
			_, err = o.raw.Write(left)
		}
	}
	o.mu.Lock()
	o.closed, o.writing = true, false
	o.mu.Unlock()
	_ = o.raw.Close()
}

func (o *outbound) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	_ = o.raw.Close()
	o.done.Wait()
}

// A sink is the socket below TLS. Once the handshake is done it keeps what TLS writes.
type sink struct {
	rawConn
	ahead *bufio.Reader

	mu         sync.Mutex
	collecting bool
	buf, other []byte
}

func (s *sink) Read(p []byte) (int, error) { return s.ahead.Read(p) }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.collecting {
		return s.rawConn.Write(p)
	}
	s.buf = append(s.buf, p...)
	return len(p), nil
}

func (s *sink) collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collecting = true
}

// swap returns what was collected. It stays valid until the next call.
func (s *sink) swap() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buf
	s.buf, s.other = s.other[:0], b
	return b
}

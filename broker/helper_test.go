package broker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatewayctl/broker/acl"
	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/pki/identity"
	"gatewayctl/store/msglog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// A testBroker runs a broker with a plain and a TLS listener on loopback.
type testBroker struct {
	*Broker
	plain, tls string // addresses
	log        *fakeLog
	auth       *testAuthority
	events     *recorder
	stop       func()
}

func start(t testing.TB, opts Options) *testBroker {
	t.Helper()
	tb := newTestBroker(opts)
	tb.plain = tb.listen(t, Listener{Name: "plain"})
	tb.tls = tb.listen(t, Listener{Name: "mqtt", TLS: pki(t).serverTLS()})
	tb.run(t)
	return tb
}

func newTestBroker(opts Options) *testBroker {
	tb := &testBroker{log: &fakeLog{}, auth: &testAuthority{}, events: newRecorder()}
	opts.Observe = tb.events.add
	tb.Broker = newBroker(tb.auth, tb.log, opts)
	return tb
}

// run runs the broker until stop, or the end of the test.
func (tb *testBroker) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tb.Run(ctx) }()
	tb.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(tb.stop)
}

func (tb *testBroker) listen(t testing.TB, l Listener) string {
	t.Helper()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Net = nl
	if err := tb.Serve(l); err != nil {
		t.Fatal(err)
	}
	return nl.Addr().String()
}

// A testAuthority takes a certificate's common name or the user name for a device, and anybody
// else for "local". Policies are by that name; without one everything is allowed.
type testAuthority struct {
	mu         sync.Mutex
	policies   map[string]string
	registered []string
	ask        func(ConnInfo) error // before anything else
	asked      []ConnInfo
}

func (a *testAuthority) Authenticate(_ context.Context, c ConnInfo) (Principal, error) {
	a.mu.Lock()
	a.asked = append(a.asked, c)
	ask := a.ask
	a.mu.Unlock()
	if ask != nil {
		if err := ask(c); err != nil {
			return Principal{}, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name := c.UserName
	if c.Secure {
		name = c.Peer.CommonName
	}
	if name == "" {
		return Principal{Name: "local", Key: "local", Access: a.access("local", c)}, nil
	}
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		return Principal{}, &Refusal{Why: err.Error()}
	}
	return Principal{Name: "device " + name, Key: name, Device: id, Access: a.access(name, c)}, nil
}

func (a *testAuthority) access(name string, c ConnInfo) Access {
	text, ok := a.policies[name]
	if !ok {
		text = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`
	}
	doc, err := acl.Parse([]byte(text))
	if err != nil {
		panic(err)
	}
	set := acl.Compile(acl.Named{Name: "policy-" + name, Doc: doc})
	return set.Bind(acl.Connection{ClientID: c.ClientID, LastWill: c.LastWill, WillTopic: c.WillTopic}.Context(""), "")
}

func (a *testAuthority) Registered(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.registered, name)
}

func (a *testAuthority) set(change func(a *testAuthority)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

// policy allows connecting, and what else is said: pairs of action and resource.
func policy(pairs ...string) string {
	var b bytes.Buffer
	b.WriteString(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"*"}`)
	for i := 0; i < len(pairs); i += 2 {
		b.WriteString(`,{"Effect":"Allow","Action":"iot:` + pairs[i] + `","Resource":"arn:aws:iot:*:*:` + pairs[i+1] + `"}`)
	}
	b.WriteString(`]}`)
	return b.String()
}

// A fakeLog is a message log whose commits happen when the test says so, or at once.
type fakeLog struct {
	mu      sync.Mutex
	held    bool
	blocked bool
	tried   int   // while blocked
	fail    error // of the commit
	entries []msglog.Entry
	waiting []func()
	grew    chan struct{}
}

func (l *fakeLog) AppendAsync(e msglog.Entry, done func(uint64, error)) error {
	l.mu.Lock()
	if l.blocked {
		l.tried++
		l.mu.Unlock()
		return msglog.ErrBlocked
	}
	l.entries = append(l.entries, e)
	seq, fail, held := uint64(len(l.entries)), l.fail, l.held
	if held {
		l.waiting = append(l.waiting, func() { done(seq, fail) })
	}
	if l.grew != nil {
		close(l.grew)
		l.grew = nil
	}
	l.mu.Unlock()
	if !held {
		done(seq, fail)
	}
	return nil
}

// hold keeps commits back until release.
func (l *fakeLog) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

func (l *fakeLog) release() {
	l.mu.Lock()
	waiting := l.waiting
	l.waiting, l.held = nil, false
	l.mu.Unlock()
	for _, commit := range waiting {
		commit()
	}
}

func (l *fakeLog) failWith(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// await returns the first n messages once they have been appended.
func (l *fakeLog) await(t *testing.T, n int) []mqtt.Message {
	t.Helper()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		if len(l.entries) >= n {
			defer l.mu.Unlock()
			return l.messagesLocked(t)
		}
		if l.grew == nil {
			l.grew = make(chan struct{})
		}
		grew := l.grew
		l.mu.Unlock()
		select {
		case <-grew:
		case <-timeout:
			t.Fatalf("the log has not got %d messages", n)
		}
	}
}

func (l *fakeLog) messages(t *testing.T) []mqtt.Message {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.messagesLocked(t)
}

func (l *fakeLog) messagesLocked(t *testing.T) []mqtt.Message {
	var list []mqtt.Message
	for _, e := range l.entries {
		m, err := mqtt.ParseMessage(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// A recorder keeps events.
type recorder struct {
	mu   sync.Mutex
	list []Event
	grew chan struct{}
}

func newRecorder() *recorder { return &recorder{grew: make(chan struct{})} }

func (r *recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
	close(r.grew)
	r.grew = make(chan struct{})
}

// await returns the first event that matches.
func (r *recorder) await(t *testing.T, what string, match func(Event) bool) Event {
	t.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		i, grew := slices.IndexFunc(r.list, match), r.grew
		var found Event
		if i >= 0 {
			found = r.list[i]
		}
		r.mu.Unlock()
		if i >= 0 {
			return found
		}
		select {
		case <-grew:
		case <-timeout:
			r.mu.Lock()
			defer r.mu.Unlock()
			t.Fatalf("no event: %s; there were %+v", what, r.list)
		}
	}
}

func (r *recorder) count(match func(Event) bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.list {
		if match(e) {
			n++
		}
	}
	return n
}

func kind(k EventKind) func(Event) bool { return func(e Event) bool { return e.Kind == k } }

// A client speaks raw MQTT.
type client struct {
	t       testing.TB
	nc      net.Conn
	r       *bufio.Reader
	version byte
	later   []reply // read before it was asked for
}

func dialPlain(t testing.TB, address string, version byte) *client {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, nc, version)
}

func newClient(t testing.TB, nc net.Conn, version byte) *client {
	t.Cleanup(func() { _ = nc.Close() })
	return &client{t: t, nc: nc, r: bufio.NewReader(nc), version: version}
}

func dialTLS(t testing.TB, address, name string, version byte) *client {
	t.Helper()
	nc, err := tls.Dial("tcp", address, pki(t).clientTLS(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, nc, version)
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if err := c.nc.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) send(p plane.Packet) {
	c.t.Helper()
	c.write(p.Append(nil, c.version))
}

// A reply is a frame from the server.
type reply struct {
	typ    plane.Type
	flags  byte
	body   []byte
	id     uint16
	codes  []byte // CONNACK: flags and code; SUBACK, UNSUBACK: reasons; PUBACK ...: reason
	props  []byte // raw
	topic  string
	qos    mqtt.QoS
	retain bool
	dup    bool
	text   string // payload
}

func (c *client) tryRead() (reply, error) {
	if len(c.later) > 0 {
		p := c.later[0]
		c.later = c.later[1:]
		return p, nil
	}
	return c.tryReadNew()
}

func (c *client) tryReadNew() (reply, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return reply{}, err
	}
	first, err := c.r.ReadByte()
	if err != nil {
		return reply{}, err
	}
	size, err := binary.ReadUvarint(c.r)
	if err != nil {
		return reply{}, err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return reply{}, err
	}
	return c.parse(first, body), nil
}

func (c *client) parse(first byte, body []byte) reply {
	p := reply{typ: plane.Type(first >> 4), flags: first & 15, body: body}
	props := func(b []byte) []byte {
		if c.version != plane.V5 || len(b) == 0 {
			return b
		}
		n, used := binary.Uvarint(b)
		p.props = b[used : used+int(n)]
		return b[used+int(n):]
	}
	switch p.typ {
	case plane.CONNACK:
		p.codes = body[:2]
		props(body[2:])
	case plane.PUBLISH:
		p.dup, p.qos, p.retain = first&8 != 0, mqtt.QoS(first>>1&3), first&1 != 0
		n := binary.BigEndian.Uint16(body)
		p.topic, body = string(body[2:2+n]), body[2+n:]
		if p.qos > 0 {
			p.id, body = binary.BigEndian.Uint16(body), body[2:]
		}
		p.text = string(props(body))
	case plane.SUBACK, plane.UNSUBACK:
		p.id = binary.BigEndian.Uint16(body)
		p.codes = props(body[2:])
	case plane.PUBACK, plane.PUBREC, plane.PUBREL, plane.PUBCOMP:
		p.id, p.codes = binary.BigEndian.Uint16(body), append(body[2:len(body):len(body)], 0)
	case plane.DISCONNECT:
		p.codes = append(body[:len(body):len(body)], 0)
	}
	return p
}

// read returns the next frame, which must be of type want.
func (c *client) read(want plane.Type) reply {
	c.t.Helper()
	p, err := c.tryRead()
	if err != nil {
		c.t.Fatalf("waiting for packet type %d: %v", want, err)
	}
	if p.typ != want {
		c.t.Fatalf("packet type %d, %x, want type %d", p.typ, p.body, want)
	}
	return p
}

// closed expects nothing but the end of the connection.
func (c *client) closed() {
	c.t.Helper()
	p, err := c.tryRead()
	if err == nil {
		c.t.Fatalf("packet type %d, %x, want the connection closed", p.typ, p.body)
	}
	if isTimeout(err) {
		c.t.Fatal("the connection stays open")
	}
}

// disconnected expects a DISCONNECT with reason in MQTT 5.0, and the end.
func (c *client) disconnected(reason mqtt.ReasonCode) {
	c.t.Helper()
	if c.version == plane.V5 {
		if p := c.read(plane.DISCONNECT); mqtt.ReasonCode(p.codes[0]) != reason {
			c.t.Fatalf("DISCONNECT with %v, want %v", mqtt.ReasonCode(p.codes[0]), reason)
		}
	}
	c.closed()
}

// connect sends a CONNECT, changed by with, and returns the CONNACK.
func (c *client) connect(id string, with ...func(*plane.Connect)) reply {
	c.t.Helper()
	hello := &plane.Connect{Version: c.version, ClientID: id, CleanStart: true, KeepAlive: 60}
	for _, change := range with {
		change(hello)
	}
	c.send(hello)
	return c.read(plane.CONNACK)
}

func (c *client) connected(id string, with ...func(*plane.Connect)) *client {
	c.t.Helper()
	if p := c.connect(id, with...); p.codes[1] != 0 {
		c.t.Fatalf("CONNACK %x for %q", p.codes, id)
	}
	return c
}

func user(name string) func(*plane.Connect) {
	return func(c *plane.Connect) { c.HasUserName, c.UserName = true, name }
}

// staying asks for a session that outlives its connection.
func staying(c *plane.Connect) {
	c.CleanStart = false
	if c.Version == plane.V5 {
		c.SessionExpirySeconds = 3600
	}
}

func (c *client) subscribe(filter string, qos mqtt.QoS) *client {
	c.t.Helper()
	c.send(&plane.Subscribe{PacketID: 1, Subscriptions: []plane.Subscription{{Filter: mqtt.Filter(filter), QoS: qos}}})
	if p := c.read(plane.SUBACK); !bytes.Equal(p.codes, []byte{byte(qos)}) {
		c.t.Fatalf("SUBACK %x for %s", p.codes, filter)
	}
	return c
}

func (c *client) publish(topic, text string, qos mqtt.QoS, id uint16) {
	c.t.Helper()
	c.send(&plane.Publish{Message: mqtt.Message{Topic: topic, Payload: []byte(text), QoS: qos}, PacketID: id})
}

// flush returns once everything that was sent before has been handled.
func (c *client) flush() {
	c.t.Helper()
	c.send(&plane.Ping{})
	c.read(plane.PINGRESP)
}

// An authorityFiles makes certificates for a test.
type testPKI struct {
	root    *x509.Certificate
	key     *ecdsa.PrivateKey
	server  tls.Certificate
	serials atomic.Int64
}

// pki returns the CA that the tests share: certificates are only made, never changed.
func pki(t testing.TB) *testPKI {
	t.Helper()
	return sharedPKI()
}

var sharedPKI = sync.OnceValue(func() *testPKI { return newPKI("test root") })

func newPKI(name string) *testPKI {
	p := &testPKI{key: newKey()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.key.Public(), p.key)
	if err != nil {
		panic(err)
	}
	if p.root, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	p.serials.Store(1)
	p.server = p.issue("localhost", time.Hour)
	return p
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func (p *testPKI) issue(name string, lifetime time.Duration) tls.Certificate {
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.serials.Add(1)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.root, key.Public(), p.key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (p *testPKI) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.root)
	return pool
}

func (p *testPKI) serverTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.pool()}
}

func (p *testPKI) clientTLS(t testing.TB, name string) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{p.issue(name, time.Hour)}, RootCAs: p.pool(), ServerName: "localhost"}
}

// files writes ca.crt, NAME.crt and NAME.key for the programs.
func (p *testPKI) files(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	cert := p.issue(name, time.Hour)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"ca.crt":      {Type: "CERTIFICATE", Bytes: p.root.Raw},
		name + ".crt": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		name + ".key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// consume adds a durable consumer that reads as id.
func (tb *testBroker) consume(t *testing.T, id msglog.ConsumerID, filter mqtt.Filter, accept func(*mqtt.Message) bool) {
	t.Helper()
	if _, err := tb.addConsumer(DurableConsumer{Name: "test", Filter: filter, Accept: accept}, id); err != nil {
		t.Fatal(err)
	}
}

var errDisk = errors.New("disk on fire")

func dialQuick(address string) (net.Conn, error) { return net.DialTimeout("tcp", address, time.Second) }

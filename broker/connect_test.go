package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/pki/identity"
)

// code is the CONNACK code that the version has for a refusal.
func code(version byte, v5 mqtt.ReasonCode, v311 byte) byte {
	if version == plane.V5 {
		return byte(v5)
	}
	return v311
}

func refusedWith(t *testing.T, c *client, p reply, v5 mqtt.ReasonCode, v311 byte) {
	t.Helper()
	if want := code(c.version, v5, v311); p.codes[1] != want || p.codes[0] != 0 {
		t.Errorf("CONNACK %x, want code %#x", p.codes, want)
	}
	c.closed()
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	strangers := newPKI("another root")
	dial := func(cert *tls.Certificate) error {
		config := &tls.Config{RootCAs: pki(t).pool(), ServerName: "localhost"}
		if cert != nil {
			config.Certificates = []tls.Certificate{*cert}
		}
		nc, err := tls.Dial("tcp", b.tls, config)
		if err != nil {
			return err
		}
		c := newClient(t, nc, plane.V5)
		_, _ = nc.Write((&plane.Connect{Version: plane.V5, ClientID: "x"}).Append(nil, plane.V5))
		_, err = c.tryRead()
		return err
	}
	foreign, expired := strangers.issue("lamp", time.Hour), pki(t).issue("lamp", -time.Hour)
	for name, cert := range map[string]*tls.Certificate{"none": nil, "another CA's": &foreign, "expired": &expired} {
		if err := dial(cert); err == nil {
			t.Errorf("a client with the certificate %s got an answer", name)
		}
	}
	b.events.await(t, "handshake refused", func(e Event) bool {
		return e.Kind == ConnectRefused && strings.Contains(e.Reason, "TLS handshake")
	})

	// Whom the certificate names is Peer's to say.
	revoked := errors.New("certificate revoked")
	config := pki(t).serverTLS()
	address := b.listen(t, Listener{Name: "peer", TLS: config, Peer: func(certs []*x509.Certificate) (identity.Peer, error) {
		if certs[0].Subject.CommonName == "bad" {
			return identity.Peer{}, revoked
		}
		return identity.Peer{CommonName: "from-peer", CertificateID: "id", Role: identity.RoleDevice}, nil
	}})
	dialTLS(t, address, "lamp", plane.V5).connected("lamp")
	if s := b.session(t, "lamp"); s.Device.String() != "from-peer" || s.CertificateID != "id" || s.Listener != "peer" {
		t.Errorf("session %+v", s)
	}
	c := dialTLS(t, address, "bad", plane.V5)
	c.closed()
	b.events.await(t, "revoked", func(e Event) bool { return e.Kind == ConnectRefused && strings.Contains(e.Reason, revoked.Error()) })
}

// session returns the established session with this client identifier.
func (tb *testBroker) session(t *testing.T, id string) Session {
	t.Helper()
	tb.events.await(t, "connected "+id, func(e Event) bool { return e.Kind == Connected && e.ClientID == id })
	for _, s := range tb.Sessions() {
		if s.ClientID == id {
			return s
		}
	}
	t.Fatalf("no session %q", id)
	return Session{}
}

func TestConnInfo(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	dialTLS(t, b.tls, "lamp", plane.V5).connected("lamp#1", staying, user("ignored"), func(c *plane.Connect) {
		c.HasPassword, c.Password = true, plane.Secret("secret")
		c.Will = &plane.Will{Message: mqtt.Message{Topic: "lamp/will"}}
	})
	i := b.auth.asked[0]
	if !i.Secure || i.Listener != "mqtt" || i.Peer.CommonName != "lamp" || i.Peer.CertificateID == "" || i.Certificate == nil ||
		i.ServerName != "localhost" || i.ClientID != "lamp#1" || i.UserName != "ignored" || string(i.Password) != "secret" ||
		!i.PersistentConnect || !i.LastWill || i.WillTopic != "lamp/will" || i.ProtocolVersion != 5 {
		t.Errorf("ConnInfo %+v", i)
	}
	s := b.session(t, "lamp#1")
	if s.Principal != "device lamp" || s.Device.String() != "lamp" || s.KeepAlive != time.Minute || s.ProtocolVersion != 5 || s.Connected.IsZero() {
		t.Errorf("session %+v", s)
	}
}

func TestIdentifiers(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.auth.registered = []string{"lamp", "pump"}
	b.auth.policies = map[string]string{"shy": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:*:*:client/shy"}]}`}
	versions(t, func(t *testing.T, version byte) {
		for _, tc := range []struct {
			id, user string
			ok       bool
		}{
			{"lamp", "lamp", true},
			{"lamp#a", "lamp", true},
			{"mos-1", "lamp", true},
			{"pump", "lamp", false},   // another thing's name
			{"pump#a", "lamp", false}, // also before '#'
			{"pump", "", false},       // on any listener
			{"shy", "shy", true},
			{"shy#2", "shy", false}, // its policy says no
			{strings.Repeat("x", 300), "lamp", false},
		} {
			c := dialPlain(t, b.plain, version)
			p := c.connect(tc.id, user(tc.user))
			switch {
			case tc.ok && p.codes[1] != 0:
				t.Errorf("%q as %q: CONNACK %x", tc.id, tc.user, p.codes)
			case !tc.ok && len(tc.id) > 256:
				refusedWith(t, c, p, mqtt.ClientIdentifierNotValid, 2)
			case !tc.ok:
				refusedWith(t, c, p, mqtt.NotAuthorized, 5)
			default:
				_ = c.nc.Close()
				b.gone(t, tc.id)
			}
		}
		e := b.events.await(t, "refused", func(e Event) bool { return e.Kind == ConnectRefused && e.ClientID == "shy#2" })
		if e.Device.String() != "shy" || e.Address == "" || e.Listener != "plain" {
			t.Errorf("event %+v", e)
		}
	})
}

// gone waits until nobody is connected as id.
func (tb *testBroker) gone(t *testing.T, id string) {
	t.Helper()
	tb.mu.Lock()
	c := tb.claims[id]
	tb.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case <-c.gone:
	case <-time.After(patience):
		t.Fatalf("%q stays connected", id)
	}
}

func TestAssignedIdentifiers(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	versions(t, func(t *testing.T, version byte) {
		name := "lamp" + string('0'+rune(version))
		c := dialPlain(t, b.plain, version)
		p := c.connect("", user(name))
		e := b.events.await(t, "connected", func(e Event) bool { return e.Kind == Connected && e.Device.String() == name })
		if !strings.HasPrefix(e.ClientID, name+"#") || len(e.ClientID) != len(name)+1+16 {
			t.Errorf("assigned %q", e.ClientID)
		}
		if version == plane.V5 && !strings.Contains(string(p.props), "\x12\x00\x16"+e.ClientID) {
			t.Errorf("CONNACK properties %q do not say %q", p.props, e.ClientID)
		}
	})
	if id := AssignClientID("x"); id == AssignClientID("x") {
		t.Errorf("%q was assigned twice", id)
	}
}

func TestConnackProperties(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxSessionExpiry: time.Hour})
	p := dialPlain(t, b.plain, plane.V5).connect("long", func(c *plane.Connect) { c.SessionExpirySeconds = 1<<32 - 1 })
	want := "\x11\x00\x00\x0e\x10" + "\x21\x00\x64" + "\x22\x00\x20" + "\x27\x00\x04\x00\x00"
	if string(p.props) != want {
		t.Errorf("CONNACK properties %x, want %x", p.props, want)
	}
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	versions(t, func(t *testing.T, version byte) {
		id := "lamp" + string('0'+rune(version))
		old := dialPlain(t, b.plain, version).connected(id, user(id))
		dialPlain(t, b.plain, version).connected(id, user(id)).flush()
		old.disconnected(mqtt.SessionTakenOver)

		// Another principal gets nothing, neither the connection nor the session left behind.
		other := dialPlain(t, b.plain, version)
		refusedWith(t, other, other.connect(id, user("mallory")), mqtt.ClientIdentifierNotValid, 2)
		left := id + "-left"
		c := dialPlain(t, b.plain, version).connected(left, user(id), staying)
		c.send(&plane.Disconnect{})
		c.closed()
		b.gone(t, left)
		other = dialPlain(t, b.plain, version)
		refusedWith(t, other, other.connect(left, user("mallory")), mqtt.ClientIdentifierNotValid, 2)
	})
}

// Many CONNECTs with one identifier at the same time leave exactly one connection, which works.
func TestSimultaneousConnects(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	const n = 40
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = dialPlain(t, b.plain, plane.V5)
	}
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			_, _ = c.nc.Write((&plane.Connect{Version: plane.V5, ClientID: "one", SessionExpirySeconds: 60}).Append(nil, plane.V5))
		})
	}
	wg.Wait()
	// Everybody but one hears of its end.
	alive := make(chan *client, n)
	for _, c := range clients {
		wg.Go(func() {
			_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
			if p, err := c.tryRead(); err != nil || p.typ != plane.CONNACK || p.codes[1] != 0 {
				return
			}
			_, _ = c.nc.Write((&plane.Ping{}).Append(nil, plane.V5))
			if p, err := c.tryRead(); err == nil && p.typ == plane.PINGRESP {
				if _, err := c.tryReadFor(300 * time.Millisecond); isTimeout(err) {
					alive <- c
				}
			}
		})
	}
	wg.Wait()
	if len(alive) != 1 {
		t.Fatalf("%d of %d connections are alive", len(alive), n)
	}
	(<-alive).flush()
	if s := b.Sessions(); len(s) != 1 || b.Stats().Sessions != 1 {
		t.Errorf("sessions %+v", s)
	}
}

func (c *client) tryReadFor(d time.Duration) (reply, error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(d))
	if _, err := c.r.Peek(1); err != nil {
		return reply{}, err
	}
	return c.tryRead()
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	versions(t, func(t *testing.T, version byte) {
		name := "lamp" + string('0'+rune(version))
		c := dialTLS(t, b.tls, name, version).connected(name)
		other := dialTLS(t, b.tls, "other"+name, version).connected("other" + name)
		n := b.Disconnect(func(s Session) bool { return s.Device.String() == name }, mqtt.AdministrativeAction)
		if n != 1 {
			t.Errorf("cut %d connections", n)
		}
		c.disconnected(mqtt.AdministrativeAction)
		other.flush()
		e := b.events.await(t, "disconnected", func(e Event) bool { return e.Kind == Disconnected && e.ClientID == name })
		if e.Code != mqtt.AdministrativeAction {
			t.Errorf("event %+v", e)
		}
	})
}

// A device that is disabled between its authentication and its session does not slip through.
func TestDisconnectDuringConnect(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	disabled := false
	b.auth.ask = func(c ConnInfo) error {
		if disabled {
			return &Refusal{Why: "disabled"}
		}
		disabled = true // after the answer was decided
		b.Disconnect(func(s Session) bool { return s.Device.String() == "lamp" }, mqtt.AdministrativeAction)
		return nil
	}
	c := dialPlain(t, b.plain, plane.V5)
	refusedWith(t, c, c.connect("lamp", user("lamp")), mqtt.NotAuthorized, 5)
}

func TestAuthorityErrors(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	b.auth.ask = func(c ConnInfo) error {
		switch c.ClientID {
		case "banned":
			return &Refusal{Reason: mqtt.BadUserNameOrPassword}
		case "broken":
			return errors.New("database is gone")
		case "bug":
			panic("a bug")
		}
		return nil
	}
	versions(t, func(t *testing.T, version byte) {
		c := dialPlain(t, b.plain, version)
		refusedWith(t, c, c.connect("banned"), mqtt.BadUserNameOrPassword, 4)
		c = dialPlain(t, b.plain, version)
		refusedWith(t, c, c.connect("broken"), mqtt.ServerUnavailable, 3)
		c = dialPlain(t, b.plain, version)
		c.send(&plane.Connect{Version: version, ClientID: "bug"})
		c.closed()
	})
	b.events.await(t, "panic", kind(Panic))
	b.stop()
	if s := b.Stats(); s.Panics != 2 {
		t.Errorf("%d panics counted, want 2", s.Panics)
	}
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		opts   Options
		reason mqtt.ReasonCode
		count  string
	}{
		{"in all", Options{MaxClients: 2}, mqtt.ServerBusy, "clients"},
		{"per address", Options{MaxPerAddress: 2}, mqtt.QuotaExceeded, "per-address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, tc.opts)
			first := dialPlain(t, b.plain, plane.V5).connected("1")
			dialPlain(t, b.plain, plane.V5).connected("2")
			for _, version := range []byte{plane.V311, plane.V5} {
				c := dialPlain(t, b.plain, version)
				refusedWith(t, c, c.connect("3"), tc.reason, 3)
			}
			// Beyond what gets a clear refusal, connections are closed.
			var open []net.Conn
			for range refusedAtOnce + 5 {
				nc, err := net.Dial("tcp", b.plain)
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, nc)
			}
			b.events.await(t, "limit", kind(Limit))
			for _, nc := range open {
				_ = nc.Close()
			}
			_ = first.nc.Close()
			b.gone(t, "1")
			// The place is free again; leaving comes a moment after gone.
			for deadline := time.Now().Add(patience); ; {
				c := dialPlain(t, b.plain, plane.V5)
				_, _ = c.nc.Write((&plane.Connect{Version: plane.V5, ClientID: "4"}).Append(nil, plane.V5))
				if p, err := c.tryRead(); err == nil && p.typ == plane.CONNACK && p.codes[1] == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the place of a client that left is not free")
				}
			}
			if b.Stats().Refused[tc.count] < 2 {
				t.Errorf("refused %v", b.Stats().Refused)
			}
		})
	}
}

func TestSessionLimits(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxSessions: 4, MaxSessionsPerOwner: 2})
	leave := func(id, owner string) {
		c := dialPlain(t, b.plain, plane.V5).connected(id, user(owner), staying)
		c.send(&plane.Disconnect{})
		c.closed()
		b.gone(t, id)
	}
	present := func(id, owner string) bool {
		c := dialPlain(t, b.plain, plane.V5)
		p := c.connect(id, user(owner), staying)
		c.send(&plane.Disconnect{})
		c.closed()
		b.gone(t, id)
		return p.codes[0] == 1
	}
	leave("a1", "a")
	leave("a2", "a")
	leave("a3", "a") // the oldest of a, and nobody else's, makes room
	leave("b1", "b")
	if !present("a3", "a") || !present("a2", "a") || !present("b1", "b") {
		t.Error("a session that had room is gone")
	}
	leave("c1", "c")
	c := dialPlain(t, b.plain, plane.V5)
	refusedWith(t, c, c.connect("d1", user("d")), mqtt.QuotaExceeded, 3)
	if n := b.Stats().Sessions; n != 4 {
		t.Errorf("%d sessions", n)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	here := dialPlain(t, b.plain, plane.V5).connected("here", user("lamp"), staying)
	c := dialPlain(t, b.plain, plane.V5).connected("left", user("lamp"), staying)
	_ = c.nc.Close()
	b.gone(t, "left")
	b.Forget("lamp")
	here.disconnected(mqtt.AdministrativeAction)
	b.gone(t, "here")
	for _, id := range []string{"here", "left"} { // free for somebody else
		if p := dialPlain(t, b.plain, plane.V5).connect(id, user("pump"), staying); p.codes[0] != 0 || p.codes[1] != 0 {
			t.Errorf("CONNACK for %q after Forget: %x", id, p.codes)
		}
	}
}

// A session is forgotten although its connection is on its way out already.
func TestForgetWhileDisconnecting(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for i := range 200 {
		c := dialPlain(t, b.plain, plane.V5)
		if p := c.connect("lamp", user("lamp"), staying, func(h *plane.Connect) { h.CleanStart = false }); p.codes[0] != 0 || p.codes[1] != 0 {
			t.Fatalf("CONNACK after %d times: %x", i, p.codes)
		}
		b.Disconnect(func(Session) bool { return true }, mqtt.NotAuthorized)
		b.Forget("lamp")
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	v5 := dialTLS(t, b.tls, "five", plane.V5).connected("five")
	v3 := dialPlain(t, b.plain, plane.V311).connected("three")
	silent := dialPlain(t, b.tls, plane.V5)
	b.stop()
	v5.disconnected(mqtt.ServerShuttingDown)
	v3.disconnected(mqtt.ServerShuttingDown)
	silent.closed()
	if err := b.Serve(Listener{Name: "late"}); !errors.Is(err, ErrStopped) {
		t.Errorf("Serve after the end: %v", err)
	}
}

func TestListenerFails(t *testing.T) {
	t.Parallel()
	b := newBroker(&testAuthority{}, &fakeLog{}, Options{})
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Serve(Listener{Name: "gone", Net: nl}); err != nil {
		t.Fatal(err)
	}
	if err := b.Serve(Listener{Name: "gone", Net: nl}); err == nil {
		t.Error("a name was taken twice")
	}
	_ = nl.Close()
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("Run with a listener that is closed: %v", err)
	}
}

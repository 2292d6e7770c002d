package bridge_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatewayctl/bridge"
	"gatewayctl/bridge/mqttclient"
	"gatewayctl/bridge/mqttclient/mosquittotest"
	"gatewayctl/bridge/upstreamtest"
	"gatewayctl/broker/mqtt"
)

func client(t testing.TB, url string, opts mqttclient.Options) *mqttclient.Client {
	t.Helper()
	c, err := mqttclient.New(url, "gateway", opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestMosquittoStoppedForAWhile: what was acknowledged while the upstream was away arrives when it
// is back, in order per topic and sent once, over a restart of the bridge.
func TestMosquittoStoppedForAWhile(t *testing.T) {
	t.Parallel()
	const topics, n = 5, 300
	ca := mosquittotest.NewAuthority(t)
	m := mosquittotest.Start(t, mosquittotest.Config{TLS: ca, Users: map[string]string{"site": "secret"}})
	far := m.Observe(t, "site-1/#")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := client(t, m.URL(), mqttclient.Options{CA: ca.File, Username: "site", PasswordFile: password})
	cfg := oneUpstream(u, up("+/data", "site-1/"))
	s := newSite(t).start(cfg, quick())
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			for topic := range topics {
				s.publish(numberedTopic(topic), i, i+1)
			}
		}
	}
	publish(0, n/3)
	s.drained()
	m.Stop()
	publish(n/3, 2*n/3)
	s.stop()
	s.start(cfg, quick())
	publish(2*n/3, n)
	if depth := s.status().Rules[0].DepthMessages; depth != topics*n*2/3 {
		t.Errorf("%d messages are queued while the upstream is away, want %d", depth, topics*n*2/3)
	}
	m.Start()
	s.drained()
	for topic := range topics {
		observed(t, far, "site-1/"+numberedTopic(topic), n)
	}
	for topic := range topics { // the observer may get some twice when the broker stops
		inOrder(t, far.Received(), "site-1/"+numberedTopic(topic), n)
	}
	if r := s.status().Rules[0]; r.Sent != topics*n*2/3 || r.Resent != 0 {
		t.Errorf("%d sent and %d sent again after the outage, want %d and none", r.Sent, r.Resent, topics*n*2/3)
	}
}

// TestMosquittoStopsInTheMiddle: the upstream is stopped, or hangs, again and again while the queue
// is being sent.
func TestMosquittoStopsInTheMiddle(t *testing.T) {
	t.Parallel()
	const topics, n = 4, 1500
	m := mosquittotest.Start(t, mosquittotest.Config{})
	far := m.Observe(t, "#")
	opts := quick()
	opts.AckTimeout = 500 * time.Millisecond
	s := newSite(t).start(oneUpstream(client(t, m.URL(), mqttclient.Options{}), up("+/data", "")), opts)
	m.Stop()
	for i := range n {
		for topic := range topics {
			s.publish(numberedTopic(topic), i, i+1)
		}
	}
	m.Start()
	for part := uint64(1); part < 5; part++ {
		s.until("a part is sent", func() bool { return s.status().Rules[0].Sent > part*topics*n/6 })
		if part%2 == 0 {
			m.Freeze()
			before := s.status().LastErrorAt
			s.until("the silence is noticed", func() bool { return s.status().LastErrorAt.After(before) })
			m.Thaw()
			continue
		}
		m.Stop()
		m.Start()
	}
	s.drained()
	for topic := range topics {
		observed(t, far, numberedTopic(topic), n)
	}
	s.until("nothing more comes", settled(far.Count))
	for topic := range topics {
		inOrder(t, far.Received(), numberedTopic(topic), n)
	}
}

// observed waits until the last of n messages has arrived.
func observed(t *testing.T, far *mosquittotest.Observer, topic string, n int) {
	t.Helper()
	last := strconv.Itoa(n - 1)
	upstreamtest.Until(t, "the last message of "+topic+" is observed", func() bool {
		return slices.ContainsFunc(far.Received(), func(m mqtt.Message) bool { return m.Topic == topic && string(m.Payload) == last })
	})
}

// settled returns a condition that is true once the count has not changed for a while.
func settled(count func() int) func() bool {
	last, since := -1, time.Now()
	return func() bool {
		if n := count(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 100*time.Millisecond
	}
}

// TestMosquittoUpAndDown: rules for both ways over one broker; nothing loops.
func TestMosquittoUpAndDown(t *testing.T) {
	t.Parallel()
	const n = 200
	m := mosquittotest.Start(t, mosquittotest.Config{})
	far := m.Observe(t, "#")
	s := newSite(t).start(oneUpstream(client(t, m.URL(), mqttclient.Options{}),
		up("+/data", "site-1/"), down("#", "to-site-1/")), quick())
	s.until("connected", func() bool { return s.status().State == bridge.Connected })
	for i := range n {
		s.publish("lamp/data", i, i+1)
		if err := far.Publish(mqtt.Message{Topic: "to-site-1/pump/data", Payload: cmpNumber(i), QoS: mqtt.QoS1}); err != nil {
			t.Fatal(err)
		}
		if i == n/2 {
			m.Stop()
			m.Start()
			s.until("the observer is back", func() bool {
				return far.Publish(mqtt.Message{Topic: "to-site-1/other", QoS: mqtt.QoS1}) == nil
			})
		}
	}
	s.drained()
	observed(t, far, "site-1/lamp/data", n)
	s.until("all came down", func() bool { return count(s.received("pump/data"), "pump/data") >= n })
	s.until("nothing more comes", settled(func() int { return far.Count() + len(s.received("")) }))
	inOrder(t, far.Received(), "site-1/lamp/data", n)
	inOrder(t, s.received(""), "pump/data", n)
	for _, topic := range []string{"site-1/pump/data", "pump/data", "lamp/data", "to-site-1/lamp/data"} {
		if c := count(far.Received(), topic); c > 0 {
			t.Errorf("%d messages on %s upstream: they went round", c, topic)
		}
	}
	if c := count(s.received(""), "lamp/data"); c != n {
		t.Errorf("%d messages on lamp/data here, want the %d that were published", c, n)
	}
}

// TestMosquittoRefusesOneMessage: a message beyond the upstream's limit makes it close the
// connection; it is given up, everything else arrives.
func TestMosquittoRefusesOneMessage(t *testing.T) {
	t.Parallel()
	m := mosquittotest.Start(t, mosquittotest.Config{MaxPacket: 2000})
	far := m.Observe(t, "#")
	s := newSite(t).start(oneUpstream(client(t, m.URL(), mqttclient.Options{}), up("+/data", "")), quick())
	s.publish("a/data", 0, 10)
	if err := s.Publish(t.Context(), mqtt.Message{Topic: "big/data", Payload: make([]byte, 4000), QoS: mqtt.QoS1}); err != nil {
		t.Fatal(err)
	}
	s.publish("a/data", 10, 40)
	s.publish("b/data", 0, 40)
	s.drained()
	observed(t, far, "a/data", 40)
	observed(t, far, "b/data", 40)
	inOrder(t, far.Received(), "b/data", 40)
	inOrder(t, far.Received(), "a/data", 40)
	events := s.happened(bridge.EventRefused)
	if len(events) != 1 || events[0].Topic != "big/data" || s.status().Rules[0].Dropped["refused"] != 1 {
		t.Errorf("events %+v, dropped %v, want the one message refused", events, s.status().Rules[0].Dropped)
	}
}

// TestMosquittoRefusesConnection: each mistake gives a clear error, and the bridge keeps trying.
func TestMosquittoRefusesConnection(t *testing.T) {
	t.Parallel()
	ca, other := mosquittotest.NewAuthority(t), mosquittotest.NewAuthority(t)
	m := mosquittotest.Start(t, mosquittotest.Config{TLS: ca, Hosts: []string{"localhost"}, Users: map[string]string{"site": "secret"}})
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		url  string
		opts mqttclient.Options
		want string
	}{
		{"wrong authority", m.URL(), mqttclient.Options{CA: other.File}, "the broker's certificate is of no authority in " + other.File},
		{"wrong host name", m.URLFor("127.0.0.1"), mqttclient.Options{CA: ca.File}, "write the url with a name that is in the broker's certificate"},
		{"wrong password", m.URL(), mqttclient.Options{CA: ca.File, Username: "site", PasswordFile: password}, "not authorized (return code 5): check cert, username, password_file"},
		{"no password", m.URL(), mqttclient.Options{CA: ca.File}, "return code 5"},
		{"no TLS", strings.Replace(m.URL(), "mqtts", "mqtt", 1), mqttclient.Options{}, "closed the connection instead of answering CONNECT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t).start(oneUpstream(client(t, tc.url, tc.opts), up("a", "")), quick())
			s.publish("a", 0, 3)
			tries, last := 0, time.Time{}
			s.until("several attempts", func() bool {
				if at := s.status().LastErrorAt; at.After(last) {
					tries, last = tries+1, at
				}
				return tries >= 3
			})
			st := s.status()
			if !strings.Contains(st.LastError, tc.want) || !strings.Contains(st.LastError, tc.url) {
				t.Errorf("last error %q\nwant in it %q and the url", st.LastError, tc.want)
			}
			if st.Connections != 0 || st.Rules[0].DepthMessages != 3 {
				t.Errorf("status %+v", st)
			}
			if events := s.happened(bridge.EventUnreachable); len(events) != 1 {
				t.Errorf("%d events for one cause, want 1: %v", len(events), events)
			}
		})
	}
}

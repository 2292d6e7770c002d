package appliance_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/cmd/gatewayctl/internal/config"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/events"
)

// allow is a policy document that allows everything on these topics and filters.
func allow(topics ...string) string {
	var b strings.Builder
	b.WriteString(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}`)
	for _, t := range topics {
		fmt.Fprintf(&b, `,{"Effect": "Allow", "Action": "iot:*", "Resource": ["arn:aws:iot:*:*:topic/%[1]s", "arn:aws:iot:*:*:topicfilter/%[1]s"]}`, t)
	}
	return b.String() + `]}`
}

func writePolicy(t *testing.T, dir, name, text string) {
	t.Helper()
	place := filepath.Join(dir, "policies")
	if err := os.MkdirAll(place, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(place, name+".json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A policy is a file in the data directory. What becomes of the file counts for who connects next.
func TestPolicyFiles(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	ctx := appliancetest.Context(t)
	_, err := gw.API.Provision(ctx, "lamp", api.CredentialsRequest{Policies: []string{"hall"}})
	refusedAs(t, err, api.CodeUnknownPolicy, "hall.json")

	writePolicy(t, gw.Dir(), "hall", `{"Version": "2012-10-17", "Statement": [{"Effect": "Perhaps"}]}`)
	_, err = gw.API.Provision(ctx, "lamp", api.CredentialsRequest{Policies: []string{"hall"}})
	refusedAs(t, err, api.CodeInvalid, "hall.json")
	if s := gw.Status(t); s.Health != "degraded" || !strings.Contains(strings.Join(s.Warnings, "\n"), "hall.json") {
		t.Errorf("status %s, warnings %q with a broken policy", s.Health, s.Warnings)
	}

	writePolicy(t, gw.Dir(), "hall", allow("hall/*"))
	lamp := gw.Enroll(t, "lamp", api.CredentialsRequest{Policies: []string{"hall"}})
	lamp.Connect(t, plane.Connect{})
	lamp.MustPublish(t, "hall/light", "on", mqtt.QoS1)
	refusedPublish(t, lamp.Client, "lamp/light") // it has no other policy

	writePolicy(t, gw.Dir(), "hall", allow("hall/*", "lamp/*"))
	lamp.Connect(t, plane.Connect{})
	lamp.MustPublish(t, "lamp/light", "on", mqtt.QoS1)

	if err := os.Remove(filepath.Join(gw.Dir(), "policies", "hall.json")); err != nil {
		t.Fatal(err)
	}
	lampIsRefused := func() {
		t.Helper()
		ack, err := lamp.TryConnect(t, plane.Connect{})
		if err != nil || ack.Reason() != mqtt.NotAuthorized {
			t.Fatalf("connecting without a policy: %v, %v", ack.Reason(), err)
		}
		gw.Event(t, func(e events.Event) bool {
			return e.Kind == "connect.refused" && strings.Contains(e.Text, "hall.json")
		})
	}
	lampIsRefused()
	gw.Restart(t) // and after a restart, which it does not keep from happening
	lampIsRefused()
}

// A file that takes the place of a policy which the gateway cannot do without must be right.
func TestBrokenDefaultPolicy(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"device", "local"} {
		_, err := appliancetest.Try(t, func(s *appliancetest.Setup) { writePolicy(t, s.Data, name, "{") })
		var start *appliance.StartError
		if !errors.As(err, &start) || !strings.Contains(start.What, name+".json") || start.Remedy == "" {
			t.Errorf("a broken %s.json: %v, want an error that names it", name, err)
		}
	}
}

func refusedAs(t *testing.T, err error, code, text string) {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), text) {
		t.Errorf("%v, want %s and %q", err, code, text)
	}
}

func refusedPublish(t *testing.T, c *appliancetest.Client, topic string) {
	t.Helper()
	if reason, err := c.Publish(mqtt.Message{Topic: topic, QoS: mqtt.QoS1}); err != nil || reason != mqtt.NotAuthorized {
		t.Errorf("publish to %s: %v, %v, want %v", topic, reason, err, mqtt.NotAuthorized)
	}
}

// A listener with a password file takes its users for principals, who have their names' policies.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	hash := func(password string) string {
		b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) {
		writePolicy(t, s.Data, "hall", allow("hall/*"))
		writePolicy(t, s.Data, "lamp", allow("hall/*"))
		text := fmt.Sprintf("# people\nhall:%s\nlamp:%s\nnobody:%s\n", hash("secret"), hash("lamp's"), hash("nobody's"))
		if err := os.WriteFile(filepath.Join(s.Data, "users"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Config.Listeners["plain"] = config.Listener{Type: "mqtt", Address: "127.0.0.1:0", PasswordFile: "users"}
	})
	lamp := gw.Device(t, "lamp")
	if s := gw.Status(t); !strings.Contains(strings.Join(s.Warnings, "\n"), "user nobody of listener plain") {
		t.Errorf("no warning of a user without a policy: %q", s.Warnings)
	}
	const bad = mqtt.BadUserNameOrPassword
	for _, tc := range []struct {
		name, user, password, id string
		want                     mqtt.ReasonCode
	}{
		{"right", "hall", "secret", "tool", mqtt.Success},
		{"wrong password", "hall", "Secret", "tool", bad},
		{"no password", "hall", "", "tool", bad},
		{"another user's password", "hall", "lamp's", "tool", bad},
		{"unknown user", "kitchen", "secret", "tool", bad},
		{"no user", "", "", "tool", bad},
		{"named like a device", "lamp", "lamp's", "tool", mqtt.Success},
		{"named like a device, under its name", "lamp", "lamp's", "lamp", mqtt.NotAuthorized},
		{"under a device's name", "hall", "secret", "lamp#2", mqtt.NotAuthorized},
		{"without a policy", "nobody", "nobody's", "tool", mqtt.NotAuthorized},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, version := range []byte{plane.V311, plane.V5} {
				c, err := appliancetest.Dial(gw.Address(t, "plain"), nil)
				if err != nil {
					t.Fatal(err)
				}
				c.Version = version
				hello := plane.Connect{ClientID: tc.id, CleanStart: true, HasUserName: tc.user != "", UserName: tc.user}
				hello.HasPassword, hello.Password = tc.user != "", plane.Secret(tc.password)
				ack, err := c.Hello(hello)
				want := tc.want
				if code, ok := want.ConnectReturnCode(); version == plane.V311 && ok {
					want = mqtt.ReasonCode(code)
				}
				if err != nil || ack.Reason() != want {
					t.Errorf("version %d: CONNACK %v, %v, want %v", version, ack.Reason(), err, want)
				}
				if ack.Reason() == 0 && version == plane.V5 {
					c.MustPublish(t, "hall/x", "y", mqtt.QoS1)
					refusedPublish(t, c, "lamp/x")
				}
				c.Close()
			}
		})
	}
	lamp.MustPing(t) // untouched by its namesake
}

// Clients of a plain listener on loopback, and of a Unix socket, act as the local administrator.
func TestLocalClients(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, func(s *appliancetest.Setup) {
		s.Config.Listeners["plain"] = config.Listener{Type: "mqtt", Address: "127.0.0.1:0"}
		s.Config.Listeners["socket"] = config.Listener{Type: "unix", Address: "mqtt.sock"} // in the data directory
	})
	lamp := gw.Device(t, "lamp")
	lamp.MustSubscribe(t, "lamp/#", mqtt.QoS1)
	for _, listener := range []string{"plain", "socket"} {
		c, err := appliancetest.Dial(gw.Address(t, listener), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if ack, err := c.Hello(plane.Connect{ClientID: "tool-" + listener}); err != nil || ack.Reason() != 0 {
			t.Fatalf("%s: CONNACK %v, %v", listener, ack.Reason(), err)
		}
		c.MustPublish(t, "lamp/do", listener, mqtt.QoS1)
		if m := lamp.MustReceive(t); string(m.Payload) != listener {
			t.Errorf("the lamp got %q", m.Payload)
		}
		c.MustSubscribe(t, "#", mqtt.QoS1)
		refusedPublish(t, c, "$aws/certificates/create/json")
		if reason, err := c.Subscribe("$aws/certificates/#", mqtt.QoS1); err != nil || reason != mqtt.NotAuthorized {
			t.Errorf("%s: subscribe to certificates: %v, %v", listener, reason, err)
		}
		for _, name := range []string{"lamp", "lamp#1"} {
			c, err := appliancetest.Dial(gw.Address(t, listener), nil)
			if err != nil {
				t.Fatal(err)
			}
			if ack, err := c.Hello(plane.Connect{ClientID: name}); err != nil || ack.Reason() != mqtt.NotAuthorized {
				t.Errorf("%s: CONNACK for %s %v, %v", listener, name, ack.Reason(), err)
			}
			c.Close()
		}
	}
}

package appliance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"gatewayctl/broker/mqtt"
	"gatewayctl/broker/plane"
	"gatewayctl/cmd/gatewayctl/internal/appliance/appliancetest"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/api/client"
	"gatewayctl/gateway/events"
)

// A request is what a device is sent.
type request struct {
	ID     json.RawMessage
	Src    string
	Method string
}

// nextCall takes the next request that comes to c.
func nextCall(t *testing.T, c *appliancetest.Client) (r request) {
	t.Helper()
	m := c.MustReceive(t)
	if err := json.Unmarshal(m.Payload, &r); err != nil {
		t.Fatalf("request %q: %v", m.Payload, err)
	}
	return r
}

// answer answers r with a string.
func (r request) answer(t *testing.T, c *appliancetest.Client, device, text string) mqtt.ReasonCode {
	t.Helper()
	payload := fmt.Sprintf(`{"id": %s, "src": %q, "dst": %q, "result": %q}`, r.ID, device, r.Src, text)
	reason, err := c.Publish(mqtt.Message{Topic: r.Src + "/rpc", Payload: []byte(payload), QoS: mqtt.QoS1})
	if err != nil {
		t.Fatal(err)
	}
	return reason
}

// Only the device that was asked can answer, whatever another one's policy and a local client's
// allow.
func TestForgedAnswers(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, withPlain, func(s *appliancetest.Setup) { writePolicy(t, s.Data, "wide", allow("*")) })
	ctx := appliancetest.Context(t)
	lamp := gw.Device(t, "lamp")
	lamp.MustSubscribe(t, "lamp/rpc/#", mqtt.QoS1)
	neighbour := gw.Device(t, "neighbour")
	forger := gw.Enroll(t, "forger", api.CredentialsRequest{Policies: []string{"wide"}})
	forger.Connect(t, plane.Connect{})
	forger.MustSubscribe(t, "lamp/rpc/#", mqtt.QoS1)
	local, err := appliancetest.Dial(gw.Address(t, "plain"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if ack, err := local.Hello(plane.Connect{}); err != nil || ack.Reason() != 0 {
		t.Fatal(ack.Reason(), err)
	}

	var group errgroup.Group
	var result json.RawMessage
	group.Go(func() (err error) {
		result, err = gw.API.Call(ctx, "lamp", "Sys.GetInfo", nil, appliancetest.Patience)
		return err
	})
	r := nextCall(t, forger.Client)
	if reason := r.answer(t, forger.Client, "lamp", "forged"); reason.Failed() {
		t.Fatalf("the forger's policy does not let it: %v", reason)
	}
	if reason := r.answer(t, local, "lamp", "forged"); reason.Failed() {
		t.Fatalf("the local client may not publish: %v", reason)
	}
	if reason := r.answer(t, neighbour.Client, "lamp", "forged"); reason != mqtt.NotAuthorized {
		t.Errorf("a device with the default policy publishes to another's topic: %v", reason)
	}
	if asked := nextCall(t, lamp.Client); asked.Method != "Sys.GetInfo" {
		t.Errorf("the lamp was asked for %s", asked.Method)
	}
	r.answer(t, lamp.Client, "lamp", "true")
	if err := group.Wait(); err != nil || string(result) != `"true"` {
		t.Errorf("the call returned %s, %v", result, err)
	}
}

// A device that is connected and says nothing costs its caller no more than the timeout; calls
// that are under way together do not get each other's answers.
func TestCallsToOneDevice(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t)
	ctx := appliancetest.Context(t)
	lamp := gw.Device(t, "lamp")
	lamp.MustSubscribe(t, "lamp/rpc/#", mqtt.QoS1)

	var e *client.Error
	start := time.Now()
	if _, err := gw.API.Call(ctx, "lamp", "Sys.GetInfo", nil, 300*time.Millisecond); !errors.As(err, &e) || e.Code != api.CodeTimeout {
		t.Errorf("a silent device: %v, want %s", err, api.CodeTimeout)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("the call was given up after %v", took)
	}
	late := nextCall(t, lamp.Client)

	var group errgroup.Group
	for _, method := range []string{"One.Get", "Two.Get"} {
		group.Go(func() error {
			result, err := gw.API.Call(ctx, "lamp", method, nil, appliancetest.Patience)
			if want := fmt.Sprintf("%q", method); err == nil && string(result) != want {
				err = fmt.Errorf("%s returned %s", method, result)
			}
			return err
		})
	}
	first, second := nextCall(t, lamp.Client), nextCall(t, lamp.Client) // both, before either is answered
	late.answer(t, lamp.Client, "lamp", "late")
	second.answer(t, lamp.Client, "lamp", second.Method)
	first.answer(t, lamp.Client, "lamp", first.Method)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}

	canceled, cancel := context.WithCancel(ctx)
	group.Go(func() error {
		_, err := gw.API.Call(canceled, "lamp", "Sys.Wait", nil, appliancetest.Patience)
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("a call that was given up: %w", err)
		}
		return nil
	})
	nextCall(t, lamp.Client)
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := gw.API.RemoveDevice(ctx, "lamp"); err != nil {
		t.Fatal(err)
	}
	_, err := gw.API.Call(ctx, "lamp", "Sys.GetInfo", nil, time.Second)
	refusedAs(t, err, api.CodeUnknownDevice, "lamp")
}

// A retained call would run again at every reconnect: nobody may publish one.
func TestRetainedCalls(t *testing.T) {
	t.Parallel()
	gw := appliancetest.Start(t, withPlain, func(s *appliancetest.Setup) { writePolicy(t, s.Data, "wide", allow("*")) })
	ctx := appliancetest.Context(t)
	wide := gw.Enroll(t, "wide", api.CredentialsRequest{Policies: []string{"wide"}})
	local := func(version byte) *appliancetest.Client {
		c, err := appliancetest.Dial(gw.Address(t, "plain"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		c.Version = version
		if ack, err := c.Hello(plane.Connect{CleanStart: true}); err != nil || ack.Reason() != 0 {
			t.Fatal(ack.Reason(), err)
		}
		return c
	}
	for _, topic := range []string{"wide/rpc", "wide/rpc/Sys.Reboot"} {
		m := mqtt.Message{Topic: topic, Payload: []byte("{}"), QoS: mqtt.QoS1, Retain: true}
		wide.Connect(t, plane.Connect{})
		for who, c := range map[string]*appliancetest.Client{"a device": wide.Client, "a local client": local(plane.V5)} {
			if reason, err := c.Publish(m); err != nil || reason != mqtt.NotAuthorized {
				t.Errorf("%s to %s: %v, %v", who, topic, reason, err)
			}
		}
		old := local(plane.V311)
		if err := old.Send(&plane.Publish{Message: m, PacketID: 1}); err != nil {
			t.Fatal(err)
		}
		old.MustEnd(t, mqtt.Success)
		refusedAs(t, gw.API.Publish(ctx, api.Message{Topic: topic, Payload: []byte("{}"), QoS: 1, Retain: true}), api.CodeRefused, "retained")
		gw.Event(t, func(e events.Event) bool {
			return e.Kind == "publish.refused" && e.Topic == topic && e.Device == "wide"
		})
	}
	wide.MustSubscribe(t, "#", mqtt.QoS1)
	if err := gw.API.Publish(ctx, api.Message{Topic: "end", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if m := wide.MustReceive(t); m.Topic != "end" {
		t.Errorf("%s is retained", m.Topic)
	}
}

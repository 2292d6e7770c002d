package api

import (
	"context"
	"fmt"
	"net/http"

	"gatewayctl/broker/mqtt"
)

// maxPublishBody is the largest body of a publish: a payload in base64 and what is around it.
const maxPublishBody = 16 << 20

type publishInput struct{ Body Message }

type subscribeInput struct {
	Filters []string `query:"filter,explode" required:"true" nullable:"false" minItems:"1" maxItems:"64" doc:"a topic filter; may be repeated"`
}

func (a *API) registerMessages() {
	s := a.services
	op := operation("publish", http.MethodPost, "/publish", "messages", "Publish a message",
		"Answers once the message is as durable as an acknowledgment by the broker promises.")
	op.MaxBodyBytes = maxPublishBody
	register(a, op, s.Publish != nil, func(ctx context.Context, in *publishInput) (*struct{}, error) {
		err := a.publish(ctx, in.Body)
		a.opts.Audit(CallerFrom(ctx), op.OperationID, in.Body.Topic, err)
		if err != nil {
			return nil, a.problem(ctx, op.OperationID, err)
		}
		return nil, nil
	})
	stream(a, operation("subscribe", http.MethodGet, "/subscribe", "messages", "Messages as they come",
		"Sends message events. A message that several of the filters match is sent once."),
		s.Subscribe != nil, map[string]any{"message": Message{}}, a.subscribe)
}

func (a *API) publish(ctx context.Context, m Message) error {
	out, err := m.message()
	if err != nil {
		return err
	}
	return a.services.Publish(ctx, out)
}

// subscribe feeds out with what matches any of the filters.
func (a *API) subscribe(_ context.Context, in *subscribeInput, out *outbox) (feed, error) {
	filters := make([]mqtt.Filter, len(in.Filters))
	for i, s := range in.Filters {
		f, err := mqtt.ParseFilter(s, 0)
		if err != nil {
			return feed{}, invalid(fmt.Sprintf("query.filter[%d]", i), "%v", err)
		}
		filters[i] = f
	}
	var cancels []func()
	cancel := func() {
		for _, c := range cancels {
			c()
		}
	}
	for i, f := range filters {
		c, err := a.services.Subscribe(f, func(m mqtt.Message) {
			for _, earlier := range filters[:i] {
				if earlier.Match(m.Topic) {
					return // that one delivers it
				}
			}
			out.put("message", 0, fromMessage(m))
		})
		if err != nil {
			cancel()
			return feed{}, fmt.Errorf("subscribe to %s: %w", f, err)
		}
		cancels = append(cancels, c)
	}
	return feed{close: cancel}, nil
}

// message checks m and makes the broker's form of it.
func (m Message) message() (mqtt.Message, error) {
	if err := mqtt.ValidateTopic(m.Topic, 0); err != nil {
		return mqtt.Message{}, invalid("body.topic", "%v", err)
	}
	if m.ResponseTopic != "" {
		if err := mqtt.ValidateTopic(m.ResponseTopic, 0); err != nil {
			return mqtt.Message{}, invalid("body.response_topic", "%v", err)
		}
	}
	out := mqtt.Message{
		Topic: m.Topic, Payload: m.Payload, QoS: mqtt.QoS(m.QoS), Retain: m.Retain,
		PayloadIsUTF8: m.PayloadIsUTF8, ExpirySeconds: m.ExpirySeconds, ContentType: m.ContentType,
		ResponseTopic: m.ResponseTopic, CorrelationData: m.CorrelationData,
		Publisher: mqtt.Publisher{Origin: "admin"},
	}
	for _, p := range m.UserProperties {
		out.UserProperties = append(out.UserProperties, mqtt.UserProperty(p))
	}
	return out, nil
}

func fromMessage(m mqtt.Message) Message {
	out := Message{
		Topic: m.Topic, Payload: m.Payload, QoS: int(m.QoS), Retain: m.Retain,
		PayloadIsUTF8: m.PayloadIsUTF8, ExpirySeconds: m.ExpirySeconds, ContentType: m.ContentType,
		ResponseTopic: m.ResponseTopic, CorrelationData: m.CorrelationData,
	}
	if p := m.Publisher; p != (mqtt.Publisher{}) {
		out.Publisher = &Publisher{ClientID: p.ClientID, Device: p.Device.String(), Origin: p.Origin}
	}
	for _, p := range m.UserProperties {
		out.UserProperties = append(out.UserProperties, UserProperty(p))
	}
	return out
}

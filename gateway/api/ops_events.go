package api

import (
	"context"
	"net/http"
	"time"

	"gatewayctl/gateway/events"
)

const (
	defaultEvents = 100
	eventBuffer   = 1024
)

// eventChoice is what both operations on events take.
type eventChoice struct {
	After    uint64    `query:"after" doc:"only events with a greater number; numbers begin again when the gateway restarts, and one that is not reached yet counts as 0"`
	Since    time.Time `query:"since" doc:"only events at that time or later"`
	Kind     string    `query:"kind" maxLength:"128" doc:"this kind, or all below it: device covers device.connected"`
	Device   string    `query:"device" maxLength:"128"`
	Severity string    `query:"severity" enum:"info,warn,error" doc:"at least this"`
	Limit    int       `query:"limit" minimum:"1" maximum:"10000" doc:"the newest so many; 100 if absent, none when following"`
}

// past returns the events before now that c chooses, and the number of the newest there is.
func (c *eventChoice) past(log *events.Log, limit int) ([]Event, uint64) {
	after, last := c.After, log.Last()
	if after > last {
		after = 0
	}
	var out []Event
	for _, e := range log.Since(after, events.Filter{}) {
		last = max(last, e.Seq)
		if c.chooses(e) {
			out = append(out, e)
		}
	}
	return out[max(0, len(out)-limit):], last
}

func (c *eventChoice) chooses(e Event) bool {
	f := events.Filter{Kind: c.Kind, Device: c.Device, Severity: events.Severity(c.Severity)}
	return f.Match(e) && !e.Time.Before(c.Since)
}

func (a *API) registerEvents() {
	log := a.services.Events
	read(a, operation("event-list", http.MethodGet, "/events", "events", "What happened lately, oldest first", ""),
		log != nil, func(_ context.Context, in *eventChoice) (EventList, error) {
			if in.Limit == 0 {
				in.Limit = defaultEvents
			}
			list, _ := in.past(log, in.Limit)
			return EventList{orEmpty(list)}, nil
		})
	stream(a, operation("event-stream", http.MethodGet, "/events/stream", "events", "What happens, as it happens",
		"Sends event events, first the past ones that were asked for: after, since or limit ask for some."),
		log != nil, map[string]any{"event": Event{}}, a.followEvents)
}

func (a *API) followEvents(_ context.Context, in *eventChoice, out *outbox) (feed, error) {
	log := a.services.Events
	ch, cancel := log.Subscribe(eventBuffer)
	limit := in.Limit
	if limit == 0 && (in.After > 0 || !in.Since.IsZero()) {
		limit = maxOutboxEvents
	}
	past, last := in.past(log, limit)
	for _, e := range past {
		out.put("event", e.Seq, e)
	}
	return feed{close: cancel, work: func(ctx context.Context) (any, error) {
		for {
			select {
			case e := <-ch:
				if e.Seq <= last {
					continue
				}
				if e.Seq > last+1 {
					out.lost(e.Seq - last - 1)
				}
				last = e.Seq
				if in.chooses(e) {
					out.put("event", e.Seq, e)
				}
			case <-ctx.Done():
				return nil, nil
			}
		}
	}}, nil
}

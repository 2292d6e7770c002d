package api

import (
	"encoding/json"

	"gatewayctl/gateway/events"
)

// The answers that are lists. They are objects, so that members can be added.
type (
	// A DeviceList holds devices by name.
	DeviceList struct {
		Devices []Device `json:"devices" nullable:"false"`
	}
	// An EventList holds events, oldest first.
	EventList struct {
		Events []events.Event `json:"events" nullable:"false"`
	}
	// A FoundList holds what discovery saw.
	FoundList struct {
		Found []Found `json:"found" nullable:"false"`
	}
	// An UpstreamList holds upstreams in the order of the configuration.
	UpstreamList struct {
		Upstreams []Upstream `json:"upstreams" nullable:"false"`
	}
	// An ImageList holds firmware images.
	ImageList struct {
		Images []Image `json:"images" nullable:"false"`
	}
	// A CertificateList holds certificates.
	CertificateList struct {
		Certificates []Certificate `json:"certificates" nullable:"false"`
	}
)

// CallResult is what a device's method returned.
type CallResult struct {
	Result json.RawMessage `json:"result" doc:"any JSON; null if the method returns nothing"`
}

// The names of events that streams have beside their own.
const (
	StreamReady   = "ready"   // the first: what happens from now on will be sent
	StreamLost    = "lost"    // the reader was too slow: some were left out here
	StreamProblem = "problem" // the last: why the stream ends
	StreamEnd     = "end"     // the last: there is nothing more to come
	StreamResult  = "result"  // the last: how the work ended well
)

// Lost says how many were left out of a stream.
type Lost struct {
	Count uint64 `json:"count"`
}

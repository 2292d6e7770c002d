package discovery

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Kind says what something that was found seems to be.
type Kind string

// The kinds of things that are known. Any other service type is a kind of its own name: _ipp._tcp
// is of kind "ipp".
const (
	KindMongooseOS    Kind = "mongoose-os"
	KindShelly        Kind = "shelly"
	KindESPHome       Kind = "esphome"
	KindTasmota       Kind = "tasmota"
	KindHomeAssistant Kind = "home-assistant"
	KindMQTTBroker    Kind = "mqtt-broker"
	KindGateway       Kind = "gatewayctl"
	KindHTTP          Kind = "http"
)

// Found is a service instance that was heard of on one interface. All of it is what somebody on
// that network says; its texts are safe to print, hold no control characters and are of bounded
// size, but nothing in it is proven. Read a device's identity over its own channel before showing
// it as known or giving it anything.
type Found struct {
	Instance  string            // the name shown to people
	Service   string            // such as _http._tcp
	Kind      Kind              //
	Host      string            // such as lamp.local; "" if not known yet
	Addresses []netip.Addr      // IPv4 first; link-local ones of IPv6 have the interface as zone
	Port      int               // 0 if not known yet
	TXT       map[string]string // keys in lower case; nil if there are none
	Interface string            // that it was heard on: an instance is found once on each
	DeviceID  string            // what it says, or its name says, that it is called; "" if neither does
	Seen      time.Time         // when it was last heard of
	Gone      bool              // [Watch] only: it said goodbye or has not answered any more
}

// equal compares all but Seen.
func (f Found) equal(o Found) bool {
	return f.Instance == o.Instance && f.Service == o.Service && f.Kind == o.Kind && f.Host == o.Host &&
		slices.Equal(f.Addresses, o.Addresses) && f.Port == o.Port && maps.Equal(f.TXT, o.TXT) &&
		f.Interface == o.Interface && f.DeviceID == o.DeviceID && f.Gone == o.Gone
}

// classify tells the kind of f and the identifier that it gives itself.
func (f *Found) classify() {
	id, instance := f.TXT["id"], strings.ToLower(f.Instance)
	name, _, _ := strings.Cut(strings.TrimPrefix(f.Service, "_"), ".")
	f.DeviceID = id
	has := func(k string) bool { _, ok := f.TXT[k]; return ok }
	switch {
	case name == "shelly" || name == "http" && strings.HasPrefix(instance, "shelly"):
		f.Kind = KindShelly
		if id == "" {
			f.DeviceID = instance // instances occur in mixed case, the identifiers do not
		}
	case name == "esphomelib":
		f.Kind, f.DeviceID = KindESPHome, f.Instance
	case name == "http" && strings.HasPrefix(instance, "tasmota"):
		f.Kind, f.DeviceID = KindTasmota, f.Instance
	case name == "http" && id != "" && has("arch") && (has("app") || has("fw_id") || has("fw_version")):
		f.Kind = KindMongooseOS
	case name == "http":
		f.Kind = KindHTTP
	case name == "home-assistant":
		f.Kind, f.DeviceID = KindHomeAssistant, f.TXT["uuid"]
	case name == "mqtt" || name == "secure-mqtt":
		f.Kind = KindMQTTBroker
	case name == "gatewayctl":
		f.Kind = KindGateway
	default:
		f.Kind = Kind(name)
	}
}

// parseTXT reads the strings of a TXT record (RFC 6763 §6): the first of equal keys counts, a key
// without '=' has the empty value, a string without a key is ignored.
func parseTXT(values []string) map[string]string {
	var out map[string]string
	total := 0
	for _, s := range values {
		k, v, _ := strings.Cut(unescapeString(s), "=")
		k, v = strings.ToLower(text(k)), text(v)
		if _, seen := out[k]; k == "" || seen {
			continue
		}
		if total += len(k) + len(v); total > maxFoundTXT || len(out) == maxFoundPairs {
			break
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out
}

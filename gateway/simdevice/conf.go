package simdevice

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// defaultsJSON is the configuration of stock firmware, with the defaults of its libraries. It is
// also the schema: a key that is not here does not exist, and its value says the type.
//
//go:embed defaults.json
var defaultsJSON string

const (
	userLevel = 9 // of conf9.json, where changes go
	tryFile   = "conf9.json.try"
)

func confFile(level int) string { return fmt.Sprintf("conf%d.json", level) }

// defaults is conf0: the stock configuration with what was burned in for this device.
func (b *boot) defaults() map[string]any {
	dec := json.NewDecoder(strings.NewReader(defaultsJSON))
	dec.UseNumber()
	var conf map[string]any
	if err := dec.Decode(&conf); err != nil {
		panic(err) // compiled in
	}
	cfg := b.d.cfg
	own := map[string]any{
		"device.id": cfg.ID, "device.mac": cfg.MAC, "mqtt.server": cfg.Address, "mqtt.client_id": cfg.ClientID,
		"mqtt.keep_alive":            json.Number(fmt.Sprint(int(cfg.KeepAlive / time.Second))),
		"mqtt.reconnect_timeout_min": json.Number(fmt.Sprint(cfg.ReconnectMin.Seconds())),
		"mqtt.reconnect_timeout_max": json.Number(fmt.Sprint(cfg.ReconnectMax.Seconds())),
	}
	if cfg.TLS != nil {
		own["mqtt.ssl_ca_cert"] = "ca.pem"
	}
	for path, v := range own {
		setPath(conf, path, v)
	}
	return conf
}

// config is the whole configuration with overrides in force.
func (b *boot) config(overrides map[string]json.RawMessage) map[string]any {
	conf := b.defaults()
	for path, raw := range overrides {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) == nil {
			setPath(conf, path, v)
		}
	}
	return conf
}

func setPath(conf map[string]any, path string, v any) {
	parent, name, nested := strings.Cut(path, ".")
	if !nested {
		conf[path] = v
		return
	}
	sub, ok := conf[parent].(map[string]any)
	if !ok {
		sub = map[string]any{}
		conf[parent] = sub
	}
	setPath(sub, name, v)
}

func getPath(conf map[string]any, path string) (any, bool) {
	var v any = conf
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// apply walks over a configuration in the order in which it is written and gives every known
// value to set. Unknown keys are passed over; the first value of a wrong type ends the walk, and
// what came before it stays.
func apply(schema map[string]any, prefix string, raw json.RawMessage, set func(path string, raw json.RawMessage)) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fail(400, "invalid config value: [%s] is not an object", strings.TrimSuffix(prefix, "."))
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return fail(400, "invalid config")
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fail(400, "invalid config")
		}
		path := prefix + name.(string)
		switch want := schema[name.(string)].(type) {
		case nil: // unknown: ignored, as the firmware does
		case map[string]any:
			if err := apply(want, path+".", value, set); err != nil {
				return err
			}
		default:
			if kind := kindOf(want); kind != kindOfRaw(value) {
				return fail(400, "invalid config value: [%s] is not a %s", path, kind)
			}
			set(path, value)
		}
	}
	return nil
}

func kindOf(v any) string {
	switch v.(type) {
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	}
	return "string"
}

func kindOfRaw(raw json.RawMessage) string {
	switch c := raw[0]; {
	case c == 't' || c == 'f':
		return "boolean"
	case c == '-' || '0' <= c && c <= '9':
		return "number"
	case c == '"':
		return "string"
	}
	return "other"
}

// layered returns what the files conf1.json to conf<level>.json change.
func (b *boot) layered(level int) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	schema := b.defaults()
	for l := 1; l <= level; l++ {
		if raw, ok := b.firmware().files[confFile(l)]; ok {
			_ = apply(schema, "", raw, func(path string, v json.RawMessage) { out[path] = v })
		}
	}
	return out
}

// loadOverrides reads the configuration at boot. A configuration to be tried once is used up.
func (b *boot) loadOverrides() map[string]json.RawMessage {
	try, ok := b.firmware().files[tryFile]
	if !ok {
		return b.layered(userLevel)
	}
	delete(b.firmware().files, tryFile)
	out := b.layered(userLevel - 1)
	_ = apply(b.defaults(), "", try, func(path string, v json.RawMessage) { out[path] = v })
	return out
}

// saveOverrides writes the differences to the lower levels.
func (b *boot) saveOverrides(level int, overrides map[string]json.RawMessage, file string) error {
	lower := b.config(b.layered(level - 1))
	all := b.config(overrides)
	diff := map[string]any{}
	for path := range overrides {
		now, _ := getPath(all, path)
		if before, _ := getPath(lower, path); before != now {
			setPath(diff, path, now)
		}
	}
	raw, err := json.MarshalIndent(diff, "", "  ")
	if err != nil {
		return err
	}
	return b.writeFile(file, append(raw, '\n'))
}

func (b *boot) confMethods() []method {
	return []method{
		{name: "Config.Save", args: "{try_once: %B, reboot: %B}", run: confSave},
		{name: "Config.Set", args: "{level: %d, config: %M, key: %Q, value: %T, save: %B, try_once: %B, reboot: %B}", run: confSet},
		{name: "Config.Get", args: "{key: %Q, level: %d}", run: confGet},
	}
}

func confGet(_ context.Context, c *call) (any, error) {
	var p struct {
		Key   string `json:"key"`
		Level *int   `json:"level"`
	}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	conf := c.b.config(c.b.overrides)
	if p.Level != nil {
		conf = c.b.config(c.b.layered(min(*p.Level, userLevel)))
	}
	if p.Key == "" {
		return conf, nil
	}
	v, ok := getPath(conf, p.Key)
	if !ok {
		return nil, fail(404, "invalid config key")
	}
	return v, nil
}

func confSet(ctx context.Context, c *call) (any, error) {
	var p struct {
		Config, Value json.RawMessage
		Key           string
		Level         *int
		Save, Reboot  bool
		TryOnce       bool `json:"try_once"`
	}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	b, level, target := c.b, userLevel, c.b.overrides
	if p.Level != nil {
		level = *p.Level
		if level < 1 || level > userLevel {
			return nil, fail(400, "not allowed")
		}
		target = b.layered(level)
	}
	if p.Key != "" {
		if _, ok := getPath(b.defaults(), p.Key); !ok {
			return nil, fail(404, "invalid config key")
		}
		p.Config = nestRaw(p.Key, p.Value)
	}
	if len(p.Config) == 0 {
		return nil, fail(400, "config is required")
	}
	if err := apply(b.defaults(), "", p.Config, func(path string, raw json.RawMessage) { target[path] = raw }); err != nil {
		return nil, err
	}
	return b.saveAndReboot(ctx, level, target, p.Save || p.TryOnce, p.TryOnce, p.Reboot)
}

// nestRaw wraps a value in one object for each level of its path.
func nestRaw(path string, value json.RawMessage) json.RawMessage {
	out := cmp.Or(string(value), "null")
	names := strings.Split(path, ".")
	for i := len(names) - 1; i >= 0; i-- {
		out = fmt.Sprintf("{%q:%s}", names[i], out)
	}
	return json.RawMessage(out)
}

func confSave(ctx context.Context, c *call) (any, error) {
	var p struct {
		Reboot  bool
		TryOnce bool `json:"try_once"`
	}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	return c.b.saveAndReboot(ctx, userLevel, c.b.overrides, true, p.TryOnce, p.Reboot)
}

func (b *boot) saveAndReboot(ctx context.Context, level int, conf map[string]json.RawMessage, save, try, reboot bool) (any, error) {
	if save {
		file := confFile(level)
		if try {
			file = tryFile
		}
		if err := b.saveOverrides(level, maps.Clone(conf), file); err != nil {
			if _, ok := errors.AsType[*failure](err); ok {
				return nil, err
			}
			return nil, fail(-1, "error saving config: %v", err)
		}
	}
	if reboot {
		b.restart(ctx, 500*time.Millisecond)
	}
	return map[string]bool{"saved": save}, nil
}

// settings reads what the device itself obeys out of the configuration.
func (b *boot) settings() settings {
	conf := b.config(b.overrides)
	text := func(path string) string { v, _ := getPath(conf, path); s, _ := v.(string); return s }
	flag := func(path string) bool { v, _ := getPath(conf, path); f, _ := v.(bool); return f }
	number := func(path string) float64 {
		v, _ := getPath(conf, path)
		n, _ := v.(json.Number)
		f, _ := n.Float64()
		return f
	}
	seconds := func(path string, least time.Duration) time.Duration {
		return max(time.Duration(number(path)*float64(time.Second)), least)
	}
	s := settings{
		id: text("device.id"), server: text("mqtt.server"), user: text("mqtt.user"), password: text("mqtt.pass"),
		mqtt: flag("mqtt.enable"), clean: flag("mqtt.clean_session"), wildcard: flag("rpc.mqtt.sub_wc"), once: b.d.cfg.SingleDelivery,
		rpc:       flag("rpc.enable") && flag("rpc.mqtt.enable"),
		keepAlive: seconds("mqtt.keep_alive", time.Second), recvLimit: int(number("mqtt.recv_mbuf_limit")), maxQueue: int(number("mqtt.max_queue_length")),
		reconnectMin: seconds("mqtt.reconnect_timeout_min", time.Millisecond), reconnectMax: seconds("mqtt.reconnect_timeout_max", time.Millisecond),
		willTopic: text("mqtt.will_topic"), willMessage: text("mqtt.will_message"), willRetain: flag("mqtt.will_retain"),
	}
	s.clientID = cmp.Or(text("mqtt.client_id"), s.id)
	return s
}

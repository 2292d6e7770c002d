package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// check reports values that decoded but make no sense. Filters and rules themselves are judged
// by bridge/rules, which knows them.
func check(cfg *Config, d *decoder) {
	c := &checker{d}
	c.choice("durability", cfg.Durability, "always", "second", "never")
	c.choice("log.level", cfg.Log.Level, "debug", "info", "warn", "error")
	c.choice("log.format", cfg.Log.Format, "text", "json")
	for name, l := range cfg.Listeners {
		c.listener("listeners."+name, name, l)
	}
	c.between("sessions.max_messages", int64(cfg.Sessions.MaxMessages), 1, 1<<31, "at least 1")
	c.between("sessions.max_bytes", int64(cfg.Sessions.MaxBytes), 1<<10, 1<<40, "at least 1KiB")
	c.choice("sessions.when_full", cfg.Sessions.WhenFull, "drop-oldest", "drop-newest")
	c.between("limits.max_packet", int64(cfg.Limits.MaxPacket), 1<<10, 256<<20, "1KiB to 256MiB")
	c.between("limits.max_clients", int64(cfg.Limits.MaxClients), 1, 1_000_000, "1 to 1000000")
	c.between("limits.max_per_address", int64(cfg.Limits.MaxPerAddress), 1, 1_000_000, "1 to 1000000")
	c.duration("limits.handshake", cfg.Limits.Handshake, time.Second, time.Minute)
	c.between("store.max_log", int64(cfg.Store.MaxLog), 16<<20, 1<<50, "at least 16MiB")
	c.between("store.max_firmware", int64(cfg.Store.MaxFirmware), 1<<10, 1<<40, "at least 1KiB")
	c.duration("pki.device_lifetime", cfg.PKI.DeviceLifetime, time.Hour, 10*365*24*time.Hour)
	c.duration("pki.server_lifetime", cfg.PKI.ServerLifetime, time.Hour, 397*24*time.Hour)
	if cfg.AWS.Account == "" || cfg.AWS.Region == "" || strings.ContainsAny(cfg.AWS.Account+cfg.AWS.Region, ":*?/") {
		c.add("aws", "region and account must be set and hold none of : * ? /")
	}
	names := map[string]bool{}
	for i, u := range cfg.Bridge.Upstreams {
		path := fmt.Sprintf("bridge.upstreams[%d]", i)
		if u.Name != "" && names[u.Name] {
			c.add(path+".name", "two upstreams are called %q", u.Name)
		}
		names[u.Name] = true
		c.upstream(path, u)
	}
}

type checker struct{ d *decoder }

// add reports a problem at the key that path names, or at the nearest one above it.
func (c *checker) add(path, format string, args ...any) {
	n := &yaml.Node{}
	for p := path; ; {
		if at, ok := c.d.at[p]; ok {
			n = at
			break
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			break
		}
		p = p[:i]
	}
	c.d.problems.add(n, "%s: %s", path, fmt.Sprintf(format, args...))
}

func (c *checker) choice(path string, v Choice, allowed ...Choice) {
	if !slices.Contains(allowed, v) {
		words := make([]string, len(allowed))
		for i, a := range allowed {
			words[i] = string(a)
		}
		c.add(path, "%q is not one of %s", string(v), strings.Join(words, ", "))
	}
}

func (c *checker) between(path string, v, lo, hi int64, words string) {
	if v < lo || v > hi {
		c.add(path, "must be %s", words)
	}
}

func (c *checker) duration(path string, v, lo, hi time.Duration) {
	if v < lo || v > hi {
		c.add(path, "%v is outside %v to %v", v, lo, hi)
	}
}

func (c *checker) listener(path, name string, l Listener) {
	c.choice(path+".type", l.Type, "mqtts", "mqtt", "unix", "https")
	if l.PasswordFile != "" && l.Type != "mqtt" {
		c.add(path+".password_file", "only a listener of type mqtt takes one")
	}
	if why := l.Check(name); why != "" {
		at := path
		if _, ok := c.d.at[path+".address"]; ok {
			at = path + ".address"
		}
		c.add(at, "%s", why)
	}
}

// Check says what is wrong with the listener called name, "" if nothing is.
func (l Listener) Check(name string) string {
	if l.Type == "unix" {
		if l.Address == "" {
			return "give the path of the socket"
		}
		return ""
	}
	if why := badAddress(l.Address); why != "" {
		return why
	}
	if l.Type == "mqtt" && l.PasswordFile == "" && !IsLoopback(l.Address) {
		return "a plain listener on other than loopback needs a password_file, or use type mqtts"
	}
	if want := map[string]Choice{"https": "https", "mqtt": "mqtts"}[name]; want != "" && l.Type != want {
		return fmt.Sprintf("the listener called %s is of type %s: give yours another name", name, want)
	}
	return ""
}

// badAddress says what is wrong with a host:port, "" if nothing is.
func badAddress(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Sprintf("%q is not host:port, such as :8883 or 127.0.0.1:1883", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Sprintf("%q has no port from 0 to 65535", address)
	}
	return ""
}

func (c *checker) upstream(path string, u Upstream) {
	if u.Name == "" || strings.ContainsAny(u.Name, "/ \t\n#+") {
		c.add(path+".name", "give each upstream a name without spaces, / # or +")
	}
	parsed, err := url.Parse(u.URL)
	switch {
	case err != nil || parsed.Host == "":
		c.add(path+".url", "%q is not a URL such as mqtts://broker.example:8883", u.URL)
	case parsed.Scheme != "mqtt" && parsed.Scheme != "mqtts":
		c.add(path+".url", "scheme %q is not one of mqtt, mqtts", parsed.Scheme)
	case parsed.User != nil:
		c.add(path+".url", "keep credentials out of the URL: use username and password_file")
	case parsed.Scheme == "mqtt" && (u.CA != "" || u.Cert != "" || u.Key != ""):
		c.add(path+".url", "ca, cert and key need mqtts://")
	}
	if (u.Cert == "") != (u.Key == "") {
		c.add(path, "cert and key go together")
	}
	if u.PasswordFile != "" && u.Username == "" {
		c.add(path+".password_file", "needs a username")
	}
	if u.KeepAlive != 0 {
		c.duration(path+".keepalive", u.KeepAlive, time.Second, 30*time.Second)
	}
	if u.MaxInFlight < 0 || u.MaxInFlight > 60000 {
		c.add(path+".max_in_flight", "must be 1 to 60000 (0 or absent: the default)")
	}
	if len(u.Rules) == 0 {
		c.add(path+".rules", "an upstream without rules forwards nothing: give at least one")
	}
	for i, r := range u.Rules {
		p := fmt.Sprintf("%s.rules[%d]", path, i)
		c.choice(p+".direction", r.Direction, "up", "down", "both")
		if r.Local == "" {
			c.add(p+".local", "give the local filter, such as +/data")
		}
		if r.QoS != nil && (*r.QoS < 0 || *r.QoS > 1) {
			c.add(p+".qos", "must be 0 or 1")
		}
		if r.WhenFull != "" {
			c.choice(p+".when_full", r.WhenFull, "drop-oldest", "drop-newest", "block")
		}
		if r.MaxMessages < 0 || r.MaxBytes < 0 {
			c.add(p, "bounds must not be negative")
		}
	}
}

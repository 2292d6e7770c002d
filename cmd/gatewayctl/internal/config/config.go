// Package config reads the gateway's one configuration file.
//
// Every key has a default, so that no file at all is a complete configuration. A file is read
// strictly: unknown keys and bad values are all reported at once, each with line and column.
// Choices are words, sizes carry a unit ("64MiB"), durations one too ("30s").
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is the whole configuration. [Default] gives the one without a file.
type Config struct {
	Listeners  map[string]Listener `yaml:"listeners"`
	Durability Choice              `yaml:"durability"`
	Sessions   Sessions            `yaml:"sessions"`
	Limits     Limits              `yaml:"limits"`
	Store      Store               `yaml:"store"`
	PKI        PKI                 `yaml:"pki"`
	MDNS       MDNS                `yaml:"mdns"`
	AWS        AWS                 `yaml:"aws"`
	Bridge     Bridge              `yaml:"bridge"`
	Log        Log                 `yaml:"log"`
}

// A Listener is one way in. Type says which: mqtts (MQTT over mutual TLS), mqtt (plain TCP),
// unix (MQTT on a Unix socket), https.
type Listener struct {
	Type         Choice `yaml:"type"`
	Address      string `yaml:"address"`       // host:port, or a path for unix
	PasswordFile string `yaml:"password_file"` // mqtt on other than loopback: user:bcrypt lines
}

// Sessions bound what waits for one client that is away or slow.
type Sessions struct {
	MaxMessages int    `yaml:"max_messages"`
	MaxBytes    Size   `yaml:"max_bytes"`
	WhenFull    Choice `yaml:"when_full"` // drop-oldest, drop-newest
}

// Limits bound what one peer may cost.
type Limits struct {
	MaxPacket     Size          `yaml:"max_packet"`      // largest MQTT packet
	MaxClients    int           `yaml:"max_clients"`     // connections in all
	MaxPerAddress int           `yaml:"max_per_address"` // connections per remote address
	Handshake     time.Duration `yaml:"handshake"`       // TLS handshake and CONNECT together
}

// Store bounds what is kept on disk.
type Store struct {
	MaxLog      Size `yaml:"max_log"`      // disk budget of the message log
	MaxFirmware Size `yaml:"max_firmware"` // largest firmware image
}

// PKI says what certificates look like.
type PKI struct {
	DeviceLifetime time.Duration `yaml:"device_lifetime"` // of a device's certificate
	ServerLifetime time.Duration `yaml:"server_lifetime"` // of the gateway's own
	ServerNames    []string      `yaml:"server_names"`    // more names and addresses for it
}

// MDNS is what the gateway says and hears by multicast DNS.
type MDNS struct {
	Announce bool   `yaml:"announce"`
	Instance string `yaml:"instance"` // "" means the host name
}

// AWS names the account that the local services speak for; policies that name a region and an
// account are compared with these.
type AWS struct {
	Region  string `yaml:"region"`
	Account string `yaml:"account"`
}

// Bridge lists the brokers that topics are forwarded to and fetched from.
type Bridge struct {
	Upstreams []Upstream `yaml:"upstreams"`
}

// An Upstream is one other broker.
type Upstream struct {
	Name         string        `yaml:"name"`
	URL          string        `yaml:"url"` // mqtt://host:port or mqtts://host:port
	CA           string        `yaml:"ca"`  // PEM file; "" means the system's
	Cert         string        `yaml:"cert"`
	Key          string        `yaml:"key"`
	ClientID     string        `yaml:"client_id"` // "" means gatewayctl-<gateway id>-<name>
	Username     string        `yaml:"username"`
	PasswordFile string        `yaml:"password_file"`
	KeepAlive    time.Duration `yaml:"keepalive"`
	MaxInFlight  int           `yaml:"max_in_flight"`
	Rules        []Rule        `yaml:"rules"`
}

// A Rule forwards the topics of one filter.
type Rule struct {
	Name             string `yaml:"name"` // "" means local filter and direction
	Local            string `yaml:"local"`
	Direction        Choice `yaml:"direction"` // up, down, both
	RemotePrefix     string `yaml:"remote_prefix"`
	RemotePrefixDown string `yaml:"remote_prefix_down"` // of direction both: the one on the way down, if it is another
	LocalPrefix      string `yaml:"local_prefix"`
	QoS              *int   `yaml:"qos"`          // 0 or 1; absent means 1
	MaxMessages      int64  `yaml:"max_messages"` // bound of the rule's queue
	MaxBytes         Size   `yaml:"max_bytes"`
	WhenFull         Choice `yaml:"when_full"` // drop-oldest, drop-newest, block
}

// Log says what is logged and how.
type Log struct {
	Level  Choice `yaml:"level"`  // debug, info, warn, error
	Format Choice `yaml:"format"` // text, json
}

// A Choice is one word of a fixed set.
type Choice string

// A Size is a number of bytes, written with a unit: B, KiB, MiB, GiB.
type Size int64

// UnmarshalText reads "64MiB"; a bare number is bytes.
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	num := strings.TrimRight(text, "BKMGTibkmgt ")
	unit := strings.TrimSpace(text[len(num):])
	shift, ok := map[string]uint{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[unit]
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || !ok || n < 0 || n > (1<<62)>>shift {
		return fmt.Errorf("%q is not a size: write a whole number with B, KiB, MiB or GiB", text)
	}
	*s = Size(n << shift)
	return nil
}

// String writes s with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		name  string
		shift uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		if n := int64(s); n != 0 && n%(1<<u.shift) == 0 {
			return fmt.Sprintf("%d%s", n>>u.shift, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// Default is the configuration without a file: the embedded default.
func Default() Config {
	return Config{
		Listeners: map[string]Listener{
			"mqtt":  {Type: "mqtts", Address: ":8883"},
			"https": {Type: "https", Address: ":8443"},
		},
		Durability: "always",
		Sessions:   Sessions{MaxMessages: 100_000, MaxBytes: 64 << 20, WhenFull: "drop-oldest"},
		Limits:     Limits{MaxPacket: 256 << 10, MaxClients: 10_000, MaxPerAddress: 1_000, Handshake: 10 * time.Second},
		Store:      Store{MaxLog: 1 << 30, MaxFirmware: 256 << 20},
		PKI:        PKI{DeviceLifetime: 365 * 24 * time.Hour, ServerLifetime: 90 * 24 * time.Hour},
		MDNS:       MDNS{Announce: true},
		AWS:        AWS{Region: "local", Account: "000000000000"},
		Log:        Log{Level: "info", Format: "text"},
	}
}

// Load reads the file at path over the defaults. The error is a [*Problems] when the file was
// read and is wrong.
func Load(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return Parse(path, b)
}

// Parse decodes the configuration in b; file names it in errors.
func Parse(file string, b []byte) (Config, error) {
	cfg := Default()
	problems := &Problems{File: file}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return cfg, nil // empty file
	case err != nil:
		problems.List = append(problems.List, syntaxProblem(err))
		return Config{}, problems
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		problems.List = append(problems.List, Problem{Text: "has more than one YAML document: keep one"})
	}
	d := &decoder{problems: problems, at: map[string]*yaml.Node{}}
	d.decode("", doc.Content[0], reflect.ValueOf(&cfg).Elem())
	if len(problems.List) == 0 {
		// The two listeners that are always there keep their defaults unless the file names them.
		for name, l := range Default().Listeners {
			if _, ok := cfg.Listeners[name]; !ok {
				if cfg.Listeners == nil {
					cfg.Listeners = map[string]Listener{}
				}
				cfg.Listeners[name] = l
			}
		}
	}
	check(&cfg, d)
	if len(problems.List) > 0 {
		return Config{}, problems
	}
	return cfg, nil
}

// syntaxProblem takes the line out of the YAML library's message.
func syntaxProblem(err error) Problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
		return Problem{Line: line, Column: 1, Text: "not YAML: " + text}
	}
	return Problem{Text: "not YAML: " + text}
}

// IsLoopback reports whether address (host:port) can only be reached from this machine.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

package simdevice

import (
	"context"
	"slices"
	"time"
)

// allMethods returns the services in the order of RPC.List: the newest registration first.
func (b *boot) allMethods() []method {
	return slices.Concat(b.otaMethods(), i2cMethods(), gpioMethods(), fsMethods(), b.confMethods(), []method{
		{name: "Sys.SetDebug", args: "{udp_log_addr: %Q, level: %d, file_level: %Q}", run: setDebug},
		{name: "Sys.GetInfo", run: getInfo},
		{name: "Sys.Reboot", args: "{delay_ms: %d}", run: reboot},
		{name: "RPC.Ping", run: ping},
		{name: "RPC.Describe", args: "{name: %T}", run: describe},
		{name: "RPC.List", run: list},
	})
}

func list(_ context.Context, c *call) (any, error) {
	names := make([]string, len(c.b.methods))
	for i, m := range c.b.methods {
		names[i] = m.name
	}
	return names, nil
}

func describe(_ context.Context, c *call) (any, error) {
	var p struct{ Name string }
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.Name == "" {
		return nil, fail(400, "name is required")
	}
	for _, m := range c.b.methods {
		if m.name == p.Name {
			return map[string]string{"name": m.name, "args_fmt": m.args}, nil
		}
	}
	return nil, fail(404, "name not found")
}

func ping(_ context.Context, c *call) (any, error) {
	return map[string]string{"channel_info": "MQTT " + c.b.conf.server}, nil
}

// info is the answer of Sys.GetInfo; absent interfaces are left out.
type info struct {
	ID              string `json:"id"`
	App             string `json:"app"`
	FirmwareVersion string `json:"fw_version"`
	FirmwareID      string `json:"fw_id"`
	MgVersion       string `json:"mg_version"`
	MgID            string `json:"mg_id"`
	MAC             string `json:"mac"`
	Arch            string `json:"arch"`
	Uptime          int    `json:"uptime"`
	PublicKey       string `json:"public_key"`
	RAMSize         int    `json:"ram_size"`
	RAMFree         int    `json:"ram_free"`
	RAMMinFree      int    `json:"ram_min_free"`
	FSSize          int    `json:"fs_size"`
	FSFree          int    `json:"fs_free"`
	Wifi            struct {
		StaIP  string `json:"sta_ip"`
		ApIP   string `json:"ap_ip"`
		Status string `json:"status"`
		SSID   string `json:"ssid"`
	} `json:"wifi"`
}

func getInfo(_ context.Context, c *call) (any, error) {
	b := c.b
	fw := b.firmware()
	i := info{
		ID: b.conf.id, App: fw.app, FirmwareVersion: fw.version, FirmwareID: fw.buildID,
		MgVersion: "2.20.0", MgID: "20260101-000000/sim", MAC: b.d.cfg.MAC, Arch: b.d.cfg.Arch,
		Uptime: int(b.uptime() / time.Second), RAMSize: 295448, RAMFree: 211212, RAMMinFree: 196520,
		FSSize: fsBytes, FSFree: fsBytes - fw.usedBytes(),
	}
	if v := b.d.faults.FalseVersion; v != "" {
		i.FirmwareVersion = v
	}
	i.Wifi.StaIP, i.Wifi.Status, i.Wifi.SSID = "192.0.2.10", "got ip", "factory"
	return i, nil
}

func reboot(ctx context.Context, c *call) (any, error) {
	p := struct {
		DelayMS int `json:"delay_ms"`
		Abort   bool
	}{DelayMS: 100}
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.DelayMS < 0 {
		return nil, fail(400, "invalid delay value")
	}
	if p.Abort { // crashes on purpose, without an answer
		c.b.restart(ctx, 0)
		return nil, errLater
	}
	c.b.restart(ctx, time.Duration(p.DelayMS)*time.Millisecond)
	return nil, nil
}

func setDebug(_ context.Context, c *call) (any, error) {
	var p struct {
		UDPLogAddr string `json:"udp_log_addr"`
		Level      int
		FileLevel  string `json:"file_level"`
	}
	return nil, c.decode(&p)
}

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/firmware/repository"
	"gatewayctl/gateway"
	"gatewayctl/gateway/api"
	"gatewayctl/gateway/events"
	"gatewayctl/gateway/jobs"
	"gatewayctl/pki/identity"
)

// openFirmware takes the image repository and prepares updates.
func (g *Gateway) openFirmware(context.Context) error {
	dir, err := g.dir.OpenRoot("firmware")
	if err != nil {
		return dataError(filepath.Join(g.opts.Data, "firmware"), err)
	}
	g.onClose(dir.Close)
	g.images, err = repository.Open(dir, g.db, repository.Options{MaxBytes: int64(g.opts.Config.Store.MaxFirmware), Now: g.clock.Now, Log: g.log})
	if err != nil {
		return err
	}
	g.downloads = jobs.NewDownloadHandler(g.images, g.reachableAt, jobs.DownloadOptions{Peer: g.devicePeer, Log: g.log})
	g.installer = jobs.NewInstaller(caller{g}, g.downloads, g.registry, jobs.Options{Log: g.log})
	return nil
}

// reachableAt is how a device reaches the HTTPS listener: by the address of this machine that is
// on the way to it, which the server certificate names.
func (g *Gateway) reachableAt(id identity.DeviceID) (string, error) {
	port := ""
	for _, l := range g.listeners {
		if l.kind != "https" {
			continue
		}
		host, p, err := net.SplitHostPort(l.net.Addr().String())
		if err != nil {
			return "", err
		}
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			return "https://" + net.JoinHostPort(host, p), nil
		}
		port = p
	}
	if port == "" {
		return "", errors.New("the gateway has no HTTPS listener")
	}
	// Nothing is sent: connecting a datagram socket asks the kernel for the route.
	c, err := net.Dial("udp", g.registry.Presence(id).Address)
	if err != nil {
		return "", fmt.Errorf("route to the device: %w", err)
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		return "", err
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

// devicePeer names the device behind a request's client certificate.
func (g *Gateway) devicePeer(r *http.Request) (identity.DeviceID, bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return identity.DeviceID{}, false
	}
	peer, err := g.authority.Verify(r.TLS.PeerCertificates)
	if err != nil {
		return identity.DeviceID{}, false
	}
	dev, ok := g.registry.ByCertificate(peer.CertificateID)
	return dev.Name, ok && !dev.Disabled
}

// caller calls devices and remembers what they say of themselves.
type caller struct{ g *Gateway }

func (c caller) Call(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error) {
	result, err := c.g.router.Call(ctx, device, method, params)
	if err == nil && method == "Sys.GetInfo" {
		c.g.learn(ctx, device, result)
	}
	return result, err
}

// learn puts what a device said of itself into the registry, where people see it.
func (g *Gateway) learn(ctx context.Context, device string, result json.RawMessage) {
	var info struct {
		App     string `json:"app"`
		Arch    string `json:"arch"`
		Version string `json:"fw_version"`
		ID      string `json:"fw_id"`
		MAC     string `json:"mac"`
		Wifi    struct {
			StaIP string `json:"sta_ip"`
		} `json:"wifi"`
	}
	id, err := identity.ParseDeviceID(device)
	if err != nil || json.Unmarshal(result, &info) != nil {
		return
	}
	said := gateway.Info{App: info.App, Arch: info.Arch, FirmwareVersion: info.Version, FirmwareID: info.ID, MAC: info.MAC, Address: info.Wifi.StaIP}
	if d, err := g.registry.Get(id); err != nil || d.Info == said {
		return
	}
	if err := g.registry.Update(ctx, id, func(d *gateway.Device) error { d.Info = said; return nil }); err != nil {
		g.log.Warn("what a device says of itself was not stored", "device", device, "err", err)
	}
}

// firmwareServices are the API's operations on images.
func (g *Gateway) firmwareServices(s *api.Services) {
	s.AddImage = func(ctx context.Context, name string, r io.Reader) (api.Image, error) {
		img, err := g.images.Add(ctx, name, r)
		return shownImage(img), err
	}
	s.Images = func(context.Context) ([]api.Image, error) {
		out := []api.Image{}
		for _, img := range g.images.List() {
			out = append(out, shownImage(img))
		}
		return out, nil
	}
	s.RemoveImage = func(ctx context.Context, ref string) (api.Image, error) {
		img, err := g.images.Remove(ctx, ref)
		return shownImage(img), err
	}
	s.Update = g.update
}

// update puts an image on a device.
func (g *Gateway) update(ctx context.Context, id identity.DeviceID, ref string, progress func(api.UpdateProgress)) (api.UpdateResult, error) {
	if _, err := g.registry.Get(id); err != nil {
		return api.UpdateResult{}, err
	}
	img, err := g.images.Get(ref)
	if err != nil {
		return api.UpdateResult{}, err
	}
	start := time.Now()
	res := api.UpdateResult{Device: id.String(), Image: shownImage(img)}
	err = g.installer.Install(ctx, id, img, func(s jobs.Step) {
		if s.Version != "" {
			if res.From == "" {
				res.From = string(s.Version)
			}
			res.To = string(s.Version)
		}
		progress(api.UpdateProgress{Time: g.clock.Now(), Step: string(s.Stage), Text: s.Text, Done: s.SentBytes, Total: s.SizeBytes})
	})
	if err != nil {
		g.event(events.Warn, "firmware.failed", id.String(), "%v", err)
		return res, err
	}
	res.ElapsedSec = time.Since(start).Seconds()
	g.event(events.Info, "firmware.updated", id.String(), "%s runs %s", id, img.Ref())
	return res, nil
}

func shownImage(i firmware.Image) api.Image {
	return api.Image{
		SHA256: i.SHA256, Name: i.Name, File: i.File, Version: string(i.Version), Platform: i.Platform, BuildID: i.BuildID, Format: string(i.Kind),
		SizeBytes: i.SizeBytes, Added: i.Added, Description: i.Description,
	}
}

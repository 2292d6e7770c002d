package simdevice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// pull fetches a bundle with the headers of the firmware's HTTP client, and its limits: no
// chunked transfer, few redirections.
func (b *boot) pull(ctx context.Context, url string) (slot, error) {
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 4 << 10, ReadBufferSize: 2 << 10, WriteBufferSize: 1 << 10}
	if b.d.cfg.TLS != nil {
		tr.TLSClientConfig = asMbedTLS(b.d.cfg.TLS)
		tr.TLSClientConfig.ServerName = "" // the URL's
	}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for range 5 {
		resp, err := b.get(ctx, client, url)
		if err != nil {
			return slot{}, err
		}
		if resp.StatusCode == http.StatusMovedPermanently || resp.StatusCode == http.StatusFound {
			next, err := resp.Location()
			resp.Body.Close()
			if err != nil {
				return slot{}, err
			}
			url = next.String()
			continue
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusNotModified:
			return slot{}, errors.New("no update available")
		case resp.StatusCode != http.StatusOK:
			return slot{}, fmt.Errorf("HTTP status %d", resp.StatusCode)
		case resp.ContentLength < 0:
			return slot{}, errors.New("no Content-Length in the response")
		}
		return b.unpack(resp.Body, resp.ContentLength)
	}
	return slot{}, errors.New("too many redirections")
}

func (b *boot) get(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.New("invalid URL")
	}
	b.d.mu.Lock()
	fw := *b.firmware()
	b.d.mu.Unlock()
	arch := b.d.cfg.Arch
	req.Header.Set("X-MGOS-Device-ID", b.conf.id+" "+b.d.cfg.MAC)
	req.Header.Set("X-MGOS-FW-Version", strings.Join([]string{arch, fw.version, fw.buildID}, " "))
	req.Header.Set("User-Agent", fmt.Sprintf("%s/%s (MongooseOS/2.20.0; %s)", fw.app, fw.version, strings.ToUpper(arch)))
	return client.Do(req)
}

// unpack installs a bundle while it arrives, and keeps the updater's progress current.
func (b *boot) unpack(r io.Reader, sizeBytes int64) (slot, error) {
	read := int64(0)
	in := &bundleReader{
		r: r, arch: b.d.cfg.Arch,
		progress: func(file string, n int) {
			read += int64(n)
			b.d.mu.Lock()
			defer b.d.mu.Unlock()
			b.updater.message = fmt.Sprintf("Progress: %s %d of %d", file, read, sizeBytes)
			if sizeBytes > 0 {
				b.updater.percent = int(min(100*read/sizeBytes, 99))
			}
		},
	}
	return in.install()
}

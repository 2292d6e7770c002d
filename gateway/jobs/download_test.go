package jobs

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/pki/identity"
)

// handler is one with a grant for the device lamp; the header Peer stands for a certificate.
func handler(t *testing.T, s shelf, opts DownloadOptions) (h *DownloadHandler, link string, release func()) {
	t.Helper()
	opts.Peer = func(r *http.Request) (identity.DeviceID, bool) {
		name := r.Header.Get("Peer")
		if name == "" {
			return identity.DeviceID{}, false
		}
		return deviceID(t, name), true
	}
	h = NewDownloadHandler(s, func(id identity.DeviceID) (string, error) {
		if id.String() == "lost" {
			return "", errDisk
		}
		return "https://192.0.2.1:8443", nil
	}, opts)
	link, _, release, err := h.allow(deviceID(t, "lamp"), testImage())
	if err != nil {
		t.Fatal(err)
	}
	return h, link, release
}

func get(h http.Handler, method, link string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, link, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestDownload(t *testing.T) {
	t.Parallel()
	h, link, release := handler(t, shelf{image: testImage()}, DownloadOptions{})
	path, token, _ := strings.Cut(link, "?token=")
	if path != "https://192.0.2.1:8443/firmware/"+testImage().SHA256 || len(token) < 20 {
		t.Fatalf("URL %s", link)
	}
	other := strings.Replace(link, "ab", "cd", 1)
	for _, tc := range []struct {
		name, method, link string
		header             []string
		code, bytes        int
	}{
		{"token", "GET", link, nil, 200, imageBytes},
		{"token and its device", "GET", link, []string{"Peer", "lamp"}, 200, imageBytes},
		{"device without a token", "GET", path, []string{"Peer", "lamp"}, 200, imageBytes},
		{"head", "HEAD", link, nil, 200, 0},
		{"range", "GET", link, []string{"Range", "bytes=10-19"}, 206, 10},
		{"resumed", "GET", link, []string{"Range", "bytes=99990-", "If-Range", `"` + testImage().SHA256 + `"`}, 206, 10},
		{"bad range", "GET", link, []string{"Range", "bytes=200000-"}, 416, -1},
		{"nothing", "GET", path, nil, 401, -1},
		{"wrong token", "GET", path + "?token=x", nil, 403, -1},
		{"token of another device", "GET", link, []string{"Peer", "thief"}, 403, -1},
		{"another device", "GET", path, []string{"Peer", "thief"}, 403, -1},
		{"another image", "GET", other, nil, 403, -1},
		{"another image by certificate", "GET", strings.Replace(path, "ab", "cd", 1), []string{"Peer", "lamp"}, 403, -1},
		{"post", "POST", link, nil, 405, -1},
	} {
		w := get(h, tc.method, tc.link, tc.header...)
		if w.Code != tc.code || tc.bytes >= 0 && w.Body.Len() != tc.bytes {
			t.Errorf("%s: %d with %d bytes, want %d with %d: %s", tc.name, w.Code, w.Body.Len(), tc.code, tc.bytes, w.Body)
		}
		if tc.code < 300 && w.Header().Get("Content-Length") == "" {
			t.Errorf("%s: no Content-Length", tc.name)
		}
	}
	release()
	if w := get(h, "GET", link); w.Code != 403 {
		t.Errorf("after its release a token gives %d", w.Code)
	}
}

func TestGrantsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, link, _ := handler(t, shelf{image: testImage()}, DownloadOptions{MaxRequests: 2})
		for _, want := range []int{200, 200, 403} {
			if w := get(h, "GET", link); w.Code != want {
				t.Errorf("%d, want %d", w.Code, want)
			}
		}
		h, link, _ = handler(t, shelf{image: testImage()}, DownloadOptions{})
		<-time.After(time.Hour + time.Second)
		if w := get(h, "GET", link); w.Code != 403 {
			t.Errorf("after an hour a token gives %d", w.Code)
		}
	})
}

func TestDownloadFails(t *testing.T) {
	t.Parallel()
	h, link, _ := handler(t, shelf{}, DownloadOptions{}) // removed meanwhile
	if w := get(h, "GET", link); w.Code != 404 {
		t.Errorf("a removed image gives %d", w.Code)
	}
	h, link, _ = handler(t, shelf{err: errDisk}, DownloadOptions{})
	if w := get(h, "GET", link); w.Code != 500 || strings.Contains(w.Body.String(), "disk") {
		t.Errorf("a disk error gives %d: %s", w.Code, w.Body)
	}
	if _, _, _, err := h.allow(deviceID(t, "lost"), testImage()); !errors.Is(err, errDisk) {
		t.Errorf("a grant without an address: %v", err)
	}
}

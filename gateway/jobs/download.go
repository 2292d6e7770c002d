package jobs

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/firmware/repository"
	"gatewayctl/pki/identity"
)

// DownloadPath is the path below which a [DownloadHandler] serves images.
const DownloadPath = "/firmware/"

// images is the repository, for reading.
type images interface {
	Open(sha256 string) (io.ReadSeekCloser, firmware.Image, error)
}

// DownloadOptions configures a [DownloadHandler].
type DownloadOptions struct {
	// Peer returns the device whose verified client certificate a request came with; it must be
	// registered and enabled. nil means that no request has one.
	Peer func(*http.Request) (identity.DeviceID, bool)

	Lifetime    time.Duration // of a grant that is not released; 0 means 1 h
	MaxRequests int           // with one grant; 0 means 100
	MaxDuration time.Duration // of one request; 0 means 30 min
	Log         *slog.Logger  // nil discards
}

// A DownloadHandler serves firmware images to devices, as GET /firmware/{sha256}. Every
// request needs a grant, which an update makes for its device and its image: either its token is
// in the URL, or the device's client certificate is on the connection. A request with the token of
// one device and the certificate of another is refused.
//
// Answers always have a Content-Length, since devices know no chunks, and ranges are served.
type DownloadHandler struct {
	images images
	base   func(identity.DeviceID) (string, error)
	opts   DownloadOptions

	mu     sync.Mutex
	grants map[string]*grant // by token
}

// grant allows one device to fetch one image.
type grant struct {
	device   identity.DeviceID
	sha256   string
	expires  time.Time
	requests int          // left; guarded by DownloadHandler.mu
	sent     atomic.Int64 // bytes of the request under way
	used     atomic.Bool  // the device has asked for the image
}

// NewDownloadHandler returns a handler for the images of repo. base tells how a device reaches it:
// scheme, host and port, such as https://192.0.2.1:8443.
func NewDownloadHandler(repo images, base func(identity.DeviceID) (string, error), opts DownloadOptions) *DownloadHandler {
	opts.Lifetime = cmp.Or(opts.Lifetime, time.Hour)
	opts.MaxRequests = cmp.Or(opts.MaxRequests, 100)
	opts.MaxDuration = cmp.Or(opts.MaxDuration, 30*time.Minute)
	if opts.Peer == nil {
		opts.Peer = func(*http.Request) (identity.DeviceID, bool) { return identity.DeviceID{}, false }
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.Log = opts.Log.With("component", "download")
	return &DownloadHandler{images: repo, base: base, opts: opts, grants: map[string]*grant{}}
}

// allow makes a grant and returns its URL. release ends it.
func (h *DownloadHandler) allow(id identity.DeviceID, img firmware.Image) (link string, g *grant, release func(), err error) {
	base, err := h.base(id)
	if err != nil {
		return "", nil, nil, fmt.Errorf("address of this gateway for %s: %w", id, err)
	}
	token := strings.ToLower(rand.Text())
	g = &grant{device: id, sha256: img.SHA256, expires: time.Now().Add(h.opts.Lifetime), requests: h.opts.MaxRequests}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grants[token] = g
	link = strings.TrimSuffix(base, "/") + DownloadPath + img.SHA256 + "?" + url.Values{"token": {token}}.Encode()
	return link, g, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.grants, token)
	}, nil
}

// Refusals of a download; the texts go to the client.
var (
	errNoCredentials = errors.New("a token or the client certificate of a device is needed")
	errNoGrant       = errors.New("no update of this device to this image is under way, or its token has expired")
)

// admit finds the grant for a request and uses it up a little.
func (h *DownloadHandler) admit(r *http.Request, sha256 string) (*grant, error) {
	token := r.URL.Query().Get("token")
	peer, certified := h.opts.Peer(r)
	if token == "" && !certified {
		return nil, errNoCredentials
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for t, g := range h.grants {
		if now.After(g.expires) || g.requests <= 0 {
			delete(h.grants, t)
			continue
		}
		if g.sha256 != sha256 || token != "" && t != token || certified && g.device != peer {
			continue
		}
		g.requests--
		return g, nil
	}
	return nil, errNoGrant
}

// ServeHTTP implements [http.Handler].
func (h *DownloadHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		return
	}
	sha256 := strings.TrimPrefix(r.URL.Path, DownloadPath)
	g, err := h.admit(r, sha256)
	if err != nil {
		code := http.StatusForbidden
		if err == errNoCredentials {
			code = http.StatusUnauthorized
		}
		h.opts.Log.Warn("download refused", "address", r.RemoteAddr, "err", err)
		http.Error(w, err.Error(), code)
		return
	}
	f, img, err := h.images.Open(sha256)
	switch {
	case errors.Is(err, repository.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		http.Error(w, "the image is not in the repository any more", http.StatusNotFound)
		return
	case err != nil:
		h.opts.Log.Error("firmware image cannot be read", "sha256", sha256, "err", err)
		http.Error(w, "the image cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	h.send(w, r, g, f, img)
}

func (h *DownloadHandler) send(w http.ResponseWriter, r *http.Request, g *grant, f io.ReadSeeker, img firmware.Image) {
	start := time.Now()
	if err := http.NewResponseController(w).SetWriteDeadline(start.Add(h.opts.MaxDuration)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.opts.Log.Warn("download without a deadline", "device", g.device, "err", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+img.SHA256+`"`)
	w.Header().Set("Cache-Control", "private, no-store")
	g.sent.Store(0)
	g.used.Store(true)
	http.ServeContent(&countingWriter{ResponseWriter: w, sent: &g.sent}, r, "", time.Time{}, f)
	h.opts.Log.Info("download", "device", g.device, "image", img.Ref(), "bytes", g.sent.Load(), "elapsed", time.Since(start))
}

// countingWriter counts the bytes of the body.
type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.sent.Add(int64(n))
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatewayctl/firmware"
	"gatewayctl/firmware/repository"
	"gatewayctl/gateway"
	"gatewayctl/gateway/rpc"
	"gatewayctl/pki/identity"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deviceID(t testing.TB, name string) identity.DeviceID {
	t.Helper()
	id, err := identity.ParseDeviceID(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const imageBytes = 100_000

var errDisk = errors.New("disk error")

// shelf is a repository of one image.
type shelf struct {
	image firmware.Image
	err   error
}

func (s shelf) Open(sha string) (io.ReadSeekCloser, firmware.Image, error) {
	if s.err != nil {
		return nil, firmware.Image{}, s.err
	}
	if sha != s.image.SHA256 {
		return nil, firmware.Image{}, repository.ErrNotFound
	}
	return nopCloser{bytes.NewReader(make([]byte, imageBytes))}, s.image, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

func testImage() firmware.Image {
	return firmware.Image{SHA256: strings.Repeat("ab", 32), Kind: firmware.KindMongooseOS, Name: "demo", Version: "2.0.0", BuildID: "b2", Platform: "esp32", SizeBytes: imageBytes}
}

// board is a device, the router and the registry in one. Its script says what it does with an
// update; all its times are those of the test's bubble.
type board struct {
	t         *testing.T
	downloads *DownloadHandler
	script    func(*board, string) error // OTA.Update with its URL; returns the answer

	mu        sync.Mutex
	version   string
	build     string
	arch      string
	booted    time.Time
	online    bool
	since     time.Time
	state     int
	message   string
	committed bool
	silent    map[string]int   // calls of a method that get no answer, though they are carried out
	refuse    map[string]error // what a method answers
	calls     []string
}

func newBoard(t *testing.T, script func(*board, string) error) (*board, *Installer) {
	b := &board{t: t, script: script, version: "1.0.0", build: "b1", arch: "esp32", booted: time.Now().Add(-time.Hour), online: true,
		since: time.Now().Add(-time.Hour), committed: true, silent: map[string]int{}, refuse: map[string]error{}}
	b.downloads = NewDownloadHandler(shelf{image: testImage()}, func(identity.DeviceID) (string, error) { return "https://192.0.2.1:8443/", nil }, DownloadOptions{})
	return b, NewInstaller(b, b.downloads, b, Options{})
}

func (b *board) Presence(identity.DeviceID) gateway.Presence {
	b.mu.Lock()
	defer b.mu.Unlock()
	return gateway.Presence{Online: b.online, Since: b.since}
}

func (b *board) Call(ctx context.Context, device, method string, params json.RawMessage) (json.RawMessage, error) {
	b.mu.Lock()
	b.calls = append(b.calls, method)
	if !b.online {
		b.mu.Unlock()
		return nil, rpc.ErrOffline
	}
	if method == "OTA.Update" {
		b.mu.Unlock()
		return b.update(ctx, params)
	}
	defer b.mu.Unlock()
	if err := b.refuse[method]; err != nil {
		return nil, err
	}
	var result any
	switch method {
	case "Sys.GetInfo":
		result = map[string]any{"app": "demo", "fw_version": b.version, "fw_id": b.build, "arch": b.arch, "uptime": int(time.Since(b.booted) / time.Second)}
	case "OTA.Status":
		result = map[string]any{"state": b.state, "is_committed": b.committed, "msg": b.message}
	case "OTA.Commit":
		if b.committed {
			return nil, &rpc.RemoteError{Code: -1, Message: "already committed"}
		}
		b.committed = true
	case "RPC.Ping":
	default:
		return nil, &rpc.RemoteError{Code: 404, Message: "No handler for " + method}
	}
	if b.silent[method] > 0 {
		b.silent[method]--
		b.mu.Unlock()
		<-ctx.Done()
		b.mu.Lock()
		return nil, rpc.ErrTimeout
	}
	raw, err := json.Marshal(result)
	return raw, err
}

// errNoAnswer makes OTA.Update go unanswered.
var errNoAnswer = errors.New("no answer")

func (b *board) update(ctx context.Context, params json.RawMessage) (json.RawMessage, error) {
	var p struct {
		URL           string
		CommitTimeout int `json:"commit_timeout"`
	}
	if err := json.Unmarshal(params, &p); err != nil || p.CommitTimeout != 300 {
		b.t.Errorf("OTA.Update %s", params)
	}
	answer := make(chan error, 1)
	go func() { answer <- b.script(b, p.URL) }()
	select {
	case err := <-answer:
		if err != errNoAnswer {
			return json.RawMessage("null"), err
		}
		<-ctx.Done()
	case <-ctx.Done():
		<-answer
	}
	return nil, rpc.ErrTimeout
}

func (b *board) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// fetch downloads the image, which takes two seconds.
func (b *board) fetch(url string) {
	b.set(func() { b.state = otaInProgress })
	<-time.After(time.Second) // of the bubble
	w := httptest.NewRecorder()
	b.downloads.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
	if w.Code != 200 || w.Body.Len() != imageBytes || w.Header().Get("Content-Length") != fmt.Sprint(imageBytes) {
		b.t.Errorf("GET %s: %d with %d bytes: %s", url, w.Code, w.Body.Len(), w.Header())
	}
	<-time.After(time.Second)
}

// restart boots into a firmware after a while.
func (b *board) restart(version, build string, committed bool) {
	b.set(func() { b.state = otaSuccess })
	time.AfterFunc(500*time.Millisecond, func() { b.set(func() { b.online, b.since = false, time.Now() }) })
	time.AfterFunc(4*time.Second, func() {
		b.set(func() {
			b.version, b.build, b.committed, b.state, b.message = version, build, committed, otaIdle, ""
			b.online, b.since, b.booted = true, time.Now(), time.Now()
		})
	})
}

// flap loses the connection for a moment.
func (b *board) flap() {
	b.set(func() { b.online, b.since = false, time.Now() })
	<-time.After(time.Second)
	b.set(func() { b.online, b.since = true, time.Now() })
}

func TestInstall(t *testing.T) {
	t.Parallel()
	good := func(answer error) func(*board, string) error {
		return func(b *board, url string) error {
			b.fetch(url)
			b.restart("2.0.0", "b2", false)
			return answer
		}
	}
	remote := func(code int, message string) error { return &rpc.RemoteError{Code: code, Message: message} }
	for _, tc := range []struct {
		name   string
		script func(*board, string) error
		before func(*board)
		err    error
		text   string
		stages []Stage
		kept   bool // the new firmware is committed at the end
	}{
		{name: "null is answered", script: good(nil), kept: true,
			stages: []Stage{StageCheck, StageOffer, StageDownload, StageRestart, StageVerify, StageConfirm, StageDone}},
		{name: "success is answered as error 0", script: good(remote(0, "Update applied, finalizing")), kept: true},
		{name: "the answer is lost", script: good(errNoAnswer), kept: true},
		{name: "the connection is lost while it installs", kept: true, script: func(b *board, url string) error {
			b.fetch(url)
			b.flap()
			<-time.After(5 * time.Second)
			b.restart("2.0.0", "b2", false)
			return errNoAnswer
		}},
		{name: "the connection is lost before it starts", kept: true, script: func(b *board, url string) error {
			b.flap()
			<-time.After(5 * time.Second)
			return good(nil)(b, url)
		}},
		{name: "firmware that commits itself", kept: true, script: func(b *board, url string) error {
			b.fetch(url)
			b.restart("2.0.0", "b2", true)
			return nil
		}},
		{name: "answers are lost after the restart", script: good(nil), kept: true, before: func(b *board) {
			b.silent["RPC.Ping"], b.silent["OTA.Commit"] = 2, 1
		}},
		{name: "runs it already", kept: true, stages: []Stage{StageCheck, StageDone}, before: func(b *board) { b.version, b.build = "2.0.0", "b2" }},
		{name: "runs it, not committed", kept: true, stages: []Stage{StageCheck, StageVerify, StageConfirm, StageDone},
			before: func(b *board) { b.version, b.build, b.committed = "2.0.0", "b2", false }},

		{name: "offline", before: func(b *board) { b.online = false }, err: rpc.ErrOffline},
		{name: "another platform", before: func(b *board) { b.arch = "esp8266" }, err: ErrUnsuitable, text: "it is for esp32 and the device is esp8266"},
		{name: "no OTA service", before: func(b *board) { b.refuse["OTA.Status"] = remote(404, "No handler") }, err: ErrUnsuitable, text: "no OTA service"},
		{name: "another update", before: func(b *board) { b.state = otaInProgress }, err: ErrBusy, text: "somebody else"},
		{name: "uncommitted firmware", before: func(b *board) { b.committed = false }, err: ErrUncommitted, text: "version 1.0.0"},

		{name: "the device refuses", script: func(*board, string) error { return remote(-1, "no space") }, err: ErrFailed, text: "no space"},
		{name: "the refusal is lost", err: ErrFailed, text: "the device reports: invalid CRC", script: func(b *board, url string) error {
			b.fetch(url)
			b.set(func() { b.state, b.message = otaError, "invalid CRC" })
			return rpc.ErrTimeout
		}},
		{name: "crash during the update", err: ErrFailed, text: "runs version 1.0.0", script: func(b *board, url string) error {
			b.fetch(url)
			b.restart("1.0.0", "b1", true)
			return errNoAnswer
		}},
		{name: "the new firmware does not start", err: ErrFailed, text: "runs version 1.0.0: the new firmware did not start", script: func(b *board, url string) error {
			b.fetch(url)
			b.restart("1.0.0", "b1", true)
			return nil
		}},
		{name: "other version than promised", err: ErrFailed, text: "reports version 1.9.0 instead of 2.0.0; it is not kept", script: func(b *board, url string) error {
			b.fetch(url)
			b.restart("1.9.0", "b2", false)
			return nil
		}},
		{name: "other build than promised", err: ErrFailed, text: "build b3 instead of b2", script: func(b *board, url string) error {
			b.fetch(url)
			b.restart("2.0.0", "b3", false)
			return nil
		}},
		{name: "never comes back", err: ErrFailed, text: "has not come back within 3m0s", script: func(b *board, url string) error {
			b.fetch(url)
			b.set(func() { b.online = false })
			return nil
		}},
		{name: "never ends", err: ErrFailed, text: "has not installed the image within 15m0s", script: func(b *board, url string) error {
			b.fetch(url)
			return errNoAnswer
		}},
		{name: "does not answer a ping", script: good(nil), err: ErrFailed, text: "is not kept", before: func(b *board) { b.silent["RPC.Ping"] = 1 << 30 }},
		{name: "refuses to commit", script: good(nil), err: ErrFailed, text: "does not keep the new firmware", before: func(b *board) {
			b.refuse["OTA.Commit"] = remote(-1, "cannot")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, in := newBoard(t, tc.script)
				if tc.before != nil {
					tc.before(b)
				}
				var stages []Stage
				err := in.Install(t.Context(), deviceID(t, "lamp"), testImage(), func(s Step) {
					if n := len(stages); n == 0 || stages[n-1] != s.Stage {
						stages = append(stages, s.Stage)
					}
				})
				if !errors.Is(err, tc.err) || err != nil && !strings.Contains(err.Error(), tc.text) {
					t.Errorf("error %v, want %v with %q", err, tc.err, tc.text)
				}
				if tc.stages != nil && !slices.Equal(stages, tc.stages) {
					t.Errorf("stages %v, want %v", stages, tc.stages)
				}
				b.mu.Lock()
				if kept := b.version == "2.0.0" && b.build == "b2" && b.committed; kept != tc.kept {
					t.Errorf("version %s, build %s, committed %v", b.version, b.build, b.committed)
				}
				b.mu.Unlock()
				if len(b.downloads.grants) != 0 {
					t.Error("a grant is left")
				}
				<-time.After(10 * time.Second) // the board's timers
			})
		})
	}
}

// TestInstallGivenUp ends the context in the middle of an update.
func TestInstallGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, in := newBoard(t, func(b *board, url string) error {
			b.fetch(url)
			return errNoAnswer
		})
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		busy := make(chan error, 1)
		time.AfterFunc(time.Second, func() { busy <- in.Install(ctx, deviceID(t, "lamp"), testImage(), nil) })
		if err := in.Install(ctx, deviceID(t, "lamp"), testImage(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an update that is given up: %v", err)
		}
		if err := <-busy; !errors.Is(err, ErrBusy) {
			t.Errorf("a second update at the same time: %v", err)
		}
		if len(b.downloads.grants) != 0 || len(in.busy) != 0 {
			t.Error("a grant or a claim is left")
		}
	})
}

func TestOpaqueImage(t *testing.T) {
	t.Parallel()
	b, in := newBoard(t, nil)
	img := testImage()
	img.Kind = firmware.KindOpaque
	if err := in.Install(t.Context(), deviceID(t, "lamp"), img, nil); !errors.Is(err, ErrUnsuitable) || len(b.calls) != 0 {
		t.Errorf("an opaque image: %v after %v", err, b.calls)
	}
}

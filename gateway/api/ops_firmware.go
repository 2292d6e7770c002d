package api

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"gatewayctl/pki/identity"
)

const (
	defaultUpdate = 10 * time.Minute
	maxUpdate     = 2 * time.Hour
)

// uploadInput takes a body without holding it in memory.
type uploadInput struct {
	Name string `query:"name" maxLength:"128" doc:"what to call the image; absent: what it calls itself"`

	body  io.ReadCloser
	w     http.ResponseWriter // the server's own
	given string              // the name in the answer's audit
}

// Resolve implements [huma.Resolver]: it keeps the body for the operation to read.
func (in *uploadInput) Resolve(ctx huma.Context) []error {
	r, w := humago.Unwrap(ctx)
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = inner.Unwrap()
	}
	in.body, in.w = r.Body, w
	return nil
}

// refuse makes the server close the connection slowly, as it does when a limit is hit: its answer
// must reach a client that is still sending, rather than break that client's next write.
func (in *uploadInput) refuse() {
	http.MaxBytesReader(in.w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

type imageInput struct {
	Ref string `path:"ref" maxLength:"256" doc:"SHA-256 or the start of it, name@version, or name"`
}

type updateInput struct {
	Name string `path:"name" maxLength:"128" doc:"the device's name"`
	Body UpdateRequest
}

func (a *API) registerFirmware() {
	s := a.services
	add := operation("firmware-add", http.MethodPost, "/firmware", "firmware", "Put an image into the repository", "The body is the image, of any length that fits.")
	add.RequestBody = &huma.RequestBody{
		Required: true,
		Content:  map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}},
	}
	change(a, add, s.AddImage != nil, func(in *uploadInput) string { return in.given },
		func(ctx context.Context, in *uploadInput) (Image, error) {
			in.given = in.Name
			ctx, stop := a.untilStop(ctx)
			defer stop()
			img, err := s.AddImage(ctx, in.Name, http.MaxBytesReader(in.w, in.body, a.opts.MaxImageBytes))
			if err != nil {
				in.refuse()
				return img, a.problem(ctx, "firmware-add", err)
			}
			in.given = img.Name + " " + img.SHA256
			return img, nil
		})
	read(a, operation("firmware-list", http.MethodGet, "/firmware", "firmware", "Images of the repository", ""),
		s.Images != nil, func(ctx context.Context, _ *struct{}) (ImageList, error) {
			list, err := s.Images(ctx)
			return ImageList{orEmpty(list)}, err
		})
	change(a, operation("firmware-remove", http.MethodDelete, "/firmware/{ref}", "firmware", "Take an image out of the repository", "Answers with what was removed."),
		s.RemoveImage != nil, func(in *imageInput) string { return in.Ref },
		func(ctx context.Context, in *imageInput) (Image, error) { return s.RemoveImage(ctx, in.Ref) })
	stream(a, operation("device-update", http.MethodPost, "/devices/{name}/update", "firmware", "Put an image on a device",
		"Sends progress events and ends with result once the device has confirmed the image. When the client leaves, the gateway gives the update up."),
		s.Update != nil, map[string]any{"progress": UpdateProgress{}, StreamResult: UpdateResult{}}, a.update)
}

func (a *API) update(ctx context.Context, in *updateInput, out *outbox) (feed, error) {
	audit := func(err error) {
		a.opts.Audit(CallerFrom(ctx), "device-update", in.Name+" "+in.Body.Image, err)
	}
	id, err := deviceID(in.Name)
	if err != nil {
		audit(err)
		return feed{}, err
	}
	timeout := in.Body.Timeout.Std()
	if timeout == 0 {
		timeout = defaultUpdate
	}
	if timeout > maxUpdate {
		err := invalid("body.timeout", "%s is more than %s", timeout, maxUpdate)
		audit(err)
		return feed{}, err
	}
	return feed{work: func(ctx context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		result, err := a.install(ctx, id, in.Body.Image, out)
		audit(err)
		if err != nil {
			return nil, err
		}
		return result, nil
	}}, nil
}

func (a *API) install(ctx context.Context, id identity.DeviceID, image string, out *outbox) (UpdateResult, error) {
	return a.services.Update(ctx, id, image, func(p UpdateProgress) { out.put("progress", 0, p) })
}

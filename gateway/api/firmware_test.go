package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"gatewayctl/gateway/api"
)

// An image is never held in memory: the service sees its first bytes before the last are sent.
func TestUploadIsStreamed(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	s := start(t, api.Services{
		AddImage: func(_ context.Context, name string, r io.Reader) (api.Image, error) {
			if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
				return api.Image{}, err
			}
			close(first)
			n, err := io.Copy(io.Discard, r)
			return api.Image{Name: name, SizeBytes: 4 + n}, err
		},
	}, api.Options{MaxImageBytes: 1 << 20})
	pr, pw := io.Pipe()
	go func() {
		pw.Write([]byte("head"))
		<-first
		pw.Write(make([]byte, 1000))
		pw.Close()
	}()
	req, _ := http.NewRequest("POST", "http://gatewayctl/api/v1/firmware?name=fw", pr)
	res, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var img api.Image
	if err := json.NewDecoder(res.Body).Decode(&img); err != nil || img != (api.Image{Name: "fw", SizeBytes: 1004}) {
		t.Errorf("%s %+v %v", res.Status, img, err)
	}
}

func TestImageThatIsTooLarge(t *testing.T) {
	t.Parallel()
	s := start(t, api.Services{
		AddImage: func(_ context.Context, _ string, r io.Reader) (api.Image, error) {
			_, err := io.Copy(io.Discard, r)
			return api.Image{}, fmt.Errorf("store image: %w", err)
		},
	}, api.Options{MaxImageBytes: 10})
	if p := s.problem(t, "POST", "/api/v1/firmware", "12345678901"); p.Code != api.CodeTooLarge {
		t.Errorf("problem %+v", p)
	}
}

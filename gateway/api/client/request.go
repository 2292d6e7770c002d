package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"gatewayctl/gateway/api"
)

const (
	prefix    = "/api/v1"
	maxAnswer = 64 << 20 // bytes of a JSON answer
)

// path joins escaped segments below the API's prefix.
func path(segments ...string) string {
	p := prefix
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// params collects query parameters, leaving out what is empty.
type params url.Values

func (p params) set(name, value string) params {
	if value != "" {
		p[name] = append(p[name], value)
	}
	return p
}

func (p params) duration(name string, d time.Duration) params {
	if d <= 0 {
		return p
	}
	return p.set(name, d.String())
}

func (p params) number(name string, n uint64) params {
	if n == 0 {
		return p
	}
	return p.set(name, strconv.FormatUint(n, 10))
}

func (p params) bool(name string, b bool) params {
	if !b {
		return p
	}
	return p.set(name, "true")
}

// request is one call of an operation.
type request struct {
	method, path string
	query        params
	body         io.Reader // nil for none
	size         int64     // of body, -1 when unknown
	kind         string    // content type of body
	accept       string    // "" means JSON
}

// jsonBody makes v the request's body.
func (r request) jsonBody(v any) (request, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return r, usage("encode the request: %w", err)
	}
	r.body, r.size, r.kind = bytes.NewReader(b), int64(len(b)), "application/json"
	return r, nil
}

// open sends r and returns the answer if it is a success.
func (c *Client) open(ctx context.Context, r request) (*http.Response, error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + url.Values(r.query).Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, r.body)
	if err != nil {
		return nil, usage("make the request: %w", err)
	}
	if r.body != nil {
		req.ContentLength = r.size
		req.Header.Set("Content-Type", r.kind)
		if r.size < 0 || r.size > 1<<20 {
			req.Header.Set("Expect", "100-continue")
		}
	}
	if r.accept == "" {
		r.accept = "application/json"
	}
	req.Header.Set("Accept", r.accept)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.fromTransport(ctx, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.failure(res)
}

// failure reads the problem out of an answer.
func (c *Client) failure(res *http.Response) error {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var p api.Problem
	if kind == "application/problem+json" {
		if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&p); err == nil && p.Code != "" {
			p.Status = res.StatusCode
			return fromProblem(p)
		}
	}
	return &Error{
		Status: res.StatusCode, Code: CodeNotGateway,
		Message: fmt.Sprintf("what answers at %s is not a gateway: HTTP status %s", c.where(), res.Status),
		Remedy:  "Check the address.",
	}
}

// do sends r and decodes the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, r request, out any) error {
	res, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return c.fromTransport(ctx, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Error{Status: res.StatusCode, Code: CodeNotGateway, Message: fmt.Sprintf("the answer of %s cannot be read: %v", c.where(), err),
			Remedy: "Use the same version of gatewayctl as the gateway's.", err: err}
	}
	return nil
}

// get is do with GET.
func get[T any](ctx context.Context, c *Client, path string, query params) (T, error) {
	var out T
	err := c.do(ctx, request{method: http.MethodGet, path: path, query: query}, &out)
	return out, err
}

// send is do with a JSON body; a nil in means no body.
func send[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	r := request{method: method, path: path}
	if in != nil {
		var err error
		if r, err = r.jsonBody(in); err != nil {
			return out, err
		}
	}
	err := c.do(ctx, r, &out)
	return out, err
}

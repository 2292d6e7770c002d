package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultScan = 3 * time.Second
	maxScan     = 5 * time.Minute
)

type scanInput struct {
	Timeout durationParam `query:"timeout" doc:"how long to listen: 3s if absent, 5m at most"`
}

type watchInput struct {
	Timeout durationParam `query:"timeout" doc:"how long to listen; without end if absent"`
}

func (a *API) registerDiscover() {
	have := a.services.Discover != nil
	read(a, operation("discover", http.MethodGet, "/discover", "discovery", "What announces itself by mDNS", "Listens for the timeout, then answers."),
		have, a.scan)
	stream(a, operation("discover-stream", http.MethodGet, "/discover/stream", "discovery", "What announces itself by mDNS, as it comes and goes",
		"Sends found events: a new one, a changed one, and one with gone set. Ends in order when the timeout is over."),
		have, map[string]any{"found": Found{}, StreamEnd: struct{}{}},
		func(ctx context.Context, in *watchInput, out *outbox) (feed, error) {
			return feed{work: func(ctx context.Context) (any, error) {
				return nil, a.listen(ctx, in.Timeout.Std(), func(f Found) { out.put("found", 0, f) })
			}}, nil
		})
}

// scan collects the last state of everything that is there when the time is over.
func (a *API) scan(ctx context.Context, in *scanInput) (FoundList, error) {
	timeout, err := in.Timeout.within(defaultScan, maxScan)
	if err != nil {
		return FoundList{}, err
	}
	ctx, stop := a.untilStop(ctx)
	defer stop()
	var mu sync.Mutex
	seen := map[[2]string]Found{}
	err = a.listen(ctx, timeout, func(f Found) {
		mu.Lock()
		defer mu.Unlock()
		key := [2]string{f.Service, f.Instance}
		if f.Gone {
			delete(seen, key)
			return
		}
		seen[key] = f
	})
	if err != nil {
		return FoundList{}, a.problem(ctx, "discover", err)
	}
	mu.Lock()
	defer mu.Unlock()
	list := make([]Found, 0, len(seen))
	for _, f := range seen {
		list = append(list, f)
	}
	slices.SortFunc(list, func(x, y Found) int {
		return strings.Compare(x.Service+"\x00"+x.Instance, y.Service+"\x00"+y.Instance)
	})
	return FoundList{list}, nil
}

// listen runs discovery for timeout, or until ctx ends when that is 0. That its time is over is
// no error.
func (a *API) listen(ctx context.Context, timeout time.Duration, found func(Found)) error {
	timed := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		timed, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err := a.services.Discover(timed, found)
	if timed.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

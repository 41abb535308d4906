//go:build linux

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/test/history"
)

// answer is what became of a request.
type answer struct {
	status  int
	code    string // of a problem
	header  http.Header
	body    []byte
	err     error // there was no answer
	call    time.Duration
	end     time.Duration
	reads   bool // it asked for nothing to be done
	unsent  bool // it never left
	timeout bool // the client gave up
}

// name is what the answer is counted as.
func (a answer) name() string {
	switch {
	case a.unsent:
		return "server down"
	case a.timeout:
		return "no answer in time"
	case a.err != nil:
		return "connection lost"
	case a.code != "":
		return http.StatusText(a.status) + " " + a.code
	}
	return http.StatusText(a.status)
}

// transport speaks to the service.
type transport struct {
	url     string
	http    *http.Client
	started time.Time // the zero of every history's clock
}

// newTransport returns one whose requests are given up after limit, which is long
// after the service should have answered.
func newTransport(url string, started time.Time, limit time.Duration) *transport {
	return &transport{url: url, started: started, http: &http.Client{
		Timeout: limit,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 100,
			DisableCompression:  true,
		},
	}}
}

func (t *transport) now() time.Duration { return time.Since(t.started) }

func (t *transport) close() { t.http.CloseIdleConnections() }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 20

// do makes a request. Its header is a list of names and values in turn.
func (t *transport) do(ctx context.Context, method, path, body string, header ...string) answer {
	request, err := http.NewRequestWithContext(ctx, method, t.url+path, strings.NewReader(body))
	if err != nil {
		return answer{err: err, unsent: true}
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	a := answer{call: t.now()}
	response, err := t.http.Do(request)
	if err == nil {
		a.status, a.header = response.StatusCode, response.Header
		a.body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		err = errors.Join(err, response.Body.Close())
	}
	a.end = t.now()
	if err != nil {
		a.err = err
		a.unsent = errors.Is(err, syscall.ECONNREFUSED)
		var timeout interface{ Timeout() bool }
		a.timeout = errors.As(err, &timeout) && timeout.Timeout()
		return a
	}
	if a.status >= http.StatusBadRequest {
		var problem struct {
			Code string `json:"code"`
		}
		_ = json.Unmarshal(a.body, &problem) // what has no code is undocumented
		a.code = problem.Code
	}
	return a
}

func (t *transport) get(ctx context.Context, key string, fresh bool) answer {
	var header []string
	if fresh {
		header = []string{"Cache-Control", "no-cache"}
	}
	a := t.do(ctx, http.MethodGet, itemPath(key), "", header...)
	a.reads = true
	return a
}

func (t *transport) mget(ctx context.Context, members []member) answer {
	a := t.do(ctx, http.MethodPost, "/v1/mget", keysRequest(members))
	a.reads = true
	return a
}

func itemPath(key string) string { return "/v1/items/" + url.PathEscape(key) }

// refusals are the codes of the answers that promise that nothing has been done.
var refusals = map[string]bool{
	"unavailable": true, "busy": true, "request_timeout": true, "starting": true, "shutting_down": true,
}

// isRefusal tells whether the answer is a 503 as documented that promises that
// nothing has been done.
func (a answer) isRefusal() bool {
	return a.err == nil && a.status == http.StatusServiceUnavailable && refusals[a.code] && a.header.Get("Retry-After") != ""
}

// isUnknown tells whether the request may have been carried out or not.
func (a answer) isUnknown() bool {
	if a.err != nil {
		return !a.unsent
	}
	return a.status == http.StatusServiceUnavailable && a.code == "commit_unknown" && a.header.Get("Retry-After") != ""
}

// isStale tells whether the answer says that it may be older than it should be.
func (a answer) isStale() bool { return a.header.Get("Stockroom-Stale") != "" }

// outcome is what a history makes of an answer to which none of the statuses that
// the operation is for was given.
func (a answer) outcome() history.Outcome {
	if a.unsent || a.isRefusal() {
		return history.Refused
	}
	return history.Unknown
}

// documented tells whether an operation may be answered so. That it is not known
// whether something was done can be no answer to who only reads.
func (a answer) documented(statuses ...int) bool {
	return a.err != nil || a.isRefusal() || a.isUnknown() && !a.reads || slices.Contains(statuses, a.status)
}

// excerpt is what people are shown of a body.
func (a answer) excerpt() string {
	const most = 300
	if a.err != nil {
		return a.err.Error()
	}
	return string(bytes.ToValidUTF8(a.body[:min(len(a.body), most)], []byte("�")))
}

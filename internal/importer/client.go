package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/item"
)

const (
	maxTries = 6                // of one request to a server that is busy
	maxWait  = 30 * time.Second // between two of them
	maxText  = 1 << 20          // of an answer that says what went wrong
)

// client speaks to one server.
type client struct {
	base   string
	apiKey string
	http   *http.Client
	wait   func(context.Context, time.Duration) error
}

func newClient(o Options) *client {
	return &client{
		base:   strings.TrimRight(o.Server, "/"),
		apiKey: o.APIKey,
		http: &http.Client{
			Timeout: o.Timeout,
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				ForceAttemptHTTP2:   true,
				MaxIdleConnsPerHost: o.Parallel,
			},
		},
		wait: wait,
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// mget returns what the server has under the keys. A server that takes fewer
// keys at once is asked in parts.
func (c *client) mget(ctx context.Context, keys []string) (values, error) {
	body, err := json.Marshal(map[string][]string{"keys": keys})
	if err != nil {
		return nil, err
	}
	answer, err := c.send(ctx, http.MethodPost, "/v1/mget", body)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.tooLarge() && len(keys) > 1 {
		first, err := c.mget(ctx, keys[:len(keys)/2])
		if err != nil {
			return nil, err
		}
		second, err := c.mget(ctx, keys[len(keys)/2:])
		maps.Copy(first, second)
		return first, err
	}
	if err != nil {
		return nil, err
	}
	var found struct {
		Items values `json:"items"`
	}
	if err := json.Unmarshal(answer, &found); err != nil {
		return nil, fmt.Errorf("the server's answer is none of Stockroom's: %w", err)
	}
	if found.Items == nil {
		return nil, errors.New("the server's answer is none of Stockroom's: it has no items")
	}
	return found.Items, nil
}

// mset stores entries, all or none.
func (c *client) mset(ctx context.Context, entries []*entry) error {
	sent := make(values, len(entries))
	for _, e := range entries {
		sent[e.value.Key.String()] = e.value.JSON()
	}
	body, err := json.Marshal(map[string]values{"entries": sent}, jsontext.PreserveRawStrings(true))
	if err != nil {
		return err
	}
	_, err = c.send(ctx, http.MethodPost, "/v1/mset", body)
	return err
}

// publish sends a registry item as it is to the registry view.
func (c *client) publish(ctx context.Context, key item.Key, body []byte) error {
	path := "/r/" + url.PathEscape(key.Framework()) + "/" + url.PathEscape(key.Name()) + ".json"
	_, err := c.send(ctx, http.MethodPut, path, body)
	return err
}

// send makes a request and returns the answer's body. A server that is busy for
// now is asked again, as often as maxTries says: every request that we make can be
// repeated, also where it is unknown whether it was carried out.
func (c *client) send(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	for try := 1; ; try++ {
		answer, err := c.sendOnce(ctx, method, path, body)
		refused, ok := errors.AsType[*refusal](err)
		if !ok || !refused.busy() || try == maxTries {
			return answer, err
		}
		if err := c.wait(ctx, min(refused.retryAfter, maxWait)); err != nil {
			return nil, err
		}
	}
}

func (c *client) sendOnce(ctx context.Context, method, path string, body []byte) (answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "stockroom-import/"+buildinfo.String())
	if c.apiKey != "" {
		request.Header.Set("Authorization", "Bearer "+c.apiKey)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode >= http.StatusOK && response.StatusCode < http.StatusMultipleChoices {
		return io.ReadAll(response.Body)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxText))
	if err != nil {
		return nil, fmt.Errorf("%s: read the answer: %w", response.Status, err)
	}
	return nil, newRefusal(response, text)
}

// refusal is an answer that says no.
type refusal struct {
	status     int
	retryAfter time.Duration
	Code       string          `json:"code"`
	Detail     string          `json:"detail"`
	Errors     []refusalDetail `json:"errors"`
}

type refusalDetail struct {
	Key     string `json:"key"`
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

func newRefusal(response *http.Response, text []byte) *refusal {
	r := &refusal{}
	// What is no problem document, from a proxy perhaps, says nothing but its status.
	if err := json.Unmarshal(text, r); err != nil || r.Code == "" {
		r = &refusal{Detail: response.Status}
	}
	r.status = response.StatusCode
	r.retryAfter = time.Second
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		r.retryAfter = time.Duration(seconds) * time.Second
	}
	return r
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the server answers %d", r.status)
	if r.Code != "" {
		text += " " + r.Code
	}
	parts := []string{text + ": " + r.Detail}
	for _, detail := range r.Errors {
		if detail.Key == "" {
			parts = append(parts, detail.Error())
		}
	}
	return strings.Join(parts, "; ")
}

func (d refusalDetail) Error() string {
	text := d.Code
	if d.Pointer != "" {
		text += " at " + d.Pointer
	}
	return text + ": " + d.Detail
}

// of returns what is wrong with one entry, nil where the refusal does not name it.
func (r *refusal) of(key item.Key) error {
	for _, detail := range r.Errors {
		if detail.Key == key.String() {
			return fmt.Errorf("the server refuses it: %w", detail)
		}
	}
	return nil
}

func (r *refusal) busy() bool {
	return r.status == http.StatusServiceUnavailable || r.status == http.StatusTooManyRequests
}

func (r *refusal) tooLarge() bool { return r.status == http.StatusRequestEntityTooLarge }

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Package stockroom is a client of Stockroom, the shared store of a team's UI
// components and blocks.
//
// [Client] has a method for each thing that the service does with items. Values are
// any JSON: a component or a block where the key says so, else what the caller likes.
// What the service refuses is an [*Error]; errors.Is tells them apart by [ErrNotFound]
// and its like.
//
// Package api below it is generated from the service's contract, openapi.yaml.
package stockroom

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/stockroom/stockroom/clients/go/api"
)

// Client is a client of one service. Its methods may be called by several
// goroutines.
type Client struct {
	api *api.Client
}

// Option configures a Client.
type Option func(*transport)

// WithAPIKey sends key with every request.
func WithAPIKey(key string) Option { return func(t *transport) { t.key = key } }

// WithTimeout bounds each call as a whole, what it waits before it tries again
// included; 0 leaves that to the context. Without this option it is 30 seconds.
func WithTimeout(timeout time.Duration) Option { return func(t *transport) { t.timeout = timeout } }

// WithRetries bounds how often a call is tried again after the service was busy; 0:
// never. Without this option it is 3 times.
//
// A call is tried again when the answer is 503 with Retry-After, which says when, and
// then nothing of it has been carried out. The one such answer after which something
// may have been, the code commit_unknown, is left to the caller; so are all other
// failures.
func WithRetries(retries int) Option { return func(t *transport) { t.retries = retries } }

// WithHTTPClient sends requests by client, for proxies, certificates and traces.
func WithHTTPClient(client *http.Client) Option { return func(t *transport) { t.client = client } }

const (
	defaultTimeout = 30 * time.Second
	defaultRetries = 3
	idlePerHost    = 100 // net/http keeps 2, and opens a connection anew for all beyond
)

// New returns a client of the service at baseURL, such as http://127.0.0.1:8080.
func New(baseURL string, options ...Option) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("stockroom: the base URL: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("stockroom: the base URL must be http:// or https:// with a host, and have no query")
	}
	t := &transport{timeout: defaultTimeout, retries: defaultRetries}
	for _, option := range options {
		option(t)
	}
	if t.client == nil {
		t.client = &http.Client{Transport: defaultTransport()}
	}
	generated, err := api.NewClient(base.String(), api.WithHTTPClient(t))
	if err != nil {
		return nil, fmt.Errorf("stockroom: %w", err)
	}
	return &Client{api: generated}, nil
}

func defaultTransport() http.RoundTripper {
	own, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport // somebody has put another one there, and means it
	}
	own = own.Clone()
	own.MaxIdleConnsPerHost = idlePerHost
	return own
}

// API returns the generated client, for what has no method here. It goes the same
// way: with the API key, the timeout and the retries, and its errors are *Error too.
// The bodies of its answers have been read, so that they need not be closed.
func (c *Client) API() *api.Client { return c.api }

// Types of the contract.
type (
	// Metadata is what the service knows of an item besides its value.
	Metadata = api.Metadata
	// Component is one UI component of a framework.
	Component = api.Component
	// Block is a composition of several files.
	Block = api.Block
	// ComponentSummary is a component in a list: without its source.
	ComponentSummary = api.ComponentSummary
	// BlockSummary is a block in a list: without its files.
	BlockSummary = api.BlockSummary
	// FrameworkUsage is what one framework holds.
	FrameworkUsage = api.FrameworkUsage
	// Stats is the service's usage and state.
	Stats = api.Stats
	// ClearResult is how many items were deleted, by kind.
	ClearResult = api.ClearResult
	// MaintenanceRequest says what maintenance is to do.
	MaintenanceRequest = api.MaintenanceRequest
	// MaintenanceResult says what maintenance did.
	MaintenanceResult = api.MaintenanceResult
	// TransactionResult is what became of an operation of a transaction.
	TransactionResult = api.TransactionResult
	// SearchResult is an item that a search found; openapi.yaml describes its fields.
	SearchResult = api.SearchResult
)

// Types of blocks.
const (
	BlockSimple  = api.BlockTypeSimple  // one file
	BlockComplex = api.BlockTypeComplex // several
)

const contentType = "application/json"

// encode returns v as JSON, without the escapes for HTML that would only make it
// larger. JSON that is there already stays as it is, but for white space.
func encode(v any) (json.RawMessage, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("stockroom: encode: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// body returns v as the body of a request, which can be read again for another try.
func body(v any) (*bytes.Reader, error) {
	encoded, err := encode(v)
	if err != nil {
		return nil, err
	}
	return bytes.NewReader(encoded), nil
}

// decode reads a JSON answer. Its arguments are the results of the generated client.
func decode[T any](response *http.Response, err error) (T, error) {
	var v T
	if err != nil {
		return v, err
	}
	defer func() { _ = response.Body.Close() }()
	if err := json.NewDecoder(response.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("stockroom: the answer is not what the contract says: %w", err)
	}
	return v, nil
}

// pages returns what all pages have. fetch reads the one that cursor begins, nil for
// the first, and returns the next one's cursor, "" for none.
func pages[T any](fetch func(cursor *string) (page []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var cursor *string
		for {
			page, next, err := fetch(cursor)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, v := range page {
				if !yield(v, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			cursor = &next
		}
	}
}

const pageLimit = 1000 // as large as pages may be

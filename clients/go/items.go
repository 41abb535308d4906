package stockroom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/stockroom/stockroom/clients/go/api"
)

// Stored is an item as it was read.
type Stored[T any] struct {
	Value        T
	ETag         string // for IfMatch, IfNoneMatch and Check
	LastModified time.Time
	Expires      time.Time // zero where it never expires
	// Stale says that the service could not ask its database whether this is the latest.
	Stale bool
}

// Written is what became of a write.
type Written struct {
	Metadata
	// Created says that there was no such item before.
	Created bool
}

// ReadOption changes how an item is read.
type ReadOption func(*readParams)

type readParams struct{ cacheControl, ifNoneMatch *string }

// Fresh reads from the database, whatever the service has cached: what another
// server has just written is seen, too.
func Fresh() ReadOption { return func(p *readParams) { p.cacheControl = new("no-cache") } }

// IfNoneMatch reads the item only if it has another ETag; else the error is
// [ErrNotModified].
func IfNoneMatch(etag string) ReadOption { return func(p *readParams) { p.ifNoneMatch = &etag } }

func readParamsOf(options []ReadOption) (p readParams) {
	for _, option := range options {
		option(&p)
	}
	return p
}

// WriteOption changes how an item is written: a [TTL] or a [Condition].
type WriteOption interface{ apply(p *writeParams) }

type writeParams struct {
	ttl                  *int64
	ifMatch, ifNoneMatch *string
	err                  error
}

// TTL is how long an item lives, in whole seconds; 0: it never expires. Without it
// the service's default holds.
type TTL time.Duration

func (ttl TTL) apply(p *writeParams) {
	var seconds *int64
	if seconds, p.err = secondsOf([]TTL{ttl}); p.err == nil {
		p.ttl = seconds
	}
}

// secondsOf returns the last of ttls in seconds, nil where there is none.
func secondsOf(ttls []TTL) (*int64, error) {
	if len(ttls) == 0 {
		return nil, nil
	}
	ttl := time.Duration(ttls[len(ttls)-1])
	if ttl%time.Second != 0 {
		return nil, fmt.Errorf("stockroom: a time to live is whole seconds, not %v", ttl)
	}
	return new(int64(ttl / time.Second)), nil
}

// Condition is what an item must be like to be written; else the error is
// [ErrPreconditionFailed].
type Condition func(*writeParams)

func (c Condition) apply(p *writeParams) { c(p) }

// IfMatch writes only if the item has this ETag.
func IfMatch(etag string) Condition { return func(p *writeParams) { p.ifMatch = &etag } }

// IfAbsent writes only if there is no item.
func IfAbsent() Condition { return func(p *writeParams) { p.ifNoneMatch = new("*") } }

// toWrite returns what a write has to say, with its body.
func toWrite[Option WriteOption](value any, options []Option) (p writeParams, content *bytes.Reader, err error) {
	for _, option := range options {
		if option.apply(&p); p.err != nil {
			return p, nil, p.err
		}
	}
	content, err = body(value)
	return p, content, err
}

// Get reads an item as the JSON that was put. One that there is not is [ErrNotFound].
func (c *Client) Get(ctx context.Context, key string, options ...ReadOption) (*Stored[json.RawMessage], error) {
	return GetAs[json.RawMessage](ctx, c, key, options...)
}

// GetAs is [Client.Get] of a value of type T.
func GetAs[T any](ctx context.Context, c *Client, key string, options ...ReadOption) (*Stored[T], error) {
	if err := checkName("key", key); err != nil {
		return nil, err
	}
	p := readParamsOf(options)
	return stored[T](c.api.GetItem(ctx, key, &api.GetItemParams{CacheControl: p.cacheControl, IfNoneMatch: p.ifNoneMatch}))
}

// stored reads the answer to a read.
func stored[T any](response *http.Response, err error) (*Stored[T], error) {
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusNotModified {
		return nil, ErrNotModified
	}
	header := response.Header
	value, err := decode[T](response, nil)
	if err != nil {
		return nil, err
	}
	s := &Stored[T]{Value: value, ETag: header.Get("ETag"), Stale: header.Get("Stockroom-Stale") == "true"}
	if s.LastModified, err = http.ParseTime(header.Get("Last-Modified")); err != nil {
		return nil, fmt.Errorf("stockroom: the answer's Last-Modified: %w", err)
	}
	if text := header.Get("Stockroom-Expires"); text != "" {
		if s.Expires, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return nil, fmt.Errorf("stockroom: the answer's Stockroom-Expires: %w", err)
		}
	}
	return s, nil
}

// Has tells whether there is an item.
func (c *Client) Has(ctx context.Context, key string) (bool, error) {
	if err := checkName("key", key); err != nil {
		return false, err
	}
	return exists(c.api.HeadItem(ctx, key, nil))
}

func exists(_ *http.Response, err error) (bool, error) {
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Set puts an item, all of it or nothing; it is durable when Set returns. The value
// is anything that encoding/json takes; a json.RawMessage is put as it is.
func (c *Client) Set(ctx context.Context, key string, value any, options ...WriteOption) (*Written, error) {
	if err := checkName("key", key); err != nil {
		return nil, err
	}
	p, content, err := toWrite(value, options)
	if err != nil {
		return nil, err
	}
	params := &api.PutItemParams{TTL: p.ttl, IfMatch: p.ifMatch, IfNoneMatch: p.ifNoneMatch}
	return written(c.api.PutItemWithBody(ctx, key, params, contentType, content))
}

// written reads the answer to a write.
func written(response *http.Response, err error) (*Written, error) {
	metadata, err := decode[Metadata](response, err)
	if err != nil {
		return nil, err
	}
	return &Written{Metadata: metadata, Created: response.StatusCode == http.StatusCreated}, nil
}

// Delete deletes an item. One that there is not is [ErrNotFound].
func (c *Client) Delete(ctx context.Context, key string) error {
	return c.deleteItem(ctx, key, &api.DeleteItemParams{})
}

// DeleteIfMatch deletes an item only if it has this ETag; else the error is
// [ErrPreconditionFailed].
func (c *Client) DeleteIfMatch(ctx context.Context, key, etag string) error {
	return c.deleteItem(ctx, key, &api.DeleteItemParams{IfMatch: &etag})
}

func (c *Client) deleteItem(ctx context.Context, key string, params *api.DeleteItemParams) error {
	if err := checkName("key", key); err != nil {
		return err
	}
	_, err := c.api.DeleteItem(ctx, key, params)
	return err
}

// Metadata reads what the service knows of an item besides its value, which is no
// access. An item that there is not is [ErrNotFound].
func (c *Client) Metadata(ctx context.Context, key string) (Metadata, error) {
	if err := checkName("key", key); err != nil {
		return Metadata{}, err
	}
	return decode[Metadata](c.api.GetItemMetadata(ctx, key, nil))
}

// Touch gives an item a time to live from now on: ttl, or its own anew where that is
// left out. An item that there is not is [ErrNotFound].
func (c *Client) Touch(ctx context.Context, key string, ttl ...TTL) (Metadata, error) {
	if err := checkName("key", key); err != nil {
		return Metadata{}, err
	}
	seconds, err := secondsOf(ttl)
	if err != nil {
		return Metadata{}, err
	}
	return decode[Metadata](c.api.TouchItem(ctx, key, nil, api.TouchRequest{TTL: seconds}))
}

// Keys returns the keys that match pattern, in the order of their bytes, page by
// page: `*` is any text, `?` one character, and `\` takes the next one as it is. An
// empty pattern is every key. After an error nothing follows.
func (c *Client) Keys(ctx context.Context, pattern string) iter.Seq2[string, error] {
	return pages(func(cursor *string) ([]string, string, error) {
		params := &api.ListKeysParams{Limit: new(pageLimit), Cursor: cursor, Pattern: notEmpty(pattern)}
		list, err := decode[api.KeyList](c.api.ListKeys(ctx, params))
		return list.Keys, list.NextCursor, err
	})
}

// Clear deletes the items whose keys match pattern, as in Keys, all or none.
func (c *Client) Clear(ctx context.Context, pattern string) (ClearResult, error) {
	return decode[ClearResult](c.api.ClearItems(ctx, &api.ClearItemsParams{Pattern: notEmpty(pattern)}))
}

func notEmpty(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

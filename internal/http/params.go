package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// pathParam returns a parameter of the route, percent-decoded once.
func pathParam(r *http.Request, name string) (string, error) {
	raw := chi.URLParam(r, name)
	text, err := url.PathUnescape(raw)
	if err != nil {
		return "", &apiError{codeInvalidParameter, "the path has a broken percent-encoding"}
	}
	return text, nil
}

// itemKey returns the key that the request's path names.
func itemKey(r *http.Request) (item.Key, error) {
	text, err := pathParam(r, "key")
	if err != nil {
		return item.Key{}, err
	}
	return item.ParseKey(text)
}

// namedKey returns the key of a route with a framework and a name.
func namedKey(r *http.Request, key func(framework, name string) (item.Key, error)) (item.Key, error) {
	framework, err := pathParam(r, "framework")
	if err != nil {
		return item.Key{}, err
	}
	name, err := pathParam(r, "name")
	if err != nil {
		return item.Key{}, err
	}
	return key(framework, name)
}

// query returns the request's query parameters. One that is not known, or is
// there twice, is refused: a mistyped ttl that were ignored would be data lost.
func query(r *http.Request, known ...string) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errQuery
	}
	for name, list := range values {
		switch {
		case !slices.Contains(known, name):
			return nil, &apiError{codeInvalidParameter, fmt.Sprintf("there is no parameter %q here", name)}
		case len(list) > 1:
			return nil, &apiError{codeInvalidParameter, fmt.Sprintf("the parameter %q is there more than once", name)}
		}
	}
	return values, nil
}

var errQuery = &apiError{codeInvalidParameter, "the query cannot be read: it has a broken percent-encoding or a semicolon"}

// ttlParam returns the parameter ttl, or nil where there is none.
func ttlParam(values url.Values) (*item.TTL, error) {
	if !values.Has("ttl") {
		return nil, nil
	}
	ttl, err := item.ParseTTL(values.Get("ttl"))
	if err != nil {
		return nil, err
	}
	return &ttl, nil
}

// patternParam returns the parameter pattern; without one, that of every key.
func patternParam(values url.Values) (item.Pattern, error) {
	if !values.Has("pattern") {
		return item.Pattern{}, nil
	}
	return item.ParsePattern(values.Get("pattern"))
}

// pageParams returns the page that limit and cursor name in a list of scope.
func pageParams(values url.Values, scope string) (store.Page, error) {
	limit, err := limitParam(values, defaultLimit, maxLimit)
	if err != nil {
		return store.Page{}, err
	}
	page := store.Page{Limit: limit}
	if values.Has("cursor") {
		after, err := parseCursor(scope, values.Get("cursor"))
		if err != nil {
			return store.Page{}, err
		}
		page.After = after
	}
	return page, nil
}

// limitParam returns the parameter limit, or otherwise where there is none.
func limitParam(values url.Values, otherwise, most int) (int, error) {
	if !values.Has("limit") {
		return otherwise, nil
	}
	limit, err := strconv.ParseUint(values.Get("limit"), 10, 31) // unlike Atoi it takes no sign
	if err != nil || limit < 1 || limit > uint64(most) {         //nolint:gosec // a constant
		return 0, &apiError{codeInvalidParameter, fmt.Sprintf("limit must be an integer in 1 … %d", most)}
	}
	return int(limit), nil
}

// precondition returns what the headers If-Match and If-None-Match require.
func precondition(r *http.Request) (item.Precondition, error) {
	ifMatch, err := tagsHeader(r, "If-Match")
	if err != nil {
		return item.Precondition{}, err
	}
	ifNoneMatch, err := tagsHeader(r, "If-None-Match")
	if err != nil {
		return item.Precondition{}, err
	}
	return item.Precondition{IfMatch: ifMatch, IfNoneMatch: ifNoneMatch}, nil
}

// tagsHeader parses `*` or a list of entity tags (RFC 9110, sections 8.8.3 and
// 13.1); nil where the header is absent. name has to be canonical.
func tagsHeader(r *http.Request, name string) (*item.Tags, error) {
	lines := r.Header[name]
	if len(lines) == 0 {
		return nil, nil
	}
	rest := strings.TrimSpace(strings.Join(lines, ","))
	if rest == "*" {
		return &item.Tags{Any: true}, nil
	}
	malformed := &apiError{codeInvalidHeader, name + ` must be * or a list of quoted entity tags such as "abc"`}
	var tags item.Tags
	for rest != "" {
		if rest[0] == ',' { // empty elements are allowed (section 5.6.1)
			rest = strings.TrimLeft(rest[1:], " \t")
			continue
		}
		var tag item.Tag
		rest, tag.Weak = strings.CutPrefix(rest, "W/")
		if rest == "" || rest[0] != '"' {
			return nil, malformed
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 || strings.ContainsFunc(rest[1:1+end], notInTag) {
			return nil, malformed
		}
		tag.Opaque = rest[1 : 1+end]
		tags.List = append(tags.List, tag)
		rest = strings.TrimLeft(rest[end+2:], " \t")
		if rest != "" && rest[0] != ',' {
			return nil, malformed
		}
	}
	if len(tags.List) == 0 {
		return nil, malformed
	}
	return &tags, nil
}

func notInTag(r rune) bool { return r <= ' ' || r == 0x7f }

// trustedLength is how much room a body gets before any of it has come.
const trustedLength = 64 << 10

// readLength reads length bytes into body, which is empty. Growing a buffer step by
// step would cost large bodies more than all else; giving them their room at once
// would let clients claim memory for nothing.
func readLength(r io.Reader, body []byte, length int64) ([]byte, error) {
	for step := min(length, trustedLength); int64(len(body)) < length; step = length {
		have := len(body)
		body = slices.Grow(body, int(step)-have)[:step]
		if n, err := io.ReadFull(r, body[have:]); err != nil {
			return body[:have+n], err
		}
	}
	return body, nil
}

// withBody reads a JSON body as readBody does, for a use that keeps nothing of it:
// then its buffer is used again.
func (s *server) withBody(w http.ResponseWriter, r *http.Request, use func(body []byte) error) error {
	buffer, ok := bodies.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
	}
	body, err := s.readBodyInto(w, r, (*buffer)[:0])
	if err == nil {
		err = use(body)
	}
	if cap(body) <= maxBodyKept {
		*buffer = body
		bodies.Put(buffer)
	}
	return err
}

// readBody reads a JSON body within the limit. An empty one is empty, which only
// some routes allow.
func (s *server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return s.readBodyInto(w, r, nil)
}

// readBodyInto likewise, into a buffer that is empty.
func (s *server) readBodyInto(w http.ResponseWriter, r *http.Request, body []byte) ([]byte, error) {
	if contentType := r.Header.Get("Content-Type"); contentType != "" && contentType != contentTypeJSON[0] {
		mediaType, _, err := mime.ParseMediaType(contentType)
		if err != nil || mediaType != "application/json" {
			return nil, &apiError{codeUnsupportedMediaType, "the body must be application/json"}
		}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, &apiError{codeUnsupportedMediaType, "the body must not have a Content-Encoding"}
	}
	if deadline, ok := r.Context().Deadline(); ok {
		// So that a slow body is answered in time. A writer that is no connection, in
		// a test, has no deadline to set.
		_ = http.NewResponseController(w).SetReadDeadline(deadline)
	}
	if r.ContentLength > s.config.MaxBodyBytes {
		if !awaitsContinue(r) {
			s.drain(r)
		}
		return nil, s.bodyTooLarge()
	}
	limited := http.MaxBytesReader(w, r.Body, s.config.MaxBodyBytes)
	var err error
	if r.ContentLength >= 0 {
		body, err = readLength(limited, body, r.ContentLength)
	} else {
		body, err = io.ReadAll(limited)
	}
	var overLimit *http.MaxBytesError
	switch {
	case errors.As(err, &overLimit):
		s.drain(r)
		return nil, s.bodyTooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, context.DeadlineExceeded
	case err != nil:
		// Whatever it is, net/http has cancelled the request for it: its context
		// does not tell who is at fault.
		return nil, &apiError{item.CodeMalformedJSON, "the body ends before its Content-Length"}
	}
	return body, nil
}

// drainFactor is how many times as large as its limit a body may be that is read to
// its end only to be thrown away.
const drainFactor = 4

// drain throws away what is left of a body that is over the limit, within the read
// deadline. Many clients send all of a body before they look for an answer, and to
// them a connection that is closed meanwhile is broken: they would never see the 413.
func (s *server) drain(r *http.Request) {
	if most := drainFactor * s.config.MaxBodyBytes; r.ContentLength <= most {
		_, _ = io.CopyN(io.Discard, r.Body, most) // a caller that sends no more is answered the same
	}
}

// awaitsContinue tells whether the caller sends its body only when it is told to,
// which reading it would do.
func awaitsContinue(r *http.Request) bool { return r.Header.Get("Expect") != "" }

func (s *server) bodyTooLarge() error {
	return &apiError{codeBodyTooLarge, fmt.Sprintf("the body is larger than %d bytes", s.config.MaxBodyBytes)}
}

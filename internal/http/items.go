package http

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

func (s *server) getItem(keyOf keyFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		key, err := bareItem(r, keyOf)
		if err != nil {
			return err
		}
		known, err := tagsHeader(r, "If-None-Match")
		if err != nil {
			return err
		}
		get := s.store.Get
		if noCache(r) {
			get = s.store.GetFresh
		}
		stored, err := get(r.Context(), key)
		if err != nil {
			return err
		}
		markStale(w, stored)
		writeItem(w, r, known, stored.Metadata, stored.JSON)
		return nil
	}
}

// noCache tells whether the caller wants nothing from a cache (RFC 9111, section
// 5.2.1.4).
func noCache(r *http.Request) bool {
	for _, line := range r.Header["Cache-Control"] {
		for directive := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-cache") {
				return true
			}
		}
	}
	return false
}

// markStale tells the caller that the database could not be asked.
func markStale(w http.ResponseWriter, stored item.Stored) {
	if stored.Stale {
		w.Header().Set("Stockroom-Stale", "true")
	}
}

func (s *server) headItem(keyOf keyFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		key, err := bareItem(r, keyOf)
		if err != nil {
			return err
		}
		known, err := tagsHeader(r, "If-None-Match")
		if err != nil {
			return err
		}
		stored, err := s.store.Head(r.Context(), key)
		if err != nil {
			return err
		}
		markStale(w, stored)
		writeItem(w, r, known, stored.Metadata, stored.JSON)
		return nil
	}
}

// bareItem returns the key of a route that takes no query parameters.
func bareItem(r *http.Request, keyOf keyFunc) (item.Key, error) {
	if _, err := query(r); err != nil {
		return item.Key{}, err
	}
	return keyOf(r)
}

// writeItem answers a read of an item: with body, with its headers alone for HEAD, or
// with 304 where the caller knows it already.
func writeItem(w http.ResponseWriter, r *http.Request, known *item.Tags, metadata item.Metadata, body []byte) {
	setItemHeaders(w, metadata)
	if !(item.Precondition{IfNoneMatch: known}).Holds(true, metadata.ETag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header()["Content-Type"] = contentTypeJSON
	setHeader(w, "Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	expectBody(w, len(body))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // a caller that has left reads no answer
}

var (
	contentTypeJSON = []string{"application/json"}
	// A cache may keep an item but must ask before it uses it: anybody may write a
	// new one at any time.
	cacheControlRevalidate = []string{"no-cache"}
)

func setItemHeaders(w http.ResponseWriter, metadata item.Metadata) {
	// Two headers in one piece of memory.
	text := append(make([]byte, 0, 96), '"')
	text = append(append(text, metadata.ETag...), '"')
	etag := len(text)
	both := string(appendHTTPDate(text, metadata.Updated))
	setHeader(w, "Etag", both[:etag])
	setHeader(w, "Last-Modified", both[etag:])
	w.Header()["Cache-Control"] = cacheControlRevalidate
	if !metadata.Expires.IsZero() {
		setHeader(w, "Stockroom-Expires", metadata.Expires.UTC().Format(time.RFC3339Nano))
	}
}

// appendHTTPDate appends t as HTTP has its dates (RFC 9110, section 5.6.7), for a
// fraction of what it costs to follow the pattern http.TimeFormat.
func appendHTTPDate(out []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	digits := func(n int) { out = append(out, byte('0'+n/10%10), byte('0'+n%10)) }
	out = append(append(out, t.Weekday().String()[:3]...), ", "...)
	digits(day)
	out = append(append(append(out, ' '), month.String()[:3]...), ' ')
	digits(year / 100)
	digits(year)
	out = append(out, ' ')
	digits(hour)
	out = append(out, ':')
	digits(minute)
	out = append(out, ':')
	digits(second)
	return append(out, " GMT"...)
}

func quoted(etag string) string { return `"` + etag + `"` }

func (s *server) putItem(keyOf keyFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		values, err := query(r, "ttl")
		if err != nil {
			return err
		}
		ttl, err := ttlParam(values)
		if err != nil {
			return err
		}
		key, err := keyOf(r)
		if err != nil {
			return err
		}
		required, err := precondition(r)
		if err != nil {
			return err
		}
		var value item.Value
		if err := s.withBody(w, r, func(body []byte) (err error) {
			value, err = item.Parse(key, body)
			return err
		}); err != nil {
			return err
		}
		written, err := s.store.Put(r.Context(), value, ttl, required)
		if err != nil {
			return err
		}
		return s.writeWritten(w, r, written)
	}
}

// writeWritten answers a write with the metadata of what was written.
func (s *server) writeWritten(w http.ResponseWriter, r *http.Request, written store.Written) error {
	setItemHeaders(w, written.Metadata)
	status := http.StatusOK
	if written.Created {
		status = http.StatusCreated
		w.Header().Set("Location", r.URL.EscapedPath())
	}
	writeBytes(w, status, appendMetadata(nil, written.Metadata))
	return nil
}

func (s *server) deleteItem(keyOf keyFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		key, err := bareItem(r, keyOf)
		if err != nil {
			return err
		}
		required, err := precondition(r)
		if err != nil {
			return err
		}
		if err := s.store.Delete(r.Context(), key, required); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

func (s *server) getItemMetadata(w http.ResponseWriter, r *http.Request) error {
	key, err := bareItem(r, itemKey)
	if err != nil {
		return err
	}
	metadata, err := s.store.Metadata(r.Context(), key)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, metadataOf(metadata))
}

func (s *server) touchItem(w http.ResponseWriter, r *http.Request) error {
	key, err := bareItem(r, itemKey)
	if err != nil {
		return err
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	ttl, err := parseTouch(body)
	if err != nil {
		return err
	}
	metadata, err := s.store.Touch(r.Context(), key, ttl)
	if err != nil {
		return err
	}
	setItemHeaders(w, metadata)
	return s.writeJSON(w, http.StatusOK, metadataOf(metadata))
}

// parseTouch reads `{ttl?}`; no body at all is as good as an empty object.
func parseTouch(body []byte) (*item.TTL, error) {
	if len(body) == 0 {
		return nil, nil
	}
	var ttl *item.TTL
	err := item.Decode(body, func(dec *jsontext.Decoder) error {
		return item.ReadObject(dec, func(name string) (err error) {
			if name != "ttl" {
				return item.UnknownField(dec, name)
			}
			ttl, err = readTTL(dec)
			return err
		})
	})
	return ttl, err
}

// readTTL reads a TTL as it stands in a body.
func readTTL(dec *jsontext.Decoder) (*item.TTL, error) {
	n, err := item.ReadInteger(dec, int64(item.MaxTTL), item.CodeInvalidTTL)
	return (*item.TTL)(&n), err
}

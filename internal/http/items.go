package http

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
		required, err := precondition(r)
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
		return writeItem(w, required, stored.Metadata, stored.JSON)
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
		required, err := precondition(r)
		if err != nil {
			return err
		}
		metadata, err := s.store.Metadata(r.Context(), key)
		if err != nil {
			return err
		}
		return writeItem(w, required, metadata, nil)
	}
}

// bareItem returns the key of a route that takes no query parameters.
func bareItem(r *http.Request, keyOf keyFunc) (item.Key, error) {
	if _, err := query(r); err != nil {
		return item.Key{}, err
	}
	return keyOf(r)
}

// writeItem answers a read of an item: with body, or as the precondition says.
// A nil body leaves its length open, for HEAD.
func writeItem(w http.ResponseWriter, required item.Precondition, metadata item.Metadata, body []byte) error {
	setItemHeaders(w, metadata)
	if !required.Holds(true, metadata.ETag) {
		if required.IfMatch != nil && !(item.Precondition{IfMatch: required.IfMatch}).Holds(true, metadata.ETag) {
			return item.ErrPreconditionFailed
		}
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header := w.Header()
	header["Content-Type"] = contentTypeJSON
	if body != nil {
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // a caller that has left reads no answer
	return nil
}

var (
	contentTypeJSON = []string{"application/json"}
	// A cache may keep an item but must ask before it uses it: anybody may write a
	// new one at any time.
	cacheControlRevalidate = []string{"no-cache"}
)

func setItemHeaders(w http.ResponseWriter, metadata item.Metadata) {
	header := w.Header()
	header["Etag"] = []string{quoted(metadata.ETag)}
	header["Last-Modified"] = []string{metadata.Updated.UTC().Format(http.TimeFormat)}
	header["Cache-Control"] = cacheControlRevalidate
	if !metadata.Expires.IsZero() {
		header["Stockroom-Expires"] = []string{metadata.Expires.UTC().Format(time.RFC3339Nano)}
	}
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
		body, err := s.readBody(w, r)
		if err != nil {
			return err
		}
		value, err := item.Parse(key, body)
		if err != nil {
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
	return s.writeJSON(w, status, metadataOf(written.Metadata))
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

func (s *server) listKeys(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "pattern", "limit", "cursor")
	if err != nil {
		return err
	}
	pattern, err := patternParam(values)
	if err != nil {
		return err
	}
	scope := "keys:" + values.Get("pattern")
	page, err := pageParams(values, scope)
	if err != nil {
		return err
	}
	keys, more, err := s.store.Keys(r.Context(), pattern, page)
	if err != nil {
		return err
	}
	list := KeyList{Keys: notNil(keys)}
	if more {
		list.NextCursor = newCursor(scope, keys[len(keys)-1])
	}
	return s.writeJSON(w, http.StatusOK, list)
}

func (s *server) clearItems(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "pattern")
	if err != nil {
		return err
	}
	pattern, err := patternParam(values)
	if err != nil {
		return err
	}
	cleared, err := s.store.Clear(r.Context(), pattern)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, ClearResult(cleared))
}

func (s *server) listComponents(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "limit", "cursor")
	if err != nil {
		return err
	}
	summaries, next, err := s.list(r, values, item.KindComponent, nil)
	if err != nil {
		return err
	}
	list := ComponentList{Items: make([]ComponentSummary, len(summaries)), NextCursor: next}
	for i, summary := range summaries {
		if list.Items[i], err = componentSummary(summary); err != nil {
			return err
		}
	}
	return s.writeJSON(w, http.StatusOK, list)
}

func (s *server) listBlocks(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "category", "limit", "cursor")
	if err != nil {
		return err
	}
	var category *string
	if values.Has("category") {
		text := values.Get("category")
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return &apiError{codeInvalidParameter, "category must be UTF-8 without U+0000"}
		}
		category = &text
	}
	summaries, next, err := s.list(r, values, item.KindBlock, category)
	if err != nil {
		return err
	}
	list := BlockList{Items: make([]BlockSummary, len(summaries)), NextCursor: next}
	for i, summary := range summaries {
		if list.Items[i], err = blockSummary(summary); err != nil {
			return err
		}
	}
	return s.writeJSON(w, http.StatusOK, list)
}

// list reads the page of a framework's items that a request asks for, with the
// cursor of the next page, "" where there is none.
func (s *server) list(r *http.Request, values url.Values, kind item.Kind, category *string) ([]item.Summary, string, error) {
	framework, err := pathParam(r, "framework")
	if err != nil {
		return nil, "", err
	}
	if err := item.CheckFramework(framework); err != nil {
		return nil, "", err
	}
	scope := string(kind) + ":" + framework + ":" + values.Get("category")
	page, err := pageParams(values, scope)
	if err != nil {
		return nil, "", err
	}
	summaries, more, err := s.store.List(r.Context(), kind, framework, category, page)
	if err != nil || !more {
		return summaries, "", err
	}
	return summaries, newCursor(scope, summaries[len(summaries)-1].Key.String()), nil
}

func (s *server) listFrameworks(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	frameworks, err := s.store.Frameworks(r.Context())
	if err != nil {
		return err
	}
	list := FrameworkList{Frameworks: make([]FrameworkUsage, len(frameworks))}
	for i, f := range frameworks {
		list.Frameworks[i] = FrameworkUsage{Framework: f.Framework, Components: f.Components, Blocks: f.Blocks, SizeBytes: f.Bytes}
	}
	return s.writeJSON(w, http.StatusOK, list)
}

func metadataOf(m item.Metadata) Metadata {
	return Metadata{
		Key: m.Key.String(), Kind: Kind(m.Key.Kind()), SizeBytes: m.Bytes,
		TTLSeconds: int64(m.TTL), TTLRemainingSeconds: remainingSeconds(m),
		CreatedAt: m.Created, UpdatedAt: m.Updated, AccessedAt: m.Accessed,
		AccessCount: m.AccessCount, ETag: quoted(m.ETag),
	}
}

// remainingSeconds rounds up, so that an item that is there never has 0 left.
func remainingSeconds(m item.Metadata) *int64 {
	if m.Expires.IsZero() {
		return nil
	}
	n := int64(math.Ceil(m.Remaining.Seconds()))
	return &n
}

func componentSummary(s item.Summary) (ComponentSummary, error) {
	m, c := metadataOf(s.Metadata), s.Component
	summary := ComponentSummary{
		Key: m.Key, Kind: m.Kind, SizeBytes: m.SizeBytes, TTLSeconds: m.TTLSeconds, TTLRemainingSeconds: m.TTLRemainingSeconds,
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt, AccessedAt: m.AccessedAt, AccessCount: m.AccessCount, ETag: m.ETag,
		Framework: s.Key.Framework(), Name: s.Key.Name(),
		GitHubSHA: c.GitHubSHA, FileSize: c.FileSize, LastModified: c.LastModified,
	}
	err := unmarshalStrings(c.Dependencies, &summary.Dependencies)
	if err == nil {
		err = unmarshalStrings(c.RegistryDependencies, &summary.RegistryDependencies)
	}
	return summary, err
}

func blockSummary(s item.Summary) (BlockSummary, error) {
	m, b := metadataOf(s.Metadata), s.Block
	summary := BlockSummary{
		Key: m.Key, Kind: m.Kind, SizeBytes: m.SizeBytes, TTLSeconds: m.TTLSeconds, TTLRemainingSeconds: m.TTLRemainingSeconds,
		CreatedAt: m.CreatedAt, UpdatedAt: m.UpdatedAt, AccessedAt: m.AccessedAt, AccessCount: m.AccessCount, ETag: m.ETag,
		Framework: s.Key.Framework(), Name: s.Key.Name(),
		Category: b.Category, Type: (*BlockType)(b.Type), Description: b.Description,
		TotalSize: b.TotalSize, GitHubSHA: b.GitHubSHA,
	}
	err := unmarshalStrings(b.Dependencies, &summary.Dependencies)
	if err == nil {
		err = unmarshalStrings(b.ComponentsUsed, &summary.ComponentsUsed)
	}
	return summary, err
}

func unmarshalStrings(raw *string, into *[]string) error {
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(*raw), into); err != nil {
		return fmt.Errorf("read a stored list: %w", err)
	}
	return nil
}

// notNil makes an absent list an empty one, which JSON writes as [].
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *server) writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := encode(v)
	if err != nil {
		return err
	}
	writeBytes(w, status, body)
	return nil
}

// encode is json.Marshal without its escaping for HTML, which makes texts with
// angle brackets hard to read in a terminal.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

func writeBytes(w http.ResponseWriter, status int, body []byte) {
	header := w.Header()
	header["Content-Type"] = contentTypeJSON
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that has left reads no answer
}

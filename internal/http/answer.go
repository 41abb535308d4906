package http

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

func metadataOf(m item.Metadata) Metadata {
	return Metadata{
		Key: m.Key.String(), Kind: Kind(m.Key.Kind()), SizeBytes: m.Bytes,
		TTLSeconds: int64(m.TTL), TTLRemainingSeconds: remainingSeconds(m),
		CreatedAt: m.Created, UpdatedAt: m.Updated, AccessedAt: m.Accessed,
		AccessCount: m.AccessCount, ETag: quoted(m.ETag),
	}
}

// appendMetadata appends the JSON of metadataOf(m), which answers each write: by way of
// reflection that would take as long as all else that is done to write the answer.
func appendMetadata(out []byte, m item.Metadata) []byte {
	const size = 320 // without the key
	out = append(slices.Grow(out, size+len(m.Key.String())), `{"key":`...)
	out = item.AppendQuote(out, m.Key.String())
	out = append(append(out, `,"kind":"`...), m.Key.Kind()...)
	out = strconv.AppendInt(append(out, `","sizeBytes":`...), m.Bytes, 10)
	out = strconv.AppendInt(append(out, `,"ttlSeconds":`...), int64(m.TTL), 10)
	out = append(out, `,"ttlRemainingSeconds":`...)
	if remaining := remainingSeconds(m); remaining != nil {
		out = strconv.AppendInt(out, *remaining, 10)
	} else {
		out = append(out, "null"...)
	}
	out = m.Created.AppendFormat(append(out, `,"createdAt":"`...), time.RFC3339Nano)
	out = m.Updated.AppendFormat(append(out, `","updatedAt":"`...), time.RFC3339Nano)
	out = m.Accessed.AppendFormat(append(out, `","accessedAt":"`...), time.RFC3339Nano)
	out = strconv.AppendInt(append(out, `","accessCount":`...), m.AccessCount, 10)
	out = item.AppendQuote(append(out, `,"etag":`...), quoted(m.ETag))
	return append(out, '}')
}

// remainingSeconds rounds up, so that an item that is there never has 0 left.
func remainingSeconds(m item.Metadata) *int64 {
	if m.Expires.IsZero() {
		return nil
	}
	n := int64(math.Ceil(m.Remaining.Seconds()))
	return &n
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
	w.Header()["Content-Type"] = contentTypeJSON
	setHeader(w, "Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller that has left reads no answer
}

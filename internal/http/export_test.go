package http

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/stockroom/stockroom/internal/item"
)

// Routes returns the routes that New serves, for the test that holds them
// against the contract.
func Routes() chi.Routes { return newServer(Config{}, Dependencies{}).router }

// Statuses returns a copy of the table of codes.
func Statuses() map[string]int {
	table := make(map[string]int, len(statuses))
	for code, status := range statuses {
		table[string(code)] = status
	}
	return table
}

// What the fuzz targets call.
var (
	NewCursor   = newCursor
	ParseCursor = parseCursor
)

// ParseTags parses a header with entity tags, as a request has it in lines.
func ParseTags(lines ...string) (*item.Tags, error) {
	return tagsHeader(&http.Request{Header: http.Header{"If-Match": lines}}, "If-Match")
}

// TitleOf returns the title of the problems of a code.
func TitleOf(c string) string { return newProblem(code(c), "").Title }

// AppendHTTPDate and AppendMetadata are what stands for slower ways to the same.
var (
	AppendHTTPDate = appendHTTPDate
	AppendMetadata = appendMetadata
)

// EncodeMetadata is the slower way to AppendMetadata.
func EncodeMetadata(m item.Metadata) ([]byte, error) { return encode(metadataOf(m)) }

// AppendMget is appendMget, for its benchmark.
var AppendMget = appendMget

// ParsePut returns a handler that does what that of a PUT does before it stores.
func ParsePut(key item.Key, maxBodyBytes int64) http.Handler {
	s := newServer(Config{MaxBodyBytes: maxBodyBytes}, Dependencies{})
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		if err := s.withBody(w, r, func(body []byte) error {
			_, err := item.Parse(key, body)
			return err
		}); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

// ParseMset likewise for an mset.
func ParseMset(maxBodyBytes int64) http.Handler {
	s := newServer(Config{MaxBodyBytes: maxBodyBytes, MaxBatch: 1000}, Dependencies{})
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		if err := s.withBody(w, r, func(body []byte) error {
			_, _, err := s.parseMset(body)
			return err
		}); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

package http_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom"
	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/telemetry"
	"github.com/stockroom/stockroom/internal/txn"
	"github.com/stockroom/stockroom/test/bench/input"
)

// benchHandler returns the whole handler over a database and a read cache, as a
// server has it that logs no requests.
func benchHandler(b *testing.B) http.Handler {
	b.Helper()
	const slots = 16
	logger := telemetry.NewLogger(io.Discard, slog.LevelWarn, "json")
	measured, err := telemetry.Setup(b.Context(), telemetry.Options{Getenv: func(string) string { return "" }})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, measured.Shutdown(context.Background())) })
	db, err := postgres.Open(postgres.Config{DSN: pgtest.New(b), MaxConns: slots, ConnectTimeout: patience})
	require.NoError(b, err)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(b, db.Close(ctx))
	})
	units := txn.New(db, limit.NewGate(slots, 1024, patience), logger)
	return stockhttp.New(
		stockhttp.Config{MaxBodyBytes: 8 << 20, MaxBatch: 1000, RequestTimeout: time.Minute},
		stockhttp.Dependencies{
			Store: store.New(units, store.Options{Cache: readcache.New(64<<20, time.Hour), Metrics: measured.Metrics}),
			Log:   logger, Contract: stockroom.OpenAPI,
			Serving:  func() error { return nil },
			NotReady: func(context.Context) []string { return nil },
			Metrics:  measured.Metrics, MetricsHandler: measured.MetricsHandler(),
		})
}

// nowhere is a connection's side of an answer, without the connection: what it
// allocates is what the handler makes it allocate.
type nowhere struct {
	header http.Header
	status int
}

func (n *nowhere) Header() http.Header { return n.header }

func (n *nowhere) WriteHeader(status int) { n.status = status }

func (n *nowhere) Write(p []byte) (int, error) {
	if n.status == 0 {
		n.status = http.StatusOK
	}
	return len(p), nil
}

// serveOnce answers a request with a body, as net/http would once it has read its head.
func (n *nowhere) serveOnce(b *testing.B, handler http.Handler, r *http.Request, body *bytes.Reader, status int) {
	b.Helper()
	clear(n.header)
	n.status = 0
	if body != nil {
		_, _ = body.Seek(0, io.SeekStart) // a reader of bytes always can
	}
	handler.ServeHTTP(n, r)
	if n.status != status {
		b.Fatalf("%s %s answers %d", r.Method, r.URL, n.status)
	}
}

// repeat measures the answer to one request.
func repeat(b *testing.B, handler http.Handler, method, path, body string, status int) {
	b.Helper()
	content := bytes.NewReader([]byte(body))
	r := httptest.NewRequestWithContext(b.Context(), method, path, content)
	r.Header.Set("User-Agent", "bench")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := &nowhere{header: make(http.Header)}
	w.serveOnce(b, handler, r, content, status) // what is made once is not counted
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		w.serveOnce(b, handler, r, content, status)
	}
}

// medianBody is a component of the size that the middle one of a registry has.
func medianBody(b *testing.B) string {
	b.Helper()
	set, err := input.Generate(101)
	require.NoError(b, err)
	return string(set.Sample(1)[0])
}

func mustPut(b *testing.B, handler http.Handler, path, body string) {
	b.Helper()
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(b.Context(), http.MethodPut, path, strings.NewReader(body)))
	require.Equal(b, http.StatusCreated, w.Code, w.Body)
}

// benchItem is the path of the item that is read.
const benchItem = "/v1/items/component:bench:button"

// BenchmarkGetCached is a GET that the read cache answers, through all middleware.
func BenchmarkGetCached(b *testing.B) {
	handler := benchHandler(b)
	mustPut(b, handler, benchItem, medianBody(b))
	repeat(b, handler, http.MethodGet, benchItem, "", http.StatusOK)
}

// BenchmarkGetBareChi is the yardstick of BenchmarkGetCached: the same router with a
// handler that finds the same bytes in a map.
func BenchmarkGetBareChi(b *testing.B) {
	values := map[string][]byte{"component:bench:button": []byte(medianBody(b))}
	router := chi.NewRouter()
	router.Get("/v1/items/{key}", func(w http.ResponseWriter, r *http.Request) {
		body := values[chi.URLParam(r, "key")]
		header := w.Header()
		header["Content-Type"] = []string{"application/json"}
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
		_, _ = w.Write(body)
	})
	repeat(b, router, http.MethodGet, benchItem, "", http.StatusOK)
}

// BenchmarkPut replaces an item, with its transaction.
func BenchmarkPut(b *testing.B) {
	handler, body := benchHandler(b), medianBody(b)
	mustPut(b, handler, benchItem, body)
	repeat(b, handler, http.MethodPut, benchItem, body, http.StatusOK)
}

// BenchmarkMget reads a batch of 100.
func BenchmarkMget(b *testing.B) {
	handler, body := benchHandler(b), medianBody(b)
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = `"component:bench:` + strconv.Itoa(i) + `"`
		mustPut(b, handler, "/v1/items/"+strings.Trim(keys[i], `"`), body)
	}
	repeat(b, handler, http.MethodPost, "/v1/mget", `{"keys":[`+strings.Join(keys, ",")+`]}`, http.StatusOK)
}

// BenchmarkMset stores a batch of 100, with its transaction.
func BenchmarkMset(b *testing.B) {
	repeat(b, benchHandler(b), http.MethodPost, "/v1/mset", msetOf(medianBody(b)), http.StatusOK)
}

// BenchmarkParsePut reads and parses the body of a PUT: all that one costs before
// its transaction begins.
func BenchmarkParsePut(b *testing.B) {
	key, err := item.ParseKey("component:bench:button")
	require.NoError(b, err)
	repeat(b, stockhttp.ParsePut(key, 8<<20), http.MethodPut, benchItem, medianBody(b), http.StatusOK)
}

// BenchmarkParseMset likewise for a batch of 100.
func BenchmarkParseMset(b *testing.B) {
	repeat(b, stockhttp.ParseMset(8<<20), http.MethodPost, "/v1/mset", msetOf(medianBody(b)), http.StatusOK)
}

// BenchmarkEncodeMget writes the answer of an mget of 100 around the stored bytes.
func BenchmarkEncodeMget(b *testing.B) {
	body := []byte(medianBody(b))
	keys := make([]item.Key, 100)
	found := make([]item.Stored, len(keys))
	for i := range keys {
		key, err := item.ComponentKey("bench", strconv.Itoa(i))
		require.NoError(b, err)
		keys[i], found[i] = key, item.Stored{Metadata: item.Metadata{Key: key}, JSON: body}
	}
	b.SetBytes(int64(len(keys) * len(body)))
	b.ReportAllocs()
	var out []byte
	for b.Loop() {
		var err error
		if out, err = stockhttp.AppendMget(out[:0], keys, found); err != nil {
			b.Fatal(err)
		}
	}
}

func msetOf(body string) string {
	var out strings.Builder
	out.WriteString(`{"entries":{`)
	for i := range 100 {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(`"component:bench:` + strconv.Itoa(i) + `":` + body)
	}
	out.WriteString(`}}`)
	return out.String()
}

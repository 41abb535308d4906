package http_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom"
	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/telemetry"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestMain(m *testing.M) {
	decodeText()
	pgtest.Main(m)
}

const (
	// testSlots is few, since many tests have connections at the same time.
	testSlots = 4
	// patience bounds every wait for something that happens by itself. It is far
	// more than is needed, since a loaded machine is no defect.
	patience = 20 * time.Second
)

// bundle is a service with a database of its own, and what a test needs to use it
// and to look behind it.
type bundle struct {
	t      testing.TB
	URL    string
	client *http.Client // checks all that goes through it against the contract
	conn   *pgx.Conn    // a connection of the test's own, for one at a time
	inUse  *sync.Mutex  // is held by who uses it
	store  *store.Store
	gate   *limit.Gate
	db     *postgres.DB
	log    *logRecorder
	// another serves the same store with another configuration and returns its
	// URL.
	another func(change func(*settings)) string
}

// settings are what a test may want to be otherwise.
type settings struct {
	config       stockhttp.Config
	dependencies stockhttp.Dependencies
	options      store.Options
	gate         *limit.Gate
	connections  int32
	dsn          string          // of another database than the test's own
	base         context.Context // of all requests
	faulty       bool            // the test makes the service log errors
}

func defaultTTL(ttl item.TTL) func(*settings) {
	return func(s *settings) { s.options.DefaultTTL = ttl }
}

func limits(bodyBytes int64, batch int) func(*settings) {
	return func(s *settings) { s.config.MaxBodyBytes, s.config.MaxBatch = bodyBytes, batch }
}

// slots is for tests whose requests get in each other's way.
func slots(n int) func(*settings) {
	return func(s *settings) {
		s.gate = limit.NewGate(n, 1024, patience)
		s.connections = int32(n)
	}
}

// faulty is for tests that make the service fail, which it logs.
func faulty(s *settings) { s.faulty = true }

// setup starts a service for one test. When the test ends, everything that was
// taken must have been given back, nothing may have been logged as an error, and
// the usage counters must agree with the rows.
func setup(t testing.TB, changes ...func(*settings)) *bundle {
	t.Helper()
	log := newLogRecorder()
	logger := telemetry.NewLogger(log, slog.LevelDebug, "json")
	measured, err := telemetry.Setup(t.Context(), telemetry.Options{Getenv: func(string) string { return "" }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, measured.Shutdown(context.Background())) })
	s := settings{
		config: stockhttp.Config{MaxBodyBytes: 8 << 20, MaxBatch: 1000, RequestTimeout: time.Minute},
		dependencies: stockhttp.Dependencies{
			Log:      logger,
			Contract: stockroom.OpenAPI,
			Serving:  func() error { return nil },
			NotReady: func(context.Context) []string { return nil },
			Metrics:  measured.Metrics, MetricsHandler: measured.MetricsHandler(),
		},
		gate:        limit.NewGate(testSlots, 1024, patience),
		connections: testSlots,
		base:        context.Background(),
	}
	for _, change := range changes {
		change(&s)
	}
	dsn := pgtest.New(t)
	b := &bundle{t: t, conn: pgtest.Connect(t, dsn), inUse: new(sync.Mutex), gate: s.gate, log: log}
	t.Cleanup(func() { b.requireUsageIsTrue() })

	b.db, err = postgres.Open(postgres.Config{
		DSN: cmp.Or(s.dsn, dsn), MaxConns: s.connections, ConnectTimeout: patience,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, b.db.Close(ctx))
	})
	// No cache in front of the database: what a test changes there behind the
	// service's back must show at once.
	b.store = store.New(txn.New(b.db, b.gate, logger), s.options)
	s.dependencies.Store = b.store

	t.Cleanup(func() { // once the servers have ended
		// What a request has left behind ends by itself, but not before its answer.
		require.Eventually(t, func() bool {
			gate := b.gate.State()
			return gate.InUse == 0 && gate.Waiting == 0 && b.db.Stat().AcquiredConns() == 0
		}, patience, time.Millisecond, "slots or connections are not given back")
		if !s.faulty {
			require.Empty(t, log.find(func(r logRecord) bool { return r.Level == "ERROR" }), "the service has logged errors")
		}
	})
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	b.client = &http.Client{
		Transport:     contractTransport{transport, loadContract(t)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	b.URL = serve(t, s)
	b.another = func(change func(*settings)) string {
		changed := s
		change(&changed)
		return serve(t, changed)
	}
	return b
}

// serve returns the URL of a server that lives as long as the test.
func serve(t testing.TB, s settings) string {
	t.Helper()
	server := httptest.NewUnstartedServer(stockhttp.New(s.config, s.dependencies))
	server.Config.BaseContext = func(net.Listener) context.Context { return s.base }
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// on is the bundle for a subtest.
func (b *bundle) on(t testing.TB) *bundle {
	t.Helper()
	sub := *b
	sub.t = t
	return &sub
}

// at is the bundle with its requests going to another server.
func (b *bundle) at(url string) *bundle {
	other := *b
	other.URL = url
	return &other
}

// requireUsageIsTrue compares the counters with what is in the tables.
func (b *bundle) requireUsageIsTrue() {
	b.t.Helper()
	type row struct {
		ComponentItems, BlockItems, EntryItems int64
		ComponentBytes, BlockBytes, EntryBytes int64
	}
	read := func(sql string) row {
		rows, err := b.conn.Query(context.Background(), sql) // the test's own context has ended
		require.NoError(b.t, err)
		got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
		require.NoError(b.t, err)
		return got
	}
	counted := read(`SELECT sum(component_items)::bigint, sum(block_items)::bigint, sum(entry_items)::bigint,
		sum(component_bytes)::bigint, sum(block_bytes)::bigint, sum(entry_bytes)::bigint FROM usage_counters`)
	stored := read(`SELECT (SELECT count(*) FROM components), (SELECT count(*) FROM blocks), (SELECT count(*) FROM entries),
		(SELECT coalesce(sum(bytes), 0)::bigint FROM components), (SELECT coalesce(sum(bytes), 0)::bigint FROM blocks),
		(SELECT coalesce(sum(bytes), 0)::bigint FROM entries)`)
	require.Equal(b.t, stored, counted, "usage_counters is not the sum over the rows")
}

// exec runs a statement on the test's own connection.
func (b *bundle) exec(sql string, args ...any) {
	b.t.Helper()
	b.changed(sql, args...)
}

// changed runs a statement and returns how many rows it has changed.
func (b *bundle) changed(sql string, args ...any) int {
	b.t.Helper()
	b.inUse.Lock()
	defer b.inUse.Unlock()
	tag, err := b.conn.Exec(b.t.Context(), sql, args...)
	require.NoError(b.t, err)
	return int(tag.RowsAffected())
}

// expire makes items expire a second ago.
func (b *bundle) expire(keys ...string) {
	b.t.Helper()
	b.expireIn(-time.Second, keys...)
}

// expireIn makes items expire after a time from now on, whatever their TTL.
func (b *bundle) expireIn(after time.Duration, keys ...string) {
	b.t.Helper()
	n := 0
	for _, table := range []string{"components", "blocks", "entries"} {
		n += b.changed(`UPDATE `+table+` SET expires_at = now() + $1 * interval '1 second' WHERE key = ANY($2)`, after.Seconds(), keys)
	}
	require.Equal(b.t, len(keys), n, "items to expire")
}

// flushMarks writes the accesses that are still in memory.
func (b *bundle) flushMarks() {
	b.t.Helper()
	require.NoError(b.t, b.store.FlushMarks(b.t.Context()))
}

// call is what the transport knows of a request besides the request.
type call struct {
	t    testing.TB
	mark mark
}

// mark says whether a request is as the contract has it.
type mark int

const (
	good  mark = iota // it is, and must not be refused as if it were not
	bad               // it is not, and must be refused
	loose             // it is more than the contract promises to take
)

type callKey struct{}

// option changes a request.
type option func(*http.Request, *call)

func marked(m mark) option { return func(_ *http.Request, c *call) { c.mark = m } }

func header(name, value string) option {
	return func(r *http.Request, _ *call) { r.Header.Add(name, value) }
}

// body sends text as JSON.
func body(text string) option {
	return func(r *http.Request, _ *call) {
		r.Header.Set("Content-Type", "application/json")
		r.Body = io.NopCloser(strings.NewReader(text))
		r.ContentLength = int64(len(text))
		if text == "" {
			r.Body = http.NoBody
		}
	}
}

// bodyOf sends v as JSON.
func bodyOf(v any) option {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body(string(text))
}

// contentType sends the body as another type, "" for none.
func contentType(name string) option {
	return func(r *http.Request, _ *call) {
		r.Header.Set("Content-Type", name)
		if name == "" {
			r.Header.Del("Content-Type")
		}
	}
}

// chunked sends the body without a Content-Length.
func chunked(r *http.Request, _ *call) { r.ContentLength = -1 }

func within(ctx context.Context) option {
	return func(r *http.Request, _ *call) {
		*r = *r.WithContext(context.WithValue(ctx, callKey{}, r.Context().Value(callKey{})))
	}
}

// answer is what came back.
type answer struct {
	t      testing.TB
	what   string // of the request
	status int
	header http.Header
	body   string
}

// try sends a request. Unlike do it may be called by any goroutine.
func (b *bundle) try(method, path string, options ...option) (*answer, error) {
	c := &call{t: b.t}
	ctx := context.WithValue(b.t.Context(), callKey{}, c)
	req, err := http.NewRequestWithContext(ctx, method, b.URL+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	for _, option := range options {
		option(req, c)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{t: b.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: string(content)}, nil
}

// do sends a request and returns the answer, whatever its status.
func (b *bundle) do(method, path string, options ...option) *answer {
	b.t.Helper()
	a, err := b.try(method, path, options...)
	require.NoError(b.t, err)
	return a
}

func (b *bundle) get(path string, options ...option) *answer {
	b.t.Helper()
	return b.do(http.MethodGet, path, options...)
}

func (b *bundle) put(path, text string, options ...option) *answer {
	b.t.Helper()
	return b.do(http.MethodPut, path, append([]option{body(text)}, options...)...)
}

func (b *bundle) post(path, text string, options ...option) *answer {
	b.t.Helper()
	return b.do(http.MethodPost, path, append([]option{body(text)}, options...)...)
}

// stored puts an item that is not there yet and returns its metadata.
func (b *bundle) stored(key, text string) metadata {
	b.t.Helper()
	return b.put(itemPath(key), text).is(http.StatusCreated).metadata()
}

// onlyA leaves one entry in the store, under the key a.
func (b *bundle) onlyA() {
	b.t.Helper()
	b.do(http.MethodDelete, "/v1/items").is(http.StatusOK)
	b.stored("a", "1")
}

// metadata reads an item's metadata.
func (b *bundle) metadata(key string) metadata {
	b.t.Helper()
	return b.get(itemPath(key) + "/metadata").is(http.StatusOK).metadata()
}

// keys walks the whole list of the keys that match pattern.
func (b *bundle) keys(pattern string, limit int) []string {
	b.t.Helper()
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if pattern != "" {
		query.Set("pattern", pattern)
	}
	return walk[string](b, "/v1/items", "keys", query, nil)
}

// walk follows the cursors of a list to its end, calling between after each page.
func walk[T any](b *bundle, path, member string, query url.Values, between func(page int)) []T {
	b.t.Helper()
	query = maps.Clone(query)
	all := []T{}
	for page := 1; ; page++ {
		list := decode[map[string]json.RawMessage](b.get(path + "?" + query.Encode()).is(http.StatusOK))
		var part []T
		require.NoError(b.t, json.Unmarshal(list[member], &part))
		if limit, err := strconv.Atoi(query.Get("limit")); err == nil {
			require.LessOrEqual(b.t, len(part), limit, "more than the limit")
		}
		all = append(all, part...)
		if page > 1 && between == nil {
			require.NotEmpty(b.t, part, "a cursor with nothing behind it")
		}
		if list["nextCursor"] == nil {
			return all
		}
		require.Less(b.t, page, 10_000, "the list does not end")
		var cursor string
		require.NoError(b.t, json.Unmarshal(list["nextCursor"], &cursor))
		query.Set("cursor", cursor)
		if between != nil {
			between(page)
		}
	}
}

// is requires a status.
func (a *answer) is(status int) *answer {
	a.t.Helper()
	require.Equal(a.t, status, a.status, "%s: %s", a.what, a.body)
	return a
}

// place is one element of a problem's errors, without its text.
type place struct {
	Key     string `json:"key"`
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
}

// problem is an answer that says what went wrong.
type problem struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Code      string  `json:"code"`
	Detail    string  `json:"detail"`
	Instance  string  `json:"instance"`
	RequestID string  `json:"request_id"`
	Errors    []place `json:"errors"`
	Message   string  `json:"message"`
}

// fails requires a problem, whose form the transport has checked already, with
// these places and no others.
func (a *answer) fails(status int, code string, places ...place) problem {
	a.t.Helper()
	a.is(status)
	p := decode[problem](a)
	require.Equal(a.t, code, p.Code, "%s: %s", a.what, a.body)
	require.Equal(a.t, places, p.Errors, "%s: %s", a.what, a.body)
	return p
}

// at is the place of a single error.
func at(pointer, code string) []place {
	if pointer == "" {
		return nil
	}
	return []place{{Pointer: pointer, Code: code}}
}

// decode reads a JSON answer.
func decode[T any](a *answer) T {
	a.t.Helper()
	var v T
	require.NoError(a.t, json.Unmarshal([]byte(a.body), &v), "%s: %s", a.what, a.body)
	return v
}

// metadata is the metadata of an item as the service gives it.
type metadata struct {
	Key                 string    `json:"key"`
	Kind                string    `json:"kind"`
	SizeBytes           int64     `json:"sizeBytes"`
	TTLSeconds          int64     `json:"ttlSeconds"`
	TTLRemainingSeconds *int64    `json:"ttlRemainingSeconds"`
	CreatedAt           time.Time `json:"createdAt"`
	UpdatedAt           time.Time `json:"updatedAt"`
	AccessedAt          time.Time `json:"accessedAt"`
	AccessCount         int64     `json:"accessCount"`
	ETag                string    `json:"etag"`
}

func (a *answer) metadata() metadata {
	a.t.Helper()
	return decode[metadata](a)
}

// mgetResult is the answer of mget.
type mgetResult struct {
	Items   map[string]json.RawMessage `json:"items"`
	Missing []string                   `json:"missing"`
}

func itemPath(key string) string { return "/v1/items/" + url.PathEscape(key) }

// namedPath is the path of a component or a block by its framework and name.
func namedPath(kind, framework, name string) string {
	return "/v1/" + kind + "s/" + url.PathEscape(framework) + "/" + url.PathEscape(name)
}

func registryPath(framework, name string) string {
	return "/r/" + url.PathEscape(framework) + "/" + url.PathEscape(name) + ".json"
}

// requireSameJSON compares JSON values; numbers must have the same digits.
func requireSameJSON(t testing.TB, want, got string, what string) {
	t.Helper()
	require.Equal(t, parsed(t, want), parsed(t, got), what)
}

func parsed(t testing.TB, text string) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	require.NoError(t, decoder.Decode(&v), text)
	return v
}

// hold runs a statement in a transaction of the test's own and returns what ends
// it; until then its locks are in the way of others.
func (b *bundle) hold(sql string, args ...any) (release func()) {
	b.t.Helper()
	tx, err := b.conn.Begin(b.t.Context())
	require.NoError(b.t, err)
	_, err = tx.Exec(b.t.Context(), sql, args...)
	require.NoError(b.t, err)
	return sync.OnceFunc(func() {
		if err := tx.Rollback(context.Background()); err != nil {
			b.t.Errorf("give back the locks: %v", err)
		}
	})
}

// waitForBlocked returns once so many connections wait for a lock of the test's own.
func (b *bundle) waitForBlocked(n int) {
	b.t.Helper()
	b.until("connections wait for a lock", func() bool {
		var blocked int
		require.NoError(b.t, b.conn.QueryRow(b.t.Context(), `SELECT count(DISTINCT l.pid) FROM pg_locks l
			WHERE NOT l.granted AND pg_backend_pid() = ANY(pg_blocking_pids(l.pid))`).Scan(&blocked))
		return blocked >= n
	})
}

// until asks the database again and again, which takes its time by itself, until
// something is true.
func (b *bundle) until(what string, done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		require.True(b.t, time.Now().Before(deadline), "waited in vain until %s", what)
		b.exec(`SELECT`)
	}
}

// logRecord is what the tests look at in a line of the log.
type logRecord struct {
	Level     string `json:"level"`
	Message   string `json:"msg"`
	Status    int    `json:"status"`
	Method    string `json:"method"`
	Route     string `json:"route"`
	RequestID string `json:"request_id"`
	Error     string `json:"error"`
}

// logRecorder keeps what a service logs.
type logRecorder struct {
	mu      sync.Mutex
	records []logRecord
	changed chan struct{} // closed at the next record
}

func newLogRecorder() *logRecorder { return &logRecorder{changed: make(chan struct{})} }

// Write takes one line.
func (l *logRecorder) Write(line []byte) (int, error) {
	var record logRecord
	if err := json.Unmarshal(bytes.TrimSpace(line), &record); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, record)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(line), nil
}

func (l *logRecorder) find(matches func(logRecord) bool) []logRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.records), func(r logRecord) bool { return !matches(r) })
}

// waitFor returns the first record that matches once there is one.
func (l *logRecorder) waitFor(t testing.TB, matches func(logRecord) bool) logRecord {
	t.Helper()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if found := l.find(matches); len(found) > 0 {
			return found[0]
		}
		select {
		case <-changed:
		case <-timeout:
			require.Fail(t, "the log has not got what was waited for")
		}
	}
}

package app_test

import (
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// metrics returns the samples of /metrics by name and labels. What the tests look
// at is whole; of what is not, the whole part.
func (i *instance) metrics() map[string]int64 {
	i.t.Helper()
	samples := map[string]int64{}
	for text := range strings.Lines(i.must(http.MethodGet, "/metrics", "").body) {
		at := strings.LastIndexByte(text, ' ')
		if at < 0 || text[0] == '#' {
			continue
		}
		number, err := strconv.ParseFloat(strings.TrimSpace(text[at:]), 64)
		require.NoError(i.t, err, "%s", text)
		samples[text[:at]] = int64(number)
	}
	return samples
}

// samplesOf returns those of samples whose name is one of names.
func samplesOf(samples map[string]int64, names ...string) map[string]int64 {
	found := map[string]int64{}
	for sample, value := range samples {
		name, _, _ := strings.Cut(sample, "{")
		if slices.Contains(names, name) {
			found[sample] = value
		}
	}
	return found
}

func sum(values map[string]int64) (n int64) {
	for _, value := range values {
		n += value
	}
	return n
}

// shows waits until the metrics of some names are exactly these: what a request
// counts, it counts a moment after its answer.
func (i *instance) shows(want map[string]int64, names ...string) {
	i.t.Helper()
	var got map[string]int64
	for deadline := time.Now().Add(soon); ; {
		if got = samplesOf(i.metrics(), names...); maps.Equal(want, got) {
			return
		}
		if time.Now().After(deadline) {
			require.Equal(i.t, want, got)
		}
	}
}

// waitingForLocks tells how many of the service's sessions wait for one.
func (i *instance) waitingForLocks(t testing.TB, query func(sql string) int) int {
	t.Helper()
	return query(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'stockroom' AND cardinality(pg_blocking_pids(pid)) > 0`)
}

// blocker is a transaction of the test's own that is in the service's way.
type blocker struct {
	t     testing.TB
	query func(sql string) int
	exec  func(sql string)
	end   func(how string)
}

// block runs a statement in a transaction that stays open until its end, "COMMIT"
// or "ROLLBACK".
func (i *instance) block(t testing.TB, sql string) *blocker {
	t.Helper()
	conn := pgtest.Connect(t, i.dsn)
	b := &blocker{t: t}
	b.exec = func(sql string) {
		t.Helper()
		_, err := conn.Exec(context.Background(), sql)
		require.NoError(t, err)
	}
	b.query = func(sql string) (n int) {
		t.Helper()
		require.NoError(t, conn.QueryRow(context.Background(), sql).Scan(&n))
		return n
	}
	b.exec("BEGIN")
	b.exec(sql)
	b.end = func(how string) { t.Helper(); b.exec(how) }
	return b
}

// loseASession has a session of the service cut in a write of the item a.
func (i *instance) loseASession(t testing.TB) *blocker {
	t.Helper()
	b := i.block(t, "UPDATE entries SET version = version WHERE key = 'a'")
	killed := make(chan reply, 1)
	go func() {
		r, _ := i.try(context.WithoutCancel(t.Context()), http.MethodPut, "/v1/items/a", "2")
		killed <- r
	}()
	until(t, "the session is cut", func() bool {
		return b.query(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'stockroom' AND pg_backend_pid() = ANY (pg_blocking_pids(pid))`) > 0
	})
	require.Equal(t, "unavailable", (<-killed).code())
	return b
}

// requestSample is the name of the sample that counts a request.
func requestSample(method string, status int, route string) string {
	var labels strings.Builder
	label := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&labels, ",%s=%q", name, value)
		}
	}
	if status >= http.StatusInternalServerError {
		label("error_type", strconv.Itoa(status))
	}
	label("http_request_method", method)
	label("http_response_status_code", strconv.Itoa(status))
	label("http_route", route)
	label("url_scheme", "http")
	return "http_server_request_duration_seconds_count{" + labels.String()[1:] + "}"
}

func TestMetricsCountEveryRequest(t *testing.T) {
	t.Parallel()
	i := launch(t, nil)
	want := map[string]int64{}
	send := func(method, path, route, body string, headers ...string) {
		t.Helper()
		r := i.send(method, path, body, headers...)
		if method == "BREW" {
			method = "_OTHER"
		}
		want[requestSample(method, r.status, route)]++
	}
	for n, o := range contractOperations(t) {
		if o.pattern == "/metrics" {
			continue // each look at the counts is one
		}
		for range n%3 + 1 {
			send(o.method, o.path("x"), o.pattern, "{}")
		}
	}
	const item = "/v1/items/{key}"
	for range 3 {
		send(http.MethodPut, "/v1/items/"+strconv.Itoa(len(want)), item, "1")
		send(http.MethodPut, "/v1/items/a%2Fb", item, "{")
		send(http.MethodPut, "/v1/items/component:x", item, "1")
		send(http.MethodPut, "/v1/items/a", item, "1", "If-Match", `"x"`)
		send(http.MethodPut, "/v1/items/a", item, "1", "Content-Type", "text/plain")
		send(http.MethodPut, "/v1/items/a", item, "1", "Sec-Fetch-Site", "cross-site")
		send(http.MethodPut, "/v1/components/x/y", "/v1/components/{framework}/{name}", "{}")
		send(http.MethodGet, "/r/x/none.json", "/r/{framework}/{name}.json", "")
	}
	// What has no route has no label of one: paths are without number.
	send(http.MethodGet, "/nowhere", "", "")
	send(http.MethodGet, "/nowhere/"+strings.Repeat("else/", 10), "", "")
	send(http.MethodPatch, "/v1/items/a", "", "1")
	send("BREW", "/v1/items/a", "", "1")
	send("BREW", "/nowhere", "", "")
	var got map[string]int64
	until(t, "everything is counted", func() bool {
		got = samplesOf(i.metrics(), "http_server_request_duration_seconds_count")
		maps.DeleteFunc(got, func(sample string, _ int64) bool { return strings.Contains(sample, `http_route="/metrics"`) })
		return sum(got) >= sum(want)
	})
	require.Equal(t, want, got)
}

func TestCountersSayWhatHappened(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{
		"STOCKROOM_MAX_BYTES": "2000", "STOCKROOM_CACHE_MAX_STALENESS": "1h", "STOCKROOM_SWEEP_INTERVAL": "1h", "STOCKROOM_ACCESS_FLUSH_INTERVAL": "1h",
	})
	conn := pgtest.Connect(t, i.dsn)
	get := func(path string, status, times int, headers ...string) {
		t.Helper()
		for range times {
			require.Equal(t, status, i.send(http.MethodGet, path, "", headers...).status, path)
		}
	}
	component := func(size int) string { return `{"sourceCode":"","fileSize":` + strconv.Itoa(size) + `}` }
	i.must(http.MethodPut, "/v1/items/e", "1")
	i.must(http.MethodPut, "/v1/components/f/c", component(100))
	i.must(http.MethodPut, "/v1/blocks/f/b", `{"files":[],"totalSize":200}`)

	// Hits and misses, by kind.
	get("/v1/items/e", 200, 4)                                     // a miss, three hits
	get("/v1/items/none", 404, 2)                                  // two misses
	get("/v1/components/f/c", 200, 2)                              // a miss, a hit
	get("/v1/items/component:f:c", 200, 1)                         // a hit
	get("/v1/components/f/c", 200, 1, "Cache-Control", "no-cache") // is no read of the cache
	get("/v1/items/block:f:none", 404, 1)                          // a miss
	get("/v1/blocks/f/b", 200, 3)                                  // a miss, two hits
	i.must(http.MethodPut, "/v1/blocks/f/b", `{"files":[],"totalSize":200}`)
	get("/v1/blocks/f/b", 200, 1)       // a miss
	get("/r/f/c.json", 200, 1)          // a hit
	get("/v1/items/e/metadata", 200, 1) // none of these reads the cache
	get("/v1/components/f", 200, 1)
	i.must(http.MethodHead, "/v1/items/e", "")
	require.Equal(t, 200, i.send(http.MethodPost, "/v1/mget", `{"keys":["e","component:f:c"]}`, "Cache-Control", "no-cache").status)
	hits := map[string]int64{"entry": 3, "component": 3, "block": 2}
	misses := map[string]int64{"entry": 3, "component": 1, "block": 3}
	byKind := func(name string, values map[string]int64) map[string]int64 {
		samples := map[string]int64{}
		for kind, value := range values {
			samples[fmt.Sprintf("%s{kind=%q}", name, kind)] = value
		}
		return samples
	}
	i.shows(byKind("stockroom_cache_hits_total", hits), "stockroom_cache_hits_total")
	i.shows(byKind("stockroom_cache_misses_total", misses), "stockroom_cache_misses_total")

	// Expirations: when they are deleted, whoever does it.
	for _, key := range []string{"component:f:x1", "component:f:x2"} {
		i.must(http.MethodPut, "/v1/items/"+key+"?ttl=60", component(10))
	}
	i.must(http.MethodPut, "/v1/items/x?ttl=60", "1")
	expire := func() {
		t.Helper()
		for _, table := range []string{"components", "blocks", "entries"} {
			_, err := conn.Exec(t.Context(), "UPDATE "+table+" SET expires_at = now() - interval '1 second' WHERE ttl_seconds > 0")
			require.NoError(t, err)
		}
	}
	expire()
	var maintained struct{ Expired, Evicted, SizeBytes, Items int64 }
	decodeReply(t, i.must(http.MethodPost, "/v1/maintenance", "{}"), &maintained)
	require.EqualValues(t, 3, maintained.Expired)
	require.EqualValues(t, 0, maintained.Evicted)
	i.must(http.MethodPut, "/v1/items/block:f:x?ttl=60", `{"files":[],"totalSize":10}`)
	expire()
	// A write that has no room: 301 bytes are kept, 10 have expired.
	i.must(http.MethodPut, "/v1/items/component:f:large", component(1699))
	expired := map[string]int64{"component": 2, "entry": 1, "block": 1}
	i.shows(byKind("stockroom_expirations_total", expired), "stockroom_expirations_total")
	i.shows(byKind("stockroom_evictions_total", map[string]int64{"component": 0, "entry": 0, "block": 0}), "stockroom_evictions_total")

	// Evictions: one byte too many takes the item that was used longest ago.
	_, err := conn.Exec(t.Context(), `UPDATE blocks SET accessed_at = accessed_at - interval '2 hours'`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `UPDATE entries SET accessed_at = accessed_at - interval '1 hour'`)
	require.NoError(t, err)
	i.must(http.MethodPost, "/v1/maintenance", `{"evictItems":0}`) // what has been read is written now
	_, err = conn.Exec(t.Context(), `UPDATE entries SET accessed_at = accessed_at - interval '1 hour'`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `UPDATE blocks SET accessed_at = accessed_at - interval '2 hours'`)
	require.NoError(t, err)
	i.must(http.MethodPut, "/v1/items/component:f:small", component(1))
	get("/v1/blocks/f/b", 404, 1) // a miss
	misses["block"]++
	decodeReply(t, i.must(http.MethodPost, "/v1/maintenance", `{"evictItems":2}`), &maintained)
	require.EqualValues(t, 2, maintained.Evicted)
	get("/v1/items/e", 404, 1) // a miss: that was one of them
	misses["entry"]++
	evicted := map[string]int64{"block": 1, "entry": 1, "component": 1}
	i.shows(byKind("stockroom_evictions_total", evicted), "stockroom_evictions_total")
	i.shows(byKind("stockroom_cache_misses_total", misses), "stockroom_cache_misses_total")

	// /v1/stats says the same.
	stats := i.stats()
	require.Equal(t, sum(hits), stats.Hits)
	require.Equal(t, sum(misses), stats.Misses)
	require.InDelta(t, float64(stats.Hits)/float64(stats.Hits+stats.Misses), stats.HitRatio, 1e-9)
	require.Equal(t, sum(expired), stats.Expirations)
	require.Equal(t, sum(evicted), stats.Evictions)
	require.EqualValues(t, 2000, stats.Limit)
	require.Equal(t, "closed", stats.BreakerState)
	require.Equal(t, maintained.SizeBytes, stats.SizeBytes.Total)
	require.Equal(t, maintained.Items, stats.Items.Total)
	// And so do the rows, and the metrics once they have been read again.
	for _, kind := range []struct {
		table, name  string
		items, bytes int64
	}{
		{"components", "component", stats.Items.Components, stats.SizeBytes.Components},
		{"blocks", "block", stats.Items.Blocks, stats.SizeBytes.Blocks},
		{"entries", "entry", stats.Items.Entries, stats.SizeBytes.Entries},
	} {
		var items, bytes int64
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM "+kind.table).Scan(&items, &bytes))
		require.Equal(t, []int64{items, bytes}, []int64{kind.items, kind.bytes}, kind.table)
		until(t, "the usage is read", func() bool {
			samples := i.metrics()
			return samples[fmt.Sprintf("stockroom_items{kind=%q}", kind.name)] == items &&
				samples[fmt.Sprintf("stockroom_usage_bytes{kind=%q}", kind.name)] == bytes && samples["stockroom_usage_limit_bytes"] == 2000
		})
	}
}

// statistics is what the tests look at in /v1/stats.
type statistics struct {
	SizeBytes, Items                                    struct{ Total, Components, Blocks, Entries int64 }
	Limit, Hits, Misses, Evictions, Expirations, Uptime int64
	HitRatio                                            float64
	BreakerState, Version                               string
	Queue                                               struct{ InFlight, Waiting, Capacity, Length int64 }
	Pool                                                struct{ Max, Total, Idle, Acquired, Acquires, EmptyAcquires int64 }
	TrackedConnections                                  struct{ HTTP, Database int64 }
}

func (i *instance) stats() (s statistics) {
	i.t.Helper()
	decodeReply(i.t, i.must(http.MethodGet, "/v1/stats", ""), &s)
	return s
}

// TestSlotsAreCounted counts the transactions that each request is.
func TestSlotsAreCounted(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{"STOCKROOM_MAX_BYTES": "0", "STOCKROOM_CACHE_MAX_STALENESS": "1h", "STOCKROOM_SWEEP_INTERVAL": "1h", "STOCKROOM_DB_MAX_CONCURRENCY": "3"})
	const sample = "stockroom_slot_wait_duration_seconds_count"
	taken := int64(0)
	for _, tc := range []struct {
		method, path, body string
		slots              int64
	}{
		{"PUT", "/v1/items/e", "1", 1},
		{"PUT", "/v1/items/e", "2", 1},
		{"PUT", "/v1/components/f/c", `{"sourceCode":"x"}`, 1},
		{"PUT", "/v1/blocks/f/b", `{"files":[]}`, 1},
		{"PUT", "/v1/items/e", "{", 0},
		{"GET", "/v1/items/e", "", 1},
		{"GET", "/v1/items/e", "", 0},
		{"GET", "/v1/components/f/c", "", 1},
		{"GET", "/r/f/c.json", "", 0},
		{"HEAD", "/v1/items/e", "", 1},
		{"GET", "/v1/items/e/metadata", "", 1},
		{"GET", "/v1/items/none", "", 1},
		{"GET", "/v1/items/none", "", 1},
		{"GET", "/v1/items/..", "", 0},
		{"POST", "/v1/items/e/touch", "{}", 1},
		{"GET", "/v1/items/e", "", 1},
		{"GET", "/v1/items", "", 1},
		{"GET", "/v1/items?limit=0", "", 0},
		{"POST", "/v1/mget", `{"keys":["e","component:f:c","block:f:b"]}`, 1},
		{"POST", "/v1/mget", `{"keys":[]}`, 0},
		{"POST", "/v1/mset", `{"entries":{"a":1,"component:f:d":{"sourceCode":""}}}`, 1},
		{"POST", "/v1/mset", `{"entries":{}}`, 0},
		{"POST", "/v1/mdelete", `{"keys":["a","component:f:d"]}`, 1},
		{"POST", "/v1/transactions", `{"operations":[{"check":{"key":"a","etag":null}},{"set":{"key":"a","value":1}},{"delete":{"key":"b"}}]}`, 1},
		{"POST", "/v1/transactions", `{"operations":[]}`, 0},
		{"GET", "/v1/components/f", "", 1},
		{"GET", "/v1/frameworks", "", 1},
		{"GET", "/v1/stats", "", 1},
		{"POST", "/v1/maintenance", "{}", 3}, // sweep, evict, look
		{"DELETE", "/v1/items/e", "", 1},
		{"DELETE", "/v1/items/e", "", 1},
		{"DELETE", "/v1/items", "", 1},
		{"GET", "/livez", "", 0},
		{"GET", "/readyz", "", 0},
		{"GET", "/openapi.yaml", "", 0},
		{"GET", "/nowhere", "", 0},
	} {
		i.send(tc.method, tc.path, tc.body)
		taken += tc.slots
		require.Equal(t, taken, i.metrics()[sample], "%s %s", tc.method, tc.path)
	}
	until(t, "everything is given back", func() bool {
		samples := i.metrics()
		return samples["stockroom_slot_used"] == 0 && samples["stockroom_slot_queue_length"] == 0 &&
			samples[`db_client_connection_count{db_client_connection_pool_name="stockroom",db_client_connection_state="used"}`] == 0
	})
	samples := i.metrics()
	require.EqualValues(t, 3, samples["stockroom_slot_limit"])
	require.EqualValues(t, 1024, samples["stockroom_slot_queue_limit"])
	require.EqualValues(t, 3+6, samples[`db_client_connection_max{db_client_connection_pool_name="stockroom"}`])
	var stats statistics
	until(t, "all connections are tracked, one of them for notices", func() bool {
		stats = i.stats()
		return stats.Pool.Total+1 == stats.TrackedConnections.Database
	})
	require.EqualValues(t, 3, stats.Queue.Capacity)
	require.EqualValues(t, 1024, stats.Queue.Length)
	require.EqualValues(t, 3+6, stats.Pool.Max)
	require.EqualValues(t, 1, stats.TrackedConnections.HTTP)

	// Connections of clients, and who waits for what.
	var conns []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp", i.address)
		require.NoError(t, err)
		conns = append(conns, conn)
	}
	until(t, "all connections are known", func() bool { return i.metrics()[`stockroom_connections{type="http"}`] == 6 })
	for _, conn := range conns {
		require.NoError(t, conn.Close())
	}
	until(t, "their ends are known", func() bool { return i.metrics()[`stockroom_connections{type="http"}`] == 1 })
}

func TestRejectionsAreCounted(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{
		"STOCKROOM_DB_MAX_CONCURRENCY": "1", "STOCKROOM_DB_QUEUE_LENGTH": "1", "STOCKROOM_DB_QUEUE_TIMEOUT": "3s", "STOCKROOM_CACHE_BYTES": "0",
	})
	i.must(http.MethodPut, "/v1/items/a", "1")
	b := i.block(t, "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
	answers := make(chan reply, 2)
	ask := func(path string) {
		r, err := i.try(context.WithoutCancel(t.Context()), http.MethodGet, path, "")
		if err != nil {
			t.Error(err)
		}
		answers <- r
	}
	go ask("/v1/items/a")
	until(t, "one works", func() bool { return i.metrics()["stockroom_slot_used"] == 1 })
	go ask("/v1/items/b")
	until(t, "one waits", func() bool { return i.metrics()["stockroom_slot_queue_length"] == 1 })
	r := i.send(http.MethodGet, "/v1/items/c", "")
	require.Equal(t, "busy", r.code())
	require.NotEmpty(t, r.header.Get("Retry-After"))
	const name = "stockroom_slot_rejections_total"
	i.shows(map[string]int64{name + `{reason="queue_full"}`: 1, name + `{reason="timeout"}`: 0}, name)
	require.Equal(t, "busy", (<-answers).code(), "the one that waited")
	i.shows(map[string]int64{name + `{reason="queue_full"}`: 1, name + `{reason="timeout"}`: 1}, name)
	b.end("ROLLBACK")
	require.Equal(t, http.StatusOK, (<-answers).status, "the one that worked")
	i.shows(map[string]int64{"stockroom_slot_used": 0, "stockroom_slot_queue_length": 0}, "stockroom_slot_used", "stockroom_slot_queue_length")
}

// While the breaker is open, reads of what the cache has are answered alike, and
// whoever is not answered is told when the breaker lets somebody through.
func TestReadsWhileTheBreakerIsOpen(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{"STOCKROOM_BREAKER_FAILURES": "1", "STOCKROOM_BREAKER_TIMEOUT": "1h", "STOCKROOM_CACHE_MAX_STALENESS": "1ms"})
	i.must(http.MethodPut, "/v1/items/a", "1")
	i.must(http.MethodPut, "/v1/components/react/button", `{"sourceCode":"x"}`)
	const path = "/v1/components/react/button"
	fresh := i.must(http.MethodGet, path, "")
	i.loseASession(t).end("ROLLBACK")

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, path := range []string{path, "/v1/items/component:react:button"} {
			r := i.send(method, path, "")
			require.Equal(t, http.StatusOK, r.status, method)
			require.Equal(t, "true", r.header.Get("Stockroom-Stale"))
			for _, name := range []string{"ETag", "Last-Modified", "Content-Length", "Content-Type"} {
				require.Equal(t, fresh.header.Get(name), r.header.Get(name), name)
			}
			require.Equal(t, map[string]string{http.MethodGet: fresh.body}[method], r.body)
			r = i.send(method, path, "", "If-None-Match", fresh.header.Get("ETag"))
			require.Equal(t, http.StatusNotModified, r.status)
			require.Equal(t, "true", r.header.Get("Stockroom-Stale"))
		}
		absent := i.send(method, "/v1/items/absent", "")
		require.Equal(t, http.StatusServiceUnavailable, absent.status)
		after, err := strconv.Atoi(absent.header.Get("Retry-After"))
		require.NoError(t, err)
		require.InDelta(t, 3600, after, 60)
	}
	r := i.send(http.MethodPost, "/v1/mget", `{"keys":["component:react:button"]}`, "Content-Type", "application/json")
	require.Equal(t, http.StatusOK, r.status, "%s", r.body)
	require.Equal(t, "true", r.header.Get("Stockroom-Stale"))
}

func TestBreakerIsCounted(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{
		"STOCKROOM_BREAKER_FAILURES": "1", "STOCKROOM_BREAKER_TIMEOUT": "1500ms", "STOCKROOM_CACHE_MAX_STALENESS": "1ms",
		"STOCKROOM_ACCESS_FLUSH_INTERVAL": "1h",
	})
	i.must(http.MethodPut, "/v1/items/a", "1")
	i.must(http.MethodGet, "/v1/items/a", "") // the cache has it now
	const changed = "stockroom_breaker_changes_total"
	i.shows(map[string]int64{changed + `{state="open"}`: 0, changed + `{state="half-open"}`: 0, changed + `{state="closed"}`: 0}, changed)
	state := func(current string) map[string]int64 {
		samples := map[string]int64{}
		for _, name := range []string{"closed", "half-open", "open"} {
			samples[fmt.Sprintf("stockroom_breaker_state{state=%q}", name)] = 0
		}
		samples[fmt.Sprintf("stockroom_breaker_state{state=%q}", current)] = 1
		return samples
	}
	i.shows(state("closed"), "stockroom_breaker_state")
	opened := time.Now() // or a little later
	b := i.loseASession(t)
	b.end("ROLLBACK")

	// Open: answered at once, from the cache or not at all; and that costs no slot.
	slots := i.metrics()["stockroom_slot_wait_duration_seconds_count"]
	stale := i.send(http.MethodGet, "/v1/items/a", "")
	r := i.send(http.MethodPut, "/v1/items/a", "3")
	if time.Since(opened) < time.Second {
		require.Equal(t, http.StatusOK, stale.status)
		require.Equal(t, "true", stale.header.Get("Stockroom-Stale"))
		require.Equal(t, "unavailable", r.code())
		require.NotEmpty(t, r.header.Get("Retry-After"))
		require.Equal(t, slots, i.metrics()["stockroom_slot_wait_duration_seconds_count"])
	}
	until(t, "the breaker closes", func() bool { return i.send(http.MethodPut, "/v1/items/a", "4").status == http.StatusOK })
	i.shows(map[string]int64{changed + `{state="open"}`: 1, changed + `{state="half-open"}`: 1, changed + `{state="closed"}`: 1}, changed)
	i.shows(state("closed"), "stockroom_breaker_state")
	require.Equal(t, "closed", i.stats().BreakerState)
	var changes []any
	lines, _ := i.log.find(func(l line) bool { return l["msg"] == "circuit breaker" })
	for _, l := range lines {
		changes = append(changes, l["state"])
	}
	require.Equal(t, []any{"open", "half-open", "closed"}, changes)
}

// spans is a collector of traces, as OTEL_EXPORTER_OTLP_ENDPOINT names one.
type spans struct {
	*httptest.Server
	mu       sync.Mutex
	received []*tracepb.Span
	resource []*commonpb.KeyValue
}

func newSpans(t testing.TB) *spans {
	t.Helper()
	s := &spans{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzipped
		}
		text, err := io.ReadAll(body)
		var request collectorpb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(text, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("the collector was sent %s: %v", r.URL.Path, err)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, of := range request.GetResourceSpans() {
			s.resource = of.GetResource().GetAttributes()
			for _, scope := range of.GetScopeSpans() {
				s.received = append(s.received, scope.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	return s
}

// all are the spans that have come, which are all there are once the service has
// stopped.
func (s *spans) all() []*tracepb.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.received)
}

// trace is the spans of one trace.
type trace []*tracepb.Span

func (s *spans) trace(id string) trace {
	return slices.DeleteFunc(s.all(), func(span *tracepb.Span) bool { return hex.EncodeToString(span.GetTraceId()) != id })
}

func (tr trace) kind(kind tracepb.Span_SpanKind) trace {
	return slices.DeleteFunc(slices.Clone(tr), func(span *tracepb.Span) bool { return span.GetKind() != kind })
}

func (tr trace) named(name string) trace {
	return slices.DeleteFunc(slices.Clone(tr), func(span *tracepb.Span) bool { return span.GetName() != name })
}

func (tr trace) parent(of *tracepb.Span) *tracepb.Span {
	for _, span := range tr {
		if slices.Equal(span.GetSpanId(), of.GetParentSpanId()) {
			return span
		}
	}
	return nil
}

// attribute is the text of a span's attribute, "" where there is none.
func attribute(attributes []*commonpb.KeyValue, name string) string {
	for _, a := range attributes {
		if a.GetKey() == name {
			switch v := a.GetValue().GetValue().(type) {
			case *commonpb.AnyValue_StringValue:
				return v.StringValue
			case *commonpb.AnyValue_IntValue:
				return strconv.FormatInt(v.IntValue, 10)
			}
		}
	}
	return ""
}

// traced is a request with a trace of its own.
type traced struct {
	traceID, spanID, requestID string
	reply
}

// ask sends a request as a part of a trace that its sender has begun.
func (s *spans) ask(i *instance, method, path, body string, headers ...string) traced {
	i.t.Helper()
	id := make([]byte, 24)
	_, _ = rand.Read(id) // never fails
	asked := traced{traceID: hex.EncodeToString(id[:16]), spanID: hex.EncodeToString(id[16:]), requestID: rand.Text()}
	asked.reply = i.send(method, path, body, append(headers, "Traceparent", "00-"+asked.traceID+"-"+asked.spanID+"-01", "X-Request-Id", asked.requestID)...)
	return asked
}

const (
	serverSpan = tracepb.Span_SPAN_KIND_SERVER
	clientSpan = tracepb.Span_SPAN_KIND_CLIENT
	unitSpan   = "unit of work"
)

func TestEveryRequestHasOneServerSpan(t *testing.T) {
	t.Parallel()
	collector := newSpans(t)
	i := launch(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_SERVICE_NAME": "shop-stockroom", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
	})
	type asked struct {
		traced
		method, route string
	}
	var requests []asked
	ask := func(method, path, route, body string) {
		t.Helper()
		requests = append(requests, asked{collector.ask(i, method, path, body), method, route})
	}
	for _, o := range contractOperations(t) {
		ask(o.method, o.path("x"), o.pattern, "{}")
	}
	ask(http.MethodPut, "/v1/items/a", "/v1/items/{key}", "1")
	ask(http.MethodGet, "/v1/items/a", "/v1/items/{key}", "")
	ask(http.MethodGet, "/v1/items/..", "/v1/items/{key}", "")
	ask(http.MethodGet, "/nowhere", "", "")
	ask(http.MethodPatch, "/v1/items/a", "", "1")
	// Without a trace of the caller's there is one of our own; what the caller does
	// not want recorded is not.
	own := i.must(http.MethodGet, "/v1/frameworks", "", "X-Request-Id", "own-trace")
	require.Equal(t, "own-trace", own.header.Get("X-Request-Id"))
	const unwanted = "0af7651916cd43dd8448eb211c80319c"
	i.must(http.MethodGet, "/v1/frameworks", "", "Traceparent", "00-"+unwanted+"-b7ad6b7169203331-00", "X-Request-Id", "not-recorded")
	i.must(http.MethodGet, "/v1/frameworks", "", "Traceparent", "00-nonsense", "X-Request-Id", "bad-parent")
	require.NoError(t, i.stop())

	lineOf := func(id string) line {
		return i.log.await(t, "the request is logged", func(l line) bool { return l["msg"] == "request" && l["request_id"] == id })
	}
	for _, r := range requests {
		what := r.method + " " + r.route + " " + r.requestID
		tr := collector.trace(r.traceID)
		servers := tr.kind(serverSpan)
		require.Len(t, servers, 1, what)
		server := servers[0]
		require.Equal(t, r.spanID, hex.EncodeToString(server.GetParentSpanId()), what)
		require.Equal(t, strings.TrimSpace(r.method+" "+r.route), server.GetName(), what)
		require.Equal(t, r.route, attribute(server.GetAttributes(), "http.route"), what)
		require.Equal(t, r.method, attribute(server.GetAttributes(), "http.request.method"), what)
		require.Equal(t, strconv.Itoa(r.status), attribute(server.GetAttributes(), "http.response.status_code"), what)
		failed := server.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR
		require.Equal(t, r.status >= 500, failed, what)

		// All else is below it, and ended within its time.
		for _, span := range tr {
			at := span
			for at != nil && at != server {
				at = tr.parent(at)
			}
			require.Equal(t, server, at, "%s: %s hangs in the air", what, span.GetName())
			require.LessOrEqual(t, server.GetStartTimeUnixNano(), span.GetStartTimeUnixNano(), what)
		}
		logged := lineOf(r.requestID)
		require.Equal(t, r.traceID, logged["trace_id"], what)
		require.Equal(t, hex.EncodeToString(server.GetSpanId()), logged["span_id"], what)
		require.Equal(t, r.route, logged["route"], what)
	}
	logged := lineOf("own-trace")
	ownTrace, _ := logged["trace_id"].(string)
	tr := collector.trace(ownTrace)
	require.Len(t, tr.kind(serverSpan), 1)
	require.Empty(t, tr.kind(serverSpan)[0].GetParentSpanId())
	badParent, _ := lineOf("bad-parent")["trace_id"].(string)
	require.Len(t, collector.trace(badParent).kind(serverSpan), 1)
	require.Empty(t, collector.trace(unwanted))
	require.Equal(t, unwanted, lineOf("not-recorded")["trace_id"], "the log has it all the same")

	require.Equal(t, "shop-stockroom", attribute(collector.resource, "service.name"))
	require.Equal(t, "test", attribute(collector.resource, "deployment.environment.name"))
}

// TestSpansGoDownToTheStatements holds HTTP, unit of work and SQL against each
// other.
func TestSpansGoDownToTheStatements(t *testing.T) {
	t.Parallel()
	collector := newSpans(t)
	i := launch(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "STOCKROOM_CACHE_MAX_STALENESS": "1h", "STOCKROOM_SWEEP_INTERVAL": "1h"})
	type step struct {
		method, path, body string
		units              int
		statements         []string // some of those that must be there
	}
	steps := []step{
		{"PUT", "/v1/items/a", `"mark-1"`, 1, []string{"INSERT", "UPDATE"}},
		{"GET", "/v1/items/a", "", 1, []string{"SELECT"}},
		{"GET", "/v1/items/a", "", 0, nil},
		{"PUT", "/v1/components/f/c", `{"sourceCode":"mark-2","metadata":{"a":"mark-3"}}`, 1, []string{"INSERT", "UPDATE"}},
		{"PUT", "/r/f/b.json", `{"name":"b","type":"registry:block","files":[{"path":"b.tsx","type":"registry:ui","content":"mark-4"}]}`, 1, []string{"SELECT", "INSERT", "UPDATE"}},
		{"POST", "/v1/mset", `{"entries":{"b":"mark-5","block:f:m":{"files":["mark-6"]}}}`, 1, []string{"INSERT", "UPDATE"}},
		{"POST", "/v1/mget", `{"keys":["a","b","component:f:c","block:f:m"]}`, 1, []string{"SELECT"}},
		{"GET", "/v1/items?pattern=mark-7*", "", 1, []string{"SELECT"}},
		{"GET", "/v1/components/mark-8", "", 1, []string{"SELECT"}},
		{"HEAD", "/v1/items/mark-9", "", 1, []string{"SELECT"}},
		{"POST", "/v1/items/a/touch", `{"ttl":60}`, 1, []string{"UPDATE"}},
		{"POST", "/v1/mdelete", `{"keys":["b","mark-10"]}`, 1, []string{"DELETE"}},
		{"POST", "/v1/transactions", `{"operations":[{"set":{"key":"mark-11","value":"mark-12"}},{"touch":{"key":"a"}}]}`, 1, []string{"INSERT", "SELECT", "UPDATE"}},
		{"DELETE", "/v1/items/a", "", 1, []string{"DELETE"}},
		{"DELETE", "/v1/items/a", "", 1, []string{"DELETE"}},
		{"POST", "/v1/maintenance", "{}", 3, []string{"SELECT"}},
		{"PUT", "/v1/items/a", `{"bad":`, 0, nil},
		{"GET", "/livez", "", 0, nil},
		{"DELETE", "/v1/items", "", 1, []string{"LOCK", "WITH"}},
	}
	asked := make([]traced, len(steps))
	for n, s := range steps {
		asked[n] = collector.ask(i, s.method, s.path, s.body, "Authorization", "Bearer mark-token")
	}
	require.NoError(t, i.stop())
	for n, s := range steps {
		what := s.method + " " + s.path
		tr := collector.trace(asked[n].traceID)
		server := tr.kind(serverSpan)
		require.Len(t, server, 1, what)
		units := tr.named(unitSpan)
		require.Len(t, units, s.units, what)
		for _, unit := range units {
			require.Equal(t, server[0], tr.parent(unit), what)
			require.Equal(t, asked[n].status == http.StatusNotFound, unit.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR, what)
		}
		var statements []string
		for _, sql := range tr.kind(clientSpan) {
			at := tr.parent(sql)
			for at != nil && at.GetName() != unitSpan {
				at = tr.parent(at)
			}
			require.NotNil(t, at, "%s: %s is in no unit", what, sql.GetName())
			require.Equal(t, "postgresql", attribute(sql.GetAttributes(), "db.system.name"), what)
			require.Regexp(t, `^([A-Z]+|[a-z][a-z._ ]*)$`, sql.GetName(), "%s: names are few", what)
			statements = append(statements, sql.GetName())
		}
		for _, statement := range s.statements {
			require.Contains(t, statements, statement, what)
		}
		if s.units == 0 {
			require.Empty(t, statements, what)
		}
	}
	// No value of a parameter, of an item or of a credential is in any of it: the
	// path and the query of a request are in its own span, and nowhere else.
	for _, span := range collector.all() {
		text, err := protojson.Marshal(span)
		require.NoError(t, err)
		if span.GetKind() == serverSpan {
			for _, value := range []string{"mark-1\"", "mark-2", "mark-3", "mark-4", "mark-5", "mark-6", "mark-10", "mark-token"} {
				require.NotContains(t, string(text), value)
			}
			continue
		}
		require.NotContains(t, string(text), "mark-")
	}
}

// TestFailuresInSpansShowNoValues makes PostgreSQL refuse values.
func TestFailuresInSpansShowNoValues(t *testing.T) {
	t.Parallel()
	collector := newSpans(t)
	i := launch(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	conn := pgtest.Connect(t, i.dsn)
	for _, statement := range []string{
		"ALTER TABLE entries ADD CONSTRAINT c CHECK (key <> 'refused')",
		"CREATE UNIQUE INDEX ON entries (value) WHERE key LIKE 'twice%'",
	} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	asked := []traced{
		collector.ask(i, http.MethodPut, "/v1/items/refused", `"mark-1"`),
		collector.ask(i, http.MethodPut, "/v1/items/twice-1", `"mark-2"`),
		collector.ask(i, http.MethodPut, "/v1/items/twice-2", `"mark-2"`),
	}
	require.NoError(t, i.stop())
	for n, status := range []int{500, 201, 500} {
		require.Equal(t, status, asked[n].status)
		server := collector.trace(asked[n].traceID).kind(serverSpan)
		require.Len(t, server, 1)
		require.Equal(t, status == 500, server[0].GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR)
	}
	for _, span := range collector.all() {
		text, err := protojson.Marshal(span)
		require.NoError(t, err)
		require.NotContains(t, string(text), "mark-")
	}
}

// TestRetriesShow makes a transaction fail as conflicts with others do, three times.
func TestRetriesShow(t *testing.T) {
	t.Parallel()
	collector := newSpans(t)
	i := launch(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL})
	i.must(http.MethodPut, "/v1/items/a", "1")
	const name = "stockroom_transaction_retries_total"
	retries := func(serialization, deadlock int64) map[string]int64 {
		return map[string]int64{
			name + `{db_response_status_code="40001"}`: serialization, name + `{db_response_status_code="40P01"}`: deadlock,
			name + `{db_response_status_code="55P03"}`: 0,
		}
	}
	i.shows(retries(0, 0), name)
	conn := pgtest.Connect(t, i.dsn)
	for _, statement := range []string{
		"CREATE SEQUENCE tries", // counts on when a transaction is rolled back
		`CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE try bigint := nextval('tries');
		BEGIN
			IF try <= 3 THEN
				RAISE EXCEPTION 'conflict' USING ERRCODE = CASE try WHEN 2 THEN '40P01' ELSE '40001' END;
			END IF;
			RETURN OLD;
		END $$`,
		"CREATE TRIGGER conflict BEFORE DELETE ON entries FOR EACH ROW EXECUTE FUNCTION conflict()",
	} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	asked := collector.ask(i, http.MethodPost, "/v1/mdelete", `{"keys":["a"]}`)
	require.Equal(t, http.StatusOK, asked.status)
	require.Equal(t, `{"deleted":1}`, asked.body)
	i.shows(retries(2, 1), name)
	require.NoError(t, i.stop())

	unit := collector.trace(asked.traceID).named(unitSpan)
	require.Len(t, unit, 1, "a retry is no unit of its own")
	require.NotEqual(t, tracepb.Status_STATUS_CODE_ERROR, unit[0].GetStatus().GetCode())
	var tries []string
	for _, event := range unit[0].GetEvents() {
		if event.GetName() == "retry" {
			tries = append(tries, attribute(event.GetAttributes(), "stockroom.try")+" "+attribute(event.GetAttributes(), "db.response.status_code"))
		}
	}
	require.Equal(t, []string{"1 40001", "2 40P01", "3 40001"}, tries)
	// The log has each, with the ids of the request that it is for.
	lines, _ := i.log.find(func(l line) bool { return l["msg"] == "retrying a transaction" })
	require.Len(t, lines, len(tries))
	for _, l := range lines {
		require.Equal(t, asked.traceID, l["trace_id"])
		require.Equal(t, asked.requestID, l["request_id"])
		require.Equal(t, hex.EncodeToString(unit[0].GetSpanId()), l["span_id"])
	}
}

// TestWithoutTracesNothingIsWrapped looks at the stack of a request at work.
// Other tests must not run beside it: theirs are wrapped.
func TestWithoutTracesNothingIsWrapped(t *testing.T) {
	collector := newSpans(t)
	for name, tc := range map[string]struct {
		variables map[string]string
		wrapped   bool
	}{
		"off":            {nil, false},
		"off by name":    {map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}, false},
		"the SDK is off": {map[string]string{"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}, false},
		"on":             {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}, true},
	} {
		t.Run(name, func(t *testing.T) {
			i := launch(t, tc.variables)
			i.must(http.MethodPut, "/v1/items/a", "1")
			b := i.block(t, "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
			answered := make(chan reply, 1)
			go func() {
				r, _ := i.try(context.WithoutCancel(t.Context()), http.MethodPut, "/v1/items/a", "2")
				answered <- r
			}()
			until(t, "the request waits in the database", func() bool { return i.waitingForLocks(t, b.query) > 0 })
			stacks := make([]byte, 4<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			b.end("ROLLBACK")
			require.Equal(t, http.StatusOK, (<-answered).status)
			requests := 0
			for stack := range strings.SplitSeq(string(stacks), "\n\n") {
				if strings.Contains(stack, "internal/store.(*Store).Put(") {
					requests++
					require.Equal(t, tc.wrapped, strings.Contains(stack, "otelhttp"), "%s", stack)
				}
			}
			require.Equal(t, 1, requests)
			// Nor has a line of the log an id of what there is not.
			logged := i.log.await(t, "the request is logged", func(l line) bool { return l["msg"] == "request" })
			require.Equal(t, tc.wrapped, logged["trace_id"] != nil)
		})
	}
}

// BenchmarkRequest compares what a request costs without any telemetry, without
// traces, with traces that are not recorded, and with traces:
//
//	go test -run '^$' -bench Request -count 6 ./internal/app | benchstat -col /telemetry -
//
// Without traces there is not one allocation more than without telemetry at all
// (OTEL_SDK_DISABLED), although every request is counted.
func BenchmarkRequest(b *testing.B) {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	b.Cleanup(collector.Close)
	traced := func(sampler string) map[string]string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL, "OTEL_TRACES_SAMPLER": sampler}
	}
	for _, bc := range []struct {
		name      string
		variables map[string]string
	}{
		{"none", map[string]string{"OTEL_SDK_DISABLED": "true"}},
		{"untraced", nil},
		{"unrecorded", traced("always_off")},
		{"recorded", traced("always_on")},
	} {
		for read, path := range map[string]string{"cached": "/v1/items/a", "database": "/v1/items/a/metadata"} {
			b.Run("read="+read+"/telemetry="+bc.name, func(b *testing.B) {
				variables := map[string]string{"STOCKROOM_LOG_LEVEL": "error", "STOCKROOM_CACHE_MAX_STALENESS": "1h"}
				maps.Copy(variables, bc.variables)
				i := benchmarked(b, variables)
				i.must(http.MethodPut, "/v1/items/a", `"`+strings.Repeat("x", 1000)+`"`)
				b.ReportAllocs()
				for b.Loop() {
					i.must(http.MethodGet, path, "")
				}
			})
		}
	}
}

// benchmarked is launch for a service that does not say when it is ready.
func benchmarked(b *testing.B, variables map[string]string) *instance {
	b.Helper()
	i := start(b, variables)
	b.Cleanup(func() { require.NoError(b, i.stop()) })
	until(b, "the service is ready", func() bool { return i.send(http.MethodGet, "/readyz", "").status == http.StatusOK })
	return i
}

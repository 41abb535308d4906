package app_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// The load: so many clients at once on so few slots.
const (
	loadClients = 500
	loadSlots   = 2
	// pause is what a client that is sent away waits: a tenth of what it is told to.
	pause = 100 * time.Millisecond
	// loadDuration is how long it lasts, unless the environment says otherwise.
	loadDuration = 1500 * time.Millisecond
)

// durationOfLoad is loadDuration or what `make load` asks for.
func durationOfLoad(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("STOCKROOM_LOAD_DURATION")
	if text == "" {
		return loadDuration
	}
	duration, err := time.ParseDuration(text)
	require.NoError(t, err)
	return duration
}

// looks is how often the memory is looked at while there is load.
const looks = 8

// watchHeap measures the memory that is in use while there is load, for as long as
// that lasts. It returns the least of it in the second and in the last quarter: the
// first is for connections to open and pools to fill.
func watchHeap(duration time.Duration) (result func() (early, late uint64)) {
	var used [looks]uint64
	done := make(chan struct{})
	ticker := time.NewTicker(duration / looks)
	go func() {
		defer close(done)
		defer ticker.Stop()
		for n := range used {
			<-ticker.C
			used[n] = heap()
		}
	}()
	return func() (uint64, uint64) {
		<-done
		return slices.Min(used[looks/4 : looks/2]), slices.Min(used[looks*3/4:])
	}
}

// underLoad is a service for tests of load: reads go to the database, and nothing
// but requests does.
func underLoad(t *testing.T, variables map[string]string) *instance {
	t.Helper()
	environ := map[string]string{
		"STOCKROOM_DB_MAX_CONCURRENCY": strconv.Itoa(loadSlots), "STOCKROOM_CACHE_BYTES": "0", "STOCKROOM_LOG_LEVEL": "info",
		"STOCKROOM_ACCESS_FLUSH_INTERVAL": "1h", "STOCKROOM_SWEEP_INTERVAL": "1h",
	}
	maps.Copy(environ, variables)
	i := launch(t, environ)
	i.log.skip(`"msg":"request"`, `"code":"busy"`)
	return i
}

// tally is what came of many requests.
type tally struct {
	mu      sync.Mutex
	answers map[string]int // by status and code
	slowest time.Duration
	refused time.Duration // the slowest of those that were
	wrong   []string
}

// count takes an answer in, which must be a success or 503 busy.
func (c *tally) count(r reply, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == nil {
		c.answers = map[string]int{}
	}
	what := strconv.Itoa(r.status)
	if r.status >= http.StatusBadRequest {
		what += " " + r.code()
	}
	c.answers[what]++
	c.slowest = max(c.slowest, took)
	switch {
	case r.status < http.StatusMultipleChoices:
	case what != "503 busy":
		c.wrong = append(c.wrong, r.body)
	case r.header.Get("Retry-After") == "":
		c.wrong = append(c.wrong, "503 without Retry-After")
	}
	if r.status == http.StatusServiceUnavailable {
		c.refused = max(c.refused, took)
	}
}

// watch samples what is done in the database for the service until the test says
// stop, and returns the most that was at once.
func (i *instance) watch(t *testing.T) (stop func() (most []string, samples int)) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), i.dsn)
	require.NoError(t, err)
	type result struct {
		most    []string
		samples int
		err     error
	}
	quit, ended := make(chan struct{}), make(chan result, 1)
	go func() {
		var r result
		defer func() {
			_ = conn.Close(context.Background())
			ended <- r
		}()
		for {
			select {
			case <-quit:
				return
			default:
			}
			// Sessions are looked at one after the other: only those that had begun
			// before the first look were at work together. What reads the counters
			// alone, and asks first whether its connection still is one, is the
			// background's own, and so are the notices and whoever makes documents
			// for search. A connection that is new first sets itself up.
			var queries []string
			r.err = conn.QueryRow(context.Background(), `SELECT coalesce(array_agg(query), '{}') FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'stockroom' AND state <> 'idle'
				AND xact_start < statement_timestamp() AND query NOT LIKE 'SELECT sum(component_items)%' AND query <> '-- ping' AND query NOT LIKE '%pg_notify%'
				AND query NOT LIKE '%search_%' AND query NOT LIKE '%pg_try_advisory_xact_lock%' AND query NOT LIKE '%idle_in_transaction%'
				AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1)`,
				int64(0x53746f636b536561)).Scan(&queries)
			if r.err != nil {
				return
			}
			if r.samples++; len(queries) > len(r.most) {
				r.most = queries
			}
		}
	}()
	return func() ([]string, int) {
		t.Helper()
		close(quit)
		r := <-ended
		require.NoError(t, r.err)
		return r.most, r.samples
	}
}

// pace measures how long this machine takes for as many clients at once, whatever
// they ask for, which leaves them connected, and then for one more besides whatever
// goes on until the test asks. Bounds that the service promises are to be held beyond
// it.
func (i *instance) pace(t *testing.T) (result func() time.Duration) {
	t.Helper()
	ask := func(int) {
		if _, err := i.try(context.WithoutCancel(t.Context()), http.MethodGet, "/livez", ""); err != nil {
			t.Error(err)
		}
	}
	began := time.Now()
	atOnce(loadClients, ask)
	slowest := time.Since(began)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			default:
			}
			began := time.Now()
			ask(0)
			slowest = max(slowest, time.Since(began))
		}
	}()
	return func() time.Duration {
		close(quit)
		<-ended
		return 2 * slowest
	}
}

// atOnce runs f for each of n clients at the same time.
func atOnce(n int, f func(client int)) {
	var ready, done sync.WaitGroup
	ready.Add(n)
	for client := range n {
		done.Go(func() {
			ready.Done()
			ready.Wait()
			f(client)
		})
	}
	done.Wait()
}

// TestLoad has many clients read and write for a while.
func TestLoad(t *testing.T) {
	pgtest.New(t) // PostgreSQL runs
	goroutines := runtime.NumGoroutine()
	duration := durationOfLoad(t)
	for name, tc := range map[string]struct {
		timeout time.Duration
		length  int
	}{
		"all may wait":           {5 * time.Second, loadClients},
		"few may wait":           {2 * time.Second, loadClients / 10},
		"all may wait, not long": {100 * time.Millisecond, loadClients},
	} {
		t.Run(name, func(t *testing.T) {
			i := underLoad(t, map[string]string{
				"STOCKROOM_DB_QUEUE_TIMEOUT": tc.timeout.String(), "STOCKROOM_DB_QUEUE_LENGTH": strconv.Itoa(tc.length),
			})
			conn := pgtest.Connect(t, i.dsn)
			stop := i.watch(t)
			pace := i.pace(t)
			var total tally
			written := make([]int, loadClients)
			memory := watchHeap(duration)
			end := time.Now().Add(duration)
			atOnce(loadClients, func(client int) {
				own := fmt.Sprintf("/v1/items/own-%d", client)
				for n := 0; n == 0 || time.Now().Before(end); n++ {
					method, path, body := http.MethodPut, own, strconv.Itoa(n+1)
					switch n % 4 {
					case 1:
						method, body = http.MethodGet, ""
					case 2:
						method, path, body = http.MethodPost, "/v1/mset", fmt.Sprintf(`{"entries":{"own-%d":%d,"component:f:shared":{"sourceCode":"%d"}}}`, client, n+1, client)
					case 3:
						method, path, body = http.MethodPost, "/v1/mget", fmt.Sprintf(`{"keys":["own-%d","component:f:shared"]}`, client)
					}
					began := time.Now()
					r, err := i.try(context.WithoutCancel(t.Context()), method, path, body)
					if err != nil {
						t.Error(err)
						return
					}
					if method == http.MethodGet && r.status == http.StatusNotFound && written[client] == 0 {
						continue // none of its writes has got through yet
					}
					total.count(r, time.Since(began))
					if n%2 == 0 && r.status < http.StatusMultipleChoices {
						written[client] = n + 1
					}
					if r.status == http.StatusServiceUnavailable {
						<-time.After(pause) // it leaves the machine to the others
					}
				}
			})
			most, samples := stop()
			early, late := memory()
			bound := tc.timeout + time.Second + pace()
			t.Logf("%d clients, %d slots, %v: %v; the slowest after %v, refused after %v of %v; at most %d sessions at work in %d samples; heap %.1f MiB, then %.1f MiB",
				loadClients, loadSlots, duration, total.answers, total.slowest.Round(time.Millisecond),
				total.refused.Round(time.Millisecond), bound.Round(time.Millisecond), len(most), samples, float64(early)/(1<<20), float64(late)/(1<<20))
			require.Empty(t, total.wrong)
			require.LessOrEqual(t, total.refused, bound)
			require.LessOrEqual(t, total.slowest, bound+soon)
			require.LessOrEqual(t, late, early+early/10+1<<20, "memory grows")
			require.LessOrEqual(t, len(most), loadSlots, "%q", most)
			require.Greater(t, samples, 10)
			if tc.length < loadClients-loadSlots {
				require.NotZero(t, total.answers["503 busy"], "who may not wait is told at once")
			} else if tc.timeout > time.Second {
				require.Zero(t, total.answers["503 busy"], "there was a place and time for all")
			}

			// What was acknowledged stands there, and what was refused left nothing.
			rows, err := conn.Query(t.Context(), "SELECT key, value FROM entries")
			require.NoError(t, err)
			stored := map[string]string{}
			var key, value string
			_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { stored[key] = value; return nil })
			require.NoError(t, err)
			for client, n := range written {
				got, ok := stored[fmt.Sprintf("own-%d", client)]
				require.Equal(t, n > 0, ok, "client %d", client)
				if n > 0 {
					require.Equal(t, strconv.Itoa(n), got, "client %d", client)
				}
			}
			// Slots, places and connections are given back. Nobody who held a slot
			// has waited for a connection: none was opened but the first of each.
			until(t, "everything is given back", func() bool {
				s := i.metrics()
				return s["stockroom_slot_used"] == 0 && s["stockroom_slot_queue_length"] == 0 &&
					s[`db_client_connection_count{db_client_connection_pool_name="stockroom",db_client_connection_state="used"}`] == 0
			})
			const background = 3
			stats := i.stats()
			require.LessOrEqual(t, stats.Pool.EmptyAcquires, int64(loadSlots+background), "somebody with a slot has waited for a connection")
			require.LessOrEqual(t, stats.Pool.Total, int64(loadSlots+background))
			require.EqualValues(t, total.answers["503 busy"], sum(samplesOf(i.metrics(), "stockroom_slot_rejections_total")), "to the count")
			failed, _ := i.log.find(func(l line) bool { return l["level"] == "ERROR" && l["code"] != "busy" })
			require.Empty(t, failed)
		})
	}
	until(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestNobodyWaitsLongerThanItMay holds the slots until everybody else has been
// sent away.
func TestNobodyWaitsLongerThanItMay(t *testing.T) {
	const timeout = time.Second
	i := underLoad(t, map[string]string{"STOCKROOM_DB_QUEUE_TIMEOUT": timeout.String(), "STOCKROOM_DB_QUEUE_LENGTH": strconv.Itoa(loadClients)})
	i.must(http.MethodPut, "/v1/items/a", "1")
	b := i.block(t, "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
	var holders sync.WaitGroup
	held := make(chan reply, loadSlots)
	for n := range loadSlots {
		holders.Go(func() {
			r, err := i.try(context.WithoutCancel(t.Context()), http.MethodPut, fmt.Sprintf("/v1/items/holder-%d", n), "1")
			if err != nil {
				t.Error(err)
			}
			held <- r
		})
	}
	until(t, "the slots are taken", func() bool { return i.metrics()["stockroom_slot_used"] == loadSlots })
	pace := i.pace(t)
	var total tally
	atOnce(loadClients, func(client int) {
		began := time.Now()
		r, err := i.try(context.WithoutCancel(t.Context()), http.MethodGet, fmt.Sprintf("/v1/items/k-%d", client), "")
		if err != nil {
			t.Error(err)
			return
		}
		took := time.Since(began)
		total.count(r, took)
		if took < timeout {
			t.Errorf("sent away after %v although there was a place", took)
		}
	})
	require.Empty(t, total.wrong)
	require.LessOrEqual(t, total.refused, timeout+time.Second+pace())
	require.Equal(t, map[string]int{"503 busy": loadClients}, total.answers)
	// Probes and metrics take no slot.
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/openapi.yaml"} {
		require.Equal(t, http.StatusOK, i.send(http.MethodGet, path, "").status, path)
	}
	require.EqualValues(t, loadClients, i.metrics()[`stockroom_slot_rejections_total{reason="timeout"}`])
	b.end("ROLLBACK")
	holders.Wait()
	for range loadSlots {
		require.Equal(t, http.StatusCreated, (<-held).status)
	}
}

// TestCallersThatLeaveFreeTheirPlaces has everybody who waits hang up, and then
// those who work.
func TestCallersThatLeaveFreeTheirPlaces(t *testing.T) {
	i := underLoad(t, map[string]string{"STOCKROOM_DB_QUEUE_TIMEOUT": soon.String(), "STOCKROOM_DB_QUEUE_LENGTH": strconv.Itoa(loadClients)})
	i.must(http.MethodPut, "/v1/items/a", "1")
	goroutines := runtime.NumGoroutine()
	b := i.block(t, "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
	workers, leave := context.WithCancel(t.Context())
	waiters, hangUp := context.WithCancel(t.Context())
	defer leave()
	defer hangUp()
	var clients sync.WaitGroup
	call := func(ctx context.Context, method, path, body string) {
		clients.Go(func() {
			// Each on a connection of its own, so that leaving is hanging up.
			one := *i
			transport := &http.Transport{DisableKeepAlives: true}
			one.client = &http.Client{Transport: transport}
			r, err := one.try(ctx, method, path, body)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("answered before it left: %d, %v", r.status, err)
			}
		})
	}
	call(workers, http.MethodPut, "/v1/items/a", "2")
	call(workers, http.MethodGet, "/v1/items/b", "")
	until(t, "the slots are taken", func() bool { return i.metrics()["stockroom_slot_used"] == loadSlots })
	for n := range loadClients {
		call(waiters, http.MethodGet, "/v1/items/k-"+strconv.Itoa(n), "")
	}
	until(t, "all the others wait", func() bool { return i.metrics()["stockroom_slot_queue_length"] == loadClients })
	hangUp()
	until(t, "the places are free", func() bool { return i.metrics()["stockroom_slot_queue_length"] == 0 })
	require.EqualValues(t, loadSlots, i.metrics()["stockroom_slot_used"])

	// Those who work leave, too: their statements are called off.
	leave()
	until(t, "the slots are free", func() bool { return i.metrics()["stockroom_slot_used"] == 0 })
	clients.Wait()
	require.Zero(t, i.waitingForLocks(t, b.query))
	b.end("ROLLBACK")
	require.Equal(t, "1", i.must(http.MethodGet, "/v1/items/a", "").body, "nothing of it was done")
	until(t, "the connections are gone", func() bool { return i.metrics()[`stockroom_connections{type="http"}`] <= 2 })
	until(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+8 })
	samples := i.metrics()
	require.Zero(t, samples[`stockroom_slot_rejections_total{reason="timeout"}`]+samples[`stockroom_slot_rejections_total{reason="queue_full"}`])
	require.EqualValues(t, 1, samples[`stockroom_breaker_state{state="closed"}`], "who leaves is no failure of the database")
	require.Zero(t, samples[`stockroom_breaker_changes_total{state="open"}`])
	errorLines, _ := i.log.find(func(l line) bool { return l["level"] == "ERROR" })
	require.Empty(t, errorLines)
}

// TestManyConnectionsOverTime opens and closes connections and looks at what is
// left of them.
func TestManyConnectionsOverTime(t *testing.T) {
	i := underLoad(t, nil)
	i.must(http.MethodPut, "/v1/items/a", "1")
	const request = "GET /v1/items/a HTTP/1.1\r\nHost: localhost\r\n"
	goroutines := runtime.NumGoroutine()
	atOnce(50, func(client int) {
		for n := range 20 {
			conn, err := net.Dial("tcp", i.address)
			if err != nil {
				t.Error(err)
				return
			}
			text := request + "\r\n"
			switch (client + n) % 4 { // leave in all the ways there are
			case 1:
				text = request
			case 2:
				text = request + "Connection: close\r\n\r\n"
			case 3:
				text = strings.Repeat(request+"\r\n", 3)
			}
			if _, err := conn.Write([]byte(text)); err != nil {
				t.Error(err)
			}
			if tcp, ok := conn.(*net.TCPConn); ok && n%2 == 0 {
				_ = tcp.SetLinger(0) // a reset
			}
			_ = conn.Close()
		}
	})
	until(t, "the connections are gone", func() bool { return i.metrics()[`stockroom_connections{type="http"}`] == 1 })
	until(t, "the goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+4 })
	require.Equal(t, "1", i.must(http.MethodGet, "/v1/items/a", "").body)
	until(t, "the slots are free", func() bool { return i.metrics()["stockroom_slot_used"] == 0 })
}

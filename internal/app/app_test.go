package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/internal/app"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// soon is when a test that waits for something gives up.
const soon = 30 * time.Second

// service is an app.Run under way.
type service struct {
	t      *testing.T
	dir    string
	cancel context.CancelFunc
	log    *log
	err    error
	ended  chan struct{}
}

// log is a log that says when the service is ready.
type log struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ready chan struct{}
}

func (l *log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(line, []byte(`"msg":"ready"`)) {
		close(l.ready)
	}
	return l.text.Write(line)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run runs the service with variables as its environment.
func run(t *testing.T, dir string, variables map[string]string) *service {
	t.Helper()
	environ := map[string]string{"STOCKROOM_ADDR": "127.0.0.1:0", "STOCKROOM_DATA_DIR": dir}
	maps.Copy(environ, variables)
	cfg, err := config.Load(environ)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	s := &service{t: t, dir: dir, cancel: cancel, log: &log{ready: make(chan struct{})}, ended: make(chan struct{})}
	getenv := func(name string) string { return environ[name] }
	go func() {
		defer close(s.ended)
		s.err = app.Run(ctx, cfg, app.Signals{}, getenv, slog.New(slog.NewJSONHandler(s.log, nil)))
	}()
	t.Cleanup(func() { _ = s.stop() })
	return s
}

// stop asks the service to end and returns what Run does.
func (s *service) stop() error {
	s.t.Helper()
	s.cancel()
	s.await(s.ended, "Run returns")
	return s.err
}

func (s *service) await(closed <-chan struct{}, what string) {
	s.t.Helper()
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
		s.t.Fatalf("waited in vain until %s; the log:\n%s", what, s.log)
	}
}

// awaitReady returns where the service listens once it is ready.
func (s *service) awaitReady() (url string) {
	s.t.Helper()
	s.await(s.log.ready, "the service is ready")
	address, err := os.ReadFile(filepath.Join(s.dir, app.AddressFile))
	require.NoError(s.t, err)
	return "http://" + strings.TrimSpace(string(address))
}

// ask makes a request and returns the status and the body of the answer.
func ask(t *testing.T, client *http.Client, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

// sessions counts the service's sessions on the database of conn.
func sessions(t *testing.T, conn *pgx.Conn) (n int) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'stockroom'`).Scan(&n))
	return n
}

// descriptors counts our open files.
func descriptors(t *testing.T) int {
	t.Helper()
	folder := "/dev/fd"
	if runtime.GOOS == "linux" {
		folder = "/proc/self/fd"
	}
	names, err := os.ReadDir(folder)
	require.NoError(t, err)
	return len(names)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-timeout.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// heap measures the memory that is in use, without what has come to be garbage
// since it was looked at.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one has only given to finalizers and pools
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return live[0].Value.Uint64()
}

func TestRunLeavesNothingBehind(t *testing.T) {
	dsn := pgtest.New(t)
	conn := pgtest.Connect(t, dsn)
	dir := t.TempDir()
	// What the first cycles open or allocate for the whole process is no leak. One
	// more goroutine's stack, buffer or cache for each cycle would be more than slack.
	const cycles, settled, slack = 50, 10, 256 << 10
	var files int
	var memory uint64
	for cycle := range cycles {
		if cycle == settled {
			files, memory = descriptors(t), heap()
		}
		if !t.Run(strconv.Itoa(cycle), func(t *testing.T) { openAndClose(t, dir, dsn, conn) }) {
			return
		}
	}
	t.Logf("open files: %d, then %d; heap: %d KiB, then %d KiB", files, descriptors(t), memory>>10, heap()>>10)
	require.LessOrEqual(t, descriptors(t), files)
	require.LessOrEqual(t, heap(), memory+slack)

	// The marks of the last access were written on the way out.
	var accesses int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT access_count FROM entries WHERE key = 'cycle'").Scan(&accesses))
	require.Equal(t, 2*cycles, accesses, "one each for a write and a read")
}

// openAndClose has a service do something of everything, and looks at what is left
// of it.
func openAndClose(t *testing.T, dir, dsn string, conn *pgx.Conn) {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	s := run(t, dir, map[string]string{"DATABASE_URL": dsn})
	url := s.awaitReady()
	client := &http.Client{Transport: &http.Transport{}, Timeout: soon}
	value := strconv.Quote(t.Name())
	status, _ := ask(t, client, http.MethodPut, url+"/v1/items/cycle", value)
	require.Less(t, status, http.StatusMultipleChoices)
	status, body := ask(t, client, http.MethodGet, url+"/v1/items/cycle", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, value, body)
	for _, request := range []struct{ method, path, body string }{
		{http.MethodPost, "/v1/mset", `{"entries":{"a":1,"component:f:n":{"sourceCode":"x"}}}`},
		{http.MethodPost, "/v1/mget", `{"keys":["a","component:f:n"]}`},
		{http.MethodGet, "/v1/items?pattern=*", ""},
		{http.MethodGet, "/r/f/n.json", ""},
		{http.MethodGet, "/v1/stats", ""},
		{http.MethodGet, "/metrics", ""},
		{http.MethodGet, "/readyz", ""},
	} {
		status, body := ask(t, client, request.method, url+request.path, request.body)
		require.Equal(t, http.StatusOK, status, "%s: %s", request.path, body)
	}
	require.Positive(t, sessions(t, conn))

	// The client's connection is idle, and stays open until the server closes it.
	require.NoError(t, s.stop(), "%s", s.log)
	client.CloseIdleConnections()
	require.NoError(t, goleak.Find(leaks))
	// A session ends a moment after its connection.
	eventually(t, "no session is left", func() bool { return sessions(t, conn) == 0 })
	require.NotContains(t, s.log.String(), `"level":"ERROR"`)
	requireSteps(t, s.log.String())
}

// requireSteps holds the log against the order of the shutdown, each step of which
// says how long it took.
func requireSteps(t *testing.T, log string) {
	t.Helper()
	var steps []string
	for text := range strings.Lines(log) {
		var l struct {
			Msg, Step string
			Duration  *int64
		}
		require.NoError(t, json.Unmarshal([]byte(text), &l), "%s", text)
		if l.Msg != "shutdown" || l.Step == "" {
			continue
		}
		require.NotNil(t, l.Duration, "%s", text)
		require.Positive(t, *l.Duration, "%s", text)
		steps = append(steps, l.Step)
	}
	require.Equal(t, []string{
		"finish requests", "stop background work", "write access marks", "close notices", "close the read cache",
		"close the gate", "close database connections", "flush telemetry",
	}, steps)
}

// A database that is slow is waited for longer than one that does not answer.
func TestLastAccessesAreWrittenByABusyDatabase(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{"STOCKROOM_ACCESS_FLUSH_INTERVAL": "1h"})
	i.must(http.MethodPut, "/v1/items/a", "1")
	i.must(http.MethodGet, "/v1/items/a", "")
	conn := pgtest.Connect(t, i.dsn)
	b := i.block(t, "LOCK TABLE entries IN EXCLUSIVE MODE")
	stopped := make(chan error, 1)
	go func() { stopped <- i.stop() }()
	var begun []int // transactions, by when
	until(t, "it has waited for the lock, and does so again", func() bool {
		var at int
		err := conn.QueryRow(t.Context(), `SELECT coalesce(max(extract(epoch FROM xact_start) * 1e6), 0)::bigint FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'stockroom' AND cardinality(pg_blocking_pids(pid)) > 0`).Scan(&at)
		require.NoError(t, err)
		if at != 0 && !slices.Contains(begun, at) {
			begun = append(begun, at)
		}
		return len(begun) == 2
	})
	b.end("ROLLBACK")
	require.NoError(t, <-stopped)
	var accesses int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT access_count FROM entries WHERE key = 'a'").Scan(&accesses))
	require.Equal(t, 2, accesses, "one each for a write and a read")
}

// A database that has come back is one, whatever the circuit breaker still says.
func TestLastAccessesAreWrittenBehindAnOpenBreaker(t *testing.T) {
	t.Parallel()
	i := launch(t, map[string]string{
		"STOCKROOM_ACCESS_FLUSH_INTERVAL": "1h", "STOCKROOM_BREAKER_FAILURES": "1", "STOCKROOM_BREAKER_TIMEOUT": "1h",
	})
	i.must(http.MethodPut, "/v1/items/a", "1")
	i.must(http.MethodGet, "/v1/items/a", "")
	conn := pgtest.Connect(t, i.dsn)
	b := i.block(t, "LOCK TABLE entries IN EXCLUSIVE MODE")
	answered := make(chan int, 1)
	go func() { answered <- i.send(http.MethodPut, "/v1/items/b", "1").status }()
	until(t, "it waits for the lock, and loses its session", func() bool {
		var ended int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'stockroom' AND cardinality(pg_blocking_pids(pid)) > 0`).Scan(&ended))
		return ended == 1
	})
	require.Equal(t, http.StatusServiceUnavailable, <-answered)
	b.end("ROLLBACK")
	require.Equal(t, http.StatusServiceUnavailable, i.send(http.MethodPut, "/v1/items/b", "1").status, "the breaker is open")
	require.NoError(t, i.stop())
	var accesses int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT access_count FROM entries WHERE key = 'a'").Scan(&accesses))
	require.Equal(t, 2, accesses)
}

func TestRunThatFailsLeavesNothingBehind(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	noKeys := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(noKeys, []byte("nonsense\n"), 0o600))
	for name, tc := range map[string]struct {
		variable, value, want string
	}{
		"address in use":   {"STOCKROOM_ADDR", busy.Addr().String(), "address already in use"},
		"schema too old":   {"STOCKROOM_MIGRATE", "check", "server migrate up"},
		"bad keys":         {"STOCKROOM_API_KEYS_FILE", noKeys, "API keys"},
		"bad telemetry":    {"OTEL_TRACES_EXPORTER", "carrier pigeon", "OTEL_TRACES_EXPORTER"},
		"refused database": {"DATABASE_URL", "none", "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := pgtest.Empty(t)
			conn := pgtest.Connect(t, dsn)
			leaks := goleak.IgnoreCurrent()
			variables := map[string]string{"DATABASE_URL": dsn, tc.variable: tc.value}
			if tc.variable == "DATABASE_URL" {
				variables[tc.variable] = strings.Replace(dsn, "/t_", "/none_", 1)
			}
			s := run(t, t.TempDir(), variables)
			s.await(s.ended, "Run fails")
			require.ErrorContains(t, s.err, tc.want)
			require.NoError(t, goleak.Find(leaks))
			eventually(t, "no session is left", func() bool { return sessions(t, conn) == 0 })
		})
	}
}

// A database that is down is waited for. What is wrong with ourselves is not.
func TestRunFailsAtOnceForABadCertificate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "certificate")
	require.NoError(t, os.WriteFile(file, []byte("nonsense\n"), 0o600))
	leaks := goleak.IgnoreCurrent()
	s := run(t, t.TempDir(), map[string]string{
		"DATABASE_URL": "postgres://u@127.0.0.1:1/x", "STOCKROOM_TLS_CERT_FILE": file, "STOCKROOM_TLS_KEY_FILE": file,
	})
	s.await(s.ended, "Run fails")
	require.ErrorContains(t, s.err, "certificate")
	require.NoError(t, goleak.Find(leaks))
}

func TestRunStoppedBeforeItIsReady(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	s := run(t, t.TempDir(), map[string]string{"DATABASE_URL": "postgres://u@127.0.0.1:1/x"})
	eventually(t, "it has tried", func() bool { return strings.Contains(s.log.String(), "cannot be reached yet") })
	require.NoError(t, s.stop(), "to be stopped is no failure")
	require.NoError(t, goleak.Find(leaks))
}

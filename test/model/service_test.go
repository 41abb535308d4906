// Package model_test holds the whole service, over HTTP, against a model of what
// it stores: a map, and the rules.
package model_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/app"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds the wait for the service to start and to stop.
const patience = time.Minute

// service is the service in this process, and a way behind its back.
type service struct {
	url    string
	client *http.Client
	conn   *pgx.Conn
	log    *logbook
}

// logbook is what the service logs.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run starts the service with nothing that runs by the clock: accesses are
// written, and what has expired is deleted, when the test asks for it.
func run(t *testing.T, variables map[string]string) *service {
	t.Helper()
	environ := map[string]string{
		"STOCKROOM_ADDR": "127.0.0.1:0", "STOCKROOM_DATA_DIR": t.TempDir(), "STOCKROOM_LOG_LEVEL": "warn", "DATABASE_URL": pgtest.New(t),
		"STOCKROOM_ACCESS_FLUSH_INTERVAL": "1h", "STOCKROOM_SWEEP_INTERVAL": "1h", "STOCKROOM_CACHE_MAX_STALENESS": "1h",
	}
	maps.Copy(environ, variables)
	cfg, err := config.Load(environ)
	require.NoError(t, err)
	s := &service{conn: pgtest.Connect(t, environ["DATABASE_URL"]), log: &logbook{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- app.Run(ctx, cfg, app.Signals{}, func(name string) string { return environ[name] }, app.NewLogger(s.log, cfg))
	}()
	transport := &http.Transport{}
	s.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err, "%s", s.log)
		case <-time.After(patience):
			require.Fail(t, "the service does not stop", "%s", s.log)
		}
		require.NotContains(t, s.log.String(), `"level":"ERROR"`)
	})
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !s.ready(filepath.Join(cfg.DataDir, app.AddressFile)); <-ticker.C {
		require.True(t, time.Now().Before(deadline), "the service is not ready: %s", s.log)
	}
	return s
}

func (s *service) ready(addressFile string) bool {
	address, err := os.ReadFile(addressFile)
	if err != nil || !strings.HasSuffix(string(address), "\n") {
		return false
	}
	s.url = "http://" + strings.TrimSpace(string(address))
	response, err := s.client.Get(s.url + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// answer is what the service said.
type answer struct {
	what   string
	status int
	header http.Header
	body   string
}

// tester is what rapid.T and testing.T have in common, as far as it is needed.
type tester interface {
	require.TestingT
	Helper()
}

// send makes a request; headers are names, each followed by its value.
func (s *service) send(t tester, method, path, body string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Add(pair[0], pair[1])
	}
	response, err := s.client.Do(request)
	require.NoError(t, err, "%s %s", method, path)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{method + " " + path + " " + body, response.StatusCode, response.Header, string(text)}
}

// is requires a status.
func (a answer) is(t tester, status int) answer {
	t.Helper()
	require.Equal(t, status, a.status, "%s: %s", a.what, a.body)
	return a
}

// fails requires a problem.
func (a answer) fails(t tester, status int, code string) {
	t.Helper()
	a.is(t, status)
	require.Equal(t, code, decode[struct{ Code string }](t, a).Code, "%s: %s", a.what, a.body)
}

func decode[T any](t tester, a answer) (v T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(a.body), &v), "%s: %s", a.what, a.body)
	return v
}

// path is a path of the item: that of any item, or that of its kind.
func path(key string, ofKind bool) string {
	segments := strings.Split(key, ":")
	if ofKind && kindOf(key) != "entry" {
		return "/v1/" + segments[0] + "s/" + url.PathEscape(segments[1]) + "/" + url.PathEscape(segments[2])
	}
	return "/v1/items/" + url.PathEscape(key)
}

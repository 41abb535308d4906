package load_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/bench/load"
)

// serve returns the address of a server that lives as long as the test.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func requestFile(t *testing.T, paths ...string) string {
	t.Helper()
	requests := make([][]byte, len(paths))
	for i, path := range paths {
		requests[i] = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path)
	}
	file := filepath.Join(t.TempDir(), "requests")
	require.NoError(t, load.WriteRequests(file, requests))
	return file
}

func spec(address, requests string) load.Spec {
	return load.Spec{
		Address: address, Requests: requests, Connections: 3, Prime: true,
		Warmup: 10 * time.Millisecond, Duration: 100 * time.Millisecond, Statuses: []int{http.StatusOK},
	}
}

func TestRightAnswersAreCounted(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	var primed atomic.Int64
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= 2 {
			primed.Add(int64(len(r.URL.Path))) // one of each path: 2 and 3 bytes
		}
		_, _ = w.Write([]byte("four"))
	})
	right := spec(address, requestFile(t, "/a", "/bb"))
	right.Duration = time.Second // of which a busy machine leaves enough for one answer
	result, err := load.Run(t.Context(), right)
	require.NoError(t, err)
	require.EqualValues(t, asked.Load(), result.Sent)
	require.EqualValues(t, 5, primed.Load(), "each request goes out once before the rest")
	require.Zero(t, result.Errors, result.FirstError)
	require.NotZero(t, result.Requests)
	require.Less(t, result.Requests, result.Sent, "the warm-up does not count")
	require.Equal(t, 4*result.Requests, result.Bytes)
	require.InDelta(t, float64(result.Requests), result.PerSecond, 1e-6)
	require.LessOrEqual(t, result.P50, result.P99)
	require.LessOrEqual(t, result.P99, result.Max)
}

func TestWrongAnswersAreErrorsAndNotMeasured(t *testing.T) {
	t.Parallel()
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too busy", http.StatusServiceUnavailable) })
	result, err := load.Run(t.Context(), spec(address, requestFile(t, "/")))
	require.NoError(t, err)
	require.Zero(t, result.Requests)
	require.Zero(t, result.Bytes)
	require.Equal(t, result.Sent, result.Errors)
	require.Contains(t, result.FirstError, "status 503: too busy")
}

func TestAServerThatCutsConnectionsIsGivenUp(t *testing.T) {
	t.Parallel()
	address := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	cut := spec(address, requestFile(t, "/"))
	cut.Duration = time.Minute // a slow machine, too, loses enough before
	_, err := load.Run(t.Context(), cut)
	require.ErrorContains(t, err, "again and again")
}

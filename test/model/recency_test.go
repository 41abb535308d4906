package model_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReadsCountFromWhenTheyWere: a write that waits for others meanwhile does not
// make reads older than they are when it has to choose what goes.
func TestReadsCountFromWhenTheyWere(t *testing.T) {
	t.Parallel()
	s := run(t, map[string]string{"STOCKROOM_MAX_BYTES": "300", "STOCKROOM_CACHE_BYTES": "0"})
	large := quote(strings.Repeat("x", 118))
	s.send(t, http.MethodPut, "/v1/items/read", large).is(t, http.StatusCreated)
	s.send(t, http.MethodPut, "/v1/items/forgotten", large).is(t, http.StatusCreated)
	s.send(t, http.MethodPut, "/v1/items/forgotten", large).is(t, http.StatusOK) // the service knows now that there is little room

	ctx := context.Background()
	tx, err := s.conn.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "LOCK TABLE usage_counters IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	written := make(chan int, 1)
	go func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodPut, s.url+"/v1/items/new", strings.NewReader(quote(strings.Repeat("y", 148))))
		if err != nil {
			t.Error(err)
		}
		response, err := s.client.Do(request)
		if err != nil {
			t.Error(err)
			written <- 0
			return
		}
		_ = response.Body.Close()
		written <- response.StatusCode
	}()
	for deadline, waits := time.Now().Add(patience), false; !waits; {
		require.True(t, time.Now().Before(deadline), "the write does not wait")
		require.NoError(t, tx.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'stockroom'
			AND datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(pid))`).Scan(&waits))
	}
	var before time.Time
	_, err = tx.Exec(ctx, "SELECT pg_sleep(0.2)") // the write is the older for it
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&before))
	s.send(t, http.MethodGet, "/v1/items/read", "").is(t, http.StatusOK)
	require.NoError(t, tx.Rollback(ctx))
	require.Equal(t, http.StatusCreated, <-written)

	s.send(t, http.MethodHead, "/v1/items/forgotten", "").is(t, http.StatusNotFound)
	s.send(t, http.MethodHead, "/v1/items/read", "").is(t, http.StatusOK)
	var accessed time.Time
	require.NoError(t, s.conn.QueryRow(ctx, "SELECT accessed_at FROM entries WHERE key = 'read'").Scan(&accessed))
	require.False(t, accessed.Before(before), "it was read at %v or later, and is said to have been read %v before", before, before.Sub(accessed))
}

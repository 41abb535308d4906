package main

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// holdUp makes everything that writes an entry wait, until goOn.
func holdUp(t *testing.T, dsn string) (goOn func()) {
	t.Helper()
	tx, err := pgtest.Connect(t, dsn).Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback(t.Context())) }
}

func TestRequestsInFlightAreAnswered(t *testing.T) {
	t.Parallel()
	dsn := pgtest.New(t)
	// More requests than slots: those that wait for one are in flight as well.
	const requests, slots = 100, 16
	s := startReady(t, newDataDir(t), on(dsn), longGrace, fmt.Sprint("STOCKROOM_DB_MAX_CONCURRENCY=", slots),
		"STOCKROOM_DB_QUEUE_TIMEOUT=1m", "STOCKROOM_REQUEST_TIMEOUT=2m")
	conn := pgtest.Connect(t, dsn)
	goOn := holdUp(t, dsn)
	var flying []*pending
	for i := range requests {
		flying = append(flying, s.send(http.MethodPost, "/v1/mset", fmt.Sprintf(`{"entries":{"flying-%d":%d}}`, i, i)))
	}
	for _, request := range flying {
		await(t, "the server works on the request", request.begun)
	}
	eventually(t, "all slots wait for the lock", func() bool { return sessions(t, conn, waiting) == slots })

	s.signal(syscall.SIGTERM)
	s.awaitRefusal()
	for _, request := range flying {
		select {
		case <-request.done:
			t.Fatalf("answered although the database was blocked: %+v %v", request.answer, request.err)
		default:
		}
	}
	goOn()
	for _, request := range flying {
		await(t, "the request is answered", request.done)
		require.NoError(t, request.err)
		require.Equal(t, answer{http.StatusOK, nil, `{"stored":1}`}, request.answer.bare())
	}
	code, took := s.wait(soon)
	require.Equal(t, exitOK, code)
	require.Less(t, took, 5*time.Second)

	var stored int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM entries WHERE key LIKE 'flying-%'").Scan(&stored))
	require.Equal(t, requests, stored)
	eventually(t, "no session is left", func() bool { return sessions(t, conn, ours) == 0 })
}

func TestARequestThatHangsIsCancelled(t *testing.T) {
	t.Parallel()
	dsn := pgtest.New(t)
	s := startReady(t, newDataDir(t), on(dsn), "STOCKROOM_SHUTDOWN_GRACE=200ms")
	conn := pgtest.Connect(t, dsn)
	goOn := holdUp(t, dsn)
	request := s.send(http.MethodPut, "/v1/items/hanging", "1")
	eventually(t, "the request waits for the lock", func() bool { return sessions(t, conn, waiting) == 1 })

	begin := time.Now()
	s.signal(syscall.SIGTERM)
	code, took := s.wait(soon)
	require.Less(t, took, 5*time.Second)
	require.GreaterOrEqual(t, time.Since(begin), 200*time.Millisecond, "the request got no grace")
	require.Equal(t, exitOK, code)
	await(t, "the request is answered", request.done)
	require.NoError(t, request.err)
	// The caller is told that it may come again, not that something is broken.
	require.Equal(t, http.StatusServiceUnavailable, request.answer.status)
	require.Equal(t, "shutting_down", request.answer.code())
	require.NotEmpty(t, request.answer.header.Get("Retry-After"))
	eventually(t, "no session is left", func() bool { return sessions(t, conn, ours) == 0 })

	goOn()
	var stored int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM entries").Scan(&stored))
	require.Zero(t, stored, "what was cancelled was carried out")
}

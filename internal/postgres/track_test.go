package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/stockroom/stockroom/internal/conntrack"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
)

// tracked opens a pool whose connections are in a registry.
func tracked(t *testing.T, dsn string, maxConns int32, tracer postgres.Tracer) (*postgres.DB, *conntrack.Registry) {
	t.Helper()
	registry := new(conntrack.Registry)
	db, err := postgres.Open(postgres.Config{
		DSN: dsn, MaxConns: maxConns, ConnectTimeout: connectTimeout, Tracer: tracer, Connections: registry,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(t, db.Close(ctx), "a connection was not given back")
		require.Empty(t, registry.List())
	})
	return db, registry
}

// doing is what the connections are doing, the oldest first.
func doing(t *testing.T, registry *conntrack.Registry) []conntrack.Activity {
	t.Helper()
	var list []conntrack.Activity
	for _, conn := range registry.List() {
		require.Equal(t, conntrack.Database, conn.Kind)
		require.False(t, conn.Since.Before(conn.Opened))
		list = append(list, conn.Doing)
	}
	return list
}

func TestConnectionsAreTracked(t *testing.T) {
	t.Parallel()
	for name, tracer := range map[string]postgres.Tracer{
		"without traces": nil,
		"with traces":    postgres.NewTracer(noop.NewTracerProvider()), // two tracers share pgx's one place
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const idle, works = conntrack.Idle, conntrack.Transaction
			dsn := pgtest.Empty(t)
			db, registry := tracked(t, dsn, 2, tracer)
			require.Empty(t, registry.List(), "nothing is open before it is needed")
			acquire := func() *pgxpool.Conn {
				conn, err := db.Acquire(within(t, soon))
				require.NoError(t, err)
				return conn
			}
			first := acquire()
			require.Equal(t, []conntrack.Activity{works}, doing(t, registry))
			second := acquire()
			require.Equal(t, []conntrack.Activity{works, works}, doing(t, registry))
			// At once, not a moment after: the slot is given back next.
			db.Release(first)
			require.Equal(t, []conntrack.Activity{idle, works}, doing(t, registry))
			before := registry.List()[0].Since
			first = acquire()
			require.Equal(t, []conntrack.Activity{works, works}, doing(t, registry))
			require.True(t, registry.List()[0].Since.After(before))
			db.Release(second)
			db.Release(first)
			require.Equal(t, []conntrack.Activity{idle, idle}, doing(t, registry))
			requireOurs(t, pgtest.Connect(t, dsn), 2)

			require.NoError(t, db.Close(within(t, soon)))
			require.Empty(t, registry.List())
			requireOurs(t, pgtest.Connect(t, dsn), 0)
		})
	}
}

// A connection that breaks leaves the registry when it is given back, and takes
// the idle ones along.
func TestBrokenConnectionsAreNotTracked(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	db, registry := tracked(t, dsn, 2, nil)
	broken, err := db.Acquire(within(t, soon))
	require.NoError(t, err)
	other, err := db.Acquire(within(t, soon))
	require.NoError(t, err)
	db.Release(other)
	_, err = broken.Exec(within(t, soon), `SELECT pg_terminate_backend(pg_backend_pid())`)
	require.Error(t, err)
	require.Len(t, registry.List(), 2, "somebody still has it")
	db.Release(broken)
	require.Eventually(t, func() bool { return len(registry.List()) == 0 }, soon, time.Millisecond)

	// The pool goes on, and with it the registry.
	require.NoError(t, db.Ping(within(t, soon)))
	require.Equal(t, []conntrack.Activity{conntrack.Idle}, doing(t, registry))
}

// What never came to be open is not left in the registry.
func TestFailedConnectionsAreNotTracked(t *testing.T) {
	t.Parallel()
	refusing := listen(t, refuse)
	db, registry := tracked(t, refusing.dsn("s3cret"), 2, nil)
	require.Error(t, db.Ping(within(t, soon)))
	require.Positive(t, refusing.accepted())
	require.Empty(t, registry.List())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := db.Acquire(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, registry.List())
}

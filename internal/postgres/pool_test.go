package postgres_test

import (
	"context"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
)

// open returns a pool, which must be empty when the test ends.
func open(t testing.TB, dsn string, maxConns int32) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(postgres.Config{DSN: dsn, MaxConns: maxConns, ConnectTimeout: connectTimeout})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(t, db.Close(ctx), "a connection was not given back")
	})
	return db
}

// pid tells which connection the pool gives out.
func pid(t testing.TB, db *postgres.DB) (pid int) {
	t.Helper()
	conn, err := db.Acquire(within(t, soon))
	require.NoError(t, err)
	defer conn.Release()
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
	return pid
}

func TestOpenDoesNotConnect(t *testing.T) {
	t.Parallel()
	server := listen(t, func(net.Conn) {})
	db := open(t, server.dsn("s3cret"), 4)
	require.NoError(t, db.Close(within(t, soon)))
	require.Zero(t, server.accepted())

	// A database that is down shows at the first use, and Open does not mind.
	db = open(t, server.dsn("s3cret"), 4)
	require.Error(t, db.Ping(within(t, soon)))
	require.Positive(t, server.accepted())
}

// Whoever falls silent in a transaction does not keep its locks for ever.
func TestIdleInTransactionIsEnded(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	begin := func(dsn string) *pgxpool.Conn {
		db, err := postgres.Open(postgres.Config{
			DSN: dsn, MaxConns: 1, ConnectTimeout: connectTimeout, MaxIdleInTransaction: 50 * time.Millisecond,
		})
		require.NoError(t, err)
		conn, err := db.Acquire(within(t, soon))
		require.NoError(t, err)
		t.Cleanup(func() {
			conn.Release()
			require.NoError(t, db.Close(context.Background()))
		})
		return conn
	}
	_, err := begin(dsn).Exec(t.Context(), `BEGIN; SELECT pg_advisory_xact_lock(1)`)
	require.NoError(t, err)
	_, err = pgtest.Connect(t, dsn).Exec(within(t, soon), `SELECT pg_advisory_lock(1)`)
	require.NoError(t, err, "it waits until the session is ended")

	var bound string
	require.NoError(t, begin(dsn+"&idle_in_transaction_session_timeout=1h").QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&bound))
	require.Equal(t, "1h", bound, "one that there is wins")
}

func TestPing(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t), 1)
	require.NoError(t, db.Ping(within(t, soon)))
	require.Equal(t, int32(1), db.Stat().MaxConns())
	require.Equal(t, int32(1), db.Stat().TotalConns())
	require.Zero(t, db.Stat().AcquiredConns())
}

func TestClosedPoolSaysSo(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t), 2)
	require.NoError(t, db.Ping(within(t, soon)))
	require.NoError(t, db.Close(within(t, soon)))
	_, err := db.Acquire(within(t, soon))
	require.ErrorIs(t, err, postgres.ErrClosed)
	require.ErrorIs(t, db.Ping(within(t, soon)), postgres.ErrClosed)
	require.NoError(t, db.Close(within(t, soon)), "more than once")
	require.Zero(t, db.Stat().TotalConns())
}

func TestCloseWaitsForConnectionsInUse(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	db := open(t, dsn, 1)
	conn, err := db.Acquire(within(t, soon))
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := db.Acquire(t.Context())
		waiting <- err
	}()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = db.Close(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "as long as it may")
	require.ErrorContains(t, err, "1 connections")

	closed := make(chan error, 2)
	for range cap(closed) {
		go func() { closed <- db.Close(within(t, soon)) }()
	}
	var one int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT 1`).Scan(&one), "who has a connection may go on")
	_, err = db.Acquire(t.Context())
	require.ErrorIs(t, err, postgres.ErrClosed, "nobody else gets one")
	require.Empty(t, closed)
	conn.Release()
	for range cap(closed) {
		require.NoError(t, receive(t, closed))
	}
	require.ErrorIs(t, receive(t, waiting), postgres.ErrClosed)
	requireOurs(t, pgtest.Connect(t, dsn), 0)
}

func TestCancelledStatementKeepsItsConnection(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	watcher := pgtest.Connect(t, dsn)
	db := open(t, dsn, 1)
	before := pid(t, db)
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := db.Acquire(ctx)
		require.NoError(t, err)
		failed := make(chan error, 1)
		start := time.Now()
		go func() {
			_, err := conn.Exec(ctx, `SELECT pg_sleep(3600)`)
			failed <- err
		}()
		await(t, watcher, `SELECT count(*) = 1 FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(3600)'`)
		cancel()
		err = receive(t, failed)
		require.Error(t, err)
		require.Less(t, time.Since(start), soon)
		conn.Release()
		require.Equal(t, before, pid(t, db))
	}
	require.Equal(t, int64(1), db.Stat().NewConnsCount())
}

func TestDeadlineOfAStatementKeepsItsConnection(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t), 1)
	before := pid(t, db)
	conn, err := db.Acquire(within(t, soon))
	require.NoError(t, err)
	_, err = conn.Exec(within(t, time.Second), `SELECT pg_sleep(3600)`)
	require.Error(t, err)
	conn.Release()
	require.Equal(t, before, pid(t, db))
}

func TestAcquireWaitsAsLongAsItMay(t *testing.T) {
	t.Parallel()
	db := open(t, pgtest.Empty(t), 1)
	held, err := db.Acquire(within(t, soon))
	require.NoError(t, err)
	defer held.Release()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = db.Acquire(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, postgres.ErrClosed)
}

func TestEveryConnectionIsNamed(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	query := u.Query()
	query.Set("application_name", "operators-own")
	u.RawQuery = query.Encode()
	for want, dsn := range map[string]string{"stockroom": dsn, "operators-own": u.String()} {
		conn, err := open(t, dsn, 1).Acquire(within(t, soon))
		require.NoError(t, err)
		var name string
		err = conn.QueryRow(t.Context(), `SHOW application_name`).Scan(&name)
		conn.Release()
		require.NoError(t, err)
		require.Equal(t, want, name)
	}
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	silent := listen(t, func(net.Conn) { <-hold })
	t.Cleanup(func() { close(hold) })
	start := time.Now()
	db, err := postgres.Open(postgres.Config{DSN: silent.dsn("s3cret"), MaxConns: 1, ConnectTimeout: 50 * time.Millisecond})
	require.NoError(t, err)
	_, err = db.Acquire(t.Context())
	var connectErr *pgconn.ConnectError
	require.ErrorAs(t, err, &connectErr)
	require.NotContains(t, err.Error(), "s3cret")
	require.NoError(t, db.Close(within(t, soon)))

	// What the operator says in the connection string wins.
	db, err = postgres.Open(postgres.Config{DSN: silent.dsn("s3cret") + "&connect_timeout=1", MaxConns: 1, ConnectTimeout: time.Hour})
	require.NoError(t, err)
	_, err = db.Acquire(t.Context())
	require.ErrorAs(t, err, &connectErr)
	require.NoError(t, db.Close(within(t, soon)))
	require.Less(t, time.Since(start), soon)
}

func TestBadConnectionString(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://user:s3cret@host:notaport/db",
		"postgres://user:s3cret@[::1/db",
		"postgres://user:s3cret@host/db?sslmode=nonsense",
		"postgres://user:s3cret@host/db?connect_timeout=soon",
		"postgres://user:s3cret@ho st/db",
		"host=host password=s3cret nonsense",
		"host=host password='s3cret",
		"mysql://user:s3cret@host/db",
	} {
		_, err := postgres.Open(postgres.Config{DSN: dsn, MaxConns: 1, ConnectTimeout: connectTimeout})
		require.ErrorIs(t, err, postgres.ErrBadDSN, dsn)
		require.NotContains(t, err.Error(), "s3cret")
		_, err = postgres.NewMigrator(t.Context(), dsn, connectTimeout)
		require.ErrorIs(t, err, postgres.ErrBadDSN, dsn)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestNoErrorHoldsThePassword(t *testing.T) {
	t.Parallel()
	closed := listen(t, func(net.Conn) {})
	require.NoError(t, closed.Close())
	for name, server := range map[string]*listener{
		"nobody listens":    closed,
		"hangs up":          listen(t, func(net.Conn) {}),
		"is no PostgreSQL":  listen(t, func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }),
		"refuses the login": listen(t, refuse),
	} {
		dsn := server.dsn("s3cret")
		db := open(t, dsn, 1)
		_, err := db.Acquire(within(t, soon))
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "s3cret", name)
		err = db.Ping(within(t, soon))
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "s3cret", name)
		_, err = postgres.NewMigrator(t.Context(), dsn, connectTimeout)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "s3cret", name)
	}
}

// refuse answers a client as PostgreSQL does whose password is wrong.
func refuse(c net.Conn) {
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		return
	}
	body := []byte("SFATAL\x00VFATAL\x00C28P01\x00Mpassword authentication failed for user \"user\"\x00\x00")
	_, _ = c.Write(append([]byte{'E', 0, 0, 0, byte(len(body) + 4)}, body...))
}

// A server that has frozen keeps its sockets open and answers nothing. An idle
// connection to it is found out by a ping, in bounded time.
func TestFrozenServerIsFoundOut(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits until the pool takes a connection for idle")
	}
	proxy := newFreezer(t, pgtest.Empty(t))
	db := open(t, proxy.dsn, 2)
	before := pid(t, db)
	proxy.freeze()
	// The pool pings connections that were idle for a second.
	<-time.After(1100 * time.Millisecond)
	start := time.Now()
	acquired := make(chan error, 1)
	go func() {
		conn, err := db.Acquire(within(t, soon))
		if err == nil {
			conn.Release()
		}
		acquired <- err
	}()
	// The dead connection is given up; its successor comes to life with the server.
	require.Eventually(t, func() bool { return db.Stat().NewConnsCount() > 1 }, 8*time.Second, 10*time.Millisecond,
		"the pool still waits for the frozen connection")
	proxy.thaw()
	require.NoError(t, receive(t, acquired))
	require.Less(t, time.Since(start), 10*time.Second)
	require.NotEqual(t, before, pid(t, db))
}

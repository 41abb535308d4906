// Package postgres is the one database manager: it owns the connection pool and
// runs the migrations. Nothing else opens a connection to the database.
package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stockroom/stockroom/internal/conntrack"
)

// ErrClosed says that the pool, or the migrator, has been closed.
var ErrClosed = errors.New("postgres: closed")

// ErrBadDSN says that the connection string cannot be read. Its text leaves out
// the string, which may hold a password.
var ErrBadDSN = errors.New("postgres: the connection string is neither a URL (postgres://user@host/database) nor key=value pairs")

// Config says how to reach the database.
type Config struct {
	DSN            string        // URL or key=value pairs, as libpq reads them
	MaxConns       int32         // size of the pool, at least 1
	ConnectTimeout time.Duration // for one connection; a connect_timeout in the DSN wins
	// MaxIdleInTransaction is after how long without a statement the database ends a
	// session that is in a transaction, unless it has a bound of its own; 0: never. A
	// server that is frozen or cut off would keep its locks from all others else.
	MaxIdleInTransaction time.Duration
	Tracer               Tracer // nil: nobody is told
	// Connections gets every connection of the pool and beside it; nil: nobody
	// counts them.
	Connections *conntrack.Registry
}

const (
	// A connection that was idle for longer is asked first whether it is alive,
	// and if it does not answer by then, it is not.
	pingAfter   = time.Second
	pingTimeout = time.Second
	// Idle connections are closed at most so often because another one broke.
	resetEvery = time.Second
	// How long a connection may take to acknowledge a cancelled statement before
	// it is closed: cancelling keeps the connection, closing costs a new one.
	cancelGrace = 500 * time.Millisecond
	appName     = "stockroom"
)

// DB is the pool of connections to one database. Its methods may be called by
// several goroutines.
type DB struct {
	pool        *pgxpool.Pool
	connections *conntrack.Registry // nil: nobody counts
	closed      atomic.Bool
	reset       atomic.Int64 // when idle connections were closed last
}

// readBuffer is what is read from PostgreSQL at once. pgx reads 8 KiB, of which a
// hundred items are dozens.
const readBuffer = 64 << 10

// Open prepares a pool without connecting: a database that is down shows at the
// first use. The caller must Close what it opened.
func Open(cfg Config) (*DB, error) {
	poolConfig, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, ErrBadDSN
	}
	tune(&poolConfig.ConnConfig.Config, cfg.ConnectTimeout)
	poolConfig.ConnConfig.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	poolConfig.ConnConfig.Tracer = cfg.Tracer
	// Behind a pooler somebody else's LISTEN can reach us. pgx would keep what comes.
	poolConfig.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	poolConfig.MaxConns = cfg.MaxConns
	poolConfig.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		presize(conn)
		if err := begin(ctx, conn.PgConn(), cfg.MaxIdleInTransaction); err != nil {
			return err
		}
		if cfg.Connections != nil {
			conn.PgConn().CustomData()[tracked] = cfg.Connections.Open(conntrack.Database, conntrack.Idle)
		}
		return nil
	}
	if cfg.Connections != nil {
		track(poolConfig)
	}
	poolConfig.MinConns = 0
	poolConfig.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		p.Conn.PgConn().CustomData()[idleFor] = p.IdleDuration
		return false // Acquire does
	}
	poolConfig.MaxConnLifetimeJitter = poolConfig.MaxConnLifetime / 10
	pool, err := pgxpool.NewWithConfig(context.Background(), poolConfig)
	if err != nil {
		return nil, fmt.Errorf("postgres: open the pool: %w", err)
	}
	return &DB{pool: pool, connections: cfg.Connections}, nil
}

// begin prepares a session of the pool, in one round trip: it asks who it is, and bounds
// its idleness in transactions. That is no parameter of the connection: poolers refuse
// those that they do not know.
func begin(ctx context.Context, conn *pgconn.PgConn, maxIdle time.Duration) error {
	statements := `SELECT pg_backend_pid()`
	if maxIdle > 0 {
		const setting = `idle_in_transaction_session_timeout`
		statements += fmt.Sprintf(`; SELECT set_config('%s', '%d', false) WHERE current_setting('%s') = '0'`,
			setting, maxIdle.Milliseconds(), setting)
	}
	results, err := conn.Exec(ctx, statements).ReadAll()
	if err != nil {
		return err
	}
	pid, err := strconv.ParseUint(string(results[0].Rows[0][0]), 10, 32)
	if err != nil {
		return fmt.Errorf("postgres: the process id of a session: %w", err)
	}
	conn.CustomData()[session] = Session{PID: uint32(pid), Pooled: pid != uint64(conn.PID())}
	return nil
}

// session is where a connection carries its Session.
const session = "stockroom.session"

// Session is the session of the database behind a connection.
type Session struct {
	PID uint32 // of its process, as in pg_stat_activity
	// Pooled says that a pooler stands between, which tells process ids of its own, and
	// may keep the session when the connection is gone.
	Pooled bool
}

// SessionOf returns the session of a connection of the pool.
func SessionOf(conn *pgx.Conn) Session {
	s, _ := conn.PgConn().CustomData()[session].(Session)
	return s
}

// CheckDSN tells whether a connection string can be read: ErrBadDSN if not.
func CheckDSN(dsn string) error {
	if _, err := pgxpool.ParseConfig(dsn); err != nil {
		return ErrBadDSN
	}
	return nil
}

// tune sets what every connection of ours needs, the migrations' included.
func tune(cfg *pgconn.Config, connectTimeout time.Duration) {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = appName
	}
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelGrace}
	}
}

// tracked is where a connection carries its entry in the registry.
const tracked = "stockroom.conntrack"

// track keeps what the registry has of the pool's connections up to date, until they
// are closed, with whether somebody has them.
func track(cfg *pgxpool.Config) {
	entry := func(conn *pgx.Conn) *conntrack.Conn {
		entry, _ := conn.PgConn().CustomData()[tracked].(*conntrack.Conn)
		return entry
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		entry(conn).Does(conntrack.Transaction)
		return true, nil
	}
	// Not by AfterRelease: with that, pgxpool gives a connection back in a goroutine
	// of its own, and so after the slot.
	released := releases(func(conn *pgx.Conn) { entry(conn).Does(conntrack.Idle) })
	if cfg.ConnConfig.Tracer == nil {
		cfg.ConnConfig.Tracer = released
	} else {
		cfg.ConnConfig.Tracer = multitracer.New(cfg.ConnConfig.Tracer, released)
	}
	cfg.BeforeClose = func(conn *pgx.Conn) { entry(conn).Close() }
}

// Acquire takes a connection out of the pool, waiting for one until ctx ends.
// The caller must give it to Release.
func (db *DB) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for {
		if db.closed.Load() {
			return nil, ErrClosed
		}
		conn, err := db.pool.Acquire(ctx)
		if err != nil && db.closed.Load() {
			return nil, ErrClosed
		}
		if err != nil || alive(ctx, conn) {
			return conn, err
		}
		db.Release(conn)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// idleFor is where a connection carries how long it was idle when it was taken.
const idleFor = "stockroom.idle"

// alive asks a connection that was idle for a while whether it answers.
func alive(ctx context.Context, conn *pgxpool.Conn) bool {
	if idle, ok := conn.Conn().PgConn().CustomData()[idleFor].(time.Duration); !ok || idle < pingAfter {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return conn.Ping(ctx) == nil
}

// Release gives a connection back. One that is broken leaves the pool at once:
// pgx takes up to 15 s to close it, for which it would keep its place, and a few of
// them would keep everybody out. What broke it has most likely broken those that
// are idle: to find that out one by one would cost somebody a long wait each, and
// new ones cost little.
func (db *DB) Release(conn *pgxpool.Conn) {
	if !conn.Conn().IsClosed() {
		conn.Release()
		return
	}
	if entry, ok := conn.Conn().PgConn().CustomData()[tracked].(*conntrack.Conn); ok {
		entry.Close()
	}
	conn.Hijack()
	now, last := time.Now().UnixNano(), db.reset.Load()
	if now-last >= int64(resetEvery) && db.reset.CompareAndSwap(last, now) {
		db.pool.Reset()
	}
}

// Ping tells whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer db.Release(conn)
	return conn.Ping(ctx)
}

// Stat returns a snapshot of the pool.
func (db *DB) Stat() *pgxpool.Stat { return db.pool.Stat() }

// Close closes every connection once it is given back, and waits for that until
// ctx ends. It may be called more than once.
func (db *DB) Close(ctx context.Context) error {
	db.closed.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		db.pool.Close()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	if n := db.pool.Stat().AcquiredConns(); n > 0 {
		return fmt.Errorf("postgres: %d connections are still in use: %w", n, ctx.Err())
	}
	return fmt.Errorf("postgres: the database has not ended its sessions: %w", ctx.Err())
}

// releases is told of connections that are given back. As a tracer it has to look
// at statements, too.
type releases func(*pgx.Conn)

// TraceRelease calls r.
func (r releases) TraceRelease(_ *pgxpool.Pool, data pgxpool.TraceReleaseData) { r(data.Conn) }

// TraceQueryStart does nothing.
func (releases) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (releases) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Package postgres is the one database manager: it owns the connection pool and
// runs the migrations. Nothing else opens a connection to the database.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stockroom/stockroom/internal/conntrack"
)

// ErrClosed says that the database manager has been closed.
var ErrClosed = errors.New("postgres: closed")

// ErrBadDSN says that the connection string cannot be read. Its text leaves out
// the string, which may hold a password.
var ErrBadDSN = errors.New("postgres: the connection string is neither a URL (postgres://user@host/database) nor key=value pairs")

// Config says how to reach the database.
type Config struct {
	DSN            string        // URL or key=value pairs, as libpq reads them
	MaxConns       int32         // size of the pool, at least 1
	ConnectTimeout time.Duration // for one connection; a connect_timeout in the DSN wins
	Tracer         Tracer        // nil: nobody is told
	// Connections gets every connection of the pool; nil: nobody counts them.
	Connections *conntrack.Registry
}

const (
	// An idle connection that does not answer a ping by then is dead. The pool's
	// own default is to wait for ever, which a frozen server makes come true.
	pingTimeout = 2 * time.Second
	// How long a connection may take to acknowledge a cancelled statement before
	// it is closed: cancelling keeps the connection, closing costs a new one.
	cancelGrace = time.Second
	appName     = "stockroom"
)

// DB is the pool of connections to one database. Its methods may be called by
// several goroutines.
type DB struct {
	pool   *pgxpool.Pool
	closed atomic.Bool
}

// Open prepares a pool without connecting: a database that is down shows at the
// first use. The caller must Close what it opened.
func Open(cfg Config) (*DB, error) {
	poolConfig, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, ErrBadDSN
	}
	tune(&poolConfig.ConnConfig.Config, cfg.ConnectTimeout)
	poolConfig.ConnConfig.Tracer = cfg.Tracer
	poolConfig.MaxConns = cfg.MaxConns
	if cfg.Connections != nil {
		track(poolConfig, cfg.Connections)
	}
	poolConfig.MinConns = 0
	poolConfig.PingTimeout = pingTimeout
	poolConfig.MaxConnLifetimeJitter = poolConfig.MaxConnLifetime / 10
	pool, err := pgxpool.NewWithConfig(context.Background(), poolConfig)
	if err != nil {
		return nil, fmt.Errorf("postgres: open the pool: %w", err)
	}
	return &DB{pool: pool}, nil
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

// track registers the pool's connections from when they are open until they are
// closed, with whether somebody has them.
func track(cfg *pgxpool.Config, registry *conntrack.Registry) {
	const name = "stockroom.conntrack"
	entry := func(conn *pgx.Conn) *conntrack.Conn {
		tracked, _ := conn.PgConn().CustomData()[name].(*conntrack.Conn)
		return tracked
	}
	cfg.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.PgConn().CustomData()[name] = registry.Open(conntrack.Database, conntrack.Idle)
		return nil
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		entry(conn).Does(conntrack.Transaction)
		return true, nil
	}
	cfg.AfterRelease = func(conn *pgx.Conn) bool {
		entry(conn).Does(conntrack.Idle)
		return true
	}
	cfg.BeforeClose = func(conn *pgx.Conn) { entry(conn).Close() }
}

// Acquire takes a connection out of the pool, waiting for one until ctx ends.
// The caller must Release it.
func (db *DB) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	if db.closed.Load() {
		return nil, ErrClosed
	}
	conn, err := db.pool.Acquire(ctx)
	if err != nil && db.closed.Load() {
		return nil, ErrClosed
	}
	return conn, err
}

// Ping tells whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	if db.closed.Load() {
		return ErrClosed
	}
	return db.pool.Ping(ctx)
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
		return fmt.Errorf("postgres: %d connections are still in use: %w", db.pool.Stat().AcquiredConns(), ctx.Err())
	}
}

package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/stockroom/stockroom/internal/conntrack"
)

// notify sends a notification. Nothing is lost with one that a crash of the
// database takes away, for that ends the sessions that would have got it: so its
// commit does not wait for the disk.
const notify = `SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`

// Notify sends a notification over a connection of the pool.
func (db *DB) Notify(ctx context.Context, channel, payload string) error {
	conn, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	defer db.Release(conn)
	_, err = conn.Exec(ctx, notify, channel, payload)
	return err
}

// Listener is a connection beside the pool, on which notifications are sent and
// come in. It is for one goroutine.
type Listener struct {
	conn  *pgx.Conn
	entry *conntrack.Conn // nil: nobody counts
}

// Connect opens a connection beside the pool. The caller must Close it.
func (db *DB) Connect(ctx context.Context) (*Listener, error) {
	if db.closed.Load() {
		return nil, ErrClosed
	}
	config := db.pool.Config().ConnConfig
	config.Tracer = nil         // what is sent again and again would fill the traces
	config.OnNotification = nil // pgx keeps them for Next
	// Whoever ends a wait wants the connection to go on: a request to cancel could
	// hit the statement after it.
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	l := &Listener{conn: conn}
	if db.connections != nil {
		l.entry = db.connections.Open(conntrack.Database, conntrack.Listening)
	}
	return l, nil
}

// Listen makes the notifications of channel that are sent from now on come in.
func (l *Listener) Listen(ctx context.Context, channel string) error {
	_, err := l.conn.Exec(ctx, `LISTEN `+pgx.Identifier{channel}.Sanitize())
	return err
}

// Meet shows that somebody of the group has this connection, under a number that
// should be no one else's, and returns the numbers of the others in the database
// who do. Each is an advisory lock, which the database gives up with the session.
func (l *Listener) Meet(ctx context.Context, group int32, number uint32) (others []uint32, err error) {
	// Shared, and so never in anybody's way: an earlier session of ours may still
	// hold it. The numbers in pg_locks are unsigned.
	if _, err := l.conn.Exec(ctx, `SELECT pg_try_advisory_lock_shared($1, $2)`, group, int32(number)); err != nil { //nolint:gosec // the same bits
		return nil, err
	}
	rows, err := l.conn.Query(ctx, `SELECT DISTINCT objid FROM pg_locks
		WHERE locktype = 'advisory' AND objsubid = 2 AND classid = $1 AND objid <> $2
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, uint32(group), number) //nolint:gosec // the same bits
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

// Notify sends a notification. After an error the connection is of no more use.
func (l *Listener) Notify(ctx context.Context, channel, payload string) error {
	_, err := l.conn.Exec(ctx, notify, channel, payload)
	return err
}

// Next returns the next notification, waiting for one until ctx ends, after which
// it may be called again. What has been received already comes even then.
func (l *Listener) Next(ctx context.Context) (payload string, err error) {
	notification, err := l.conn.WaitForNotification(ctx)
	if notification != nil {
		return notification.Payload, nil
	}
	return "", fmt.Errorf("postgres: wait for a notification: %w", err)
}

// Close closes the connection, and waits until that is done or ctx ends.
func (l *Listener) Close(ctx context.Context) {
	if l.entry != nil {
		defer l.entry.Close()
	}
	_ = l.conn.Close(ctx) // it may be broken, which is as good
	select {
	case <-l.conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

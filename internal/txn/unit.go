package txn

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom/internal/postgres"
)

// Unit is one transaction in the making. It belongs to the function that it was
// given to and is for one goroutine; after that function has returned, every
// method fails with ErrUnitEnded.
//
// What is queued goes to the database together with the next statement that has to
// be waited for. So does BEGIN: it costs no round trip of its own.
type Unit struct {
	conn        *pgx.Conn
	queue       *pgx.Batch // BEGIN to begin with; nil for a single statement without a transaction
	together    bool       // see CommitTogether
	ended       atomic.Bool
	used        bool // the single statement has been run
	afterCommit []func()
	around      []func() (settled func())
}

// newUnit returns a unit whose transaction begin begins.
func newUnit(conn *pgx.Conn, begin string) *Unit {
	u := &Unit{conn: conn, queue: new(pgx.Batch)}
	u.queue.Queue(begin)
	return u
}

// Queue adds a statement to those that are sent at the next Flush, Exec or
// Select, or else before COMMIT. Its error is theirs; its answer can be read by the
// methods of what is returned. A unit of ReadOne has no queue: its next use fails.
func (u *Unit) Queue(sql string, args ...any) *pgx.QueuedQuery {
	if u.queue == nil {
		u.used = true
		return new(pgx.QueuedQuery)
	}
	return u.queue.Queue(sql, args...)
}

// Flush sends what is queued, in one round trip, and returns the first error.
func (u *Unit) Flush(ctx context.Context) error {
	if err := u.use(); err != nil {
		return err
	}
	if u.queue == nil {
		return ErrOneStatement
	}
	return u.flush(ctx)
}

func (u *Unit) flush(ctx context.Context) error {
	batch := u.queue
	if batch.Len() == 0 {
		return nil
	}
	u.queue = new(pgx.Batch)
	return postgres.SendBatch(ctx, u.conn, batch)
}

// CommitTogether makes what is queued at the end go in one round trip with COMMIT.
// In those statements a caller that leaves is not heard any more, and a connection
// that is lost is one that is lost while committing: it is for short ones.
func (u *Unit) CommitTogether() { u.together = true }

// Exec runs a statement that returns no rows.
func (u *Unit) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	if err := u.use(); err != nil {
		return tag, err
	}
	if u.queue == nil {
		return u.conn.Exec(ctx, sql, args...)
	}
	u.queue.Queue(sql, args...).Exec(func(answer pgconn.CommandTag) error {
		tag = answer
		return nil
	})
	return tag, u.flush(ctx)
}

// Select runs a statement and gives its rows to read, which need not close them.
func (u *Unit) Select(ctx context.Context, read func(pgx.Rows) error, sql string, args ...any) error {
	if err := u.use(); err != nil {
		return err
	}
	if u.queue == nil {
		rows, err := u.conn.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		return read(rows)
	}
	u.queue.Queue(sql, args...).Query(read)
	return u.flush(ctx)
}

// AfterCommit registers a hook that runs once, after the unit has been
// committed, in the order of registration. It never runs for a unit that is
// rolled back or whose outcome is unknown.
func (u *Unit) AfterCommit(hook func()) { u.afterCommit = append(u.afterCommit, hook) }

// AroundCommit registers a hook that runs right before the commit. What it returns
// runs when the outcome is settled: before the AfterCommit hooks, after a commit
// that has failed, or, where the outcome is unknown, once the database's session
// has ended, so that what was sent to it can have no effect any more.
func (u *Unit) AroundCommit(hook func() (settled func())) { u.around = append(u.around, hook) }

// beginCommit runs the AroundCommit hooks, and returns what they returned.
func (u *Unit) beginCommit() (settle func()) {
	settled := make([]func(), len(u.around))
	for i, hook := range u.around {
		settled[i] = hook()
	}
	return func() { u.runHooks(settled) }
}

// use checks that the unit may be used for one more statement.
func (u *Unit) use() error {
	if u.ended.Load() {
		return ErrUnitEnded
	}
	if u.queue == nil && u.used {
		return ErrOneStatement
	}
	u.used = true
	return nil
}

func (u *Unit) end() { u.ended.Store(true) }

func (u *Unit) runHooks(hooks []func()) {
	for _, hook := range hooks {
		hook()
	}
}

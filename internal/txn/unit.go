package txn

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Unit is one transaction in the making. It belongs to the function that it was
// given to and is for one goroutine; after that function has returned, every
// method fails with ErrUnitEnded.
type Unit struct {
	sql         executor
	ended       atomic.Bool
	single      bool // no transaction around it: one statement only
	used        bool
	afterCommit []func()
	inDoubt     []func()
	around      []func() (settled func())
}

// executor is what a transaction and a connection have in common.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
}

// Exec runs a statement that returns no rows.
func (u *Unit) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := u.use(); err != nil {
		return pgconn.CommandTag{}, err
	}
	return u.sql.Exec(ctx, sql, args...)
}

// Query runs a statement that returns rows, which must be closed before the next one.
func (u *Unit) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := u.use(); err != nil {
		return nil, err
	}
	return u.sql.Query(ctx, sql, args...)
}

// SendBatch runs several statements in one round trip. A batch counts as many
// statements, so a unit of ReadOne refuses it.
func (u *Unit) SendBatch(ctx context.Context, batch *pgx.Batch) (pgx.BatchResults, error) {
	if err := u.use(); err != nil {
		return nil, err
	}
	if u.single {
		return nil, ErrOneStatement
	}
	return u.sql.SendBatch(ctx, batch), nil
}

// AfterCommit registers a hook that runs once, after the unit has been
// committed, in the order of registration. It never runs for a unit that is
// rolled back or whose outcome is unknown.
func (u *Unit) AfterCommit(hook func()) { u.afterCommit = append(u.afterCommit, hook) }

// InDoubt registers a hook that runs in place of the AfterCommit hooks where the
// outcome of the commit is unknown.
func (u *Unit) InDoubt(hook func()) { u.inDoubt = append(u.inDoubt, hook) }

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

func (u *Unit) use() error {
	if u.ended.Load() {
		return ErrUnitEnded
	}
	if u.single && u.used {
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

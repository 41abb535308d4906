// Package txn is the unit of work: it runs a function in one database
// transaction, retries it where the database asks for that, commits or rolls
// back, and runs what hangs on the commit afterwards. A *Unit is the only way to
// run SQL.
package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/telemetry"
)

// What a unit of work can end with besides its function's own error.
var (
	// ErrUnavailable says that the database cannot be reached or cannot work:
	// nothing of the unit has been committed.
	ErrUnavailable = errors.New("txn: the database is unavailable")
	// ErrCommitUnknown says that the connection was lost while committing: the
	// unit is either committed whole or not at all, and nobody here knows which.
	ErrCommitUnknown = errors.New("txn: the outcome of the commit is unknown")
	// ErrContention says that other transactions were in the way for as many
	// times as a unit is tried; nothing of it has been committed.
	ErrContention = errors.New("txn: too much contention")
	// ErrClosed says that the connections or the gate have been closed.
	ErrClosed = errors.New("txn: closed")
	// ErrNested says that a unit was begun inside another one.
	ErrNested = errors.New("txn: a unit of work inside a unit of work")
	// ErrUnitEnded says that a unit was used after its end.
	ErrUnitEnded = errors.New("txn: the unit of work has ended")
	// ErrOneStatement says that a unit of ReadOne ran a second statement.
	ErrOneStatement = errors.New("txn: this unit of work has one statement only")
)

const (
	maxTries     = 10
	firstBackoff = 2 * time.Millisecond
	maxBackoff   = 200 * time.Millisecond
	// How long a rollback may take, and how long once the caller's deadline has
	// passed: then the connection is closed, which rolls back as well.
	rollbackTimeout = 5 * time.Second
	rollbackGrace   = 100 * time.Millisecond
	// How long a commit may take once the caller is gone or has no deadline.
	commitTimeout = 30 * time.Second
)

// Connections gives out connections to the database and takes them back.
type Connections interface {
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
	Release(conn *pgxpool.Conn)
}

// Manager runs units of work. Its methods may be called by several goroutines.
type Manager struct {
	connections Connections
	gate        *limit.Gate
	breaker     *Breaker
	metrics     *telemetry.Metrics
	tracer      trace.Tracer
	log         *slog.Logger
}

// New returns a manager of units on connections. Each transaction takes a slot
// of gate from before it gets its connection until it has ended; a nil gate is
// for work in the background, which has connections of its own.
func New(connections Connections, gate *limit.Gate, log *slog.Logger) *Manager {
	return &Manager{
		connections: connections, gate: gate, log: log,
		metrics: telemetry.NoMetrics(), tracer: noop.NewTracerProvider().Tracer(""),
	}
}

// Guard puts breaker in front of the manager's transactions and returns the
// manager. It is for before the first one.
func (m *Manager) Guard(breaker *Breaker) *Manager {
	m.breaker = breaker
	return m
}

// Observe makes the manager count in metrics and trace with tracer, and returns
// it. It is for before the first transaction.
func (m *Manager) Observe(metrics *telemetry.Metrics, tracer trace.Tracer) *Manager {
	m.metrics, m.tracer = metrics, tracer
	return m
}

// acquire takes a slot and a connection. The caller must call release.
func (m *Manager) acquire(ctx context.Context) (conn *pgxpool.Conn, release func(), err error) {
	slot := takeSlot(ctx)
	if slot == nil && m.gate != nil {
		if slot, err = m.gate.Acquire(ctx); err != nil {
			return nil, nil, noSlot(err)
		}
		m.metrics.SlotWaited(ctx, slot.Waited())
	}
	conn, err = m.connections.Acquire(ctx)
	if err != nil {
		if slot != nil {
			slot.Release()
		}
		return nil, nil, unavailable(ctx, "get a connection", err)
	}
	return conn, func() {
		m.connections.Release(conn)
		if slot != nil {
			slot.Release()
		}
	}, nil
}

// The transactions that there are.
const (
	beginReadCommitted  = "begin isolation level read committed read write"
	beginRepeatableRead = "begin isolation level repeatable read read write"
	beginSnapshot       = "begin isolation level repeatable read read only"
)

// Do runs fn in one transaction at READ COMMITTED and commits it where fn
// returns nil; else nothing that fn did remains, and fn's error comes back.
//
// After a serialization failure (SQLSTATE 40001) or a deadlock (40P01) fn runs
// again in a new transaction, so it must set, not add to, what it captures. The
// hooks of a run that was rolled back are dropped with it.
func (m *Manager) Do(ctx context.Context, fn func(context.Context, *Unit) error) error {
	return m.run(ctx, beginReadCommitted, fn)
}

// DoRepeatable is Do at REPEATABLE READ: every statement sees the database as it
// was at the first one, and a row that somebody else has changed since fails the
// transaction, which is then tried again.
func (m *Manager) DoRepeatable(ctx context.Context, fn func(context.Context, *Unit) error) error {
	return m.run(ctx, beginRepeatableRead, fn)
}

// Read runs fn in a read-only transaction whose statements all see one snapshot.
func (m *Manager) Read(ctx context.Context, fn func(context.Context, *Unit) error) error {
	return m.run(ctx, beginSnapshot, fn)
}

// ReadOne runs fn, which reads with a single statement: PostgreSQL makes that a
// transaction by itself, which saves BEGIN and ROLLBACK. A second statement is an
// error; that the one only reads is for fn to see to.
func (m *Manager) ReadOne(ctx context.Context, fn func(context.Context, *Unit) error) error {
	return m.retry(ctx, func(ctx context.Context) error {
		conn, release, err := m.acquire(ctx)
		if err != nil {
			return err
		}
		defer release()
		unit := &Unit{conn: conn.Conn()}
		defer unit.end()
		return classify(ctx, conn.Conn(), fn(ctx, unit))
	})
}

func (m *Manager) run(ctx context.Context, begin string, fn func(context.Context, *Unit) error) error {
	return m.retry(ctx, func(ctx context.Context) error { return m.once(ctx, begin, fn) })
}

type insideKey struct{}

// retry calls try until it ends in something else than a conflict with another
// transaction. Nothing is held while it waits.
func (m *Manager) retry(ctx context.Context, try func(context.Context) error) (err error) {
	if ctx.Value(insideKey{}) != nil {
		return ErrNested
	}
	ctx, span := m.tracer.Start(ctx, "unit of work")
	defer func() {
		if err != nil {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}()
	inside := context.WithValue(ctx, insideKey{}, true)
	var waits backoff.BackOff
	for tries := 1; ; tries++ {
		err = m.breaker.do(func() error { return overdue(inside, try(inside)) })
		state, conflict := conflictOf(err)
		if !conflict {
			return err
		}
		if tries == maxTries {
			return fmt.Errorf("%w after %d tries: %w", ErrContention, tries, err)
		}
		if waits == nil {
			waits = &backoff.ExponentialBackOff{
				InitialInterval: firstBackoff, MaxInterval: maxBackoff,
				Multiplier: 2, RandomizationFactor: 0.5,
			}
			waits.Reset()
		}
		wait := waits.NextBackOff()
		m.metrics.TransactionRetried(ctx, state)
		span.AddEvent("retry", trace.WithAttributes(semconv.DBResponseStatusCode(state), attribute.Int("stockroom.try", tries)))
		m.log.DebugContext(ctx, "retrying a transaction", "try", tries, "wait", wait, "error", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// overdue calls an end that a deadline was the cause of by its name: the database
// did not answer for as long as somebody waited, be it not this unit's own caller.
func overdue(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return err
}

// once runs fn in one transaction, once.
func (m *Manager) once(ctx context.Context, begin string, fn func(context.Context, *Unit) error) error {
	pooled, release, err := m.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	conn := pooled.Conn()
	// Not only for errors: a panic in fn must not leave a transaction open on a
	// connection that goes back to the pool.
	defer m.rollback(ctx, conn)
	unit := newUnit(conn, begin)
	defer unit.end()
	if err := fn(ctx, unit); err != nil {
		return classify(ctx, conn, err)
	}
	unit.end()
	if begin == beginSnapshot {
		return nil // what was read was read; there is nothing to commit, or to be in doubt of
	}
	if unit.queue.Len() > 0 && !unit.together {
		if err := unit.flush(ctx); err != nil {
			return classify(ctx, conn, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	settle := unit.beginCommit()
	if err := commit(ctx, conn, unit.queue); err != nil {
		if errors.Is(err, ErrCommitUnknown) {
			go m.awaitEnd(context.WithoutCancel(ctx), postgres.SessionOf(conn), settle)
		} else {
			settle()
		}
		return err
	}
	settle()
	unit.runHooks(unit.afterCommit)
	return nil
}

// noTransaction is the status of a connection that has none open (PostgreSQL,
// "Message Formats", ReadyForQuery).
const noTransaction = 'I'

// rollback ends a transaction that is still open. It does not depend on the
// caller's context: the caller may be gone, and a transaction that is left open
// would keep its locks. But a caller that waits gets its answer in time.
func (m *Manager) rollback(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == noTransaction && !conn.PgConn().IsBusy() {
		return
	}
	deadline := time.Now().Add(rollbackTimeout)
	if callers, ok := ctx.Deadline(); ok && callers.Before(deadline) {
		deadline = callers
		if soonest := time.Now().Add(rollbackGrace); deadline.Before(soonest) {
			deadline = soonest
		}
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		m.log.DebugContext(ctx, "rollback", "error", err)
		cancel()
		_ = conn.Close(ctx) // which rolls back as well
	}
}

const (
	// How often the database is asked for a session that was lost at its commit.
	firstLook, lastLook = 10 * time.Millisecond, time.Second
	lookTimeout         = 5 * time.Second
)

// awaitEnd calls settle when the database has no such session any more: only then is
// it certain that a COMMIT which was sent to it has been carried out or never will
// be. A pid that another session has by then only makes that later. A session that a
// pooler keeps need only have ended what it was in at the first look: that was begun
// before.
func (m *Manager) awaitEnd(ctx context.Context, session postgres.Session, settle func()) {
	defer settle()
	var firstLooked *time.Time
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		gone, at, err := m.isGone(ctx, session.PID, firstLooked)
		if gone || errors.Is(err, postgres.ErrClosed) {
			return
		}
		if err == nil && session.Pooled && firstLooked == nil {
			firstLooked = &at
		}
		<-time.After(wait)
	}
}

// isGone tells whether the database has no session pid, or, with a time, none that is in
// a transaction which was begun by then; and when that was.
func (m *Manager) isGone(ctx context.Context, pid uint32, inOneOf *time.Time) (gone bool, at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	conn, err := m.connections.Acquire(ctx)
	if err != nil {
		return false, at, err
	}
	defer m.connections.Release(conn)
	err = conn.QueryRow(ctx, `SELECT clock_timestamp(), NOT EXISTS (SELECT FROM pg_stat_activity
		WHERE pid = $1 AND ($2::timestamptz IS NULL OR xact_start <= $2))`, int64(pid), inOneOf).Scan(&at, &gone)
	return gone, at, err
}

// commit sends COMMIT, behind what is queued to go with it. It outlives a caller that
// leaves, but not the caller's deadline: a commit that is cancelled half-way would
// have an unknown outcome for no good reason.
func commit(ctx context.Context, conn *pgx.Conn, queue *pgx.Batch) error {
	if conn.IsClosed() {
		return fmt.Errorf("%w: the connection was lost before the commit", ErrUnavailable)
	}
	if conn.PgConn().IsBusy() {
		return errors.New("txn: the unit of work has left rows unread")
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(commitTimeout)
	}
	detached, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	var tag pgconn.CommandTag
	var err error
	if queue.Len() == 0 {
		tag, err = conn.Exec(detached, "commit")
	} else {
		queue.Queue("commit").Exec(func(answer pgconn.CommandTag) error {
			tag = answer
			return nil
		})
		err = conn.SendBatch(detached, queue).Close()
	}
	switch {
	case err != nil && !conn.IsClosed() && conn.PgConn().TxStatus() != noTransaction:
		return classify(detached, conn, err) // a statement failed, and COMMIT was left out
	case tag.String() == "ROLLBACK": // a statement had failed before
		return pgx.ErrTxCommitRollback
	}
	return commitError(detached, err)
}

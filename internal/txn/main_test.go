package txn_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	connectTimeout = 10 * time.Second
	// soon is when a test that waits for something gives up.
	soon = 20 * time.Second
)

// bundle is a manager on a database of its own, with a table rows (id, n) that
// holds the rows 1 and 2, and a connection beside it to look and to interfere.
type bundle struct {
	t    *testing.T
	dsn  string
	db   *postgres.DB
	gate *limit.Gate
	*txn.Manager
	other *pgx.Conn
	log   *retryLog
}

// setup makes a bundle with so many slots and as many connections.
func setup(t *testing.T, slots int) *bundle {
	t.Helper()
	return setupOn(t, pgtest.Empty(t), slots)
}

// setupOn makes a bundle on the server that dsn leads to.
func setupOn(t *testing.T, dsn string, slots int) *bundle {
	t.Helper()
	b := &bundle{t: t, dsn: dsn, gate: limit.NewGate(slots, 100, soon), log: new(retryLog)}
	b.other = pgtest.Connect(t, dsn)
	b.exec(`CREATE TABLE rows (id int PRIMARY KEY, n int NOT NULL); INSERT INTO rows VALUES (1, 0), (2, 0)`)
	// Deadlocks are found as fast as they can be.
	b.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''10ms''', current_database()); END $$`)
	b.open(dsn)
	return b
}

// open points the manager to dsn.
func (b *bundle) open(dsn string) {
	b.t.Helper()
	var err error
	slots := b.gate.State().Slots
	b.db, err = postgres.Open(postgres.Config{DSN: dsn, MaxConns: int32(slots), ConnectTimeout: connectTimeout})
	require.NoError(b.t, err)
	db := b.db
	b.Manager = txn.New(db, b.gate, slog.New(b.log))
	b.t.Cleanup(func() {
		b.requireIdle()
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(b.t, db.Close(ctx), "a connection was not given back")
	})
}

// requireIdle checks that every slot is free. Every test ends with it.
func (b *bundle) requireIdle() {
	b.t.Helper()
	state := b.gate.State()
	require.Zero(b.t, state.InUse, "a slot is lost")
	require.Zero(b.t, state.Waiting, "a place is lost")
	slots := make([]*limit.Slot, state.Slots)
	for i := range slots {
		slot, ok := b.gate.TryAcquire()
		require.True(b.t, ok, "a slot is lost")
		slots[i] = slot
	}
	for _, slot := range slots {
		slot.Release()
	}
}

func (b *bundle) exec(sql string, args ...any) {
	b.t.Helper()
	_, err := b.other.Exec(b.t.Context(), sql, args...)
	require.NoError(b.t, err, sql)
}

// n returns what others see of a row, -1 for nothing.
func (b *bundle) n(id int) int {
	b.t.Helper()
	return scan[int](b.t, b.other, `SELECT coalesce((SELECT n FROM rows WHERE id = $1), -1)`, id)
}

// pid returns the connection that the pool of one gives out.
func (b *bundle) pid() (pid int) {
	b.t.Helper()
	require.NoError(b.t, b.ReadOne(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
		pid = pidOf(ctx, b.t, u)
		return nil
	}))
	return pid
}

func (b *bundle) within(d time.Duration) context.Context {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), d)
	b.t.Cleanup(cancel)
	return ctx
}

// await returns when the query's condition holds.
func (b *bundle) await(condition string, args ...any) {
	b.t.Helper()
	deadline := time.Now().Add(soon)
	for time.Now().Before(deadline) {
		if scan[bool](b.t, b.other, condition, args...) {
			return
		}
		b.exec(`SELECT pg_sleep(0.002)`)
	}
	require.FailNow(b.t, "it never came to that", condition)
}

// awaitBlocked returns when so many sessions wait for a lock.
func (b *bundle) awaitBlocked(n int) {
	b.t.Helper()
	b.await(`SELECT count(*) = $1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`, n)
}

// onCommit makes COMMIT run the statements for each row that the transaction has
// inserted: the end of a transaction can thus be held up or made to fail.
func (b *bundle) onCommit(statements string) {
	b.t.Helper()
	b.exec(`CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN ` + statements + `; RETURN NULL; END $f$`)
	b.exec(`CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON rows DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION at_commit()`)
}

func scan[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) (value T) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&value), sql)
	return value
}

// read returns the one value of a unit's query.
func read[T any](ctx context.Context, u *txn.Unit, sql string, args ...any) (value T, err error) {
	err = u.Select(ctx, func(rows pgx.Rows) error {
		value, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
		return err
	}, sql, args...)
	return value, err
}

func pidOf(ctx context.Context, t testing.TB, u *txn.Unit) int {
	t.Helper()
	pid, err := read[int](ctx, u, `SELECT pg_backend_pid()`)
	require.NoError(t, err)
	return pid
}

func insert(ctx context.Context, u *txn.Unit, id int) error {
	_, err := u.Exec(ctx, `INSERT INTO rows VALUES ($1, 1)`, id)
	return err
}

func add(ctx context.Context, u *txn.Unit, id int) error {
	_, err := u.Exec(ctx, `UPDATE rows SET n = n + 1 WHERE id = $1`, id)
	return err
}

// receive returns the next value of c, or fails where none comes.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(soon):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// start runs f in a goroutine and returns its error when it is ready.
func start(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// hooks counts what runs at the end of a unit.
type hooks struct {
	mu   sync.Mutex
	runs []string
}

func (h *hooks) hook(name string) func() {
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.runs = append(h.runs, name)
	}
}

// on registers a hook.
func (h *hooks) on(u *txn.Unit) {
	u.AfterCommit(h.hook("committed"))
}

func (h *hooks) ran() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.runs)
}

// retryLog receives the manager's log, and calls retried for each retry.
type retryLog struct {
	mu      sync.Mutex
	retries int
	retried func()
}

func (l *retryLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *retryLog) Handle(_ context.Context, record slog.Record) error {
	if record.Message == "retrying a transaction" {
		l.mu.Lock()
		l.retries++
		retried := l.retried
		l.mu.Unlock()
		if retried != nil {
			retried()
		}
	}
	return nil
}

func (l *retryLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *retryLog) WithGroup(string) slog.Handler { return l }

func (l *retryLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retries
}

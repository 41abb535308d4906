package store_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestMain(m *testing.M) {
	// Each step of a property asks a database; -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "100"); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}

// soon is when a test that waits for something gives up.
const soon = 30 * time.Second

// bundle is a store on a database of its own; other is a connection beside it,
// to look and to interfere.
type bundle struct {
	t     testing.TB
	dsn   string
	gate  *limit.Gate
	db    *postgres.DB // that was opened last
	units *txn.Manager
	*store.Store
	other *pgx.Conn
	log   *retryLog
}

func setup(t testing.TB, options store.Options) *bundle {
	t.Helper()
	const slots = 12
	b := &bundle{t: t, dsn: pgtest.New(t), gate: limit.NewGate(slots, 1000, soon), log: new(retryLog)}
	b.other = pgtest.Connect(t, b.dsn)
	// Deadlocks, which are retried, are found as fast as they can be.
	b.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''20ms''', current_database()); END $$`)
	b.units = b.open(slots)
	b.Store = store.New(b.units, options)
	t.Cleanup(func() { require.Zero(t, b.gate.State().InUse, "a slot is lost") })
	return b
}

// open returns units on connections of their own.
func (b *bundle) open(conns int32) *txn.Manager {
	b.t.Helper()
	db, err := postgres.Open(postgres.Config{DSN: b.dsn, MaxConns: conns, ConnectTimeout: soon})
	require.NoError(b.t, err)
	b.db = db
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(b.t, db.Close(ctx), "a connection was not given back")
	})
	return txn.New(db, b.gate, slog.New(b.log))
}

func (b *bundle) within(d time.Duration) context.Context {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), d)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *bundle) exec(sql string, args ...any) {
	b.t.Helper()
	exec(b.t, b.other, sql, args...)
}

func exec(t require.TestingT, conn *pgx.Conn, sql string, args ...any) {
	_, err := conn.Exec(context.Background(), sql, args...)
	require.NoError(t, err, sql)
}

func scan[T any](t require.TestingT, conn *pgx.Conn, sql string, args ...any) (value T) {
	require.NoError(t, conn.QueryRow(context.Background(), sql, args...).Scan(&value), sql)
	return value
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

// blocked asks for the lock and not for the wait event, which is gone while the
// session looks for deadlocks: here 20 ms after it has begun to wait (setup).
const blocked = `datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted)`

// awaitBlocked returns when so many sessions wait for a lock.
func (b *bundle) awaitBlocked(n int) {
	b.t.Helper()
	b.await(`SELECT count(*) = $1 FROM pg_stat_activity WHERE `+blocked, n)
}

// killBlocked ends the one session that waits for a lock.
func (b *bundle) killBlocked() {
	b.t.Helper()
	pid := scan[int](b.t, b.other, `SELECT pid FROM pg_stat_activity WHERE `+blocked)
	b.exec(`SELECT pg_terminate_backend($1)`, pid)
	b.await(`SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid)
}

// holdUsage keeps everybody from changing the counters, which is the last thing
// that a write does, until the connection's transaction ends.
func (b *bundle) holdUsage() *pgx.Conn {
	b.t.Helper()
	holder := pgtest.Connect(b.t, b.dsn)
	exec(b.t, holder, `BEGIN; SELECT slot FROM usage_counters FOR UPDATE`)
	return holder
}

// usageOf reads what is stored: from the counters and from the rows, which are
// the same at every commit.
func usageOf(t require.TestingT, conn *pgx.Conn) (counters, rows item.Usage) {
	err := conn.QueryRow(context.Background(), `SELECT
		sum(component_items)::bigint, sum(block_items)::bigint, sum(entry_items)::bigint,
		sum(component_bytes)::bigint, sum(block_bytes)::bigint, sum(entry_bytes)::bigint,
		(SELECT count(*) FROM components), (SELECT count(*) FROM blocks), (SELECT count(*) FROM entries),
		(SELECT coalesce(sum(bytes), 0)::bigint FROM components), (SELECT coalesce(sum(bytes), 0)::bigint FROM blocks),
		(SELECT coalesce(sum(bytes), 0)::bigint FROM entries)
		FROM usage_counters`).Scan(
		&counters.Items.Components, &counters.Items.Blocks, &counters.Items.Entries,
		&counters.Bytes.Components, &counters.Bytes.Blocks, &counters.Bytes.Entries,
		&rows.Items.Components, &rows.Items.Blocks, &rows.Items.Entries,
		&rows.Bytes.Components, &rows.Bytes.Blocks, &rows.Bytes.Entries)
	require.NoError(t, err)
	return counters, rows
}

// checkUsage holds the counters against the rows and returns them.
func checkUsage(t require.TestingT, conn *pgx.Conn) item.Usage {
	counters, rows := usageOf(t, conn)
	require.Equal(t, rows, counters, "the counters are not the rows")
	return counters
}

// content is all that is stored, to be compared with itself.
func (b *bundle) content() string {
	b.t.Helper()
	return scan[string](b.t, b.other, `SELECT concat(
		(SELECT string_agg(t::text, E'\n' ORDER BY key) FROM blocks t),
		(SELECT string_agg(t::text, E'\n' ORDER BY key) FROM components t),
		(SELECT string_agg(t::text, E'\n' ORDER BY key) FROM entries t),
		(SELECT string_agg(t::text, E'\n' ORDER BY slot) FROM usage_counters t))`)
}

func key(t require.TestingT, text string) item.Key {
	k, err := item.ParseKey(text)
	require.NoError(t, err)
	return k
}

func keys(t require.TestingT, texts ...string) []item.Key {
	list := make([]item.Key, len(texts))
	for i, text := range texts {
		list[i] = key(t, text)
	}
	return list
}

// value returns a value of the key's kind that holds text.
func value(t require.TestingT, k item.Key, text string) item.Value {
	body := fmt.Sprintf(`%q`, text)
	switch k.Kind() {
	case item.KindComponent:
		body = fmt.Sprintf(`{"sourceCode":%q}`, text)
	case item.KindEntry:
	case item.KindBlock:
		body = fmt.Sprintf(`{"category":"forms","files":[{"path":"a.tsx","content":%q}]}`, text)
	}
	v, err := item.Parse(k, []byte(body))
	require.NoError(t, err)
	return v
}

func values(t require.TestingT, keys []item.Key, text string) []item.Value {
	list := make([]item.Value, len(keys))
	for i, k := range keys {
		list[i] = value(t, k, text)
	}
	return list
}

// mixture returns so many keys of each kind.
func mixture(t require.TestingT, each int) (list []item.Key) {
	for i := range each {
		list = append(list, keys(t, fmt.Sprintf("component:react:c%03d", i), fmt.Sprintf("block:react:b%03d", i), fmt.Sprintf("entry:%03d", i))...)
	}
	return list
}

func pattern(t require.TestingT, glob string) item.Pattern {
	p, err := item.ParsePattern(glob)
	require.NoError(t, err)
	return p
}

func table(k item.Key) string {
	return map[item.Kind]string{item.KindComponent: "components", item.KindBlock: "blocks", item.KindEntry: "entries"}[k.Kind()]
}

// expire lets an item expire now, as if its time had passed.
func expire(t require.TestingT, conn *pgx.Conn, k item.Key) {
	exec(t, conn, `UPDATE `+table(k)+` SET ttl_seconds = 1, expires_at = now() WHERE key = $1`, k.String())
}

// start runs f in a goroutine and returns its error when it is ready.
func start(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
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

// together runs n functions at once and waits for them.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	gun := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-gun
			f(i)
		})
	}
	close(gun)
	all.Wait()
}

// retryLog counts the retries of transactions, those after a deadlock apart.
type retryLog struct{ retries, deadlocks atomic.Int64 }

func (l *retryLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *retryLog) Handle(_ context.Context, record slog.Record) error {
	if record.Message != "retrying a transaction" {
		return nil
	}
	l.retries.Add(1)
	record.Attrs(func(attr slog.Attr) bool {
		var pgErr *pgconn.PgError
		if err, ok := attr.Value.Any().(error); ok && errors.As(err, &pgErr) && pgErr.Code == "40P01" {
			l.deadlocks.Add(1)
		}
		return true
	})
	return nil
}

func (l *retryLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *retryLog) WithGroup(string) slog.Handler { return l }

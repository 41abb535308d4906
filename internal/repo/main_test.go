package repo_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const soon = 20 * time.Second

// bundle runs units on a database of its own; other is a connection beside them.
type bundle struct {
	t     testing.TB
	units *txn.Manager
	other *pgx.Conn
	sent  *sent
}

func setup(t testing.TB) *bundle {
	t.Helper()
	dsn := pgtest.New(t)
	b := &bundle{t: t, other: pgtest.Connect(t, dsn), sent: new(sent)}
	db, err := postgres.Open(postgres.Config{DSN: dsn, MaxConns: 1, ConnectTimeout: soon, Tracer: b.sent})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(t, db.Close(ctx))
	})
	b.units = txn.New(db, nil, slog.New(slog.DiscardHandler))
	return b
}

// do runs fn in a unit of work and commits it.
func (b *bundle) do(fn func(ctx context.Context, u *txn.Unit) error) {
	b.t.Helper()
	require.NoError(b.t, b.units.Do(b.t.Context(), fn))
}

var errUndo = errors.New("undo")

// try runs fn in a unit of work and takes back what it did.
func (b *bundle) try(fn func(ctx context.Context, u *txn.Unit) error) {
	b.t.Helper()
	require.ErrorIs(b.t, b.units.Do(b.t.Context(), func(ctx context.Context, u *txn.Unit) error {
		if err := fn(ctx, u); err != nil {
			return err
		}
		return errUndo
	}), errUndo)
}

func (b *bundle) exec(sql string, args ...any) {
	b.t.Helper()
	_, err := b.other.Exec(b.t.Context(), sql, args...)
	require.NoError(b.t, err, sql)
}

func scan[T any](b *bundle, sql string, args ...any) (value T) {
	b.t.Helper()
	require.NoError(b.t, b.other.QueryRow(b.t.Context(), sql, args...).Scan(&value), sql)
	return value
}

// checkUsage holds the counters against the rows, by kind.
func (b *bundle) checkUsage() {
	b.t.Helper()
	read := func(sql string) (u item.Usage) {
		require.NoError(b.t, b.other.QueryRow(b.t.Context(), sql).Scan(
			&u.Items.Components, &u.Items.Blocks, &u.Items.Entries, &u.Bytes.Components, &u.Bytes.Blocks, &u.Bytes.Entries))
		return u
	}
	require.Equal(b.t,
		read(`SELECT (SELECT count(*) FROM components), (SELECT count(*) FROM blocks), (SELECT count(*) FROM entries),
			(SELECT coalesce(sum(bytes), 0)::bigint FROM components), (SELECT coalesce(sum(bytes), 0)::bigint FROM blocks),
			(SELECT coalesce(sum(bytes), 0)::bigint FROM entries)`),
		read(`SELECT sum(component_items)::bigint, sum(block_items)::bigint, sum(entry_items)::bigint,
			sum(component_bytes)::bigint, sum(block_bytes)::bigint, sum(entry_bytes)::bigint FROM usage_counters`),
		"the counters are not the rows")
}

func key(t testing.TB, text string) item.Key {
	t.Helper()
	k, err := item.ParseKey(text)
	require.NoError(t, err)
	return k
}

// value returns a value of any kind that holds text.
func value(t testing.TB, k item.Key, text string) item.Value {
	t.Helper()
	body := fmt.Sprintf(`%q`, text)
	switch k.Kind() {
	case item.KindComponent:
		body = fmt.Sprintf(`{"sourceCode":%q,"dependencies":["a"]}`, text)
	case item.KindEntry:
	case item.KindBlock:
		body = fmt.Sprintf(`{"category":"forms","files":[{"path":"a.tsx","content":%q}]}`, text)
	}
	v, err := item.Parse(k, []byte(body))
	require.NoError(t, err)
	return v
}

// statement is what was sent to the database.
type statement struct {
	sql  string
	args []any
}

// sent is a tracer that keeps the statements, without those of transactions.
type sent struct {
	mu   sync.Mutex
	list []statement
}

func (s *sent) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	first, _, _ := strings.Cut(strings.ToLower(data.SQL), " ")
	if first != "begin" && first != "commit" && first != "rollback" {
		s.mu.Lock()
		s.list = append(s.list, statement{data.SQL, data.Args})
		s.mu.Unlock()
	}
	return ctx
}

func (*sent) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (s *sent) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, statement{data.SQL, data.Args})
}

func (*sent) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (*sent) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// take returns what was sent since the last time.
func (s *sent) take() []statement {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return list
}

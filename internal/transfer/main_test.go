package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/transfer"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// soon is when a test that waits for something gives up.
const soon = 30 * time.Second

// bundle is a store on a database of its own; other is a connection beside it.
type bundle struct {
	t *testing.T
	*store.Store

	maxBytes int64
	other    *pgx.Conn
}

func setup(t *testing.T, maxBytes int64) *bundle {
	t.Helper()
	dsn := pgtest.New(t)
	db, err := postgres.Open(postgres.Config{DSN: dsn, MaxConns: 3, ConnectTimeout: soon})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(t, db.Close(ctx))
	})
	items := store.New(txn.New(db, nil, slog.New(slog.DiscardHandler)), store.Options{MaxBytes: maxBytes})
	return &bundle{t: t, Store: items, maxBytes: maxBytes, other: pgtest.Connect(t, dsn)}
}

func (b *bundle) exec(sql string, args ...any) {
	b.t.Helper()
	_, err := b.other.Exec(context.Background(), sql, args...)
	require.NoError(b.t, err, sql)
}

func scan[T any](b *bundle, sql string, args ...any) (value T) {
	b.t.Helper()
	require.NoError(b.t, b.other.QueryRow(context.Background(), sql, args...).Scan(&value), sql)
	return value
}

// content is every row that is alive, in every column but prev_bytes, which is not
// the item's but its predecessor's.
func (b *bundle) content() string {
	b.t.Helper()
	part := func(table string) string {
		return `(SELECT string_agg((to_jsonb(t) - 'prev_bytes')::text, E'\n' ORDER BY key) FROM ` + table + ` t
			WHERE expires_at IS NULL OR expires_at > now())`
	}
	return scan[string](b, `SELECT concat_ws(E'\n', `+part("blocks")+`, `+part("components")+`, `+part("entries")+`)`)
}

// requireUsage holds the counters against the rows.
func (b *bundle) requireUsage() {
	b.t.Helper()
	counters := scan[string](b, `SELECT concat_ws(' ', sum(component_items), sum(block_items), sum(entry_items),
		sum(component_bytes), sum(block_bytes), sum(entry_bytes)) FROM usage_counters`)
	rows := scan[string](b, `SELECT concat_ws(' ', (SELECT count(*) FROM components), (SELECT count(*) FROM blocks), (SELECT count(*) FROM entries),
		(SELECT coalesce(sum(bytes), 0) FROM components), (SELECT coalesce(sum(bytes), 0) FROM blocks), (SELECT coalesce(sum(bytes), 0) FROM entries))`)
	require.Equal(b.t, rows, counters, "the counters are not the rows")
}

func (b *bundle) put(key, body string, ttl item.TTL) {
	b.t.Helper()
	_, err := b.Put(b.t.Context(), value(b.t, key, body), &ttl, item.Precondition{})
	require.NoError(b.t, err)
}

func value(t *testing.T, key, body string) item.Value {
	t.Helper()
	k, err := item.ParseKey(key)
	require.NoError(t, err)
	v, err := item.Parse(k, []byte(body))
	require.NoError(t, err, body)
	return v
}

// fill puts so many items of each kind.
func (b *bundle) fill(each int) {
	b.t.Helper()
	var batch []item.Value
	for i := range each {
		batch = append(batch,
			value(b.t, fmt.Sprintf("component:react:c%06d", i), fmt.Sprintf(`{"sourceCode":"source %d","fileSize":%d}`, i, i)),
			value(b.t, fmt.Sprintf("block:vue:b%06d", i), fmt.Sprintf(`{"files":[{"content":"file %d"}],"category":"c%d"}`, i, i%7)),
			value(b.t, fmt.Sprintf("entry:%06d", i), fmt.Sprintf(`{"n":%d.50}`, i)))
		if len(batch) >= 999 || i == each-1 {
			require.NoError(b.t, b.PutMany(b.t.Context(), batch, nil))
			batch = nil
		}
	}
}

// vary makes times, counts and versions of the rows differ from each other.
func (b *bundle) vary() {
	b.t.Helper()
	for _, table := range []string{"components", "blocks", "entries"} {
		b.exec(`UPDATE ` + table + ` SET created_at = created_at - interval '1 day' * (hashtext(key) & 1023) + interval '1 microsecond' * (hashtext(key) & 511),
			updated_at = updated_at - interval '1 hour' * (hashtext(key) & 15), cached_at = cached_at - interval '1 minute' * (hashtext(key) & 15),
			accessed_at = accessed_at - interval '1 microsecond' * (hashtext(key) & 65535), access_count = 1 + (hashtext(key) & 4095), version = 1 + (hashtext(key) & 7)`)
	}
}

// export writes the store to a file.
func (b *bundle) export() string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "backup.ndjson")
	exported, err := transfer.ExportFile(b.t.Context(), b.Store, path, "a test", nil)
	require.NoError(b.t, err)
	require.Equal(b.t, int64(len(lines(b.t, path)))-2, exported.Total())
	return path
}

// lines are those of a file, without their ends.
func lines(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.HasSuffix(content, []byte("\n")))
	return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
}

// load imports a file that is as it should be.
func (b *bundle) load(path string, options transfer.Options) (transfer.Report, error) {
	b.t.Helper()
	options.Limit = b.maxBytes
	checked, err := transfer.Check(b.t.Context(), path, nil, nil)
	require.NoError(b.t, err)
	defer func() { require.NoError(b.t, checked.Close()) }()
	return checked.Import(b.t.Context(), b.Store, options)
}

// loads is load that goes well.
func (b *bundle) loads(path string, options transfer.Options) transfer.Report {
	b.t.Helper()
	report, err := b.load(path, options)
	require.NoError(b.t, err)
	b.requireUsage()
	return report
}

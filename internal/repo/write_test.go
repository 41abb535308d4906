package repo_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// upsert stores writes in a unit of their own and keeps the counters.
func (b *bundle) upsert(writes ...repo.Write) (written map[item.Key]repo.Written, usage item.Usage) {
	b.t.Helper()
	b.do(func(ctx context.Context, u *txn.Unit) (err error) {
		if written, usage, err = repo.Upsert(ctx, u, writes); err != nil {
			return err
		}
		repo.AddUsage(u, usage)
		return nil
	})
	return written, usage
}

func (b *bundle) get(k item.Key) (stored item.Stored, err error) {
	b.t.Helper()
	err = b.units.ReadOne(b.t.Context(), func(ctx context.Context, u *txn.Unit) error {
		stored, err = repo.Get(ctx, u, k)
		return err
	})
	return stored, err
}

func (b *bundle) requireStored(v item.Value) item.Stored {
	b.t.Helper()
	stored, err := b.get(v.Key)
	require.NoError(b.t, err, v.Key)
	require.Equal(b.t, string(v.JSON()), string(stored.JSON))
	require.Equal(b.t, v.ETag, stored.ETag)
	require.Equal(b.t, v.Bytes, stored.Bytes)
	return stored
}

func table(k item.Key) string {
	return map[item.Kind]string{item.KindComponent: "components", item.KindBlock: "blocks", item.KindEntry: "entries"}[k.Kind()]
}

// expire lets an item expire now, which takes a second by the ordinary way.
func (b *bundle) expire(k item.Key) {
	b.t.Helper()
	b.exec(`UPDATE `+table(k)+` SET expires_at = now() WHERE key = $1`, k.String())
	_, err := b.get(k)
	require.ErrorIs(b.t, err, item.ErrNotFound)
}

var kinds = map[item.Kind]string{
	item.KindComponent: "component:react:button", item.KindBlock: "block:react:login", item.KindEntry: "metadata:rate",
}

func TestUpsertCreatesAndReplaces(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for kind, text := range kinds {
		k := key(t, text)
		first, second := value(t, k, "first"), value(t, k, "the second")
		written, usage := b.upsert(repo.Write{Value: first})
		require.Len(t, written, 1)
		created := written[k]
		require.True(t, created.Created)
		require.Equal(t, item.UsageOf(kind, 1, first.Bytes), usage)
		require.Equal(t, int64(1), created.Version)
		require.Equal(t, int64(1), created.AccessCount)
		require.Equal(t, [2]time.Time{created.Metadata.Created, created.Metadata.Created}, [2]time.Time{created.Updated, created.Accessed})
		require.Equal(t, created.Metadata, withRemaining(b.requireStored(first).Metadata, created.Remaining))
		require.Zero(t, created.TTL)
		require.True(t, created.Expires.IsZero())

		written, usage = b.upsert(repo.Write{Value: second, TTL: 60})
		replaced := written[k]
		require.False(t, replaced.Created)
		require.Equal(t, item.UsageOf(kind, 0, second.Bytes-first.Bytes), usage)
		require.Equal(t, int64(2), replaced.Version)
		require.Equal(t, int64(2), replaced.AccessCount)
		require.Equal(t, created.Metadata.Created, replaced.Metadata.Created)
		require.True(t, replaced.Updated.After(created.Updated))
		require.Equal(t, item.TTL(60), replaced.TTL)
		require.Equal(t, time.Minute, replaced.Remaining)
		require.Equal(t, replaced.Updated.Add(time.Minute), replaced.Expires)
		b.requireStored(second)

		b.expire(k)
		b.checkUsage()
		written, usage = b.upsert(repo.Write{Value: first})
		reset := written[k]
		require.True(t, reset.Created, "what has expired is not there any more")
		require.Equal(t, item.UsageOf(kind, 0, first.Bytes-second.Bytes), usage, "its row is, until it is swept")
		require.Equal(t, int64(1), reset.Version)
		require.Equal(t, int64(1), reset.AccessCount)
		require.True(t, reset.Metadata.Created.After(created.Metadata.Created))
		require.Zero(t, reset.TTL)
		require.True(t, reset.Expires.IsZero())
		b.requireStored(first)
		b.checkUsage()
	}
}

func TestCreateOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for kind, text := range kinds {
		k := key(t, text)
		first, second := value(t, k, "first"), value(t, k, "the second")
		written, usage := b.upsert(repo.Write{Value: first, CreateOnly: true})
		require.True(t, written[k].Created)
		require.Equal(t, item.UsageOf(kind, 1, first.Bytes), usage)

		for _, ttl := range []item.TTL{0, 60} {
			b.upsert(repo.Write{Value: first, TTL: ttl}) // one that never expires, one that will
			written, usage = b.upsert(repo.Write{Value: second, CreateOnly: true})
			require.Empty(t, written)
			require.Zero(t, usage)
			require.Equal(t, ttl, b.requireStored(first).TTL)
		}
		b.expire(k)
		written, usage = b.upsert(repo.Write{Value: second, CreateOnly: true})
		require.True(t, written[k].Created)
		require.Equal(t, item.UsageOf(kind, 0, second.Bytes-first.Bytes), usage)
		b.requireStored(second)
		b.checkUsage()
	}
}

// Modes and kinds may be mixed in one call, in any order.
func TestUpsertOfAMixture(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var writes []repo.Write
	var want item.Usage
	expected := map[item.Key]bool{}
	for i := range 60 {
		for kind, text := range kinds {
			k := key(t, fmt.Sprintf("%s-%02d", text, i))
			standing := i%3 == 0
			if standing {
				b.upsert(repo.Write{Value: value(t, k, "stands")})
			}
			w := repo.Write{Value: value(t, k, fmt.Sprint("new ", i)), CreateOnly: i%2 == 0}
			writes = append(writes, w)
			switch {
			case standing && w.CreateOnly: // nothing happens
			case standing:
				expected[k] = false
				want = want.Plus(item.UsageOf(kind, 0, w.Value.Bytes-value(t, k, "stands").Bytes))
			default:
				expected[k] = true
				want = want.Plus(item.UsageOf(kind, 1, w.Value.Bytes))
			}
		}
	}
	rand.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	written, usage := b.upsert(writes...)
	require.Equal(t, want, usage)
	require.Len(t, written, len(expected))
	for k, created := range expected {
		require.Contains(t, written, k)
		require.Equal(t, created, written[k].Created, k)
		require.Equal(t, k, written[k].Key)
	}
	for _, w := range writes {
		if _, ok := expected[w.Value.Key]; ok {
			b.requireStored(w.Value)
		} else {
			b.requireStored(value(t, w.Value.Key, "stands"))
		}
	}
	b.checkUsage()
}

func TestUpsertOfAnySize(t *testing.T) {
	t.Parallel()
	b := setup(t)
	texts := []string{"component:react:c%d", "block:react:b%d", "entry %d"}
	standing := map[item.Key]int64{}
	for n := 1; n <= 300; n++ {
		if n > 40 && n%7 != 0 && n != 127 && n != 128 && n != 129 && n != 255 && n != 256 && n != 257 && n != 300 {
			continue
		}
		writes := make([]repo.Write, n)
		var want item.Usage
		for i := range writes {
			k := key(t, fmt.Sprintf(texts[(i+n)%3], rand.IntN(10)*300+i)) // some stand by now
			writes[i] = repo.Write{Value: value(t, k, strconv.Itoa(n))}
			before, ok := standing[k]
			if ok {
				want = want.Plus(item.UsageOf(k.Kind(), 0, writes[i].Value.Bytes-before))
			} else {
				want = want.Plus(item.UsageOf(k.Kind(), 1, writes[i].Value.Bytes))
			}
		}
		written, usage := b.upsert(writes...)
		require.Equal(t, want, usage, n)
		require.Len(t, written, n)
		for _, w := range writes {
			_, stood := standing[w.Value.Key]
			require.Equal(t, !stood, written[w.Value.Key].Created)
			require.Equal(t, w.Value.ETag, written[w.Value.Key].ETag)
		}
		for _, w := range writes {
			standing[w.Value.Key] = w.Value.Bytes
		}
	}
	b.checkUsage()
	require.Equal(t, int64(len(standing)), scan[int64](b, `SELECT sum(component_items + block_items + entry_items)::bigint FROM usage_counters`))
}

// However large batches are, few different statements are prepared for them.
func TestUpsertPreparesFewStatements(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sizes := []int{1, 2, 3, 5, 7, 8, 63, 100, 127, 128, 129, 200, 255, 383, 511, 777, 1000}
	for _, n := range sizes {
		writes := make([]repo.Write, n)
		for i := range writes {
			writes[i] = repo.Write{Value: value(t, key(t, fmt.Sprintf("entry %d", i)), "")}
		}
		b.try(func(ctx context.Context, u *txn.Unit) error {
			written, _, err := repo.Upsert(ctx, u, writes)
			require.Len(t, written, n)
			return err
		})
	}
	b.do(func(ctx context.Context, u *txn.Unit) error {
		var n int
		u.Queue(`SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT INTO entries%'`).
			QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
		err := u.Flush(ctx)
		require.LessOrEqual(t, n, 16, "few sizes")
		require.Positive(t, n)
		return err
	})
}

// A batch is a few statements, not one for each item.
func TestUpsertSendsFewStatements(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(`CREATE TABLE statements (n int); INSERT INTO statements VALUES (0);
		CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN UPDATE statements SET n = n + 1; RETURN NULL; END $f$;
		CREATE TRIGGER count_statement BEFORE INSERT ON entries FOR EACH STATEMENT EXECUTE FUNCTION count_statement()`)
	writes := make([]repo.Write, 1000)
	for i := range writes {
		writes[i] = repo.Write{Value: value(t, key(t, fmt.Sprintf("entry %d", i)), "")}
	}
	b.upsert(writes...)
	require.LessOrEqual(t, scan[int](b, `SELECT n FROM statements`), 15)
	b.checkUsage()
}

func TestUpsertOfNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	written, usage := b.upsert()
	require.Empty(t, written)
	require.Zero(t, usage)
}

// Writers lock in one order, whatever order they were given.
func TestUpsertLocksInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.exec(`CREATE TABLE locked (n serial, key text);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $f$
			BEGIN INSERT INTO locked (key) VALUES (CASE TG_ARGV[0] WHEN '' THEN to_jsonb(new) ->> 'key' ELSE TG_ARGV[0] || (to_jsonb(new) ->> 'framework') || ':' || (to_jsonb(new) ->> 'name') END); RETURN new; END $f$;
		CREATE TRIGGER note BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION note('');
		CREATE TRIGGER note BEFORE INSERT ON blocks FOR EACH ROW EXECUTE FUNCTION note('block:');
		CREATE TRIGGER note BEFORE INSERT ON components FOR EACH ROW EXECUTE FUNCTION note('component:')`)
	var want []string
	var writes []repo.Write
	for _, text := range []string{"block:react:b%03d", "component:react:c%03d", "e%03d"} {
		for i := range 150 {
			want = append(want, fmt.Sprintf(text, i))
			writes = append(writes, repo.Write{Value: value(t, key(t, want[len(want)-1]), "")})
		}
	}
	rand.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	b.upsert(writes...)
	require.Equal(t, want, scan[[]string](b, `SELECT array_agg(key ORDER BY n) FROM locked`))
}

// withRemaining returns m as it was while so much of its time remained.
func withRemaining(m item.Metadata, remaining time.Duration) item.Metadata {
	m.Remaining = remaining
	return m
}

// However many keys there are, they are locked by few statements, sent at once, and
// nothing is left of it.
func TestLockKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var all []item.Key
	var writes []repo.Write
	want := map[item.Key]string{}
	for i := range 256 {
		for _, text := range kinds {
			k := key(t, fmt.Sprint(text, i))
			all = append(all, k, k)
			if i%2 == 0 {
				v := value(t, k, "x")
				writes = append(writes, repo.Write{Value: v})
				want[k] = v.ETag
			}
		}
	}
	b.upsert(writes...)
	expired := writes[0].Value.Key
	b.expire(expired)
	delete(want, expired)
	content := `SELECT concat((SELECT string_agg(t::text, ' ' ORDER BY key) FROM components t), (SELECT string_agg(t::text, ' ' ORDER BY key) FROM blocks t),
		(SELECT string_agg(t::text, ' ' ORDER BY key) FROM entries t))`
	before := scan[string](b, content)
	b.sent.take()
	b.do(func(ctx context.Context, u *txn.Unit) error {
		etags, err := repo.LockKeys(ctx, u, all)
		require.Equal(t, want, etags)
		require.Len(t, b.sent.take(), 1+3*2+3, "BEGIN, two statements of 128 keys a table, and the ETags of each")
		return err
	})
	require.Equal(t, before, scan[string](b, content))
	b.checkUsage()
}

package store_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
)

// sized returns an entry that is charged so many bytes.
func sized(t require.TestingT, k string, bytes int) item.Value {
	v := value(t, key(t, k), strings.Repeat("x", bytes-2))
	require.Equal(t, int64(bytes), v.Bytes)
	return v
}

func (b *bundle) mustPut(v item.Value) {
	b.t.Helper()
	_, err := b.Put(b.t.Context(), v, nil, item.Precondition{})
	require.NoError(b.t, err)
}

// stored returns the keys of the rows, expired ones included.
func (b *bundle) stored() []string {
	b.t.Helper()
	return scan[[]string](b.t, b.other, `SELECT coalesce(array_agg(key ORDER BY key), '{}') FROM
		(SELECT key FROM components UNION ALL SELECT key FROM blocks UNION ALL SELECT key FROM entries) AS items`)
}

// age makes items look as if they were last used so many seconds ago.
func (b *bundle) age(seconds map[string]int) {
	b.t.Helper()
	for k, s := range seconds {
		b.exec(`UPDATE `+table(key(b.t, k))+` SET accessed_at = now() - $2 * interval '1 second' WHERE key = $1`, k, s)
	}
}

func TestEvictionTakesWhatIsNeededLeast(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 1000})
	component := value(t, key(t, "component:react:c"), strings.Repeat("x", 200))
	block := value(t, key(t, "block:react:b"), strings.Repeat("x", 200))
	b.mustPut(component)
	b.mustPut(block)
	for _, k := range []string{"expired", "old", "new"} {
		b.mustPut(sized(t, k, 200))
	}
	b.age(map[string]int{"component:react:c": 30, "block:react:b": 10, "old": 20, "new": 1})
	expire(t, b.other, key(t, "expired"))
	require.Equal(t, int64(1000), checkUsage(t, b.other).Bytes.Total())

	b.mustPut(sized(t, "first", 100))
	require.Equal(t, []string{"block:react:b", "component:react:c", "first", "new", "old"}, b.stored(), "what has expired goes first")
	b.mustPut(sized(t, "second", 110))
	require.Equal(t, []string{"block:react:b", "first", "new", "old", "second"}, b.stored(), "then what was not used for the longest time")
	_, err := b.Get(t.Context(), key(t, "old")) // a mark that is not written yet
	require.NoError(t, err)
	b.mustPut(sized(t, "third", 200))
	require.Equal(t, []string{"first", "new", "old", "second", "third"}, b.stored(), "whatever kind it is of")
	// A write that had to wait is older than what came meanwhile.
	b.age(map[string]int{"first": -1, "second": -2, "old": -3, "new": -4})
	b.mustPut(sized(t, "third", 500))
	require.Equal(t, []string{"new", "old", "third"}, b.stored(), "but never what is being written")
	checkUsage(t, b.other)
	stats, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(4), stats.Evictions)
	require.Equal(t, int64(1), stats.Expirations)
}

func TestWhatCanNeverFitIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 1000})
	b.mustPut(sized(t, "a", 900))
	before := b.content()
	_, err := b.Put(t.Context(), sized(t, "b", 1001), nil, item.Precondition{})
	var faults item.Faults
	require.ErrorAs(t, err, &faults)
	require.Equal(t, item.CodeTooLarge, faults[0].Code)
	err = b.PutMany(t.Context(), []item.Value{sized(t, "b", 600), sized(t, "c", 500)}, nil)
	require.ErrorIs(t, err, item.ErrBatchTooLarge)
	require.Equal(t, before, b.content())

	b.mustPut(sized(t, "b", 1000))
	require.Equal(t, []string{"b"}, b.stored(), "as large as the store is not too large")
	require.NoError(t, b.PutMany(t.Context(), []item.Value{sized(t, "c", 500), sized(t, "d", 500)}, nil))
	require.Equal(t, []string{"c", "d"}, b.stored())
	checkUsage(t, b.other)
}

// What the write had to make room for is deleted by somebody else, after the
// write has looked at the size of the store: then there is room.
func TestRoomThatOthersMake(t *testing.T) {
	t.Parallel()
	for name, free := range map[string]func(b *bundle) error{
		"delete":  func(b *bundle) error { return b.Delete(b.t.Context(), key(b.t, "old"), item.Precondition{}) },
		"mdelete": func(b *bundle) error { _, err := b.DeleteMany(b.t.Context(), keys(b.t, "old")); return err },
		"sweep": func(b *bundle) error {
			expire(b.t, b.other, key(b.t, "old"))
			_, _, err := b.Sweep(b.t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{MaxBytes: 1000})
			b.mustPut(sized(t, "old", 900))
			somebody := pgtest.Connect(t, b.dsn)
			exec(t, somebody, `BEGIN; INSERT INTO entries (key, value, bytes, etag, created_at, updated_at, cached_at, accessed_at)
				VALUES ('new', '1', 1, 'e', now(), now(), now(), now())`)
			putting := start(func() error {
				_, err := b.Put(t.Context(), sized(t, "new", 500), nil, item.Precondition{})
				return err
			})
			b.awaitBlocked(1)
			require.NoError(t, free(b))
			exec(t, somebody, `ROLLBACK`)
			require.NoError(t, receive(t, putting))
			require.Equal(t, []string{"new"}, b.stored())
			checkUsage(t, b.other)
		})
	}
}

// Whatever is written at once, and by whichever server: at no commit is there more
// than there may be, and the counters are what the rows are.
func TestTheLimitIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const limit, writers, each = 20_000, 64, 12
	options := store.Options{MaxBytes: limit}
	b := setup(t, options)
	servers := []*store.Store{b.Store, store.New(b.open(12), options)}
	var done atomic.Bool
	writing := start(func() error {
		defer done.Store(true)
		together(writers, func(writer int) {
			w := randomWriter{servers[writer%len(servers)], rand.New(rand.NewPCG(uint64(writer), 1))}
			for range each {
				if err := w.write(t); err != nil {
					t.Error(err)
				}
			}
		})
		return nil
	})
	most, samples := int64(0), 0
	for !done.Load() {
		stored := checkUsage(t, b.other).Bytes.Total()
		require.LessOrEqual(t, stored, int64(limit))
		most, samples = max(most, stored), samples+1
	}
	require.NoError(t, receive(t, writing))
	require.LessOrEqual(t, checkUsage(t, b.other).Bytes.Total(), int64(limit))
	require.Greater(t, most, int64(limit*3/4), "the limit was not near")
	require.Greater(t, samples, 10)
}

// randomWriter writes to one server what it happens to think of.
type randomWriter struct {
	*store.Store
	*rand.Rand
}

func (w randomWriter) value(t testing.TB) item.Value {
	t.Helper()
	kind := []string{"component:react:c", "block:react:b", "e"}[w.IntN(3)]
	return value(failing{t}, key(failing{t}, kind+strconv.Itoa(w.IntN(100))), strings.Repeat("x", w.IntN(1500)))
}

func (w randomWriter) write(t testing.TB) error {
	t.Helper()
	switch w.IntN(8) {
	case 0:
		batch := map[item.Key]item.Value{}
		for range 5 {
			v := w.value(t)
			batch[v.Key] = v
		}
		return w.PutMany(t.Context(), slices.Collect(maps.Values(batch)), nil)
	case 1:
		_, err := w.DeleteMany(t.Context(), []item.Key{w.value(t).Key, w.value(t).Key})
		return err
	default:
		_, err := w.Put(t.Context(), w.value(t), nil, item.Precondition{})
		return err
	}
}

func TestMaintain(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for i := range 10 {
		b.mustPut(sized(t, strconv.Itoa(i), 100))
		b.age(map[string]int{strconv.Itoa(i): 100 - i})
	}
	expire(t, b.other, key(t, "5"))
	done, err := b.Maintain(t.Context(), store.Maintenance{})
	require.NoError(t, err)
	require.Equal(t, store.Maintained{Expired: 1, Usage: item.UsageOf(item.KindEntry, 9, 900)}, done)
	two, bytes := int64(2), int64(450)
	done, err = b.Maintain(t.Context(), store.Maintenance{EvictItems: &two})
	require.NoError(t, err)
	require.Equal(t, store.Maintained{Evicted: 2, Usage: item.UsageOf(item.KindEntry, 7, 700)}, done)
	done, err = b.Maintain(t.Context(), store.Maintenance{TargetBytes: &bytes})
	require.NoError(t, err)
	require.Equal(t, store.Maintained{Evicted: 3, Usage: item.UsageOf(item.KindEntry, 4, 400)}, done)
	require.Equal(t, []string{"6", "7", "8", "9"}, b.stored())
	zero := int64(0)
	done, err = b.Maintain(t.Context(), store.Maintenance{TargetBytes: &zero})
	require.NoError(t, err)
	require.Equal(t, store.Maintained{Evicted: 4}, done)
	require.Zero(t, checkUsage(t, b.other))
}

// What lives is not evicted for what has expired, though somebody else is sweeping.
func TestMaintainBesideASweeper(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.mustPut(sized(t, "live", 100))
	b.mustPut(sized(t, "gone", 100))
	b.age(map[string]int{"live": 100})
	expire(t, b.other, key(t, "gone"))
	exec(t, pgtest.Connect(t, b.dsn), `SELECT pg_advisory_lock($1)`, int64(0x53746f636b537770)) // which sweepers share by
	bytes := int64(100)
	done, err := b.Maintain(t.Context(), store.Maintenance{TargetBytes: &bytes})
	require.NoError(t, err)
	require.Equal(t, store.Maintained{Expired: 1, Usage: item.UsageOf(item.KindEntry, 1, 100)}, done)
	require.Equal(t, []string{"live"}, b.stored())
	require.Equal(t, done.Usage, checkUsage(t, b.other))
}

// Without a limit, items may claim to be larger in all than can be counted.
func TestClaimsBeyondCounting(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	all := make([]item.Value, 2000)
	for i := range all {
		var err error
		all[i], err = item.Parse(key(t, fmt.Sprintf("component:react:c%d", i)), fmt.Appendf(nil, `{"sourceCode":"","fileSize":%d}`, int64(1)<<53-1))
		require.NoError(t, err)
	}
	require.NoError(t, b.PutMany(t.Context(), all[:1000], nil))
	require.NoError(t, b.PutMany(t.Context(), all[1000:], nil))
	const most = 1 << 61
	stats, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, len(all), stats.Usage.Items.Components)
	require.EqualValues(t, most, stats.Usage.Bytes.Components)
	require.EqualValues(t, most, stats.Usage.Bytes.Total())
	frameworks, err := b.Frameworks(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, most, frameworks[0].Bytes)
	_, err = b.Maintain(t.Context(), store.Maintenance{})
	require.NoError(t, err)
	cleared, err := b.Clear(t.Context(), item.Pattern{})
	require.NoError(t, err)
	require.EqualValues(t, len(all), cleared.Components)
	checkUsage(t, b.other)
}

// An evicting write locks what goes after what it has stored. Nobody who locks items in
// another order may be at work beside it.
func TestEvictionWaitsForNobodyInACircle(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 60_000, Cache: readcache.New(1<<20, time.Minute)})
	set := mixture(t, 40)
	require.NoError(t, b.PutMany(t.Context(), values(t, set, strings.Repeat("x", 300)), nil))
	put := func(i, n int) error {
		_, err := b.Put(t.Context(), value(t, set[(n*7+i)%len(set)], strings.Repeat("y", 1500)), nil, item.Precondition{})
		return err
	}
	together(6, func(i int) {
		for n := range 80 {
			var err error
			switch i {
			case 0, 1:
				err = put(i, n)
			case 2:
				if _, err = b.GetMany(t.Context(), set); err == nil {
					err = b.FlushMarks(t.Context())
				}
			case 3:
				i := n % (len(set) - 3)
				_, err = b.DeleteMany(t.Context(), set[i:i+3])
			case 4:
				_, err = b.Clear(t.Context(), pattern(t, "nothing*"))
			case 5:
				_, err = b.Transact(t.Context(), []store.Operation{
					{Action: store.Delete, Key: set[(n+1)%len(set)]}, {Action: store.Delete, Key: set[n%len(set)]},
				})
			}
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
		}
	})
	require.Zero(t, b.log.deadlocks.Load())
	checkUsage(t, b.other)
}

package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/store"
)

// ifMatch requires the item to be the one with the tag.
func ifMatch(etag string) item.Precondition {
	return item.Precondition{IfMatch: &item.Tags{List: []item.Tag{{Opaque: etag}}}}
}

// ifAny requires any item, ifNone none.
var (
	ifAny  = item.Precondition{IfMatch: &item.Tags{Any: true}}
	ifNone = item.Precondition{IfNoneMatch: &item.Tags{Any: true}}
)

var oneOfEach = []string{"component:react:c", "block:react:b", "entry"}

// requireOneWins checks that one of the errors is nil and the others are want.
func requireOneWins(t testing.TB, errs []error, want error) (winner int) {
	t.Helper()
	winner = -1
	for i, err := range errs {
		if err == nil {
			require.Negative(t, winner, "two have won")
			winner = i
		} else {
			require.ErrorIs(t, err, want)
		}
	}
	require.GreaterOrEqual(t, winner, 0, "nobody has won")
	return winner
}

func TestOnlyOneCreates(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for round := range 10 {
		for _, text := range oneOfEach {
			k := key(t, fmt.Sprint(text, round))
			if round%2 == 1 { // an item that has expired is not there
				_, err := b.Put(t.Context(), value(t, k, "old"), nil, item.Precondition{})
				require.NoError(t, err)
				expire(t, b.other, k)
			}
			errs := make([]error, 8)
			written := make([]store.Written, len(errs))
			together(len(errs), func(i int) {
				written[i], errs[i] = b.Put(t.Context(), value(t, k, strconv.Itoa(i)), nil, ifNone)
			})
			winner := requireOneWins(t, errs, item.ErrPreconditionFailed)
			require.True(t, written[winner].Created)
			stored, err := b.Get(t.Context(), k)
			require.NoError(t, err)
			require.Equal(t, written[winner].ETag, stored.ETag)
			require.Equal(t, int64(1), stored.Version)
		}
	}
	checkUsage(t, b.other)
}

func TestOnlyOneReplacesAVersion(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for _, text := range oneOfEach {
		k := key(t, text)
		now, err := b.Put(t.Context(), value(t, k, "start"), nil, item.Precondition{})
		require.NoError(t, err)
		for round := range 10 {
			errs := make([]error, 8)
			written := make([]store.Written, len(errs))
			together(len(errs), func(i int) {
				written[i], errs[i] = b.Put(t.Context(), value(t, k, fmt.Sprint(round, "/", i)), nil, ifMatch(now.ETag))
			})
			next := written[requireOneWins(t, errs, item.ErrPreconditionFailed)]
			require.False(t, next.Created)
			require.Equal(t, now.Version+1, next.Version)
			now = next
		}
	}
	checkUsage(t, b.other)
}

func TestPutOrDeleteOfAVersion(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for _, text := range oneOfEach {
		k := key(t, text)
		for round := range 15 {
			now, err := b.Put(t.Context(), value(t, k, strconv.Itoa(round)), nil, item.Precondition{})
			require.NoError(t, err)
			errs := make([]error, 6)
			together(len(errs), func(i int) {
				if i%2 == 0 {
					errs[i] = b.Delete(t.Context(), k, ifMatch(now.ETag))
				} else {
					_, errs[i] = b.Put(t.Context(), value(t, k, fmt.Sprint("new ", i)), nil, ifMatch(now.ETag))
				}
			})
			for i, err := range errs {
				if errors.Is(err, item.ErrNotFound) && i%2 == 0 {
					errs[i] = item.ErrPreconditionFailed // it was deleted before
				}
			}
			winner := requireOneWins(t, errs, item.ErrPreconditionFailed)
			_, err = b.Get(t.Context(), k)
			if winner%2 == 0 {
				require.ErrorIs(t, err, item.ErrNotFound)
			} else {
				require.NoError(t, err)
			}
		}
	}
	checkUsage(t, b.other)
}

func TestPreconditions(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for _, text := range oneOfEach {
		k := key(t, text)
		v := value(t, k, "x")
		for name, gone := range map[string]func(){
			"never there": func() {},
			"expired": func() {
				_, err := b.Put(t.Context(), v, nil, item.Precondition{})
				require.NoError(t, err)
				expire(t, b.other, k)
			},
		} {
			gone()
			before := b.content()
			for _, required := range []item.Precondition{ifAny, ifMatch(v.ETag)} {
				_, err := b.Put(t.Context(), v, nil, required)
				require.ErrorIs(t, err, item.ErrPreconditionFailed, name)
				require.ErrorIs(t, b.Delete(t.Context(), k, required), item.ErrNotFound, name)
			}
			require.Equal(t, before, b.content(), name)
			written, err := b.Put(t.Context(), v, nil, ifNone)
			require.NoError(t, err, name)
			require.True(t, written.Created, name)

			before = b.content()
			_, err = b.Put(t.Context(), value(t, k, "y"), nil, ifNone)
			require.ErrorIs(t, err, item.ErrPreconditionFailed)
			_, err = b.Put(t.Context(), value(t, k, "y"), nil, ifMatch("another"))
			require.ErrorIs(t, err, item.ErrPreconditionFailed)
			require.ErrorIs(t, b.Delete(t.Context(), k, ifMatch("another")), item.ErrPreconditionFailed)
			require.ErrorIs(t, b.Delete(t.Context(), k, ifNone), item.ErrPreconditionFailed)
			require.Equal(t, before, b.content())

			written, err = b.Put(t.Context(), value(t, k, "y"), nil, ifMatch(v.ETag))
			require.NoError(t, err)
			require.False(t, written.Created)
			require.NoError(t, b.Delete(t.Context(), k, ifAny))
			require.ErrorIs(t, b.Delete(t.Context(), k, item.Precondition{}), item.ErrNotFound)
			checkUsage(t, b.other)
		}
	}
}

// The item is created by somebody else after it was looked for, and before it is
// written.
func TestCreatedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, text := range oneOfEach {
		for _, outcome := range []string{"COMMIT", "ROLLBACK"} {
			t.Run(text+"/"+outcome, func(t *testing.T) {
				t.Parallel()
				b := setup(t, store.Options{})
				k := key(t, text)
				somebody := pgtest.Connect(t, b.dsn)
				exec(t, somebody, `BEGIN`)
				columns := map[item.Kind]string{
					item.KindComponent: `components (name, framework, source_code,`, item.KindBlock: `blocks (name, framework, files,`,
					item.KindEntry: `entries (key, value,`,
				}[k.Kind()]
				row := fmt.Sprintf(`'%s', '%s', 'x',`, k.Name(), k.Framework())
				if k.Kind() == item.KindEntry {
					row = `'entry', '1',`
				}
				exec(t, somebody, `INSERT INTO `+columns+` bytes, etag, created_at, updated_at, cached_at, accessed_at)
					VALUES (`+row+` 1, 'theirs', now(), now(), now(), now())`)
				putting := start(func() error {
					_, err := b.Put(t.Context(), value(t, k, "ours"), nil, ifNone)
					return err
				})
				b.awaitBlocked(1)
				exec(t, somebody, outcome)
				err := receive(t, putting)
				etag := scan[string](t, b.other, `SELECT etag FROM `+table(k))
				if outcome == "COMMIT" {
					require.ErrorIs(t, err, item.ErrPreconditionFailed)
					require.Equal(t, "theirs", etag)
				} else {
					require.NoError(t, err)
					require.NotEqual(t, "theirs", etag)
				}
			})
		}
	}
}

func TestClearAmongWriters(t *testing.T) {
	t.Parallel()
	for name, glob := range map[string]item.Pattern{"everything": {}, "a pattern": pattern(t, "*1*")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			set := mixture(t, 10)
			var done atomic.Bool
			clearing := start(func() error {
				defer done.Store(true)
				for range 60 {
					if _, err := b.Clear(t.Context(), glob); err != nil {
						return err
					}
				}
				return nil
			})
			together(8, func(i int) {
				for n := 0; !done.Load(); n++ {
					var err error
					if n%3 == 0 {
						err = b.PutMany(t.Context(), values(t, set[i:i+10], strconv.Itoa(n)), nil)
					} else {
						_, err = b.Put(t.Context(), value(t, set[(i+n)%len(set)], strconv.Itoa(n)), nil, []item.Precondition{{}, ifAny, ifNone}[n%3])
					}
					if err != nil && !errors.Is(err, item.ErrPreconditionFailed) {
						t.Errorf("write: %v", err)
						return
					}
				}
			})
			require.NoError(t, receive(t, clearing))
			checkUsage(t, b.other)
			// The last of those that cleared may have been the last of all.
			_, err := b.Put(t.Context(), value(t, set[0], "left"), nil, item.Precondition{})
			require.NoError(t, err)
			cleared, err := b.Clear(t.Context(), item.Pattern{})
			require.NoError(t, err)
			require.Positive(t, cleared.Total())
			require.Zero(t, checkUsage(t, b.other))
		})
	}
}

// Whatever many callers do at once, the counters are the rows at the end, and
// where there is a limit, nobody ever sees it exceeded.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int64{"without limit": 0, "with a limit": 20_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{MaxBytes: limit})
			set := mixture(t, 20)
			var done atomic.Bool
			watching := start(func() error {
				watcher := pgtest.Connect(t, b.dsn)
				for !done.Load() {
					counters, rows := usageOf(failing{t}, watcher)
					if counters != rows {
						return fmt.Errorf("the counters %+v are not the rows %+v", counters, rows)
					}
					if size := rows.Bytes.Total(); limit > 0 && size > limit {
						return fmt.Errorf("%d bytes of %d", size, limit)
					}
				}
				return nil
			})
			together(8, func(i int) {
				random := rand.New(rand.NewPCG(uint64(i), 1))
				for n := range 200 {
					if err := b.anything(random, set); err != nil {
						t.Errorf("operation %d: %v", n, err)
						return
					}
				}
			})
			done.Store(true)
			require.NoError(t, receive(t, watching))
			usage := checkUsage(t, b.other)
			t.Logf("%+v, %d retries, %d of them deadlocks", usage.Items, b.log.retries.Load(), b.log.deadlocks.Load())
		})
	}
}

// anything does something, and returns an error that it should not have had.
func (b *bundle) anything(random *rand.Rand, set []item.Key) error {
	ctx := b.t.Context()
	k := set[random.IntN(len(set))]
	some := make([]item.Key, 0, 10)
	for _, i := range random.Perm(len(set))[:10] {
		some = append(some, set[i])
	}
	text := fmt.Sprintf("%0*d", random.IntN(2000), random.IntN(100))
	ttl := item.TTL(random.IntN(3))
	required := []item.Precondition{{}, {}, ifAny, ifNone}[random.IntN(4)]
	err := error(nil)
	switch random.IntN(16) {
	case 0, 1, 2, 3:
		_, err = b.Put(ctx, value(b.t, k, text), &ttl, required)
	case 4:
		err = b.Delete(ctx, k, required)
	case 5, 6:
		err = b.PutMany(ctx, values(b.t, some, text[:len(text)%500]), nil)
	case 7:
		_, err = b.DeleteMany(ctx, some)
	case 8:
		_, err = b.Touch(ctx, k, &ttl)
	case 9:
		_, _, err = b.Sweep(ctx)
	case 10:
		_, err = b.GetMany(ctx, some)
	case 11:
		err = b.FlushMarks(ctx)
	case 12:
		_, err = b.Publish(ctx, registryItem(b.t, []string{"registry:ui", "registry:block"}[random.IntN(2)], fmt.Sprint("c00", random.IntN(5))), nil, item.Precondition{})
	case 13:
		if random.IntN(5) == 0 {
			_, err = b.Clear(ctx, []item.Pattern{{}, pattern(b.t, "*:*1")}[random.IntN(2)])
		} else {
			_, err = b.Get(ctx, k)
		}
	case 14, 15:
		operations := []store.Operation{expect(k, ""), expect(some[9], value(b.t, some[9], text).ETag)}[:random.IntN(3)]
		for i, of := range some[:random.IntN(9)] {
			operations = append(operations, []store.Operation{setTo(value(b.t, of, text[:len(text)%500])), remove(of), touch(of, ttl), expect(of, "")}[(i+random.IntN(2))%4])
		}
		_, err = b.Transact(ctx, operations)
	}
	if errors.Is(err, item.ErrNotFound) || errors.Is(err, item.ErrPreconditionFailed) || errors.Is(err, item.ErrConflict) {
		return nil
	}
	return err
}

// Whatever changes several items is in nobody's way for good: here a batch waits
// for the first of the keys, and behind it comes another operation that meets the
// rows in the order in which they lie.
func TestLocksAreTakenInOneOrder(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]func(b *bundle, set []item.Key) error{
		"mset": func(b *bundle, set []item.Key) error {
			return b.PutMany(b.t.Context(), values(b.t, set, "second"), nil)
		},
		"mdelete": func(b *bundle, set []item.Key) error { _, err := b.DeleteMany(b.t.Context(), set); return err },
		"transaction": func(b *bundle, set []item.Key) error {
			var operations []store.Operation
			for i := range set {
				k := set[len(set)-1-i]
				operations = append(operations, []store.Operation{remove(k), touch(k, 50), expect(k, value(b.t, k, "first").ETag)}[i%3])
			}
			_, err := b.Transact(b.t.Context(), operations)
			return err
		},
		"flush": func(b *bundle, _ []item.Key) error { return b.FlushMarks(b.t.Context()) },
		"sweep": func(b *bundle, _ []item.Key) error { _, _, err := b.Sweep(b.t.Context()); return err },
		"evict": func(b *bundle, set []item.Key) error {
			n := int64(len(set))
			_, err := b.Maintain(b.t.Context(), store.Maintenance{EvictItems: &n})
			return err
		},
	} {
		for _, kind := range []string{"component:react:", "block:react:", "entry:"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				b := setup(t, store.Options{})
				var set []item.Key
				for i := range 20 {
					set = append(set, key(t, fmt.Sprintf("%s%02d", kind, i)))
				}
				for i := range set {
					_, err := b.Put(t.Context(), value(t, set[len(set)-1-i], "x"), nil, item.Precondition{})
					require.NoError(t, err)
				}
				_, err := b.GetMany(t.Context(), set)
				require.NoError(t, err)
				if name == "sweep" {
					b.exec(`UPDATE ` + table(set[0]) + ` SET expires_at = now()`)
				}
				b.exec(`ANALYZE`) // of so few rows none is looked for in an index, unless that is asked for
				holder := pgtest.Connect(t, b.dsn)
				exec(t, holder, `BEGIN`)
				exec(t, holder, `SELECT key FROM `+table(set[0])+` WHERE key = $1 FOR UPDATE`, set[0].String())
				first := start(func() error { return b.PutMany(t.Context(), values(t, set, "first"), nil) })
				b.awaitBlocked(1)
				other := start(func() error { return second(b, set) })
				b.awaitBlocked(2)
				exec(t, holder, `ROLLBACK`)
				require.NoError(t, receive(t, first))
				require.NoError(t, receive(t, other))
				require.Zero(t, b.log.deadlocks.Load(), "they waited for each other")
				checkUsage(t, b.other)
			})
		}
	}
}

package store_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

// batches are the operations on many items, each run on a store that has half of
// the keys.
var batches = map[string]func(ctx context.Context, b *bundle, keys []item.Key) error{
	"mset": func(ctx context.Context, b *bundle, keys []item.Key) error {
		return b.PutMany(ctx, values(b.t, keys, "new"), nil)
	},
	"mdelete": func(ctx context.Context, b *bundle, keys []item.Key) error {
		_, err := b.DeleteMany(ctx, keys)
		return err
	},
	"transaction": func(ctx context.Context, b *bundle, keys []item.Key) error {
		var operations []store.Operation
		for i, k := range keys { // those with even places stand
			operations = append(operations, []store.Operation{remove(k), setTo(value(b.t, k, "new")), touch(k, 50), expect(k, "")}[i%4])
		}
		_, err := b.Transact(ctx, append(operations, setTo(value(b.t, keys[len(keys)-1], "new"))))
		return err
	},
	"transaction of writes": func(ctx context.Context, b *bundle, keys []item.Key) error {
		var operations []store.Operation
		for _, k := range keys {
			operations = append(operations, setTo(value(b.t, k, "new")))
		}
		_, err := b.Transact(ctx, operations)
		return err
	},
	"clear": func(ctx context.Context, b *bundle, _ []item.Key) error {
		_, err := b.Clear(ctx, item.Pattern{})
		return err
	},
	"clear a pattern": func(ctx context.Context, b *bundle, _ []item.Key) error {
		_, err := b.Clear(ctx, pattern(b.t, "*0*"))
		return err
	},
}

// half stores every second key and returns all.
func half(b *bundle) []item.Key {
	b.t.Helper()
	all := mixture(b.t, 100)
	var some []item.Key
	for i, k := range all {
		if i%2 == 0 {
			some = append(some, k)
		}
	}
	require.NoError(b.t, b.PutMany(b.t.Context(), values(b.t, some, "old"), nil))
	return all
}

// Whatever stops a batch, and be it at its very last write, nothing of it stays.
func TestBatchesAreAllOrNothing(t *testing.T) {
	t.Parallel()
	for name, batch := range batches {
		for how, stop := range map[string]func(b *bundle, run func(context.Context) error) error{
			"refused in the last table": func(b *bundle, run func(context.Context) error) error {
				// The last of the entries, which are written and deleted last.
				b.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
					$f$ BEGIN RAISE EXCEPTION USING ERRCODE = '23514'; END $f$`)
				b.exec(`CREATE TRIGGER refuse BEFORE DELETE ON entries FOR EACH ROW WHEN (old.key = 'entry:098') EXECUTE FUNCTION refuse()`)
				b.exec(`ALTER TABLE entries ADD CONSTRAINT refuse CHECK (key <> 'entry:099')`)
				defer b.exec(`DROP TRIGGER refuse ON entries; ALTER TABLE entries DROP CONSTRAINT refuse`)
				err := run(b.within(soon))
				require.ErrorContains(b.t, err, "23514")
				return err
			},
			"refused in the counters": func(b *bundle, run func(context.Context) error) error {
				b.exec(`ALTER TABLE usage_counters ADD CONSTRAINT refuse CHECK (false) NOT VALID`)
				defer b.exec(`ALTER TABLE usage_counters DROP CONSTRAINT refuse`)
				err := run(b.within(soon))
				require.ErrorContains(b.t, err, "23514")
				return err
			},
			"its caller left": func(b *bundle, run func(context.Context) error) error {
				holder := b.holdUsage()
				ctx, cancel := context.WithCancel(b.t.Context())
				done := start(func() error { return run(ctx) })
				b.awaitBlocked(1)
				cancel()
				err := receive(b.t, done)
				require.ErrorIs(b.t, err, context.Canceled)
				exec(b.t, holder, `ROLLBACK`)
				return err
			},
			"its time was over": func(b *bundle, run func(context.Context) error) error {
				holder := b.holdUsage()
				err := run(b.within(300 * time.Millisecond))
				require.ErrorIs(b.t, err, context.DeadlineExceeded)
				exec(b.t, holder, `ROLLBACK`)
				return err
			},
			"its connection was lost": func(b *bundle, run func(context.Context) error) error {
				holder := b.holdUsage()
				done := start(func() error { return run(b.within(soon)) })
				b.awaitBlocked(1)
				b.killBlocked()
				err := receive(b.t, done)
				require.ErrorIs(b.t, err, txn.ErrUnavailable)
				exec(b.t, holder, `ROLLBACK`)
				return err
			},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				b := setup(t, store.Options{})
				all := half(b)
				before := b.content()
				require.Error(t, stop(b, func(ctx context.Context) error { return batch(ctx, b, all) }))
				require.Equal(t, before, b.content())
				checkUsage(t, b.other)

				// And the next one is as if nothing had been.
				require.NoError(t, batch(b.within(soon), b, all))
				require.NotEqual(t, before, b.content())
				checkUsage(t, b.other)
			})
		}
	}
}

var number = regexp.MustCompile(`#(\d+)`)

// requireOneBatch checks that what was read together is all or nothing of one
// batch, and returns its number.
func requireOneBatch(t require.TestingT, found []item.Stored, want int) string {
	if len(found) == 0 {
		return ""
	}
	require.Len(t, found, want, "a part of a batch")
	first := number.FindString(string(found[0].JSON))
	for _, stored := range found {
		require.Equal(t, first, number.FindString(string(stored.JSON)), "parts of two batches")
	}
	return first
}

// readUntil reads keys in several goroutines until done says so, and returns how
// many different batches were seen.
func (b *bundle) readUntil(done *atomic.Bool, keys []item.Key, sometimesNone bool) int {
	seen := make(chan string, 1<<16)
	together(3, func(int) {
		last := ""
		for !done.Load() {
			found, err := b.GetMany(b.t.Context(), keys)
			if err != nil {
				b.t.Errorf("read: %v", err)
				return
			}
			var batch string
			if !passes(b.t, func(t require.TestingT) { batch = requireOneBatch(t, found, len(keys)) }) {
				return
			}
			if batch == "" && !sometimesNone {
				b.t.Errorf("the batch was gone")
				return
			}
			if batch != last && len(seen) < cap(seen) {
				seen <- batch
				last = batch
			}
		}
	})
	close(seen)
	different := map[string]bool{}
	for batch := range seen {
		different[batch] = true
	}
	return len(different)
}

// passes runs checks outside of the test's goroutine.
func passes(t testing.TB, checks func(t require.TestingT)) (ok bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, failed := r.(checkFailed); !failed {
				panic(r)
			}
			ok = false
		}
	}()
	checks(failing{t})
	return true
}

type checkFailed struct{}

// failing ends its checks by a panic, since FailNow is for the test's own goroutine.
type failing struct{ testing.TB }

func (f failing) FailNow() {
	f.Fail()
	panic(checkFailed{})
}

func TestReadersNeverSeeHalfABatch(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set    []item.Key
		writes int
	}{
		"of all kinds": {mixture(t, 3), 1000},
		"of one kind":  {keys(t, "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9"), 300}, // one statement
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := test.set
			b := setup(t, store.Options{})
			require.NoError(t, b.PutMany(t.Context(), values(t, set, "#0"), nil))
			var done atomic.Bool
			writing := start(func() error {
				defer done.Store(true)
				for n := 1; n <= test.writes; n++ {
					if err := b.PutMany(t.Context(), values(t, set, fmt.Sprintf("#%d", n)), nil); err != nil {
						return err
					}
				}
				return nil
			})
			seen := b.readUntil(&done, set, false)
			require.NoError(t, receive(t, writing))
			require.Greater(t, seen, 10, "the readers were not beside the writer")
			checkUsage(t, b.other)
			require.Zero(t, b.log.retries.Load(), "reads and one writer are in nobody's way")
		})
	}
}

func TestReadersSeeAllOrNothingOfWhatIsDeleted(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := mixture(t, 3)
	var done atomic.Bool
	writing := start(func() error {
		defer done.Store(true)
		errs := make([]error, 3)
		together(3, func(i int) {
			for n := 0; n < 150 && errs[i] == nil; n++ {
				switch i {
				case 0:
					errs[i] = b.PutMany(t.Context(), values(t, set, fmt.Sprintf("#%d", n)), nil)
				case 1:
					_, errs[i] = b.DeleteMany(t.Context(), set)
				case 2:
					_, errs[i] = b.Clear(t.Context(), []item.Pattern{{}, pattern(t, "*:*")}[n%2])
				}
			}
		})
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	})
	seen := b.readUntil(&done, set, true)
	require.NoError(t, receive(t, writing))
	require.Greater(t, seen, 10)
	checkUsage(t, b.other)
}

// An mset and an mdelete of the same keys, of which some stand already: whichever
// comes last, it is the last for all of them.
func TestWriteAndDeleteOfTheSameBatch(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := mixture(t, 4)
	both := [2]int{}
	for round := range 200 {
		var some []item.Value
		for i, k := range set {
			if (i*7+round*3)%5 < round%5 {
				some = append(some, value(t, k, "stands"))
			}
		}
		_, err := b.Clear(t.Context(), item.Pattern{})
		require.NoError(t, err)
		require.NoError(t, b.PutMany(t.Context(), some, nil))
		var errs [2]error
		together(2, func(i int) {
			if (i+round)%2 == 0 {
				errs[0] = b.PutMany(t.Context(), values(t, set, "#1"), nil)
			} else {
				_, errs[1] = b.DeleteMany(t.Context(), set)
			}
		})
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		found, err := b.GetMany(t.Context(), set)
		require.NoError(t, err)
		requireOneBatch(t, found, len(set))
		both[min(len(found), 1)]++
		checkUsage(t, b.other)
	}
	t.Logf("%d times all, %d times nothing, %d retries", both[1], both[0], b.log.retries.Load())
}

// The same, with the mdelete held up at the worst of times: it has looked at the
// rows that stand, and the batch that it waits for makes others.
func TestDeleteThatWaitsForAWrite(t *testing.T) {
	t.Parallel()
	for _, standing := range []string{"block:react:b000", "component:react:c000", "entry:000", "entry:001"} {
		t.Run(standing, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			set := mixture(t, 2)
			require.NoError(t, b.PutMany(t.Context(), values(t, keys(t, standing), "stands"), nil))
			holder := b.holdUsage()
			writing := start(func() error { return b.PutMany(t.Context(), values(t, set, "#1"), nil) })
			b.awaitBlocked(1)
			var n int
			deleting := start(func() (err error) {
				n, err = b.DeleteMany(t.Context(), set)
				return err
			})
			b.awaitBlocked(2)
			exec(t, holder, `ROLLBACK`)
			require.NoError(t, receive(t, writing))
			require.NoError(t, receive(t, deleting))
			require.Equal(t, len(set), n)
			require.Zero(t, checkUsage(t, b.other))
		})
	}
}

// A batch deletion is not starved by writers who have nothing to do with it: as
// many as a busy server has, of whom nothing is seen but the counters.
func TestDeleteManyAmongOtherWriters(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := mixture(t, 300)
	writer := pgtest.Connect(t, b.dsn)
	var done atomic.Bool
	var writes int
	writing := start(func() error {
		for ; !done.Load(); writes += 64 {
			if _, err := writer.Exec(context.Background(), `DO $$ BEGIN
				FOR i IN 0 .. 63 LOOP UPDATE usage_counters SET entry_items = entry_items WHERE slot = i; COMMIT; END LOOP;
				END $$`); err != nil {
				return err
			}
		}
		return nil
	})
	for range 5 {
		require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
		n, err := b.DeleteMany(t.Context(), set)
		if !passes(t, func(t require.TestingT) {
			require.NoError(t, err)
			require.Equal(t, len(set), n)
		}) {
			break
		}
	}
	done.Store(true)
	require.NoError(t, receive(t, writing))
	require.Positive(t, writes)
	t.Logf("%d other writes, %d retries", writes, b.log.retries.Load())
	checkUsage(t, b.other)
}

// Batches of the same keys, in whatever order they were stored, take their locks
// in one order, so that they wait for each other but never in a circle.
func TestBatchesDoNotDeadlock(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := mixture(t, 40)
	// Rows lie in another order than that of their keys.
	for i := range set {
		k := set[len(set)-1-i]
		_, err := b.Put(t.Context(), value(t, k, "stands"), nil, item.Precondition{})
		require.NoError(t, err)
	}
	errs := make([]error, 4)
	together(4, func(i int) {
		for n := 0; n < 100 && errs[i] == nil; n++ {
			if i%2 == 0 {
				errs[i] = b.PutMany(t.Context(), values(t, set, strconv.Itoa(i)), nil)
			} else if _, errs[i] = b.DeleteMany(t.Context(), set); errs[i] == nil {
				_, errs[i] = b.GetMany(t.Context(), set)
			}
		}
	})
	for _, err := range errs {
		require.NoError(t, err)
	}
	checkUsage(t, b.other)
	require.Zero(t, b.log.deadlocks.Load(), "of %d retries", b.log.retries.Load())
}

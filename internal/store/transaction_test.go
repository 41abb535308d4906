package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
)

func expect(k item.Key, etag string) store.Operation {
	op := store.Operation{Action: store.Check, Key: k}
	if etag != "" {
		op.ETag = &etag
	}
	return op
}

func setTo(v item.Value) store.Operation {
	return store.Operation{Action: store.Set, Key: v.Key, Value: v}
}

func remove(k item.Key) store.Operation { return store.Operation{Action: store.Delete, Key: k} }

func touch(k item.Key, ttl item.TTL) store.Operation {
	return store.Operation{Action: store.Touch, Key: k, TTL: &ttl}
}

func (b *bundle) mustTransact(operations ...store.Operation) []store.Outcome {
	b.t.Helper()
	outcomes, err := b.Transact(b.t.Context(), operations)
	require.NoError(b.t, err)
	require.Len(b.t, outcomes, len(operations))
	return outcomes
}

func TestTransact(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	outcomes, err := b.Transact(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, outcomes)
	for n, text := range oneOfEach {
		k, other, gone := key(t, text), key(t, oneOfEach[(n+1)%3]+"2"), key(t, "gone")
		first, second := value(t, k, "first"), value(t, k, "second")
		ttl := item.TTL(100)
		put := setTo(first)
		put.TTL = &ttl
		created := b.mustTransact(put, expect(k, ""), remove(gone), setTo(value(t, other, "x")))
		require.True(t, created[0].Created)
		require.Equal(t, item.TTL(100), created[0].Metadata.TTL)
		require.Equal(t, int64(1), created[0].Metadata.Version)
		require.Equal(t, int64(1), created[0].Metadata.AccessCount)
		require.Equal(t, []string{first.ETag, first.ETag, "", value(t, other, "x").ETag},
			[]string{created[0].ETag, created[1].ETag, created[2].ETag, created[3].ETag})
		require.False(t, created[2].Deleted)
		stored, err := b.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, first.JSON(), stored.JSON)
		require.Equal(t, created[0].Metadata.Updated, stored.Updated)

		replaced := b.mustTransact(expect(k, first.ETag), expect(k, first.ETag), setTo(second), touch(other, 50))
		require.False(t, replaced[2].Created)
		require.Equal(t, int64(2), replaced[2].Metadata.Version)
		require.Equal(t, created[0].Metadata.Created, replaced[2].Metadata.Created)
		require.Equal(t, item.TTL(50), replaced[3].Metadata.TTL)
		require.Equal(t, second.ETag, replaced[0].ETag)

		// What has expired is not there: it can be neither found nor touched.
		expire(t, b.other, other)
		before := b.content()
		_, err = b.Transact(t.Context(), []store.Operation{remove(k), touch(other, 5)})
		require.ErrorIs(t, err, item.ErrNotFound)
		require.Equal(t, before, b.content())
		again := b.mustTransact(expect(other, ""), remove(other), remove(k))
		require.Equal(t, []bool{false, false, true}, []bool{again[0].Deleted, again[1].Deleted, again[2].Deleted})
		require.Zero(t, checkUsage(t, b.other))

		_, err = b.Put(t.Context(), first, nil, item.Precondition{})
		require.NoError(t, err)
		expire(t, b.other, k)
		anew := b.mustTransact(expect(k, ""), setTo(second))
		require.True(t, anew[1].Created)
		require.Equal(t, int64(1), anew[1].Metadata.Version)
		require.True(t, b.mustTransact(remove(k))[0].Deleted)
		require.Zero(t, checkUsage(t, b.other))
	}
	require.Zero(t, b.log.deadlocks.Load())
}

// Checks that fail are named, each with what is there, and nothing is done.
func TestFailedChecksAreNamed(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	here := value(t, key(t, "component:react:here"), "x")
	_, err := b.Put(t.Context(), here, nil, item.Precondition{})
	require.NoError(t, err)
	before := b.content()
	_, err = b.Transact(t.Context(), []store.Operation{
		setTo(value(t, key(t, "a"), "1")), expect(here.Key, ""), expect(key(t, "b"), ""), remove(here.Key),
		expect(here.Key, "other"), expect(here.Key, here.ETag), expect(key(t, "block:react:none"), here.ETag), touch(key(t, "none"), 1),
	})
	var refusals store.Refusals
	require.ErrorAs(t, err, &refusals)
	require.Equal(t, store.Refusals{
		{Operation: 1, Err: item.ErrPreconditionFailed, ETag: here.ETag},
		{Operation: 4, Err: item.ErrPreconditionFailed, ETag: here.ETag},
		{Operation: 6, Err: item.ErrPreconditionFailed},
	}, refusals)
	_, err = b.Transact(t.Context(), []store.Operation{remove(here.Key), touch(key(t, "none"), 1), touch(key(t, "block:f:none"), 1)})
	require.ErrorAs(t, err, &refusals)
	require.Equal(t, store.Refusals{{Operation: 1, Err: item.ErrNotFound}, {Operation: 2, Err: item.ErrNotFound}}, refusals)
	require.Equal(t, before, b.content())
	checkUsage(t, b.other)
}

func TestACounterOfManyClientsIsExact(t *testing.T) {
	t.Parallel()
	const clients, each = 64, 4
	b := setup(t, store.Options{})
	k := key(t, "counter")
	var failed atomic.Int64
	together(clients, func(int) {
		number, etag := 0, ""
		for n := 0; n < each; {
			next := value(failing{t}, k, strconv.Itoa(number+1))
			outcomes, err := b.Transact(t.Context(), []store.Operation{expect(k, etag), setTo(next)})
			if err == nil {
				number, etag = number+1, outcomes[0].ETag
				n++
				continue
			}
			if !errors.Is(err, item.ErrPreconditionFailed) {
				t.Errorf("increment: %v", err)
				return
			}
			failed.Add(1)
			stored, err := b.Get(t.Context(), k)
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			if number, err = strconv.Atoi(string(stored.JSON[1 : len(stored.JSON)-1])); err != nil {
				t.Error(err)
				return
			}
			etag = stored.ETag
		}
	})
	stored, err := b.Get(t.Context(), k)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf(`"%d"`, clients*each), string(stored.JSON))
	require.Equal(t, int64(clients*each), stored.Version)
	checkUsage(t, b.other)
	t.Logf("%d checks failed, %d retries", failed.Load(), b.log.retries.Load())
	require.Positive(t, failed.Load(), "nobody met another")
	require.Zero(t, b.log.deadlocks.Load())
}

// Two transactions, each of which writes what the other one checks: one of them
// fails, whether the items are there or not.
func TestNoWriteSkew(t *testing.T) {
	t.Parallel()
	for name, exists := range map[string]bool{"items": true, "no items": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			for round := range 20 {
				pair := []item.Key{key(t, fmt.Sprint(oneOfEach[round%3], round)), key(t, fmt.Sprint(oneOfEach[round/3%3], "x", round))}
				old := []item.Value{value(t, pair[0], "old"), value(t, pair[1], "old")}
				var etags [2]string
				if exists {
					require.NoError(t, b.PutMany(t.Context(), old, nil))
					etags = [2]string{old[0].ETag, old[1].ETag}
				}
				errs := make([]error, 2)
				together(2, func(i int) {
					_, errs[i] = b.Transact(t.Context(), []store.Operation{
						setTo(value(failing{t}, pair[i], "new")), expect(pair[1-i], etags[1-i]),
					})
				})
				requireOneWins(t, errs, item.ErrPreconditionFailed)
			}
			checkUsage(t, b.other)
			require.Zero(t, b.log.deadlocks.Load())
		})
	}
}

// A transaction whose checks have passed is held up before its commit: whatever
// would make them untrue waits until it has ended, and so do others that want to
// know the same.
func TestChecksHoldAtTheCommit(t *testing.T) {
	t.Parallel()
	type writer func(b *bundle, k item.Key) error
	put := func(required item.Precondition) writer {
		return func(b *bundle, k item.Key) error {
			_, err := b.Put(b.t.Context(), value(failing{b.t}, k, "theirs"), nil, required)
			return err
		}
	}
	transact := func(b *bundle, k item.Key) error {
		_, err := b.Transact(b.t.Context(), []store.Operation{setTo(value(failing{b.t}, k, "theirs"))})
		return err
	}
	mset := func(b *bundle, k item.Key) error {
		return b.PutMany(b.t.Context(), values(failing{b.t}, []item.Key{k, key(failing{b.t}, "z")}, "theirs"), nil)
	}
	creators := map[string]writer{"put": put(item.Precondition{}), "create": put(ifNone), "mset": mset, "transaction": transact}
	changers := map[string]writer{
		"put": put(item.Precondition{}), "replace": put(ifAny), "mset": mset, "transaction": transact,
		"delete":  func(b *bundle, k item.Key) error { return b.Delete(b.t.Context(), k, item.Precondition{}) },
		"mdelete": func(b *bundle, k item.Key) error { _, err := b.DeleteMany(b.t.Context(), []item.Key{k}); return err },
		"clear":   func(b *bundle, _ item.Key) error { _, err := b.Clear(b.t.Context(), item.Pattern{}); return err },
	}
	for what, writers := range map[string]map[string]writer{"nothing": creators, "expired": creators, "item": changers} {
		for name, write := range writers {
			for _, text := range oneOfEach {
				t.Run(what+"/"+name+"/"+text, func(t *testing.T) {
					t.Parallel()
					b := setup(t, store.Options{})
					k := key(t, text)
					etag := ""
					if what != "nothing" {
						_, err := b.Put(t.Context(), value(t, k, "old"), nil, item.Precondition{})
						require.NoError(t, err)
						etag = value(t, k, "old").ETag
					}
					if what == "expired" {
						expire(t, b.other, k)
						etag = ""
					}
					state := b.content()
					holder := b.holdUsage()
					transacting := start(func() error {
						_, err := b.Transact(t.Context(), []store.Operation{expect(k, etag), setTo(value(failing{t}, key(failing{t}, "ours"), "x"))})
						return err
					})
					b.awaitBlocked(1)
					writing := start(func() error { return write(b, k) })
					b.awaitBlocked(2)
					require.Equal(t, state, b.content())
					require.Equal(t, 1, scan[int](t, b.other, `SELECT count(*) FROM pg_stat_activity WHERE `+blocked+` AND EXISTS (
						SELECT FROM pg_locks other WHERE other.pid = ANY (pg_blocking_pids(pg_stat_activity.pid)) AND NOT other.granted)`),
						"the writer does not wait for the transaction")
					exec(t, holder, `ROLLBACK`)
					require.NoError(t, receive(t, transacting))
					require.NoError(t, receive(t, writing))
					checkUsage(t, b.other)
				})
			}
		}
	}
}

// A transaction comes upon an item that somebody else is creating: it waits for
// what becomes of it.
func TestChecksWaitForOthers(t *testing.T) {
	t.Parallel()
	for _, outcome := range []string{"COMMIT", "ROLLBACK"} {
		for name, operation := range map[string]store.Operation{
			"absent": expect(key(t, "theirs"), ""), "present": expect(key(t, "theirs"), "etag"), "touch": touch(key(t, "theirs"), 5), "delete": remove(key(t, "theirs")),
		} {
			t.Run(outcome+"/"+name, func(t *testing.T) {
				t.Parallel()
				b := setup(t, store.Options{})
				somebody := pgtest.Connect(t, b.dsn)
				exec(t, somebody, `BEGIN`)
				exec(t, somebody, `INSERT INTO entries (key, value, bytes, etag, created_at, updated_at, cached_at, accessed_at)
					VALUES ('theirs', '1', 1, 'etag', now(), now(), now(), now())`)
				exec(t, somebody, `UPDATE usage_counters SET entry_items = entry_items + 1, entry_bytes = entry_bytes + 1 WHERE slot = 0`)
				var outcomes []store.Outcome
				transacting := start(func() (err error) {
					outcomes, err = b.Transact(t.Context(), []store.Operation{operation, expect(key(t, "another"), "")})
					return err
				})
				b.awaitBlocked(1)
				exec(t, somebody, outcome)
				err := receive(t, transacting)
				checkUsage(t, b.other)
				there := outcome == "COMMIT"
				switch {
				case name == "absent" && there, name == "present" && !there:
					require.ErrorIs(t, err, item.ErrPreconditionFailed)
				case name == "touch" && !there:
					require.ErrorIs(t, err, item.ErrNotFound)
				default:
					require.NoError(t, err)
					require.Equal(t, name == "delete" && there, outcomes[0].Deleted)
				}
			})
		}
	}
}

func TestTransactionsKeepTheLimit(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 1000})
	b.mustPut(sized(t, "a", 300))
	b.mustPut(sized(t, "b", 300))
	b.mustPut(sized(t, "c", 300))
	b.age(map[string]int{"a": 30, "b": 20, "c": 10})
	before := b.content()
	_, err := b.Transact(t.Context(), []store.Operation{remove(key(t, "a")), setTo(sized(t, "d", 1001))})
	var faults item.Faults
	require.ErrorAs(t, err, &faults)
	require.Equal(t, item.CodeTooLarge, faults[0].Code)
	_, err = b.Transact(t.Context(), []store.Operation{remove(key(t, "a")), setTo(sized(t, "d", 600)), setTo(sized(t, "e", 401))})
	require.ErrorIs(t, err, item.ErrBatchTooLarge)
	require.Equal(t, before, b.content())

	// What is deleted makes room for what is set.
	b.mustTransact(expect(key(t, "none"), ""), setTo(sized(t, "d", 400)), remove(key(t, "b")))
	require.Equal(t, []string{"a", "c", "d"}, b.stored())
	// What is set is never evicted for it, whenever it was used.
	b.age(map[string]int{"a": 30, "c": 20, "d": 10})
	b.mustTransact(expect(key(t, "none"), ""), setTo(sized(t, "a", 301)), setTo(sized(t, "e", 300)))
	require.Equal(t, []string{"a", "e"}, append(b.stored()[:1:1], b.stored()[len(b.stored())-1]))
	require.LessOrEqual(t, checkUsage(t, b.other).Bytes.Total(), int64(1000))
	b.mustTransact(setTo(sized(t, "x", 500)), setTo(sized(t, "y", 500)), remove(key(t, "none")))
	require.Equal(t, []string{"x", "y"}, b.stored())
	// Nor is what a check has found there, or is touched.
	b.age(map[string]int{"x": 20, "y": 10})
	x := sized(t, "x", 500)
	b.mustTransact(expect(x.Key, x.ETag), setTo(sized(t, "z", 500)))
	require.Equal(t, []string{"x", "z"}, b.stored())
	b.age(map[string]int{"x": 20, "z": 10})
	b.mustTransact(touch(x.Key, 100), setTo(sized(t, "y", 500)))
	require.Equal(t, []string{"x", "y"}, b.stored())
	// But the one that is only checked is, where there is no other way.
	b.age(map[string]int{"x": 10, "y": 20})
	_, err = b.Transact(t.Context(), []store.Operation{touch(x.Key, 50), setTo(sized(t, "z", 501))})
	require.ErrorIs(t, err, item.ErrTouchedTooLarge)
	require.Equal(t, []string{"x", "y"}, b.stored())
	y := sized(t, "y", 500)
	b.mustTransact(expect(x.Key, x.ETag), expect(y.Key, y.ETag), setTo(sized(t, "z", 400)))
	require.Equal(t, []string{"x", "z"}, b.stored())
	b.mustTransact(expect(x.Key, x.ETag), setTo(sized(t, "y", 1000)))
	require.Equal(t, []string{"y"}, b.stored())
	checkUsage(t, b.other)
}

// What a transaction writes, a cached value does not outlive.
func TestTransactionsAreSeenByReads(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{Cache: readcache.New(64<<20, time.Hour)})
	k, other := key(t, "k"), key(t, "component:react:c")
	for n := range 5 {
		b.mustTransact(setTo(value(t, k, strconv.Itoa(n))), setTo(value(t, other, strconv.Itoa(n))), expect(key(t, "none"), ""))
		for range 2 {
			for _, of := range []item.Key{k, other} {
				stored, err := b.Get(t.Context(), of)
				require.NoError(t, err)
				want := value(t, of, strconv.Itoa(n))
				require.Equal(t, want.JSON(), stored.JSON)
			}
		}
		require.Equal(t, item.TTL(n+1), b.mustTransact(touch(k, item.TTL(n+1)))[0].Metadata.TTL)
		stored, err := b.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, item.TTL(n+1), stored.TTL)
	}
	b.mustTransact(remove(k), remove(other))
	_, err := b.Get(context.Background(), k)
	require.ErrorIs(t, err, item.ErrNotFound)
	_, err = b.Get(context.Background(), other)
	require.ErrorIs(t, err, item.ErrNotFound)
}

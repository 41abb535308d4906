package store_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

func (b *bundle) accesses(k item.Key) int {
	b.t.Helper()
	return scan[int](b.t, b.other, `SELECT access_count FROM `+table(k)+` WHERE key = $1`, k.String())
}

// caches are what accesses are counted the same with.
func caches() map[string]*readcache.Cache {
	return map[string]*readcache.Cache{"without a cache": nil, "with a cache": readcache.New(1<<20, time.Minute)}
}

func TestReadsAreCountedByOneFlush(t *testing.T) {
	t.Parallel()
	for name, cache := range caches() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{Cache: cache})
			set := mixture(t, 2)
			require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
			b.exec(`UPDATE components SET accessed_at = now() - interval '1 day'; UPDATE blocks SET accessed_at = now() - interval '1 day';
				UPDATE entries SET accessed_at = now() - interval '1 day'`)
			const readers, each = 8, 50
			together(readers, func(int) {
				for range each {
					for _, k := range set {
						if _, err := b.Get(t.Context(), k); err != nil {
							t.Errorf("get: %v", err)
							return
						}
					}
				}
				if _, err := b.GetMany(t.Context(), set); err != nil {
					t.Errorf("mget: %v", err)
				}
			})
			// None of these is an access.
			_, err := b.Metadata(t.Context(), set[0])
			require.NoError(t, err)
			_, _, err = b.List(t.Context(), item.KindComponent, "react", nil, store.Page{Limit: 10})
			require.NoError(t, err)
			_, _, err = b.Keys(t.Context(), item.Pattern{}, store.Page{Limit: 10})
			require.NoError(t, err)
			_, err = b.Get(t.Context(), key(t, "nothing"))
			require.ErrorIs(t, err, item.ErrNotFound)
			_, err = b.Touch(t.Context(), set[0], nil)
			require.NoError(t, err)

			for _, k := range set {
				require.Equal(t, 1, b.accesses(k), "a read costs no write")
			}
			require.NoError(t, b.FlushMarks(t.Context()))
			for _, k := range set {
				require.Equal(t, 1+readers*(each+1), b.accesses(k))
				require.True(t, scan[bool](t, b.other, `SELECT now() - accessed_at < interval '1 minute' AND accessed_at <= clock_timestamp()
					FROM `+table(k)+` WHERE key = $1`, k.String()))
			}
			before := b.content()
			require.NoError(t, b.FlushMarks(t.Context()), "there is nothing more")
			require.Equal(t, before, b.content())
		})
	}
}

// A million reads of a thousand items cost each of them one write a flush, and
// none is lost.
func TestAMillionReads(t *testing.T) {
	t.Parallel()
	const items, readers, reads, flushes = 1000, 4, 1_000_000, 4
	b := setup(t, store.Options{Cache: readcache.New(64<<20, time.Hour)})
	set := make([]item.Key, items)
	for i := range set {
		set[i] = key(t, fmt.Sprint("k", i))
	}
	require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
	b.exec(`CREATE TABLE updates (n int); INSERT INTO updates VALUES (0);
		CREATE FUNCTION count_updates() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN UPDATE updates SET n = n + (SELECT count(*) FROM changed); RETURN NULL; END $f$;
		CREATE TRIGGER count_updates AFTER UPDATE ON entries REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_updates()`)
	for range flushes {
		together(readers, func(reader int) {
			for n := range reads / flushes / readers {
				if _, err := b.Get(t.Context(), set[(n+reader)%items]); err != nil {
					t.Errorf("get: %v", err)
					return
				}
			}
		})
		require.NoError(t, b.FlushMarks(t.Context()))
	}
	require.LessOrEqual(t, scan[int](t, b.other, `SELECT n FROM updates`), items*flushes)
	require.Equal(t, items+reads, scan[int](t, b.other, `SELECT sum(access_count) FROM entries`))
}

func TestFlushOfManyMarks(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := make([]item.Key, 2500)
	for i := range set {
		set[i] = key(t, fmt.Sprintf("entry:%04d", i))
	}
	require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
	for range 2 {
		_, err := b.GetMany(t.Context(), set)
		require.NoError(t, err)
	}
	require.NoError(t, b.FlushMarks(t.Context()))
	require.Equal(t, len(set), scan[int](t, b.other, `SELECT count(*) FROM entries WHERE access_count = 3`))
}

func TestFlushAmongReadersAndWriters(t *testing.T) {
	t.Parallel()
	for name, cache := range caches() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{Cache: cache})
			set := mixture(t, 20)
			require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
			const readers, each, writes = 4, 40, 40
			together(2*readers+3, func(i int) {
				for n := range each {
					var err error
					switch {
					case i < readers:
						_, err = b.GetMany(t.Context(), set)
					case i < 2*readers:
						for _, k := range set {
							if _, err = b.Get(t.Context(), k); err != nil {
								break
							}
						}
					case i == 2*readers:
						err = b.PutMany(t.Context(), values(t, set, strconv.Itoa(n)), nil) // counts as an access, too
					default:
						err = b.FlushMarks(t.Context())
					}
					if err != nil {
						t.Errorf("%d: %v", i, err)
						return
					}
				}
			})
			require.NoError(t, b.FlushMarks(t.Context()))
			for _, k := range set {
				require.Equal(t, 1+2*readers*each+writes, b.accesses(k), k)
			}
		})
	}
}

// Flushes and batches take their locks in one order.
func TestFlushDoesNotDeadlock(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := mixture(t, 40)
	for i := range set {
		_, err := b.Put(t.Context(), value(t, set[len(set)-1-i], "x"), nil, item.Precondition{})
		require.NoError(t, err)
	}
	together(4, func(i int) {
		for n := range 60 {
			var err error
			if i%2 == 0 {
				err = b.PutMany(t.Context(), values(t, set, strconv.Itoa(n)), nil)
			} else if _, err = b.GetMany(t.Context(), set); err == nil {
				err = b.FlushMarks(t.Context())
			}
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
		}
	})
	require.Zero(t, b.log.deadlocks.Load())
}

func TestFlushThatFailsKeepsItsMarks(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(b *bundle){
		"refused": func(b *bundle) {
			b.exec(`ALTER TABLE entries ADD CONSTRAINT refuse CHECK (access_count < 2)`)
			require.ErrorContains(b.t, b.FlushMarks(b.t.Context()), "23514")
			b.exec(`ALTER TABLE entries DROP CONSTRAINT refuse`)
		},
		"the connection is lost": func(b *bundle) {
			holder := pgtest.Connect(b.t, b.dsn)
			exec(b.t, holder, `BEGIN; SELECT key FROM entries FOR UPDATE`)
			flushing := start(func() error { return b.FlushMarks(b.within(soon)) })
			b.awaitBlocked(1)
			// Reads go on meanwhile, and are added to what could not be written.
			_, err := b.GetMany(b.t.Context(), mixture(b.t, 2))
			require.NoError(b.t, err)
			b.killBlocked()
			require.ErrorIs(b.t, receive(b.t, flushing), txn.ErrUnavailable)
			exec(b.t, holder, `ROLLBACK`)
		},
		"the caller left": func(b *bundle) {
			ctx, cancel := context.WithCancel(b.t.Context())
			cancel()
			require.ErrorIs(b.t, b.FlushMarks(ctx), context.Canceled)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			set := mixture(t, 2)
			require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
			want := 1
			for range 3 {
				_, err := b.GetMany(t.Context(), set)
				require.NoError(t, err)
				want++
			}
			fail(b)
			if name == "the connection is lost" {
				want++
			}
			_, err := b.GetMany(t.Context(), set)
			require.NoError(t, err)
			want++
			for _, k := range set {
				require.Equal(t, 1, b.accesses(k), "nothing of it was written")
			}
			require.NoError(t, b.FlushMarks(t.Context()))
			for _, k := range set {
				require.Equal(t, want, b.accesses(k), k)
			}
		})
	}
}

func TestMarksOfWhatIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	set := mixture(t, 2)
	require.NoError(t, b.PutMany(t.Context(), values(t, set, "x"), nil))
	_, err := b.GetMany(t.Context(), set)
	require.NoError(t, err)
	_, err = b.DeleteMany(t.Context(), set[:3])
	require.NoError(t, err)
	expire(t, b.other, set[3])
	require.NoError(t, b.FlushMarks(t.Context()))
	require.Equal(t, 3, scan[int](t, b.other, `SELECT (SELECT count(*) FROM components) + (SELECT count(*) FROM blocks) + (SELECT count(*) FROM entries)`),
		"nothing comes back")
	for _, k := range set[4:] {
		require.Equal(t, 2, b.accesses(k))
	}
	_, err = b.Metadata(t.Context(), set[3])
	require.ErrorIs(t, err, item.ErrNotFound)
	checkUsage(t, b.other)
}

// Accesses to an item that was deleted do not count for the one that stands in its place,
// whose own ones do.
func TestMarksOfWhatStoodThereBefore(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{Cache: readcache.New(1<<20, time.Hour)})
	k := key(t, "entry")
	put := func() {
		_, err := b.Put(t.Context(), value(t, k, "x"), nil, item.Precondition{})
		require.NoError(t, err)
	}
	read := func(times int) {
		for range times { // the first one fills the cache
			_, err := b.Get(t.Context(), k)
			require.NoError(t, err)
		}
	}
	put()
	read(3)
	require.NoError(t, b.Delete(t.Context(), k, item.Precondition{}))
	put()
	read(4)
	require.NoError(t, b.FlushMarks(t.Context()))
	require.Equal(t, 1+4, b.accesses(k))
	read(2)
	require.NoError(t, b.FlushMarks(t.Context()))
	require.Equal(t, 1+4+2, b.accesses(k))
}

// An access is as old as it is, however long its mark waits for others to be written.
func TestMarksBehindTheSizeLock(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 1 << 20})
	k := key(t, "a")
	b.mustPut(value(t, k, "x"))
	_, err := b.Get(t.Context(), k)
	require.NoError(t, err)
	read := scan[time.Time](t, b.other, `SELECT clock_timestamp()`)
	holder := pgtest.Connect(t, b.dsn)
	exec(t, holder, `SELECT pg_advisory_lock($1)`, int64(0x53746f636b53697a)) // alone, as a write near the limit
	flushed := start(func() error { return b.FlushMarks(t.Context()) })
	b.awaitBlocked(1)
	exec(t, holder, `SELECT pg_sleep(2)`) // how long it is held is what this is about
	exec(t, holder, `SELECT pg_advisory_unlock_all()`)
	require.NoError(t, receive(t, flushed))
	require.Equal(t, 2, b.accesses(k))
	accessed := scan[time.Time](t, b.other, `SELECT accessed_at FROM entries WHERE key = $1`, k.String())
	require.Less(t, accessed.Sub(read), time.Second)
}

// A mark never moves the last access backwards, nor into the future.
func TestMarkDoesNotOutrunAWrite(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	k := key(t, "entry")
	_, err := b.Put(t.Context(), value(t, k, "x"), nil, item.Precondition{})
	require.NoError(t, err)
	_, err = b.Get(t.Context(), k)
	require.NoError(t, err)
	written, err := b.Put(t.Context(), value(t, k, "y"), nil, item.Precondition{})
	require.NoError(t, err)
	require.NoError(t, b.FlushMarks(t.Context()))
	metadata, err := b.Metadata(t.Context(), k)
	require.NoError(t, err)
	require.False(t, metadata.Accessed.Before(written.Accessed))
	require.Equal(t, int64(3), metadata.AccessCount)
}

// A write that evicts much does so in several rounds; an access counts once all the same.
func TestMarksCountOnceInALargeEviction(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 200_000})
	old := make([]item.Value, 1900)
	for i := range old {
		old[i] = sized(t, fmt.Sprintf("old%04d", i), 100)
	}
	require.NoError(t, b.PutMany(t.Context(), old, nil))
	b.exec(`UPDATE entries SET accessed_at = now() - interval '1 day'`)
	k := old[len(old)-1].Key
	_, err := b.Get(t.Context(), k)
	require.NoError(t, err)
	b.mustPut(sized(t, "big", 150_000))
	require.Equal(t, 2, b.accesses(k))
}

// An eviction that is tried again may find that it need not evict, and then writes no
// marks: those that it had taken are not lost.
func TestMarksOfAnEvictionThatIsTriedAgain(t *testing.T) {
	t.Parallel()
	const gate = 4711
	for name, c := range map[string]struct {
		evict    func(ctx context.Context, b *bundle) error
		makeRoom string
	}{
		"by a write": {func(ctx context.Context, b *bundle) error {
			_, err := b.Put(ctx, sized(t, "new", 300), nil, item.Precondition{})
			return err
		}, `DELETE FROM entries WHERE key = 'spare'; UPDATE usage_counters SET entry_items = entry_items - 1, entry_bytes = entry_bytes - 300 WHERE slot = 0`},
		"by maintenance": {func(ctx context.Context, b *bundle) error {
			target := int64(600)
			_, err := b.Maintain(ctx, store.Maintenance{TargetBytes: &target})
			return err
		}, `UPDATE entries SET ttl_seconds = 1, expires_at = now() WHERE key = 'spare'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{MaxBytes: 1000})
			for _, k := range []string{"old", "read", "spare"} {
				b.mustPut(sized(t, k, 300))
			}
			b.age(map[string]int{"old": 100})
			_, err := b.Get(t.Context(), key(t, "read"))
			require.NoError(t, err)
			// A sequence does not roll back: the first eviction waits, and then fails, the others do not.
			b.exec(`CREATE SEQUENCE tries`)
			b.exec(`CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
				IF nextval('tries') = 1 THEN
					PERFORM pg_advisory_xact_lock(` + strconv.Itoa(gate) + `);
					RAISE EXCEPTION USING ERRCODE = '40001';
				END IF;
				RETURN OLD; END $f$`)
			holder := pgtest.Connect(t, b.dsn)
			exec(t, holder, `SELECT pg_advisory_lock($1)`, gate)
			b.exec(`CREATE TRIGGER fail_once BEFORE DELETE ON entries FOR EACH ROW EXECUTE FUNCTION fail_once()`)
			done := start(func() error { return c.evict(t.Context(), b) })
			b.awaitBlocked(1)
			exec(t, holder, `SET session_replication_role = replica`) // no triggers here
			exec(t, holder, c.makeRoom)
			exec(t, holder, `SELECT pg_advisory_unlock_all()`)
			require.NoError(t, receive(t, done))
			require.Contains(t, b.stored(), "old", "it need not go any more")
			require.NotContains(t, b.stored(), "spare")
			require.NoError(t, b.FlushMarks(t.Context()))
			require.Equal(t, 2, b.accesses(key(t, "read")))
			checkUsage(t, b.other)
		})
	}
}

// So many accesses that they would take much memory are not kept waiting.
func TestManyMarks(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	const n, each = 100_000, 1000
	b.exec(`INSERT INTO components (name, framework, source_code, bytes, etag, created_at, updated_at, cached_at, accessed_at)
		SELECT i::text, 'react', '', 0, 'x', now(), now(), now(), now() FROM generate_series(1, $1) AS i`, n)
	read := func(from int) {
		keys := make([]item.Key, each)
		for i := range keys {
			keys[i] = key(t, fmt.Sprintf("component:react:%d", from+i))
		}
		found, err := b.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Equal(t, keys[0], found[0].Key)
	}
	for from := 1; from <= n; from += each {
		require.Empty(t, b.ManyMarks())
		read(from)
	}
	<-b.ManyMarks()
	read(1)
	require.Empty(t, b.ManyMarks(), "once is enough")
}

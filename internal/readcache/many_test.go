package readcache

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

// Several items are answered where they are a snapshot, and only there.
func TestLookupMany(t *testing.T) {
	t.Parallel()
	first, second, other := keyOf(t, "component:f:n"), keyOf(t, "e"), keyOf(t, "other")
	heard := func(c *Cache) { pass(1); c.Heard(time.Now()) }
	for name, tc := range map[string]struct {
		happens func(context.Context, *Cache)
		found   bool
		stale   bool // found although it is not, for a database that cannot be asked
	}{
		"nobody was heard since": {happens: func(context.Context, *Cache) {}},
		"heard":                  {happens: func(_ context.Context, c *Cache) { heard(c) }, found: true},
		"heard, nearly too old":  {happens: func(_ context.Context, c *Cache) { heard(c); pass(staleness - 1) }, found: true},
		"heard, too old":         {happens: func(_ context.Context, c *Cache) { heard(c); pass(staleness) }, stale: true},
		"heard again":            {happens: func(_ context.Context, c *Cache) { heard(c); pass(time.Hour); heard(c) }, found: true},
		"invalidated":            {happens: func(_ context.Context, c *Cache) { heard(c); c.Invalidate(second) }},
		"another invalidated":    {happens: func(_ context.Context, c *Cache) { heard(c); c.Invalidate(other) }, found: true},
		"reset":                  {happens: func(_ context.Context, c *Cache) { heard(c); c.Reset() }},
		"distrusted":             {happens: func(_ context.Context, c *Cache) { heard(c); c.Distrust(); heard(c) }, stale: true},
		"distrusted, then heard, then loaded": {happens: func(ctx context.Context, c *Cache) {
			heard(c)
			c.Distrust()
			reload(ctx, c, first, 1)
			heard(c)
		}},
		"distrusted before it was heard":    {happens: func(_ context.Context, c *Cache) { c.Distrust(); heard(c) }},
		"held":                              {happens: func(_ context.Context, c *Cache) { heard(c); c.Hold(first) }},
		"all held":                          {happens: func(_ context.Context, c *Cache) { heard(c); c.HoldAll() }},
		"closed":                            {happens: func(_ context.Context, c *Cache) { heard(c); c.Close() }},
		"one is loaded again":               {happens: func(ctx context.Context, c *Cache) { heard(c); pass(1); reload(ctx, c, first, 2) }},
		"one is loaded again, and the same": {happens: func(ctx context.Context, c *Cache) { heard(c); pass(1); reload(ctx, c, first, 1) }, found: true},
		"one is loaded again, then":         {happens: func(ctx context.Context, c *Cache) { heard(c); pass(1); reload(ctx, c, first, 2); heard(c) }, found: true},
		"one is expired": {happens: func(ctx context.Context, c *Cache) {
			_, _ = c.Reload(ctx, first, returns(expiring(first, 1, staleness/2), nil))
			heard(c)
			pass(staleness / 2)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := New(big, staleness)
				defer c.Close()
				store(t, c, value(first, 1))
				store(t, c, value(second, 1))
				tc.happens(t.Context(), c)
				got, ok := c.LookupMany([]item.Key{second, first})
				require.Equal(t, tc.found, ok)
				each := item.Counts{Components: 1, Entries: 1}
				want := Stats{Misses: each}
				if ok {
					want = Stats{Hits: each}
					require.Equal(t, []item.Key{second, first}, []item.Key{got[0].Key, got[1].Key})
				}
				stats := c.Stats()
				stats.Entries, stats.Bytes = 0, 0
				require.Equal(t, want, stats)
				got, ok = c.LookupManyStale([]item.Key{second, first})
				require.Equal(t, tc.found || tc.stale, ok)
				if ok {
					require.Equal(t, []item.Key{second, first}, []item.Key{got[0].Key, got[1].Key})
				}
			})
		})
	}
}

func reload(ctx context.Context, c *Cache, key item.Key, version int64) {
	_, _ = c.Reload(ctx, key, returns(value(key, version), nil))
}

func TestLookupManyOfNone(t *testing.T) {
	t.Parallel()
	c := New(big, time.Hour)
	defer c.Close()
	found, ok := c.LookupMany(nil)
	require.True(t, ok)
	require.Empty(t, found)
}

// A single item is a snapshot by itself, whoever was heard since.
func TestLookupManyOfOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "component:f:n")
		looked := func() [2]int64 {
			fresh, found := c.LookupMany([]item.Key{key})
			stale, foundStale := c.LookupManyStale([]item.Key{key})
			require.Equal(t, []bool{found, foundStale}, []bool{len(fresh) == 1, len(stale) == 1})
			var of [2]int64
			for i, items := range [][]item.Stored{fresh, stale} {
				if len(items) > 0 {
					of[i] = items[0].Version
				}
			}
			return of
		}
		require.Equal(t, [2]int64{}, looked())
		store(t, c, value(key, 1))
		require.Equal(t, [2]int64{1, 1}, looked())
		pass(staleness)
		require.Equal(t, [2]int64{0, 1}, looked())
		reload(t.Context(), c, key, 2)
		require.Equal(t, [2]int64{2, 2}, looked())
		c.Distrust()
		require.Equal(t, [2]int64{0, 2}, looked())
		c.Invalidate(key)
		require.Equal(t, [2]int64{}, looked())
	})
}

// A load of many fills the cache with what nothing has overtaken.
func TestLoadMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		var keys []item.Key
		for _, name := range []string{"untouched", "changed", "loaded", "loading", "held", "gone", "expired"} {
			keys = append(keys, keyOf(t, name))
		}
		untouched, changed, loaded, loading, held, gone, expired := keys[0], keys[1], keys[2], keys[3], keys[4], keys[5], keys[6]
		store(t, c, value(gone, 1))
		before := newSlow()
		waiting := ask(t.Context(), c, loading, before.load)
		synctest.Wait()
		release := c.Hold(held)

		_, err := c.LoadMany(keys, func() (found []item.Stored, err error) {
			release()
			c.Invalidate(changed)
			store(t, c, value(loaded, 3)) // nobody waits for a load of many
			pass(staleness / 4)
			for _, key := range keys {
				switch key {
				case gone:
				case expired:
					found = append(found, expiring(key, 2, staleness/4))
				default:
					found = append(found, value(key, 2))
				}
			}
			return found, nil
		})
		require.NoError(t, err)
		before.end(value(loading, 1), nil)
		require.EqualValues(t, 1, (<-waiting).stored.Version)

		for key, want := range map[item.Key]int64{untouched: 2, changed: 0, loaded: 3, loading: 1, held: 0, gone: 0, expired: 0} {
			require.Equal(t, [2]int64{want, want}, versions(c, key), key)
		}
		pass(staleness/2 + staleness/4)
		require.Equal(t, [2]int64{0, 2}, versions(c, untouched), "it is as old as the beginning of the load")
		require.Empty(t, c.flights)
	})
}

// Of two loads of many, the one that began later fills the cache.
func TestLoadManyMeetsAnother(t *testing.T) {
	t.Parallel()
	c := New(big, time.Hour)
	defer c.Close()
	key := keyOf(t, "e")
	load := func(version int64, meanwhile func()) {
		_, err := c.LoadMany([]item.Key{key}, func() ([]item.Stored, error) {
			meanwhile()
			return []item.Stored{value(key, version)}, nil
		})
		require.NoError(t, err)
	}
	load(1, func() { load(2, func() {}) })
	require.Equal(t, [2]int64{2, 2}, versions(c, key))
}

func TestLoadManyThatFails(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]int64{"on": big, "off": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := New(bytes, time.Hour)
			defer c.Close()
			key := keyOf(t, "e")
			store(t, c, value(key, 1))
			was := versions(c, key)
			_, err := c.LoadMany([]item.Key{key}, func() ([]item.Stored, error) { return []item.Stored{value(key, 2)}, errDown })
			require.ErrorIs(t, err, errDown)
			require.Panics(t, func() {
				_, _ = c.LoadMany([]item.Key{key}, func() ([]item.Stored, error) { panic("out of cheese") })
			})
			require.Equal(t, was, versions(c, key))
			require.Empty(t, c.flights)
		})
	}
}

func BenchmarkLookupMany(b *testing.B) {
	c := New(big, time.Hour)
	defer c.Close()
	var keys []item.Key
	for i := range 100 {
		keys = append(keys, keyOf(b, fmt.Sprintf("component:react:name-%06d", i)))
		store(b, c, expiring(keys[i], 1, time.Hour))
	}
	c.Heard(time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := c.LookupMany(keys); !ok {
			b.Fatal("a miss")
		}
	}
}

package readcache

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

// What is found of an item that was cached, after something has happened.
func TestWhatIsFound(t *testing.T) {
	t.Parallel()
	key, other := keyOf(t, "e"), keyOf(t, "f")
	forgotten := [2]int64{}
	staleOnly := [2]int64{0, 1}
	found := [2]int64{1, 1}

	for name, tc := range map[string]struct {
		listening bool
		remaining time.Duration // 0: never expires
		happens   func(context.Context, *Cache)
		want      [2]int64
	}{
		"nothing":                        {happens: func(context.Context, *Cache) {}, want: found},
		"within the staleness":           {happens: func(context.Context, *Cache) { pass(staleness - 1) }, want: found},
		"past the staleness":             {happens: func(context.Context, *Cache) { pass(staleness) }, want: staleOnly},
		"past it, listening":             {listening: true, happens: func(context.Context, *Cache) { pass(1000 * time.Hour) }, want: found},
		"within the TTL":                 {listening: true, remaining: time.Minute, happens: func(context.Context, *Cache) { pass(time.Minute - 1) }, want: found},
		"past the TTL":                   {listening: true, remaining: time.Minute, happens: func(context.Context, *Cache) { pass(time.Minute) }, want: forgotten},
		"past the TTL, not listening":    {remaining: time.Minute, happens: func(context.Context, *Cache) { pass(time.Minute) }, want: forgotten},
		"TTL shorter than the staleness": {remaining: time.Millisecond, happens: func(context.Context, *Cache) { pass(time.Millisecond) }, want: forgotten},
		"heard later": {happens: func(_ context.Context, c *Cache) {
			pass(staleness / 2)
			c.Heard(time.Now())
			pass(staleness - 1)
		}, want: found},
		"heard too long ago": {happens: func(_ context.Context, c *Cache) {
			pass(staleness / 2)
			c.Heard(time.Now())
			pass(staleness)
		}, want: staleOnly},
		"heard again": {happens: func(_ context.Context, c *Cache) {
			pass(10 * staleness)
			c.Heard(time.Now())
		}, want: found},
		"heard of an earlier time": {happens: func(_ context.Context, c *Cache) {
			c.Heard(time.Now().Add(staleness / 2))
			c.Heard(time.Now().Add(-time.Hour))
			pass(staleness)
		}, want: found},
		"heard of the time before": {happens: func(_ context.Context, c *Cache) {
			c.Heard(time.Now().Add(-time.Hour))
			pass(staleness)
		}, want: staleOnly},
		"invalidated":                  {happens: func(_ context.Context, c *Cache) { c.Invalidate(key) }, want: forgotten},
		"invalidated with others":      {happens: func(_ context.Context, c *Cache) { c.Invalidate(other, key) }, want: forgotten},
		"another invalidated":          {happens: func(_ context.Context, c *Cache) { c.Invalidate(other) }, want: found},
		"none invalidated":             {happens: func(_ context.Context, c *Cache) { c.Invalidate() }, want: found},
		"reset":                        {happens: func(_ context.Context, c *Cache) { c.Reset() }, want: forgotten},
		"reset, listening":             {listening: true, happens: func(_ context.Context, c *Cache) { c.Reset() }, want: forgotten},
		"distrusted":                   {listening: true, happens: func(_ context.Context, c *Cache) { c.Distrust() }, want: staleOnly},
		"distrusted, then invalidated": {listening: true, happens: func(_ context.Context, c *Cache) { c.Distrust(); c.Invalidate(key) }, want: forgotten},
		"distrusted, then reset":       {listening: true, happens: func(_ context.Context, c *Cache) { c.Distrust(); c.Reset() }, want: forgotten},
		"distrusted, then expired":     {listening: true, remaining: time.Minute, happens: func(_ context.Context, c *Cache) { c.Distrust(); pass(time.Minute) }, want: forgotten},
		"closed":                       {happens: func(_ context.Context, c *Cache) { c.Close() }, want: forgotten},
		"closed, then reset":           {happens: func(_ context.Context, c *Cache) { c.Close(); c.Reset(); c.Distrust(); c.Heard(time.Now()); c.Close() }, want: forgotten},
		"loaded again": {listening: true, happens: func(ctx context.Context, c *Cache) {
			c.Distrust()
			_, _ = c.Load(ctx, key, returns(value(key, 2), nil))
		}, want: [2]int64{2, 2}},
		"gone when loaded again": {listening: true, happens: func(ctx context.Context, c *Cache) {
			c.Distrust()
			_, _ = c.Load(ctx, key, returns(item.Stored{}, fmt.Errorf("get: %w", item.ErrNotFound)))
		}, want: forgotten},
		"not to be loaded again": {listening: true, happens: func(ctx context.Context, c *Cache) {
			c.Distrust()
			_, _ = c.Load(ctx, key, returns(item.Stored{}, errDown))
		}, want: staleOnly},
		"not loaded while fresh": {happens: func(ctx context.Context, c *Cache) {
			_, _ = c.Load(ctx, key, returns(value(key, 2), nil))
		}, want: found},
		"reloaded": {happens: func(ctx context.Context, c *Cache) {
			_, _ = c.Reload(ctx, key, returns(value(key, 2), nil))
		}, want: [2]int64{2, 2}},
		"gone when reloaded": {happens: func(ctx context.Context, c *Cache) {
			_, _ = c.Reload(ctx, key, returns(item.Stored{}, item.ErrNotFound))
		}, want: forgotten},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := New(big, staleness)
				defer c.Close()
				stored := value(key, 1)
				if tc.remaining != 0 {
					stored = expiring(key, 1, tc.remaining)
				}
				store(t, c, stored)
				tc.happens(t.Context(), c)
				if tc.listening {
					c.Heard(time.Now())
				}
				require.Equal(t, tc.want, versions(c, key))
			})
		})
	}
}

func TestRemainingIsCountedDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "component:react:button")
		stored := expiring(key, 1, time.Minute)
		stored.Expires = time.Now().Add(-time.Hour) // by a clock that is wrong: it decides nothing
		store(t, c, stored)

		pass(20 * time.Second)
		c.Heard(time.Now())
		got, ok := c.Lookup(key)
		require.True(t, ok)
		stored.Remaining = 40 * time.Second
		require.Equal(t, stored, got)
		got, ok = c.LookupStale(key)
		require.True(t, ok)
		require.Equal(t, stored, got)
		got, err := c.Load(t.Context(), key, returns(item.Stored{}, errDown))
		require.NoError(t, err)
		require.Equal(t, stored, got)

		forever := value(keyOf(t, "f"), 1)
		store(t, c, forever)
		pass(time.Hour)
		c.Heard(time.Now())
		got, ok = c.Lookup(forever.Key)
		require.True(t, ok)
		require.Zero(t, got.Remaining)
	})
}

// The database reads at some time during the load: TTL and age count from its
// beginning, or an item would outlive itself.
func TestTimeCountsFromTheBeginningOfTheLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		load := func(stored item.Stored, takes time.Duration) {
			_, err := c.Reload(t.Context(), key, loading(func(context.Context) (item.Stored, error) {
				pass(takes)
				return stored, nil
			}))
			require.NoError(t, err)
		}
		load(value(key, 1), staleness/2)
		require.Equal(t, [2]int64{1, 1}, versions(c, key))
		pass(staleness / 2)
		require.Equal(t, [2]int64{0, 1}, versions(c, key))

		load(value(key, 1), staleness)
		require.Equal(t, [2]int64{0, 1}, versions(c, key))

		load(expiring(key, 1, 2*time.Second), 2*time.Second)
		require.Equal(t, [2]int64{0, 0}, versions(c, key))
	})
}

func TestExpiredItemsMakeRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		store(t, c, expiring(key, 1, time.Second))
		require.Equal(t, 1, c.Stats().Entries)
		pass(time.Second)
		require.Equal(t, [2]int64{}, versions(c, key))
		require.Equal(t, Stats{Hits: item.Counts{}, Misses: item.Counts{Entries: 1}}, c.Stats())
	})
}

func TestStats(t *testing.T) {
	t.Parallel()
	c := New(big, time.Hour)
	defer c.Close()
	component, block, entry := keyOf(t, "component:f:n"), keyOf(t, "block:f:n"), keyOf(t, "e")
	for _, key := range []item.Key{component, block, entry} {
		c.Lookup(key)
		store(t, c, value(key, 1))
	}
	c.Lookup(component)
	c.Lookup(component)
	c.Lookup(block)
	c.LookupStale(entry)
	bytes := 3*(overhead+len(`{"a":1}`)) + len(component.String()+block.String()+entry.String())
	want := Stats{
		Hits:    item.Counts{Components: 2, Blocks: 1},
		Misses:  item.Counts{Components: 1, Blocks: 1, Entries: 1},
		Entries: 3,
		Bytes:   int64(bytes),
	}
	require.Equal(t, want, c.Stats())
	c.Reset()
	want.Entries, want.Bytes = 0, 0
	require.Equal(t, want, c.Stats())
}

func TestOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(0, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		c.Heard(time.Now())
		s := newSlow()
		first := ask(t.Context(), c, key, s.load)
		synctest.Wait()
		second := ask(t.Context(), c, key, returns(item.Stored{}, errDown))
		synctest.Wait()
		s.end(value(key, 1), nil)
		require.Equal(t, answer{value(key, 1), nil}, <-first)
		require.Equal(t, answer{value(key, 1), nil}, <-second)
		require.Equal(t, [2]int64{}, versions(c, key))
		c.Invalidate(key)
		c.Reset()
		c.Distrust()
		require.Equal(t, Stats{Misses: item.Counts{Entries: 1}}, c.Stats())
	})
}

func TestNewRefusesNonsense(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { New(-1, 0) })
	require.Panics(t, func() { New(0, -1) })
}

func TestBytesAreBounded(t *testing.T) {
	t.Parallel()
	const limit = 256 << 10
	c := New(limit, time.Hour)
	defer c.Close()
	for i := range 2000 {
		stored := value(keyOf(t, fmt.Sprintf("e%d", i)), 1)
		stored.JSON = make([]byte, i%7*1000)
		store(t, c, stored)
		stats := c.Stats()
		require.LessOrEqual(t, stats.Bytes, int64(limit))
		require.LessOrEqual(t, int64(stats.Entries)*overhead, stats.Bytes)
	}
	require.Greater(t, c.Stats().Bytes, int64(limit/2))

	// What is larger than the whole cache passes through, and drives nobody out.
	before := c.Stats()
	huge := value(keyOf(t, "huge"), 1)
	huge.JSON = make([]byte, limit)
	store(t, c, huge)
	require.Equal(t, [2]int64{}, versions(c, huge.Key))
	after := c.Stats()
	require.Equal(t, before.Bytes, after.Bytes)
	require.Equal(t, before.Entries, after.Entries)
}

// What is read often stays while others come and go.
func TestWhatIsReadOftenStays(t *testing.T) {
	t.Parallel()
	c := New(64<<10, time.Hour)
	defer c.Close()
	hot := value(keyOf(t, "hot"), 1)
	store(t, c, hot)
	hits := 0
	for i := range 5000 {
		if _, ok := c.Lookup(hot.Key); ok {
			hits++
		} else {
			store(t, c, hot)
		}
		cold := value(keyOf(t, fmt.Sprintf("cold%d", i)), 1)
		store(t, c, cold)
	}
	require.Greater(t, hits, 4500)
}

// The request that a key was cut from does not stay in memory with the item.
func TestTheCallersKeyIsNotKept(t *testing.T) {
	t.Parallel()
	request := "component:react:button?" + strings.Repeat("x", 1<<20)
	path, _, _ := strings.Cut(request, "?")
	key := keyOf(t, path)
	require.Same(t, unsafe.StringData(request), unsafe.StringData(key.String()))
	c := New(big, time.Hour)
	defer c.Close()
	store(t, c, value(key, 1))
	got, ok := c.Lookup(key)
	require.True(t, ok)
	require.Equal(t, key, got.Key)
	require.NotSame(t, unsafe.StringData(request), unsafe.StringData(got.Key.String()))
	for cached := range c.era.Load().entries.Keys() {
		require.Same(t, unsafe.StringData(cached), unsafe.StringData(got.Key.String()))
	}
}

// The bytes that are counted are no less than those that are used.
func TestOverheadIsCounted(t *testing.T) { //nolint:paralleltest // it measures the heap
	const n = 50_000
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	c := New(1<<30, time.Hour)
	before := heap()
	for i := range n {
		stored := value(keyOf(t, fmt.Sprintf("component:react:name-%06d", i)), 1)
		stored.ETag = strings.Clone(stored.ETag)
		store(t, c, stored)
	}
	used, counted := heap()-before, c.Stats().Bytes
	t.Logf("%d bytes used for an item, %d counted", used/n, counted/n)
	require.LessOrEqual(t, used, counted)
	require.Greater(t, used, counted/2)
	c.Close()
	require.Less(t, heap()-before, used/4)
}

func TestLookupAllocatesNothing(t *testing.T) { //nolint:paralleltest // it counts allocations
	c := New(big, time.Hour)
	defer c.Close()
	key := keyOf(t, "component:react:button")
	store(t, c, expiring(key, 1, time.Hour))
	require.Zero(t, testing.AllocsPerRun(10_000, func() {
		if _, ok := c.Lookup(key); !ok {
			t.Error("a miss")
		}
	}))
	require.Zero(t, testing.AllocsPerRun(10_000, func() {
		if _, ok := c.LookupStale(key); !ok {
			t.Error("a miss")
		}
	}))
	absent := keyOf(t, "absent")
	require.Zero(t, testing.AllocsPerRun(10_000, func() { c.Lookup(absent) }))
}

func BenchmarkLookup(b *testing.B) {
	const n = 1 << 13
	c := New(64<<20, time.Hour)
	defer c.Close()
	keys := make([]item.Key, n)
	for i := range keys {
		keys[i] = keyOf(b, fmt.Sprintf("component:react:name-%06d", i))
		stored := expiring(keys[i], 1, time.Hour)
		stored.JSON = make([]byte, 4096)
		store(b, c, stored)
	}
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, ok := c.Lookup(keys[i%n]); !ok {
					b.Error("a miss")
					return
				}
			}
		})
	})
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		stored := value(keys[0], 1)
		for b.Loop() {
			c.Invalidate(stored.Key)
			store(b, c, stored)
		}
	})
}

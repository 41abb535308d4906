package readcache

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

func TestMissesShareOneLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		var loads atomic.Int64
		load := loading(func(context.Context) (item.Stored, error) {
			loads.Add(1)
			pass(staleness / 2)
			return value(key, 1), nil
		})
		var all []<-chan answer
		for range 100 {
			all = append(all, ask(t.Context(), c, key, load))
			pass(time.Millisecond)
		}
		for _, one := range all {
			require.Equal(t, answer{value(key, 1), nil}, <-one)
		}
		// Who missed before the load landed, and comes only now, gets it too.
		stored, err := c.Load(t.Context(), key, load)
		require.NoError(t, err)
		require.Equal(t, value(key, 1), stored)
		require.EqualValues(t, 1, loads.Load())

		other, err := c.Load(t.Context(), keyOf(t, "f"), load)
		require.NoError(t, err)
		require.Equal(t, value(key, 1), other)
		require.EqualValues(t, 2, loads.Load())
	})
}

// An error is for those who wait, and for nobody after them.
func TestErrorsAreSharedAndNotCached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		s := newSlow()
		first, second := ask(t.Context(), c, key, s.load), ask(t.Context(), c, key, s.load)
		synctest.Wait()
		s.end(item.Stored{}, item.ErrNotFound)
		require.ErrorIs(t, (<-first).err, item.ErrNotFound)
		require.ErrorIs(t, (<-second).err, item.ErrNotFound)
		require.Equal(t, [2]int64{}, versions(c, key))
		store(t, c, value(key, 1))
		require.Equal(t, [2]int64{1, 1}, versions(c, key))
	})
}

// What happens while a load is in flight makes it worthless for those who come
// later, and for the cache.
func TestOvertakenLoads(t *testing.T) {
	t.Parallel()
	key := keyOf(t, "e")
	for name, tc := range map[string]struct {
		happens   func(*Cache)
		overtaken bool
	}{
		"nothing":                 {happens: func(*Cache) {}},
		"another key invalidated": {happens: func(c *Cache) { c.Invalidate(keyOf(t, "f")) }},
		"invalidated":             {happens: func(c *Cache) { c.Invalidate(keyOf(t, "f"), key) }, overtaken: true},
		"reset":                   {happens: func(c *Cache) { c.Reset() }, overtaken: true},
		"distrusted":              {happens: func(c *Cache) { c.Distrust() }, overtaken: true},
		"time, heard since":       {happens: func(c *Cache) { pass(time.Hour); c.Heard(time.Now()) }},
		"time, within bounds":     {happens: func(*Cache) { pass(staleness - 1) }},
		"time, out of bounds":     {happens: func(*Cache) { pass(staleness) }, overtaken: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := New(big, staleness)
				defer c.Close()
				older, newer := newSlow(), newSlow()
				early := ask(t.Context(), c, key, older.load)
				synctest.Wait()
				tc.happens(c)
				late := ask(t.Context(), c, key, newer.load)
				synctest.Wait()

				older.end(value(key, 1), nil)
				require.EqualValues(t, 1, (<-early).stored.Version)
				if !tc.overtaken {
					require.EqualValues(t, 1, (<-late).stored.Version)
					require.Equal(t, [2]int64{1, 1}, versions(c, key))
					return
				}
				require.Equal(t, [2]int64{}, versions(c, key))
				newer.end(value(key, 2), nil)
				require.EqualValues(t, 2, (<-late).stored.Version)
				require.Equal(t, [2]int64{2, 2}, versions(c, key))
			})
		})
	}
}

// The older load lands last.
func TestOlderLoadNeverRefills(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]answer{
		"value":     {stored: value(keyOf(t, "e"), 1)},
		"not found": {err: item.ErrNotFound},
		"error":     {err: errDown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := New(big, staleness)
				defer c.Close()
				key := keyOf(t, "e")
				older := newSlow()
				early := ask(t.Context(), c, key, older.load)
				synctest.Wait()
				c.Invalidate(key)
				store(t, c, value(key, 2))
				older.end(end.stored, end.err)
				require.Equal(t, end, <-early)
				require.Equal(t, [2]int64{2, 2}, versions(c, key))
			})
		})
	}
}

// While other servers are heard, a slow load is shared however long it takes.
func TestSlowLoadIsSharedWhileOthersAreHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		s := newSlow()
		early := ask(t.Context(), c, key, s.load)
		pass(time.Hour)
		c.Heard(time.Now())
		late := ask(t.Context(), c, key, returns(item.Stored{}, errDown))
		synctest.Wait()
		s.end(value(key, 1), nil)
		require.Equal(t, answer{value(key, 1), nil}, <-early)
		require.Equal(t, answer{value(key, 1), nil}, <-late)
	})
}

// An expired item does not exist, not even for those who wait for the load that
// read it.
func TestLoadThatOutlivesItsItem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		s := newSlow()
		early := ask(t.Context(), c, key, s.load)
		pass(time.Second)
		c.Heard(time.Now())
		mid := ask(t.Context(), c, key, returns(item.Stored{}, item.ErrNotFound))
		pass(time.Second)
		c.Heard(time.Now())
		late := ask(t.Context(), c, key, returns(item.Stored{}, item.ErrNotFound))
		synctest.Wait()
		s.end(expiring(key, 1, 2*time.Second), nil)
		require.EqualValues(t, 1, (<-early).stored.Version)
		require.EqualValues(t, 1, (<-mid).stored.Version)
		require.ErrorIs(t, (<-late).err, item.ErrNotFound)

		// A load that reads an item as expired is believed, but not repeated.
		gone, err := c.Load(t.Context(), key, returns(expiring(key, 2, 0), nil))
		require.NoError(t, err)
		require.EqualValues(t, 2, gone.Version)
		require.Equal(t, [2]int64{}, versions(c, key))
	})
}

func TestReload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		store(t, c, value(key, 1))
		stored, err := c.Reload(t.Context(), key, returns(value(key, 2), nil))
		require.NoError(t, err)
		require.EqualValues(t, 2, stored.Version)
		require.Equal(t, [2]int64{2, 2}, versions(c, key))
		_, err = c.Reload(t.Context(), key, returns(item.Stored{}, errDown))
		require.ErrorIs(t, err, errDown)
		require.Equal(t, [2]int64{2, 2}, versions(c, key))

		// It does not join a load before it, and those after it may join its own.
		c.Invalidate(key)
		older := newSlow()
		early := ask(t.Context(), c, key, older.load)
		synctest.Wait()
		newer := newSlow()
		reloaded := make(chan answer, 1)
		go func() {
			stored, err := c.Reload(t.Context(), key, newer.load)
			reloaded <- answer{stored, err}
		}()
		synctest.Wait()
		late := ask(t.Context(), c, key, returns(item.Stored{}, errDown))
		synctest.Wait()
		newer.end(value(key, 4), nil)
		require.EqualValues(t, 4, (<-reloaded).stored.Version)
		require.EqualValues(t, 4, (<-late).stored.Version)
		older.end(value(key, 3), nil)
		require.EqualValues(t, 3, (<-early).stored.Version)
		require.Equal(t, [2]int64{4, 4}, versions(c, key))
	})
}

type contextKey struct{}

// The first caller leaves: the load goes on for the others, with its values.
func TestFirstCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		ctx, leave := context.WithTimeout(context.WithValue(t.Context(), contextKey{}, "trace"), time.Millisecond)
		defer leave()
		s := newSlow()
		first := ask(ctx, c, key, s.load)
		synctest.Wait()
		second := ask(t.Context(), c, key, s.load)
		loading := <-s.ctx
		require.Equal(t, "trace", loading.Value(contextKey{}))

		began := time.Now()
		require.ErrorIs(t, (<-first).err, context.DeadlineExceeded)
		require.Equal(t, time.Millisecond, time.Since(began)) // at once
		synctest.Wait()
		require.NoError(t, loading.Err())
		s.end(value(key, 1), nil)
		require.Equal(t, answer{value(key, 1), nil}, <-second)
		require.Equal(t, [2]int64{1, 1}, versions(c, key))
		synctest.Wait()
		require.Error(t, loading.Err()) // the load's context ends with it
	})
}

// All leave: the load is cancelled, and the next caller starts another.
func TestAllCallersLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		ctx, leave := context.WithCancel(t.Context())
		stubborn := make(chan struct{})
		contexts := make(chan context.Context, 1)
		load := loading(func(ctx context.Context) (item.Stored, error) {
			contexts <- ctx
			<-stubborn // it does not look at its context
			return value(key, 1), nil
		})
		first, second := ask(ctx, c, key, load), ask(ctx, c, key, load)
		synctest.Wait()
		loading := <-contexts
		require.NoError(t, loading.Err())
		leave()
		require.ErrorIs(t, (<-first).err, context.Canceled)
		require.ErrorIs(t, (<-second).err, context.Canceled)
		require.ErrorIs(t, loading.Err(), context.Canceled)

		store(t, c, value(key, 2))
		close(stubborn)
		synctest.Wait()
		require.Equal(t, [2]int64{2, 2}, versions(c, key))

		_, err := c.Load(ctx, keyOf(t, "f"), func(context.Context, func(item.Stored, error)) func(error) {
			panic("loaded for a caller who had left before")
		})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Those who wait for a load that was overtaken can leave it too.
func TestLeavingAnOvertakenLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		ctx, leave := context.WithCancel(t.Context())
		older, newer := newSlow(), newSlow()
		first := ask(ctx, c, key, older.load)
		synctest.Wait()
		c.Invalidate(key)
		second := ask(t.Context(), c, key, newer.load)
		synctest.Wait()
		leave()
		require.ErrorIs(t, (<-first).err, context.Canceled)
		third := ask(t.Context(), c, key, returns(item.Stored{}, errDown)) // joins the newer one
		synctest.Wait()
		newer.end(value(key, 2), nil)
		require.EqualValues(t, 2, (<-second).stored.Version)
		require.EqualValues(t, 2, (<-third).stored.Version)
	})
}

func TestLoaderThatPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		defer c.Close()
		key := keyOf(t, "e")
		proceed := make(chan struct{})
		load := func(context.Context, func(item.Stored, error)) func(error) {
			<-proceed
			panic("out of cheese")
		}
		first, second := ask(t.Context(), c, key, load), ask(t.Context(), c, key, load)
		synctest.Wait()
		close(proceed)
		require.ErrorContains(t, (<-first).err, "out of cheese")
		require.ErrorContains(t, (<-second).err, "out of cheese")
		store(t, c, value(key, 2))
		require.Equal(t, [2]int64{2, 2}, versions(c, key))
	})
}

func TestLoadAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(big, staleness)
		key := keyOf(t, "e")
		s := newSlow()
		during := ask(t.Context(), c, key, s.load)
		synctest.Wait()
		c.Close()
		c.Close()
		s.end(value(key, 1), nil)
		require.Equal(t, answer{value(key, 1), nil}, <-during)
		store(t, c, value(key, 2))
		require.Equal(t, [2]int64{}, versions(c, key))
		require.Empty(t, c.flights)
		require.Zero(t, c.Stats().Entries)
	})
}

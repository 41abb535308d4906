package readcache

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

// While a write is being committed, what one reader has seen in the database no
// other may see differently here.
func TestHold(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(*Cache, item.Key) func(){
		"a key":   func(c *Cache, key item.Key) func() { return c.Hold(key) },
		"all":     func(c *Cache, _ item.Key) func() { return c.HoldAll() },
		"twice":   func(c *Cache, key item.Key) func() { c.Hold(key)(); return c.Hold(key) },
		"several": func(c *Cache, key item.Key) func() { return c.Hold(keyOf(t, "other"), key) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := New(big, staleness)
				defer c.Close()
				key := keyOf(t, "e")
				store(t, c, value(key, 1))
				before := newSlow() // begun before the hold
				reloaded := make(chan item.Stored, 1)
				go func() {
					stored, _ := c.Reload(t.Context(), key, before.load)
					reloaded <- stored
				}()
				synctest.Wait()

				release := hold(c, key)
				require.Equal(t, [2]int64{}, versions(c, key))
				during := newSlow()
				first := ask(t.Context(), c, key, during.load)
				synctest.Wait()
				store(t, c, value(key, 2)) // each reads for itself
				require.Equal(t, [2]int64{}, versions(c, key), "nothing is filled")
				before.end(value(key, 1), nil)
				require.EqualValues(t, 1, (<-reloaded).Version)

				release()
				late := newSlow()
				joined := ask(t.Context(), c, key, late.load)
				synctest.Wait()
				during.end(value(key, 1), nil)
				require.EqualValues(t, 1, (<-first).stored.Version)
				require.Equal(t, [2]int64{}, versions(c, key), "a load from before fills nothing")
				late.end(value(key, 3), nil)
				require.EqualValues(t, 3, (<-joined).stored.Version)
				require.Equal(t, [2]int64{3, 3}, versions(c, key))
			})
		})
	}
}

func TestHoldsAreCounted(t *testing.T) {
	t.Parallel()
	c := New(big, staleness)
	defer c.Close()
	key := keyOf(t, "e")
	first, second, all := c.Hold(key), c.Hold(key), c.HoldAll()
	for _, release := range []func(){first, second, all} {
		store(t, c, value(key, 1))
		require.Equal(t, [2]int64{}, versions(c, key))
		release()
	}
	store(t, c, value(key, 1))
	require.Equal(t, [2]int64{1, 1}, versions(c, key))
	require.Empty(t, c.held)
}

package readcache

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

func TestHitsAreTold(t *testing.T) {
	t.Parallel()
	c := New(big, time.Hour)
	t.Cleanup(c.Close)
	var told []*Hits
	c.OnFirstHit(func(h *Hits) { told = append(told, h) })
	a, b := keyOf(t, "a"), keyOf(t, "b")
	store(t, c, value(a, 1))
	store(t, c, value(b, 1))
	require.Empty(t, told, "a load is no hit")

	find := func() {
		_, ok := c.Lookup(a)
		require.True(t, ok)
	}
	find()
	find()
	c.LookupStale(a)
	c.Lookup(keyOf(t, "absent"))
	_, ok := c.LookupMany([]item.Key{a, keyOf(t, "absent")})
	require.False(t, ok)
	c.Heard(time.Now())
	before := time.Now()
	_, ok = c.LookupMany([]item.Key{a, b})
	require.True(t, ok)
	require.Len(t, told, 2)
	require.Equal(t, []item.Key{a, b}, []item.Key{told[0].Key(), told[1].Key()})
	count, last := told[0].Take()
	require.Equal(t, int64(3), count)
	require.WithinRange(t, last, before, time.Now())
	count, _ = told[1].Take()
	require.Equal(t, int64(1), count)

	find()
	require.Len(t, told, 3)
	require.Same(t, told[0], told[2], "anew, since they were taken")
	c.Invalidate(a)
	count, _ = told[2].Take()
	require.Equal(t, int64(1), count, "what has become of the item does not matter")
	store(t, c, value(a, 1))
	find()
	require.Len(t, told, 4)
}

func TestNoHitIsLost(t *testing.T) {
	t.Parallel()
	const readers, each = 4, 20_000
	c := New(big, time.Hour)
	t.Cleanup(c.Close)
	told := make(chan *Hits, readers*each)
	c.OnFirstHit(func(h *Hits) { told <- h })
	key := keyOf(t, "a")
	store(t, c, value(key, 1))
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for range each {
				c.Lookup(key)
			}
		})
	}
	go func() {
		all.Wait()
		close(told)
	}()
	var sum int64
	for hits := range told {
		count, _ := hits.Take()
		sum += count
	}
	require.Equal(t, int64(readers*each), sum)
}

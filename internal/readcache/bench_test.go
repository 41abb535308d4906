package readcache

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

// filled is a cache that holds all of the keys that it returns.
func filled(b *testing.B) (*Cache, []item.Key) {
	b.Helper()
	const n = 10_000
	c := New(64<<20, time.Hour)
	b.Cleanup(c.Close)
	keys := make([]item.Key, n)
	for i := range keys {
		keys[i] = keyOf(b, fmt.Sprintf("component:bench:%d", i))
		_, err := c.Load(b.Context(), keys[i], returns(value(keys[i], 1), nil))
		require.NoError(b, err)
	}
	return c, keys
}

// BenchmarkLookupHitParallel is all cores at once: the cache's own contention.
func BenchmarkLookupHitParallel(b *testing.B) {
	c, keys := filled(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(len(keys)); pb.Next(); i++ {
			if _, ok := c.Lookup(keys[i%len(keys)]); !ok {
				b.Error("a miss")
				return
			}
		}
	})
}

package store

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/readcache"
)

// An item may be cached and hit before the accesses to the one that stood there are
// forgotten, in the moment between its commit and its hooks: the next hit counts.
func TestForgottenHitsAreToldAgain(t *testing.T) {
	t.Parallel()
	cache, marks := readcache.New(1<<20, time.Hour), newMarks()
	t.Cleanup(cache.Close)
	cache.OnFirstHit(marks.addHits)
	key, err := item.ParseKey("entry")
	require.NoError(t, err)
	_, err = cache.Load(t.Context(), key, func(_ context.Context, finish func(item.Stored, error)) func(error) {
		finish(item.Stored{Metadata: item.Metadata{Key: key}, JSON: []byte("1")}, nil)
		return func(error) {}
	})
	require.NoError(t, err)
	hit := func() {
		_, ok := cache.Lookup(key)
		require.True(t, ok)
	}
	hit()
	marks.forget(key)
	require.Empty(t, marks.take())
	hit()
	taken := marks.take()
	require.Len(t, taken, 1)
	require.EqualValues(t, 1, taken["entry"].count)
}

package store_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/store"
)

// expired stores so many items of each kind that have expired, and of each a few
// that have not.
func expired(b *bundle, each int) {
	b.t.Helper()
	set := mixture(b.t, 2)
	hour := item.TTL(3600)
	require.NoError(b.t, b.PutMany(b.t.Context(), values(b.t, set, "never"), nil))
	require.NoError(b.t, b.PutMany(b.t.Context(), values(b.t, keys(b.t, "component:vue:later", "block:vue:later", "later"), "x"), &hour))
	const times = `now(), now(), now(), now(), now() - i * interval '1 millisecond'`
	b.exec(`INSERT INTO components (name, framework, source_code, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at)
		SELECT 'past' || i, 'react', 'x', 10, 'e', `+times+` FROM generate_series(1, $1) i`, each)
	b.exec(`INSERT INTO blocks (name, framework, files, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at)
		SELECT 'past' || i, 'react', '[]', 20, 'e', `+times+` FROM generate_series(1, $1) i`, each)
	b.exec(`INSERT INTO entries (key, value, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at)
		SELECT 'past' || i, '1', 1, 'e', `+times+` FROM generate_series(1, $1) i`, each)
	b.exec(`UPDATE usage_counters SET component_items = component_items + $1, block_items = block_items + $1, entry_items = entry_items + $1,
		component_bytes = component_bytes + 10 * $1, block_bytes = block_bytes + 20 * $1, entry_bytes = entry_bytes + $1 WHERE slot = 0`, each)
	checkUsage(b.t, b.other)
}

func TestSweep(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	expired(b, 2500)
	stats, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(9), stats.Usage.Items.Total(), "what has expired counts for nothing")
	for _, want := range []int{3000, 3000, 1500, 0} {
		oldest := scan[*string](t, b.other, `SELECT min(expires_at)::text FROM components WHERE expires_at <= now()`)
		n, again, err := b.Sweep(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, n, "in bounded batches")
		left := scan[int](t, b.other, `SELECT count(*) FROM components WHERE expires_at <= now()`)
		require.True(t, again || left == 0, "it does not say that there is more")
		require.False(t, again && n == 0, "it would go on for ever")
		if oldest != nil {
			require.Zero(t, scan[int](t, b.other, `SELECT count(*) FROM components WHERE expires_at::text = $1`, *oldest), "what expired first goes first")
		}
		checkUsage(t, b.other)
	}
	require.Equal(t, item.Counts{Components: 3, Blocks: 3, Entries: 3}, checkUsage(t, b.other).Items, "only what has expired")
	stats, err = b.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(7500), stats.Expirations)
	require.Zero(t, stats.Evictions)
}

func TestSeveralSweepersAndWriters(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	expired(b, 3000)
	var swept atomic.Int64
	var done atomic.Bool
	writing := start(func() error {
		for n := 0; !done.Load(); n++ {
			k := key(t, fmt.Sprint("past", 1+n%3000)) // some of what is being swept
			if _, err := b.Put(t.Context(), value(t, k, "new"), nil, ifNone); err != nil && !errors.Is(err, item.ErrPreconditionFailed) {
				return err
			}
		}
		return nil
	})
	together(6, func(int) {
		for range 200 {
			n, _, err := b.Sweep(t.Context())
			if err != nil {
				t.Errorf("sweep: %v", err)
				return
			}
			swept.Add(int64(n))
		}
	})
	done.Store(true)
	require.NoError(t, receive(t, writing))
	usage := checkUsage(t, b.other)
	require.Zero(t, scan[int](t, b.other, `SELECT (SELECT count(*) FROM components WHERE expires_at <= now())
		+ (SELECT count(*) FROM blocks WHERE expires_at <= now()) + (SELECT count(*) FROM entries WHERE expires_at <= now())`))
	// Nothing was deleted twice, and nothing that was written anew.
	reused := scan[int64](t, b.other, `SELECT count(*) FROM entries WHERE key LIKE 'past%' AND access_count = 1 AND prev_bytes IS NOT NULL`)
	require.Equal(t, 9000-reused, swept.Load())
	stats, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.Equal(t, swept.Load(), stats.Expirations)
	t.Logf("%d swept, %d taken over, %d left", swept.Load(), reused, usage.Items.Total())
}

// While one sweeps, another does not wait.
func TestSweepersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	expired(b, 10)
	holder := b.holdUsage()
	first := start(func() error {
		n, _, err := b.Sweep(t.Context())
		require.Equal(t, 30, n)
		return err
	})
	b.awaitBlocked(1)
	for range 3 {
		n, again, err := b.Sweep(b.within(soon))
		require.NoError(t, err)
		require.Zero(t, n)
		require.False(t, again)
	}
	b.awaitBlocked(1)
	exec(t, holder, `ROLLBACK`)
	require.NoError(t, receive(t, first))
	checkUsage(t, b.other)
}

// An item that is written, or touched, after the sweeper has chosen it survives.
func TestSweepSparesWhatIsWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"component:react:past1", "block:react:past1", "past1"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			expired(b, 3)
			k := key(t, text)
			writer := pgtest.Connect(t, b.dsn)
			exec(t, writer, `BEGIN`)
			exec(t, writer, `UPDATE `+table(k)+` SET expires_at = now() + interval '1 hour', etag = 'new' WHERE key = $1`, text)
			var n int
			sweeping := start(func() (err error) {
				n, _, err = b.Sweep(b.within(soon))
				return err
			})
			b.awaitBlocked(1)
			exec(t, writer, `COMMIT`)
			require.NoError(t, receive(t, sweeping))
			require.Equal(t, 8, n)
			metadata, err := b.Metadata(t.Context(), k)
			require.NoError(t, err)
			require.Equal(t, "new", metadata.ETag)
			checkUsage(t, b.other)
		})
	}
}

func TestSweepThatFailsDeletesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	expired(b, 10)
	before := b.content()
	holder := b.holdUsage()
	sweeping := start(func() error {
		_, _, err := b.Sweep(b.within(soon))
		return err
	})
	b.awaitBlocked(1)
	b.killBlocked()
	require.Error(t, receive(t, sweeping))
	exec(t, holder, `ROLLBACK`)
	require.Equal(t, before, b.content())
	stats, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.Zero(t, stats.Expirations)
	n, _, err := b.Sweep(t.Context())
	require.NoError(t, err)
	require.Equal(t, 30, n, "the lock went with the connection")
}

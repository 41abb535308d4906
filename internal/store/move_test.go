package store_test

import (
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

// records are n of a kind, of a write long ago.
func records(t *testing.T, prefix string, n, bytes int) (list []item.Record) {
	t.Helper()
	long := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		list = append(list, item.Record{
			Value: sized(t, prefix+strconv.Itoa(i), bytes), Created: long, Updated: long, Cached: long, Accessed: long, AccessCount: 9, Version: 3,
		})
	}
	return list
}

// Restores and puts by several servers' worth of writers keep the limit and the
// counters: puts evict what was restored, restores evict nothing.
func TestRestoreAmongWriters(t *testing.T) {
	t.Parallel()
	const limit, size, puts = 100_000, 500, 20
	b := setup(t, store.Options{MaxBytes: limit})
	var stored, full atomic.Int64
	together(8, func(i int) {
		if i%2 == 0 {
			for n := range puts {
				_, err := b.Put(t.Context(), sized(t, "put"+strconv.Itoa(i)+"-"+strconv.Itoa(n), size), nil, item.Precondition{})
				require.NoError(t, err)
			}
			return
		}
		for n := range 10 {
			done, err := b.Restore(t.Context(), records(t, "restored"+strconv.Itoa(i)+"-"+strconv.Itoa(n)+"-", 10, size), store.RestoreRules{})
			if errors.Is(err, store.ErrNoRoom) {
				full.Add(1)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, 10, done.Stored)
			stored.Add(10)
		}
	})
	require.Positive(t, stored.Load())
	require.Positive(t, full.Load(), "there was never a lack of room")
	require.LessOrEqual(t, checkUsage(t, b.other).Bytes.Total(), int64(limit))
	require.Zero(t, scan[int](t, b.other, `SELECT count(*) FROM entries WHERE key LIKE 'restored%' AND (version <> 3 OR access_count <> 9 OR created_at <> '2020-01-01Z')`))
	stats, err := b.Stats(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, stats.Evictions, int64(4*puts), "a restore has evicted")
}

// A restore that would need room takes it from what has expired, never from what is
// alive, whatever the size lock was held for.
func TestRestoreEvictsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{MaxBytes: 1000})
	b.mustPut(sized(t, "alive", 500))
	b.mustPut(sized(t, "expired", 400))
	expire(t, b.other, key(t, "expired"))
	_, err := b.Restore(t.Context(), records(t, "r", 2, 251), store.RestoreRules{})
	require.ErrorIs(t, err, store.ErrNoRoom)
	require.Equal(t, []string{"alive", "expired"}, b.stored())
	done, err := b.Restore(t.Context(), records(t, "r", 2, 250), store.RestoreRules{})
	require.NoError(t, err)
	require.Equal(t, store.Restored{Stored: 2, Added: 500}, done)
	require.Equal(t, []string{"alive", "r0", "r1"}, b.stored())
	require.Equal(t, int64(1000), checkUsage(t, b.other).Bytes.Total())

	// What replaces itself needs no room.
	again := records(t, "r", 2, 250)
	again[0].AccessCount++
	done, err = b.Restore(t.Context(), again, store.RestoreRules{})
	require.NoError(t, err)
	require.Equal(t, store.Restored{Stored: 1, Unchanged: 1}, done)
}

// A snapshot that has been begun is not begun again.
func TestReadAllGivesUp(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.mustPut(sized(t, "a", 10))
	times := 0
	err := b.ReadAll(t.Context(), func(usage item.Usage) error {
		require.Equal(t, int64(1), usage.Items.Total())
		return nil
	}, func(item.Record) error {
		times++
		_, err := b.other.Exec(t.Context(), `DO $$ BEGIN RAISE SQLSTATE '40001'; END $$`)
		return err // as if the database had said it of the snapshot
	})
	require.ErrorIs(t, err, store.ErrBrokenOff)
	require.Equal(t, 1, times)
}

// What is restored was written and read long ago, and is found at once all the same.
func TestRestoredIsFound(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.mustPut(value(t, key(t, "component:react:today"), "x"))
	for again := true; again; {
		var err error
		again, _, err = b.MakeDocuments(t.Context())
		require.NoError(t, err)
	}
	archived := records(t, "r", 1, 10)
	archived[0].Value = value(t, key(t, "component:react:archived"), "x")
	_, err := b.Restore(t.Context(), archived, store.RestoreRules{})
	require.NoError(t, err)
	results, err := b.Search(t.Context(), ask(t, "archived"))
	require.NoError(t, err)
	require.Len(t, results.List, 1)
	require.Equal(t, "component:react:archived", results.List[0].Key.String())
}

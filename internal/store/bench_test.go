package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/test/bench/input"
)

// benchValues are so many components of the size that the middle one of a registry
// has, and a store that holds them.
func benchValues(b *testing.B, n int) (*bundle, []item.Value) {
	b.Helper()
	set, err := input.Generate(101)
	require.NoError(b, err)
	body := set.Sample(1)[0]
	values := make([]item.Value, n)
	for i := range values {
		values[i], err = item.Parse(key(b, fmt.Sprintf("component:bench:%03d", i)), body)
		require.NoError(b, err)
	}
	s := setup(b, store.Options{})
	require.NoError(b, s.PutMany(b.Context(), values, nil))
	return s, values
}

// clients is how many there are at once in a parallel benchmark, for each core.
const clients = 8

func BenchmarkPut(b *testing.B) {
	s, values := benchValues(b, 100)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := s.Put(b.Context(), values[i%len(values)], nil, item.Precondition{}); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkPutParallel(b *testing.B) {
	s, values := benchValues(b, 100)
	inParallel(b, func(i int) error {
		_, err := s.Put(b.Context(), values[i%len(values)], nil, item.Precondition{})
		return err
	})
}

// BenchmarkGetUncached reads the database: the store has no cache.
func BenchmarkGetUncached(b *testing.B) {
	s, values := benchValues(b, 100)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := s.Get(b.Context(), values[i%len(values)].Key); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkGetUncachedParallel(b *testing.B) {
	s, values := benchValues(b, 100)
	inParallel(b, func(i int) error {
		_, err := s.Get(b.Context(), values[i%len(values)].Key)
		return err
	})
}

func BenchmarkPutMany(b *testing.B) {
	s, values := benchValues(b, 100)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.PutMany(b.Context(), values, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetMany(b *testing.B) {
	s, values := benchValues(b, 100)
	keys := make([]item.Key, len(values))
	for i := range values {
		keys[i] = values[i].Key
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.GetMany(b.Context(), keys); err != nil {
			b.Fatal(err)
		}
	}
}

// inParallel calls do from several goroutines, each time with another number.
func inParallel(b *testing.B, do func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(clients)
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(int(next.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

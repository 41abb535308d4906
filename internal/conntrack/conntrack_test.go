package conntrack_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/conntrack"
)

func TestRegistry(t *testing.T) {
	t.Parallel()
	var registry conntrack.Registry
	require.Empty(t, registry.List())

	client := registry.Open(conntrack.HTTP, conntrack.New)
	database := registry.Open(conntrack.Database, conntrack.Idle)
	client.Does(conntrack.Request)
	require.Equal(t, 1, registry.Count(conntrack.HTTP))
	require.Equal(t, 1, registry.Count(conntrack.Database))

	list := registry.List()
	require.Len(t, list, 2)
	require.Equal(t, conntrack.HTTP, list[0].Kind, "the oldest comes first")
	require.Equal(t, conntrack.Request, list[0].Doing)
	require.False(t, list[0].Since.Before(list[0].Opened))
	require.Equal(t, conntrack.Idle, list[1].Doing)

	client.Close()
	client.Close()
	require.Zero(t, registry.Count(conntrack.HTTP))
	database.Close()
	require.Empty(t, registry.List())
}

func TestRegistryFromManyGoroutines(t *testing.T) {
	t.Parallel()
	var registry conntrack.Registry
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				conn := registry.Open(conntrack.HTTP, conntrack.New)
				conn.Does(conntrack.Request)
				registry.List()
				conn.Close()
			}
		})
	}
	all.Wait()
	require.Empty(t, registry.List())
}

package app

import (
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/stretchr/testify/require"
)

// The heap of a service at rest may grow to twice the floor before it is collected.
func TestRaiseHeap(t *testing.T) { //nolint:paralleltest // others would change the heap
	goal := func() uint64 {
		runtime.GC()
		sample := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	before := goal()
	lower := raiseHeap(func(string) string { return "" })
	require.GreaterOrEqual(t, goal(), before+heapFloor)
	lower()
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		before = goal()
		lower = raiseHeap(func(of string) string {
			if of == name {
				return "100"
			}
			return ""
		})
		require.Less(t, goal(), before+heapFloor, name)
		lower()
	}
}

package app

import "runtime"

// heapFloor is memory that is never touched, so that it takes none of the machine's.
// The garbage collector counts it all the same: it runs when as much has been allocated
// as is alive, and what is alive here besides the read cache is a few MiB, which
// requests allocate anew many times a second.
const heapFloor = 64 << 20

// raiseHeap keeps the garbage collector from running all the time while little is
// alive, until the function that it returns is called. Whoever has set GOGC or
// GOMEMLIMIT has decided that himself.
func raiseHeap(getenv func(string) string) (lower func()) {
	if getenv("GOGC") != "" || getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	floor := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(floor) }
}

package limit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const maxWait = 5 * time.Second

// hold takes n slots and returns them.
func hold(t *testing.T, g *Gate, n int) []*Slot {
	t.Helper()
	slots := make([]*Slot, n)
	for i := range slots {
		slot, ok := g.TryAcquire()
		require.True(t, ok)
		slots[i] = slot
	}
	return slots
}

// pass lets time pass, in a bubble of synctest: nobody really waits.
func pass(d time.Duration) { <-time.After(d) }

// idle checks that nothing is in use and nobody waits.
func idle(t *testing.T, g *Gate) {
	t.Helper()
	s := g.State()
	require.Zero(t, s.InUse, "slots leaked")
	require.Zero(t, s.Waiting, "places leaked")
	for _, slot := range hold(t, g, s.Slots) { // the semaphore agrees
		slot.Release()
	}
}

func TestAcquireAndRelease(t *testing.T) {
	t.Parallel()
	g := NewGate(2, 0, maxWait)
	a, err := g.Acquire(t.Context())
	require.NoError(t, err)
	require.Zero(t, a.Waited())
	b, err := g.Acquire(t.Context())
	require.NoError(t, err)
	require.Equal(t, State{Slots: 2, InUse: 2}, g.State())

	_, err = g.Acquire(t.Context())
	require.ErrorIs(t, err, ErrQueueFull, "with a queue of 0 nobody waits")
	require.ErrorIs(t, err, ErrBusy)
	require.NotErrorIs(t, err, ErrWaitedTooLong)

	a.Release()
	a.Release() // does not free b's
	require.Equal(t, State{Slots: 2, InUse: 1, QueueFull: 1}, g.State())
	c, err := g.Acquire(t.Context())
	require.NoError(t, err)
	a.Release() // nor c's
	require.Equal(t, 2, g.State().InUse)
	b.Release()
	c.Release()
	idle(t, g)
}

func TestReleaseAtOnceFromManySides(t *testing.T) {
	t.Parallel()
	g := NewGate(3, 0, maxWait)
	slots := hold(t, g, 3)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(slots[0].Release)
	}
	wg.Wait()
	require.Equal(t, 2, g.State().InUse)
	slots[1].Release()
	slots[2].Release()
	idle(t, g)
}

func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers = 50
		g := NewGate(1, callers, maxWait)
		held := hold(t, g, 1)[0]
		var order []int
		for i := range callers {
			go func() {
				slot, err := g.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, i) // the only slot guards it
				slot.Release()
			}()
			synctest.Wait() // i is in the queue before i+1 comes
		}
		require.Equal(t, callers, g.State().Waiting)
		_, ok := g.TryAcquire()
		require.False(t, ok)
		held.Release()
		synctest.Wait()
		require.Len(t, order, callers)
		require.IsIncreasing(t, order)
		require.EqualValues(t, callers, g.State().Waits)
		idle(t, g)
	})
}

func TestNobodyOvertakesThoseWhoWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 1, maxWait)
		held := hold(t, g, 1)[0]
		got := make(chan *Slot)
		go func() {
			slot, err := g.Acquire(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- slot
		}()
		synctest.Wait()
		held.Release()
		_, ok := g.TryAcquire() // the slot went to the one who waited
		require.False(t, ok)
		(<-got).Release()
		synctest.Wait()
		idle(t, g)
	})
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 3, maxWait)
		held := hold(t, g, 1)[0]
		for range 3 {
			go func() {
				slot, err := g.Acquire(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				slot.Release()
			}()
		}
		synctest.Wait()
		start := time.Now()
		_, err := g.Acquire(t.Context())
		require.ErrorIs(t, err, ErrQueueFull)
		require.Zero(t, time.Since(start), "a full queue is said at once")
		held.Release()
		synctest.Wait()
		idle(t, g)
	})
}

func TestWaitIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 1, maxWait)
		held := hold(t, g, 1)[0]
		start := time.Now()
		_, err := g.Acquire(t.Context())
		require.ErrorIs(t, err, ErrWaitedTooLong)
		require.ErrorIs(t, err, ErrBusy)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "it is not the caller's deadline")
		require.Equal(t, maxWait, time.Since(start))
		require.Equal(t, State{Slots: 1, InUse: 1, QueueLength: 1, WaitedTooLong: 1}, g.State())

		time.AfterFunc(time.Second, held.Release)
		slot, err := g.Acquire(t.Context())
		require.NoError(t, err)
		require.Equal(t, time.Second, slot.Waited())
		slot.Release()
		idle(t, g)
	})
}

func TestCallerThatLeavesFreesItsPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 1, maxWait)
		held := hold(t, g, 1)[0]

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := g.Acquire(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, ErrBusy)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = g.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		_, err = g.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, State{Slots: 1, InUse: 1, QueueLength: 1}, g.State())
		held.Release()
		_, err = g.Acquire(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "though a slot is free")
		idle(t, g)
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 8, maxWait)
		held := hold(t, g, 1)[0]
		place, err := g.Enter()
		require.NoError(t, err)
		errs := make(chan error, 5)
		for range 5 {
			go func() {
				_, err := g.Acquire(t.Context())
				errs <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		g.Close()
		held.Release() // a slot that comes free now is nobody's
		g.Close()
		for range 5 {
			require.ErrorIs(t, <-errs, ErrClosed)
		}
		require.Zero(t, time.Since(start))

		_, err = g.Acquire(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		_, err = g.Enter()
		require.ErrorIs(t, err, ErrClosed)
		_, err = place.Acquire(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		_, ok := g.TryAcquire()
		require.False(t, ok)
		place.Leave()
		require.Equal(t, State{Slots: 1, QueueLength: 8}, g.State())
	})
}

// Writes that share a transaction: each counts as waiting, one takes the slot.
func TestPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 3, maxWait)
		held := hold(t, g, 1)[0]
		places := make([]*Place, 3)
		for i := range places {
			place, err := g.Enter()
			require.NoError(t, err)
			places[i] = place
		}
		_, err := g.Enter()
		require.ErrorIs(t, err, ErrQueueFull)
		_, err = g.Acquire(t.Context())
		require.ErrorIs(t, err, ErrQueueFull)

		time.AfterFunc(2*time.Second, held.Release)
		slot, err := places[0].Acquire(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, slot.Waited())
		require.Equal(t, 3, g.State().Waiting, "until they leave")
		for _, place := range places {
			place.Leave()
			place.Leave()
		}
		require.Equal(t, State{Slots: 1, InUse: 1, QueueLength: 3, Waits: 1, QueueFull: 2}, g.State())

		// The wait counts from Enter, not from Acquire.
		place, err := g.Enter()
		require.NoError(t, err)
		pass(maxWait - time.Second)
		start := time.Now()
		_, err = place.Acquire(t.Context())
		require.ErrorIs(t, err, ErrWaitedTooLong)
		require.Equal(t, time.Second, time.Since(start))
		place.Leave()
		slot.Release()
		idle(t, g)
	})
}

func TestNewGateRefusesNonsense(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { NewGate(0, 1, maxWait) })
	require.Panics(t, func() { NewGate(1, -1, maxWait) })
	require.Panics(t, func() { NewGate(1, 1, 0) })
}

// Whatever callers do, there are never more than Slots inside nor more than
// QueueLength outside, each gets one of the answers, and in the end all is free.
func TestBoundsHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		slots := rapid.IntRange(1, 4).Draw(rt, "slots")
		queue := rapid.IntRange(0, 8).Draw(rt, "queue")
		type caller struct{ arrives, patience, works time.Duration }
		callers := make([]caller, rapid.IntRange(1, 40).Draw(rt, "callers"))
		ms := rapid.Custom(func(rt *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(0, 20).Draw(rt, "ms")) * time.Millisecond
		})
		for i := range callers {
			callers[i] = caller{ms.Draw(rt, "arrives"), ms.Draw(rt, "patience"), ms.Draw(rt, "works")}
		}
		synctest.Test(t, func(*testing.T) {
			g := NewGate(slots, queue, 10*time.Millisecond)
			var inside, served, busy, gone atomic.Int64
			var wg sync.WaitGroup
			for _, c := range callers {
				wg.Go(func() {
					pass(c.arrives)
					ctx, cancel := context.WithTimeout(context.Background(), c.patience)
					defer cancel()
					slot, err := g.Acquire(ctx)
					switch {
					case err == nil:
						if n := inside.Add(1); n > int64(slots) {
							rt.Errorf("%d inside", n)
						}
						if s := g.State(); s.InUse > slots || s.Waiting > queue {
							rt.Errorf("state %+v", s)
						}
						pass(c.works)
						inside.Add(-1)
						slot.Release()
						served.Add(1)
					case errors.Is(err, ErrBusy):
						busy.Add(1)
					case errors.Is(err, context.DeadlineExceeded):
						gone.Add(1)
					default:
						rt.Errorf("unexpected: %v", err)
					}
				})
			}
			wg.Wait()
			s := g.State()
			if s.InUse != 0 || s.Waiting != 0 || s.QueueFull+s.WaitedTooLong != busy.Load() {
				rt.Errorf("at the end %+v with %d busy", s, busy.Load())
			}
			if served.Load()+busy.Load()+gone.Load() != int64(len(callers)) {
				rt.Errorf("%d + %d + %d of %d", served.Load(), busy.Load(), gone.Load(), len(callers))
			}
		})
	})
}

// The same on real threads, with real races.
func TestStress(t *testing.T) {
	t.Parallel()
	const slots, queue = 4, 16
	g := NewGate(slots, queue, time.Minute)
	var inside, served atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 200 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(200))*time.Microsecond)
				slot, err := g.Acquire(ctx)
				if err == nil {
					if n := inside.Add(1); n > slots {
						t.Errorf("%d inside", n)
					}
					inside.Add(-1)
					slot.Release()
					served.Add(1)
				} else if !errors.Is(err, ErrQueueFull) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("unexpected: %v", err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.Positive(t, served.Load())
	idle(t, g)
}

func BenchmarkAcquireFree(b *testing.B) {
	g := NewGate(1, 0, maxWait)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		slot, err := g.Acquire(ctx)
		if err != nil {
			b.Fatal(err)
		}
		slot.Release()
	}
}

func TestASlotInPlaceOfAPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1, 1, maxWait)
		place, slot, err := g.EnterOrTake()
		require.NoError(t, err)
		require.Nil(t, slot, "it would rather wait")
		_, slot, err = g.EnterOrTake()
		require.NoError(t, err)
		require.NotNil(t, slot)
		require.Zero(t, g.State().QueueFull, "nobody has been refused")
		_, _, err = g.EnterOrTake()
		require.ErrorIs(t, err, ErrQueueFull)
		require.EqualValues(t, 1, g.State().QueueFull)
		place.Leave()
		slot.Release()
		g.Close()
		_, _, err = g.EnterOrTake()
		require.ErrorIs(t, err, ErrClosed)
	})
}

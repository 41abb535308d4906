package txn_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/txn"
)

const (
	groupWorkers = 2
	groupSize    = 4
	queueLength  = 10
	maxWait      = 5 * time.Second
)

// crew is a group whose runs begin and end when the test says so.
type crew struct {
	*txn.Group[int]
	gate    *limit.Gate
	breaker *txn.Breaker
	runs    chan run
}

// run is what is run together; it ends with what outcomes gets.
type run struct {
	ctx      context.Context
	values   []int
	outcomes chan error
}

// newCrew returns a crew for the inside of a synctest bubble. Odd values do not go
// with even ones.
func newCrew(slots int) *crew { return newCrewOf(limit.NewGate(slots, queueLength, maxWait)) }

func newCrewOf(gate *limit.Gate) *crew {
	c := &crew{gate: gate, breaker: txn.NewBreaker(3, time.Minute, nil), runs: make(chan run)}
	manager := txn.New(nil, c.gate, slog.New(slog.DiscardHandler)).Guard(c.breaker)
	c.Group = txn.NewGroup(manager, txn.GroupRules[int]{
		Workers: groupWorkers, Size: groupSize,
		Fits: func(chosen []*txn.Op[int], next int) bool { return chosen[0].Value%2 == next%2 },
	}, func(ctx context.Context, ops []*txn.Op[int]) {
		r := run{ctx: ctx, outcomes: make(chan error)}
		for _, op := range ops {
			r.values = append(r.values, op.Value)
		}
		c.runs <- r
		if err := <-r.outcomes; err != nil { // a run that succeeds may leave Err as it is
			for _, op := range ops {
				op.Err = err
			}
		}
	})
	return c
}

// begin asks for an operation.
func (c *crew) begin(ctx context.Context, value int) <-chan error {
	return start(func() error { return c.Do(ctx, value) })
}

// beginAll asks for several operations, and returns how to end the run that carries
// them all.
func (c *crew) beginAll(t *testing.T, values ...int) (finish func(run)) {
	t.Helper()
	done := make([]<-chan error, len(values))
	for i, value := range values {
		done[i] = c.begin(t.Context(), value)
	}
	return func(r run) {
		r.outcomes <- nil
		for _, d := range done {
			require.NoError(t, <-d)
		}
	}
}

// requireIdle checks that nothing is left over.
func (c *crew) requireIdle(t *testing.T) {
	t.Helper()
	synctest.Wait()
	state := c.gate.State()
	require.Zero(t, state.Waiting, "a place is lost")
	require.Zero(t, state.InUse, "a slot is lost")
	require.Empty(t, c.runs)
}

// busy has all workers run something, and returns how to end that.
func (c *crew) busy(t *testing.T) (end func()) {
	t.Helper()
	var runs []run
	var done []<-chan error
	for range groupWorkers {
		done = append(done, c.begin(t.Context(), 1000))
		runs = append(runs, <-c.runs)
	}
	return func() {
		for i, r := range runs {
			r.outcomes <- nil
			require.NoError(t, <-done[i])
		}
	}
}

func TestGroupAloneWaitsForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		first := c.begin(t.Context(), 1)
		one := <-c.runs
		second := c.begin(t.Context(), 3)
		two := <-c.runs
		require.Equal(t, [][]int{{1}, {3}}, [][]int{one.values, two.values})
		require.Equal(t, 2, c.gate.State().InUse)
		refused := errors.New("refused")
		two.outcomes <- refused
		require.Equal(t, refused, <-second)
		one.outcomes <- nil
		require.NoError(t, <-first)
		c.requireIdle(t)
	})
}

func TestGroupGoesTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		var done []<-chan error
		for _, value := range []int{1, 2, 3, 5, 7, 9, 4} {
			done = append(done, c.begin(t.Context(), value))
			synctest.Wait()
		}
		require.Equal(t, len(done), c.gate.State().Waiting, "each of them waits")
		go end()
		var got [][]int
		for range 3 {
			r := <-c.runs
			got = append(got, r.values)
			go func() { r.outcomes <- nil }()
		}
		require.ElementsMatch(t, [][]int{{1, 3, 5, 7}, {2, 4}, {9}}, got, "in the order in which they came")
		for _, d := range done {
			require.NoError(t, <-d)
		}
		c.requireIdle(t)
	})
}

// together has n odd operations run together, and nothing else, and returns how to end that.
func (c *crew) together(t *testing.T, n int) (end func()) {
	t.Helper()
	free := c.busy(t)
	odd := make([]int, n)
	for i := range odd {
		odd[i] = 2*i + 1
	}
	finish := c.beginAll(t, odd...)
	synctest.Wait()
	go free()
	r := <-c.runs
	require.Len(t, r.values, n)
	synctest.Wait()
	return func() { finish(r) }
}

func TestGroupWaitsForTheOneUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.together(t, 2)
		values := []int{7, 9, 11}
		finish := c.beginAll(t, values...)
		time.Sleep(4 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, len(values), c.gate.State().Waiting, "they are more, but not as many as can go together")
		go end()
		next := <-c.runs
		require.ElementsMatch(t, values, next.values)
		finish(next)
		c.requireIdle(t)
	})
}

func TestGroupBeginsBesideAnotherWithAsManyAsCanGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.together(t, 2)
		began := time.Now()
		finish := c.beginAll(t, slices.Repeat([]int{1}, groupSize)...)
		full := <-c.runs
		require.Len(t, full.values, groupSize)
		require.Zero(t, time.Since(began))
		end()
		finish(full)
		c.requireIdle(t)
	})
}

// A transaction may be waiting for a lock for as long as there is time.
func TestGroupWaitsForNobodyWhoHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.together(t, 2)
		began := time.Now()
		time.Sleep(2 * time.Millisecond)
		first, second := c.begin(t.Context(), 1), c.begin(t.Context(), 3)
		beside := <-c.runs
		require.ElementsMatch(t, []int{1, 3}, beside.values)
		require.Equal(t, 5*time.Millisecond, time.Since(began))

		// What has come meanwhile goes as soon as the other one has ended, and so does
		// what comes after that.
		third := c.begin(t.Context(), 5)
		synctest.Wait()
		began = time.Now()
		beside.outcomes <- nil
		require.NoError(t, errors.Join(<-first, <-second))
		beside = <-c.runs
		require.Equal(t, []int{5}, beside.values)
		fourth := c.begin(t.Context(), 7)
		synctest.Wait()
		require.Equal(t, 1, c.gate.State().Waiting, "no third one")
		beside.outcomes <- nil
		require.NoError(t, <-third)
		beside = <-c.runs
		require.Equal(t, []int{7}, beside.values)
		require.Zero(t, time.Since(began))
		beside.outcomes <- nil
		require.NoError(t, <-fourth)
		end()
		c.requireIdle(t)
	})
}

// As many as there may be at once can all be waiting for locks: others go on.
func TestGroupGoesOnWhereAllHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers + 2)
		end := c.busy(t)
		began := time.Now()
		var done []<-chan error
		var beside []run
		for range 2 {
			done = append(done, c.begin(t.Context(), 1))
			beside = append(beside, <-c.runs)
		}
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		done = append(done, c.begin(t.Context(), 3))
		synctest.Wait()
		require.Equal(t, 1, c.gate.State().Waiting, "two are at work that do not hang")
		beside[0].outcomes <- nil
		beside = append(beside[1:], <-c.runs)
		for _, r := range beside {
			r.outcomes <- nil
		}
		for _, d := range done {
			require.NoError(t, <-d)
		}
		end()
		c.requireIdle(t)
	})
}

func TestGroupWaitsForASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(1)
		slot, err := c.gate.Acquire(t.Context())
		require.NoError(t, err)
		first, second := c.begin(t.Context(), 1), c.begin(t.Context(), 3)
		synctest.Wait()
		require.Equal(t, 2, c.gate.State().Waiting)
		slot.Release()
		r := <-c.runs
		require.ElementsMatch(t, []int{1, 3}, r.values)
		require.Zero(t, c.gate.State().Waiting)
		require.Equal(t, 1, c.gate.State().InUse, "one slot for both")
		r.outcomes <- nil
		require.NoError(t, errors.Join(<-first, <-second))
		c.requireIdle(t)
	})
}

func TestGroupWaitsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		began := time.Now()
		early := c.begin(t.Context(), 1)
		time.Sleep(time.Second)
		late := c.begin(t.Context(), 3)
		require.ErrorIs(t, <-early, limit.ErrWaitedTooLong)
		require.Equal(t, maxWait, time.Since(began))
		require.ErrorIs(t, <-late, limit.ErrWaitedTooLong)
		require.Equal(t, maxWait+time.Second, time.Since(began))
		require.EqualValues(t, 2, c.gate.State().WaitedTooLong)
		end()
		c.requireIdle(t)
	})
}

func TestGroupQueueIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		ctx, leave := context.WithCancel(t.Context())
		var done []<-chan error
		for range queueLength {
			done = append(done, c.begin(ctx, 1))
		}
		synctest.Wait()
		require.ErrorIs(t, c.Do(t.Context(), 1), limit.ErrQueueFull)
		leave()
		for _, d := range done {
			require.ErrorIs(t, <-d, context.Canceled)
		}
		require.Zero(t, c.gate.State().Waiting, "who leaves frees his place")
		end()
		c.requireIdle(t)
	})
}

// Where nobody may wait, or all places are taken, an operation that could go with others
// need not, as long as there are slots.
func TestGroupNeedsNoPlaceWhereThereIsASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrewOf(limit.NewGate(groupWorkers+1, 0, maxWait))
		end := c.busy(t)
		beside := c.begin(t.Context(), 1)
		r := <-c.runs
		require.Equal(t, []int{1}, r.values)
		require.ErrorIs(t, c.Do(t.Context(), 3), limit.ErrQueueFull, "no slot is left")
		r.outcomes <- nil
		require.NoError(t, <-beside)

		finished := make(chan error, 1)
		c.Start(t.Context(), time.Minute, 5, func(err error) { finished <- err })
		r = <-c.runs
		require.Equal(t, []int{5}, r.values)
		r.outcomes <- nil
		require.NoError(t, <-finished)
		end()
		c.requireIdle(t)
	})
}

func TestGroupLastCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		one, leaveOne := context.WithCancel(t.Context())
		two, leaveTwo := context.WithCancel(t.Context())
		first, second := c.begin(one, 1), c.begin(two, 3)
		synctest.Wait()
		go end()
		r := <-c.runs
		leaveOne()
		synctest.Wait()
		require.NoError(t, r.ctx.Err(), "somebody waits for it")
		leaveTwo()
		<-r.ctx.Done()
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-first, context.Canceled)
		require.ErrorIs(t, <-second, context.Canceled)
		c.requireIdle(t)
	})
}

func TestGroupRunsAgainWhoHasMoreTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		short, cancelShort := context.WithTimeout(t.Context(), time.Second)
		defer cancelShort()
		long, cancelLong := context.WithTimeout(t.Context(), time.Minute)
		defer cancelLong()
		first, second := c.begin(short, 1), c.begin(long, 3)
		synctest.Wait()
		go end()
		r := <-c.runs
		require.Len(t, r.values, 2)
		<-r.ctx.Done()
		require.NoError(t, long.Err())
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-first, context.DeadlineExceeded)
		r = <-c.runs
		require.Equal(t, []int{3}, r.values)
		r.outcomes <- nil
		require.NoError(t, <-second)
		c.requireIdle(t)
	})
}

// Who leaves when it is settled that an operation is run again, but before it is, leaves
// it all the same.
func TestGroupIsLeftBeforeItRunsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		first, second := c.start(t, 1), c.start(t, 3)
		reason := errors.New("nobody waits")
		short := make(chan error, 1)
		c.Start(t.Context(), time.Second, 5, func(err error) {
			first.leave(reason)
			short <- err
		})
		go end()
		r := <-c.runs
		require.Equal(t, []int{1, 3, 5}, r.values)
		<-r.ctx.Done()
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-short, context.DeadlineExceeded)
		r = <-c.runs
		require.Equal(t, []int{1, 3}, r.values)
		synctest.Wait()
		require.NoError(t, r.ctx.Err(), "somebody waits for it")
		second.leave(reason)
		synctest.Wait()
		require.ErrorIs(t, r.ctx.Err(), context.Canceled, "nobody waits for it")
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-first.done, context.Canceled)
		require.ErrorIs(t, <-second.done, context.Canceled)
		c.requireIdle(t)
	})
}

func TestGroupUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first, second := c.begin(short, 1), c.begin(t.Context(), 3)
		synctest.Wait()
		go end()
		r := <-c.runs
		<-r.ctx.Done()
		r.outcomes <- errors.Join(txn.ErrCommitUnknown, r.ctx.Err())
		require.ErrorIs(t, <-first, txn.ErrCommitUnknown)
		require.ErrorIs(t, <-second, txn.ErrCommitUnknown)
		c.requireIdle(t)
	})
}

func TestGroupClosedGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(1)
		slot, err := c.gate.Acquire(t.Context())
		require.NoError(t, err)
		waiting := c.begin(t.Context(), 1)
		synctest.Wait()
		c.gate.Close()
		require.ErrorIs(t, <-waiting, limit.ErrClosed)
		require.ErrorIs(t, c.Do(t.Context(), 1), limit.ErrClosed)
		slot.Release()
		c.requireIdle(t)
	})
}

func TestGroupCountsForTheBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		// The first of those who are run together counts as the transaction itself,
		// which here is none.
		first, second, third, fourth := c.begin(t.Context(), 1), c.begin(t.Context(), 3), c.begin(t.Context(), 5), c.begin(t.Context(), 7)
		synctest.Wait()
		go end()
		r := <-c.runs
		require.Len(t, r.values, 4)
		r.outcomes <- txn.ErrUnavailable
		for _, done := range []<-chan error{first, second, third, fourth} {
			require.ErrorIs(t, <-done, txn.ErrUnavailable)
		}
		require.True(t, c.breaker.Open())
		require.ErrorIs(t, c.Do(t.Context(), 1), txn.ErrBreakerOpen, "at once")
		c.requireIdle(t)
	})
}

// Those who are run again with more time have not failed, so they do not count.
func TestGroupCountsNobodyWhoRunsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		short := make(chan error, 1)
		c.Start(t.Context(), time.Second, 1, func(err error) { short <- err })
		others := []started{c.start(t, 3), c.start(t, 5), c.start(t, 7)}
		go end()
		r := <-c.runs
		require.Equal(t, []int{1, 3, 5, 7}, r.values)
		<-r.ctx.Done()
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-short, context.DeadlineExceeded)
		r = <-c.runs
		require.Equal(t, "closed", c.breaker.State())
		r.outcomes <- nil
		for _, other := range others {
			require.NoError(t, <-other.done)
		}
		c.requireIdle(t)
	})
}

// Who waits behind a database that does not answer is a sign of it, too.
func TestGroupCountsWhoWaitedInVain(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]bool{"nobody is answered": false, "somebody is answered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCrew(groupWorkers)
				end := c.busy(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var done []<-chan error
				for range 3 {
					done = append(done, c.begin(ctx, 1))
				}
				synctest.Wait()
				if answers {
					end()
					r := <-c.runs
					<-ctx.Done()
					r.outcomes <- ctx.Err()
				}
				for _, d := range done {
					require.ErrorIs(t, <-d, context.DeadlineExceeded)
				}
				synctest.Wait()
				if !answers {
					require.True(t, c.breaker.Open())
					end()
				}
				c.requireIdle(t)
			})
		})
	}
}

// started is the outcome of a Start, and how to leave it.
type started struct {
	done  <-chan error
	leave func(reason error)
}

func (c *crew) start(t *testing.T, value int) started {
	t.Helper()
	done := make(chan error, 1)
	leave := c.Start(t.Context(), time.Minute, value, func(err error) { done <- err })
	return started{done: done, leave: leave}
}

func TestStartDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		alone := c.start(t, 1)
		one := <-c.runs
		also := c.start(t, 2)
		two := <-c.runs
		first, second := c.start(t, 3), c.start(t, 5)
		done := c.begin(t.Context(), 7)
		synctest.Wait()
		require.Equal(t, 3, c.gate.State().Waiting)
		refused := errors.New("refused")
		one.outcomes <- refused
		require.Equal(t, refused, <-alone.done)
		r := <-c.runs
		require.ElementsMatch(t, []int{3, 5, 7}, r.values, "those who wait in Do and those who do not go together")
		r.outcomes <- nil
		require.NoError(t, errors.Join(<-first.done, <-second.done, <-done))
		two.outcomes <- nil
		require.NoError(t, <-also.done)
		for _, s := range []started{alone, also, first, second} {
			s.leave(context.Canceled)
			require.Empty(t, s.done, "it has ended before")
		}
		c.requireIdle(t)
	})
}

func TestStartIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		end := c.busy(t)
		waiting := make([]started, queueLength)
		for i := range waiting {
			waiting[i] = c.start(t, 1)
		}
		began := time.Now()
		require.ErrorIs(t, <-c.start(t, 1).done, limit.ErrQueueFull)
		require.Zero(t, time.Since(began))
		for _, s := range waiting {
			require.ErrorIs(t, <-s.done, limit.ErrWaitedTooLong)
		}
		require.Equal(t, maxWait, time.Since(began))
		end()
		c.requireIdle(t)

		slots := []*limit.Slot{acquire(t, c.gate), acquire(t, c.gate)}
		s := c.start(t, 1)
		synctest.Wait()
		c.gate.Close()
		require.ErrorIs(t, <-s.done, limit.ErrClosed)
		require.ErrorIs(t, <-c.start(t, 1).done, limit.ErrClosed)
		for _, slot := range slots {
			slot.Release()
		}
		c.requireIdle(t)
	})
}

func acquire(t *testing.T, gate *limit.Gate) *limit.Slot {
	t.Helper()
	slot, err := gate.Acquire(t.Context())
	require.NoError(t, err)
	return slot
}

func TestStartIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		alone := c.start(t, 1)
		r := <-c.runs
		reason := errors.New("nobody waits")
		alone.leave(reason)
		<-r.ctx.Done()
		require.Equal(t, reason, context.Cause(r.ctx))
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-alone.done, context.Canceled)

		end := c.busy(t)
		queued, first, second := c.start(t, 1), c.start(t, 3), c.start(t, 5)
		synctest.Wait()
		queued.leave(reason)
		require.Equal(t, reason, <-queued.done, "at once")
		go end()
		r = <-c.runs
		require.ElementsMatch(t, []int{3, 5}, r.values)
		first.leave(reason)
		synctest.Wait()
		require.NoError(t, r.ctx.Err(), "somebody waits for it")
		second.leave(reason)
		<-r.ctx.Done()
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-first.done, context.Canceled)
		require.ErrorIs(t, <-second.done, context.Canceled)
		c.requireIdle(t)
	})
}

func TestStartTakesTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrew(groupWorkers)
		began := time.Now()
		alone := c.start(t, 1)
		r := <-c.runs
		<-r.ctx.Done()
		require.Equal(t, time.Minute, time.Since(began))
		r.outcomes <- r.ctx.Err()
		require.ErrorIs(t, <-alone.done, context.DeadlineExceeded)
		c.requireIdle(t)
	})
}

// Callers who leave at any moment, also between being chosen and being run.
func TestGroupOfThoseWhoLeave(t *testing.T) {
	t.Parallel()
	group := txn.NewGroup(txn.New(nil, limit.NewGate(groupWorkers, 1000, maxWait), slog.New(slog.DiscardHandler)), txn.GroupRules[int]{
		Workers: groupWorkers, Size: groupSize,
		Fits: func([]*txn.Op[int], int) bool { return true },
	}, func(ctx context.Context, ops []*txn.Op[int]) {
		for _, op := range ops {
			op.Err = ctx.Err()
		}
	})
	var done sync.WaitGroup
	for range 20 {
		done.Go(func() {
			for range 500 {
				ctx, leave := context.WithCancel(t.Context())
				go leave()
				if err := group.Do(ctx, 1); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				finished := make(chan error, 1)
				group.Start(t.Context(), time.Minute, 1, func(err error) { finished <- err })(context.Canceled)
				if err := <-finished; err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
}

func TestGroupThatPanics(t *testing.T) {
	t.Parallel()
	group := txn.NewGroup(txn.New(nil, nil, slog.New(slog.DiscardHandler)), txn.GroupRules[int]{Workers: 1, Size: 1},
		func(context.Context, []*txn.Op[int]) { panic("ouch") })
	require.ErrorContains(t, group.Do(t.Context(), 1), "ouch")
	require.ErrorContains(t, group.Do(t.Context(), 1), "ouch", "its place is free")
	done := make(chan error)
	group.Start(t.Context(), time.Minute, 1, func(err error) { done <- err })
	require.ErrorContains(t, <-done, "ouch")
}

// Many callers of few slots, each of whom gets what is his.
func TestGroupOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	b.exec(`CREATE TABLE counts (name text PRIMARY KEY, n int)`)
	var largest int
	var mu sync.Mutex
	group := txn.NewGroup(b.Manager, txn.GroupRules[string]{
		Workers: groupWorkers, Size: 8,
		Fits: func(chosen []*txn.Op[string], next string) bool {
			return !slices.ContainsFunc(chosen, func(op *txn.Op[string]) bool { return op.Value == next })
		},
	}, func(ctx context.Context, ops []*txn.Op[string]) {
		mu.Lock()
		largest = max(largest, len(ops))
		mu.Unlock()
		slices.SortFunc(ops, func(a, b *txn.Op[string]) int { return len(a.Value) - len(b.Value) })
		err := b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
			for _, op := range ops {
				u.Queue(`INSERT INTO counts AS c VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET n = c.n + 1`, op.Value)
			}
			return u.Flush(ctx)
		})
		for _, op := range ops {
			op.Err = err
		}
	})
	const callers, times = 20, 25
	var done sync.WaitGroup
	for caller := range callers {
		done.Go(func() {
			for n := range times {
				if err := group.Do(t.Context(), "x"+strconv.Itoa((caller+n)%10)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	require.Equal(t, callers*times, scan[int](t, b.other, `SELECT sum(n) FROM counts`))
	require.Greater(t, largest, 1, "nobody went with another one")
}

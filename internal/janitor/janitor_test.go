package janitor_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/internal/janitor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)

// pass lets time pass, in a bubble of synctest: nobody really waits. What was due
// by then has been done when it returns.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// times is a job that notes when it was run.
type times struct {
	mu   sync.Mutex
	list []time.Duration
}

func (r *times) runs() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

func (r *times) job(every time.Duration, run func(n int) (bool, error)) janitor.Job {
	start := time.Now()
	return janitor.Job{Name: "job", Every: every, Run: func(context.Context) (again bool, _ time.Duration, err error) {
		r.mu.Lock()
		r.list = append(r.list, time.Since(start))
		n := len(r.list)
		r.mu.Unlock()
		again, err = run(n)
		return again, 0, err
	}}
}

func nothing(int) (bool, error) { return false, nil }

func TestJobsRunByTheClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var often, seldom times
		j := janitor.Start([]janitor.Job{often.job(time.Second, nothing), seldom.job(time.Minute, nothing)}, quiet)
		synctest.Wait()
		require.Empty(t, often.runs(), "the first run comes after the interval")
		pass(3*time.Second + time.Millisecond)
		require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}, often.runs())
		require.Empty(t, seldom.runs())
		pass(2 * time.Minute)
		require.Equal(t, []time.Duration{time.Minute, 2 * time.Minute}, seldom.runs())
		require.Len(t, often.runs(), 123)
		j.Close()
		pass(time.Hour)
		require.Len(t, often.runs(), 123, "nothing runs any more")
		require.Len(t, seldom.runs(), 2)
	})
}

// The interval is from the end of one run to the start of the next, so that a
// slow job neither overlaps itself nor catches up.
func TestSlowJob(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var slow, other times
		inside := 0
		j := janitor.Start([]janitor.Job{
			slow.job(time.Second, func(int) (bool, error) {
				inside++
				require.Equal(t, 1, inside)
				pass(5 * time.Second)
				inside--
				return false, nil
			}),
			other.job(time.Second, nothing),
		}, quiet)
		defer j.Close()
		<-time.After(13*time.Second + time.Millisecond)
		require.Equal(t, []time.Duration{time.Second, 7 * time.Second, 13 * time.Second}, slow.runs())
		require.Len(t, other.runs(), 13, "the others do not wait for it")
	})
}

func TestJobThatHasMoreToDoGoesOnAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r times
		j := janitor.Start([]janitor.Job{r.job(time.Minute, func(n int) (bool, error) {
			return n%3 != 0, nil
		})}, quiet)
		defer j.Close()
		pass(2*time.Minute + time.Second)
		require.Equal(t, []time.Duration{
			time.Minute, time.Minute, time.Minute, 2 * time.Minute, 2 * time.Minute, 2 * time.Minute,
		}, r.runs())
	})
}

// What bounds a run does not bound the pause behind it, nor do they add up.
func TestJobPausesBetweenRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var r times
		job := r.job(time.Minute, nothing)
		job.Timeout = time.Second
		note := job.Run
		job.Run = func(ctx context.Context) (bool, time.Duration, error) {
			_, _, _ = note(ctx)
			select {
			case <-ctx.Done():
				return true, 0, ctx.Err()
			case <-time.After(900 * time.Millisecond):
				return len(r.runs()) < 3, 5 * time.Second, nil
			}
		}
		j := janitor.Start([]janitor.Job{job}, slog.New(slog.NewTextHandler(&log, nil)))
		defer j.Close()
		pass(3 * time.Minute)
		require.Equal(t, []time.Duration{
			time.Minute,
			time.Minute + 5900*time.Millisecond,
			time.Minute + 11800*time.Millisecond,
			2*time.Minute + 12700*time.Millisecond,
		}, r.runs())
		require.Empty(t, log.String())
	})
}

func TestJobIsCalledOffAtItsTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		job := janitor.Job{Name: "job", Every: time.Minute, Timeout: time.Second}
		var took []time.Duration
		job.Run = func(ctx context.Context) (bool, time.Duration, error) {
			began := time.Now()
			<-ctx.Done()
			took = append(took, time.Since(began))
			return true, 0, ctx.Err()
		}
		j := janitor.Start([]janitor.Job{job}, slog.New(slog.NewTextHandler(&log, nil)))
		pass(2*time.Minute + 10*time.Second)
		j.Close()
		require.Equal(t, []time.Duration{time.Second, time.Second}, took)
		require.Contains(t, log.String(), context.DeadlineExceeded.Error())
	})
}

// A job that takes long rests in proportion, within bounds.
func TestJobRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r times
		work := []time.Duration{10 * time.Millisecond, 200 * time.Millisecond, 5 * time.Second, 0}
		job := r.job(time.Second, func(n int) (bool, error) {
			if n <= len(work) {
				<-time.After(work[n-1])
			}
			return false, nil
		})
		job.Rest = 20
		j := janitor.Start([]janitor.Job{job}, quiet)
		defer j.Close()
		pass(23 * time.Second)
		require.Equal(t, []time.Duration{
			time.Second,                           // works for 10 ms
			2*time.Second + 10*time.Millisecond,   // for 200 ms, and then rests for 4 s
			6*time.Second + 210*time.Millisecond,  // for 5 s, and then rests for ten times a second
			21*time.Second + 210*time.Millisecond, // for nothing
			22*time.Second + 210*time.Millisecond,
		}, r.runs())
	})
}

func TestJobIsWoken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r times
		wake := make(chan struct{})
		job := r.job(time.Minute, nothing)
		job.Wake = wake
		j := janitor.Start([]janitor.Job{job}, quiet)
		defer j.Close()
		<-time.After(time.Second)
		wake <- struct{}{}
		pass(time.Minute + time.Millisecond)
		require.Equal(t, []time.Duration{time.Second, time.Minute + time.Second}, r.runs(), "the interval begins anew")
	})
}

func TestErrorsAreLoggedAndTheJobGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var r times
		j := janitor.Start([]janitor.Job{r.job(time.Minute, func(n int) (bool, error) {
			if n < 3 {
				return true, errors.New("the database is on fire") // not at once, though there is more to do
			}
			return false, nil
		})}, slog.New(slog.NewTextHandler(&log, nil)))
		pass(4*time.Minute + time.Second)
		require.Equal(t, []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute}, r.runs())
		j.Close()
		require.Equal(t, 2, bytes.Count(log.Bytes(), []byte("on fire")))
		require.Contains(t, log.String(), "level=WARN")
		require.Contains(t, log.String(), "job=job")
	})
}

func TestCloseCancelsAndWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var ended atomic.Bool
		j := janitor.Start([]janitor.Job{{Name: "long", Every: time.Second, Run: func(ctx context.Context) (bool, time.Duration, error) {
			<-ctx.Done()
			<-time.After(3 * time.Second) // it takes its time to come to an end
			ended.Store(true)
			return true, 0, ctx.Err()
		}}}, slog.New(slog.NewTextHandler(&log, nil)))
		pass(time.Minute)
		require.False(t, ended.Load())
		start := time.Now()
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			j.Close()
		}()
		j.Close()
		require.True(t, ended.Load(), "it has waited")
		require.Equal(t, 3*time.Second, time.Since(start))
		<-closed
		j.Close()
		require.Empty(t, log.String(), "being called off is no failure")
	})
}

func TestCloseBeforeAnythingRan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r times
		j := janitor.Start([]janitor.Job{r.job(time.Second, nothing)}, quiet)
		start := time.Now()
		j.Close()
		require.Zero(t, time.Since(start), "nobody waits for the clock")
		require.Empty(t, r.runs())
		janitor.Start(nil, quiet).Close()
	})
}

// Package janitor does what has to be done by the clock.
package janitor

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Job is a piece of work that is done again and again.
type Job struct {
	Name  string        // for the log
	Every time.Duration // from the end of one run to the start of the next
	// Rest, where it is not 0, has the job rest so many times as long as it has just
	// worked, if that is longer than Every; restLimit times Every at most.
	Rest int
	// Wake ends the wait for the next run.
	Wake <-chan struct{}
	// Timeout, where it is not 0, is how long a run may take.
	Timeout time.Duration
	// Run does it once. An error is logged, and the job goes on; a job that has
	// more to do than fits one run returns again=true, and is run anew after a pause.
	Run func(ctx context.Context) (again bool, pause time.Duration, err error)
}

// restLimit bounds the rest of a job.
const restLimit = 10

// Janitor runs jobs, each in a goroutine of its own.
type Janitor struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start begins to run jobs. The first run of each comes after its interval. The
// caller must Close the janitor.
func Start(jobs []Job, log *slog.Logger) *Janitor {
	ctx, cancel := context.WithCancel(context.Background())
	j := &Janitor{cancel: cancel}
	for _, job := range jobs {
		j.done.Go(func() { run(ctx, job, log) })
	}
	return j
}

func run(ctx context.Context, job Job, log *slog.Logger) {
	timer := time.NewTimer(job.Every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-job.Wake:
		}
		began := time.Now()
		again, pause, err := job.once(ctx)
		if err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "background work failed", "job", job.Name, "error", err)
		}
		wait := max(job.Every, min(time.Duration(job.Rest)*time.Since(began), restLimit*job.Every))
		if again && err == nil {
			wait = pause
		}
		timer.Reset(wait)
	}
}

func (job Job) once(ctx context.Context) (again bool, pause time.Duration, err error) {
	if job.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, job.Timeout)
		defer cancel()
	}
	return job.Run(ctx)
}

// Close cancels what is running and waits for it to end. It may be called more
// than once.
func (j *Janitor) Close() {
	j.cancel()
	j.done.Wait()
}

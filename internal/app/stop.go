package app

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// step is one step of the shutdown.
type step struct {
	name    string
	started bool
	timeout time.Duration
	stop    func(context.Context) error
}

const (
	// stepTimeout bounds each step of the shutdown besides waiting for requests and
	// for the embedded database.
	stepTimeout = 10 * time.Second
	// answerTimeout is how long a database that does not answer at all is waited for.
	answerTimeout = 2 * time.Second
)

// stop stops what has been started, each step only after the one before it. It
// goes on after a failure, and returns them all.
func (a *App) stop() error {
	a.phase.Store(int32(stopping)) // not ready
	grace := a.cfg.ShutdownGrace
	steps := []step{
		{"finish requests", a.server != nil, grace + drainMargin, func(ctx context.Context) error { return a.server.drain(ctx, grace) }},
		{"stop background work", a.janitor != nil, stepTimeout, a.stopJobs},
		{"write access marks", a.last != nil, stepTimeout, a.writeMarks},
		{"close notices", a.notices != nil, stepTimeout, func(ctx context.Context) error { return a.notices.Close(ctx) }},
		{"close the read cache", a.cache != nil, stepTimeout, func(context.Context) error { a.cache.Close(); return nil }},
		{"close the gate", a.gate != nil, stepTimeout, func(context.Context) error { a.gate.Close(); return nil }},
		// Nobody uses one any more, so that this takes no longer than a goodbye.
		{"close database connections", a.db != nil, answerTimeout, func(ctx context.Context) error { return a.db.Close(ctx) }},
		{"stop the embedded PostgreSQL", a.embedded != nil, time.Minute, func(ctx context.Context) error { return a.embedded.Stop(ctx) }},
		{"flush telemetry", a.telemetry != nil, stepTimeout, func(ctx context.Context) error { return a.telemetry.Shutdown(ctx) }},
	}
	var failures []error
	for _, s := range steps {
		if !s.started {
			continue
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
		err := s.stop(ctx)
		cancel()
		if err != nil {
			a.log.Error("shutdown", "step", s.name, "duration", time.Since(start), "error", err)
			failures = append(failures, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		a.log.Info("shutdown", "step", s.name, "duration", time.Since(start))
	}
	if leaked := a.leakedConnections(); leaked != nil {
		failures = append(failures, leaked)
	}
	return errors.Join(failures...)
}

// stopJobs calls off what runs by the clock and waits for its end.
func (a *App) stopJobs(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.janitor.Close()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("a job has not ended: %w", ctx.Err())
	}
}

// writeMarks writes the accesses gathered last, for as long as that takes within
// the step while the database answers. Where it does not, they are lost. That it did
// not a moment ago, for which the circuit breaker is open, says nothing.
func (a *App) writeMarks(ctx context.Context) error {
	for {
		err := within(ctx, answerTimeout, a.last.FlushMarks)
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		if within(ctx, answerTimeout/2, a.db.Ping) != nil {
			return err
		}
	}
}

// within calls do with a context that ends after d.
func within(ctx context.Context, d time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return do(ctx)
}

// leakedConnections logs the connections that are open although everything has
// been stopped, and returns an error where there are any.
func (a *App) leakedConnections() error {
	left := a.connections.List()
	for _, conn := range left {
		a.log.Error("a connection is left behind", "kind", conn.Kind, "age", time.Since(conn.Opened),
			"doing", conn.Doing.String(), "since", time.Since(conn.Since))
	}
	if len(left) > 0 {
		return fmt.Errorf("%d connections are left behind", len(left))
	}
	return nil
}

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

// stepTimeout bounds each step of the shutdown besides waiting for requests and
// for the embedded database.
const stepTimeout = 10 * time.Second

// stop stops what has been started, each step only after the one before it. It
// goes on after a failure, and returns them all.
func (a *App) stop() error {
	a.phase.Store(int32(stopping)) // not ready
	grace := a.cfg.ShutdownGrace
	steps := []step{
		{"finish requests", a.server != nil, grace + drainMargin, func(ctx context.Context) error { return a.server.drain(ctx, grace) }},
		{"stop background work", a.janitor != nil, stepTimeout, func(context.Context) error { a.janitor.Close(); return nil }},
		{"write access marks", a.background != nil, stepTimeout, func(ctx context.Context) error { return a.background.FlushMarks(ctx) }},
		{"close the read cache", a.cache != nil, stepTimeout, func(context.Context) error { a.cache.Close(); return nil }},
		{"close the gate", a.gate != nil, stepTimeout, func(context.Context) error { a.gate.Close(); return nil }},
		{"close database connections", a.db != nil, stepTimeout, func(ctx context.Context) error { return a.db.Close(ctx) }},
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

// Package app wires the rooms together: it starts them forward and stops them
// backward.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom"
	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/embeddedpg"
	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/janitor"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

const (
	// backgroundConnections are those beyond the slots, for what runs by the clock
	// and for the readiness probe: nobody who holds a slot waits for a connection.
	backgroundConnections = 3
	connectTimeout        = 5 * time.Second
	probeTimeout          = 2 * time.Second
	sweepBatch            = 1000
	// firstRetry and lastRetry bound the waits between the attempts to reach a
	// database that is down at the start.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
	// AddressFile is the name, in the data folder, of the file that holds the
	// address the service listens on.
	AddressFile = "server.addr"
)

// phase is how far the service is up.
type phase int32

const (
	starting phase = iota
	serving
	stopping
)

// App is the service. What is nil has not been started.
type App struct {
	cfg   config.Config
	log   *slog.Logger
	phase atomic.Int32

	server   *server
	embedded *embeddedpg.Server
	dsn      string
	db       *postgres.DB
	gate     *limit.Gate
	marks    *store.Store // does what runs in the background
	janitor  *janitor.Janitor
}

// Run runs the service until ctx ends, or until something fails without which it
// cannot go on, and then stops it. A nil error says that everything was stopped
// in order.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	a := &App{cfg: cfg, log: log}
	err := a.run(ctx)
	if err != nil {
		log.Error("failed", "error", err)
	}
	return errors.Join(err, a.stop())
}

// run starts everything and returns when it is time to stop.
func (a *App) run(ctx context.Context) error {
	a.log.Info("starting", "version", buildinfo.String())
	var err error
	// First of all, so that probes are answered while the database recovers.
	if a.server, err = listen(ctx, a.cfg, a.log, a.handler(nil)); err != nil {
		return err
	}
	if err := a.writeAddress(); err != nil {
		return err
	}
	if err := a.openDatabase(ctx); err != nil {
		return unlessStopped(ctx, err)
	}
	a.gate = limit.NewGate(a.cfg.DBMaxConcurrency, a.cfg.DBQueueLength, a.cfg.DBQueueTimeout)
	options := store.Options{DefaultTTL: item.TTL(a.cfg.DefaultTTL / time.Second)}
	items := store.New(txn.New(a.db, a.gate, a.log), options)
	// What runs in the background has connections of its own and takes no slot.
	a.marks = items.On(txn.New(a.db, nil, a.log))
	a.server.handle(a.handler(items))
	a.startJobs()
	a.phase.Store(int32(serving))
	a.log.Info("ready", "url", a.server.url())

	var databaseGone <-chan struct{}
	if a.embedded != nil {
		databaseGone = a.embedded.Done()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.server.failed:
		return err
	case <-databaseGone:
		return fmt.Errorf("the embedded PostgreSQL has ended: %w", a.embedded.Err())
	}
}

// unlessStopped drops an error that came of being asked to stop.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *App) handler(items *store.Store) http.Handler {
	return stockhttp.New(stockhttp.Config{
		MaxBodyBytes:   int64(a.cfg.MaxBodyBytes),
		MaxBatch:       a.cfg.MaxBatch,
		RequestTimeout: a.cfg.RequestTimeout,
	}, stockhttp.Dependencies{
		Store:    items,
		Log:      a.log,
		Contract: stockroom.OpenAPI,
		Serving:  a.serving,
		NotReady: a.notReady,
	})
}

func (a *App) startJobs() {
	a.janitor = janitor.Start([]janitor.Job{
		{Name: "write access marks", Every: a.cfg.AccessFlushInterval, Run: func(ctx context.Context) (bool, error) {
			return false, a.marks.FlushMarks(ctx)
		}},
		{Name: "sweep expired items", Every: a.cfg.SweepInterval, Run: func(ctx context.Context) (bool, error) {
			n, err := a.marks.Sweep(ctx, sweepBatch)
			return n >= sweepBatch, err
		}},
	}, a.log)
}

// findDatabase sets the connection string: of the configured database or, where
// there is none, of the embedded PostgreSQL, which it starts.
func (a *App) findDatabase(ctx context.Context) (err error) {
	a.dsn = a.cfg.DatabaseURL.Reveal()
	if a.dsn == "" {
		a.embedded, err = embeddedpg.Start(ctx, embeddedpg.Config{
			DataDir:        a.cfg.DataDir,
			BinDir:         a.cfg.PostgresBin,
			Logger:         a.log,
			MaxConnections: a.cfg.DBMaxConcurrency + backgroundConnections + reservedConnections,
		})
		if err != nil {
			return fmt.Errorf("start the embedded PostgreSQL: %w", err)
		}
		a.dsn = a.embedded.DSN()
	}
	return nil
}

// openDatabase returns once the database answers with a schema as it must be.
func (a *App) openDatabase(ctx context.Context) (err error) {
	if err := a.findDatabase(ctx); err != nil {
		return err
	}
	a.db, err = postgres.Open(postgres.Config{
		DSN:            a.dsn,
		MaxConns:       int32(a.cfg.DBMaxConcurrency + backgroundConnections), //nolint:gosec // config allows 10,000 at most
		ConnectTimeout: connectTimeout,
	})
	if err != nil {
		return err
	}
	return a.migrate(ctx)
}

// reservedConnections are for the migrations and for a person who looks.
const reservedConnections = 10

// migrate brings the schema up to date, or checks it, as configured. A database
// that cannot be reached is tried again until ctx ends.
func (a *App) migrate(ctx context.Context) error {
	waits := &backoff.ExponentialBackOff{
		InitialInterval: firstRetry, MaxInterval: lastRetry, Multiplier: 2, RandomizationFactor: 0.5,
	}
	waits.Reset()
	for {
		err := a.migrateOnce(ctx)
		if err == nil || !unreachable(err) {
			return err
		}
		wait := waits.NextBackOff()
		a.log.Warn("the database cannot be reached yet", "retry_in", wait, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *App) migrateOnce(ctx context.Context) error {
	if a.cfg.Migrate == config.MigrateOff {
		return a.db.Ping(ctx)
	}
	migrator, err := postgres.NewMigrator(ctx, a.dsn, connectTimeout)
	if err != nil {
		return err
	}
	if a.cfg.Migrate == config.MigrateAuto {
		err = migrator.Up()
	}
	if err == nil {
		err = migrator.Check()
	}
	return errors.Join(err, migrator.Close())
}

// unreachable tells whether err may go away by itself: the database is down, not
// yet up, or full, rather than refusing us for a reason.
func unreachable(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return txn.IsInfrastructure(pgErr)
	}
	var connectErr *pgconn.ConnectError
	return errors.As(err, &connectErr) || errors.Is(err, context.DeadlineExceeded)
}

func (a *App) serving() error {
	switch phase(a.phase.Load()) {
	case serving:
		return nil
	case stopping:
		return stockhttp.ErrShuttingDown
	default:
		return stockhttp.ErrStarting
	}
}

// notReady returns why the service should get no requests.
func (a *App) notReady(ctx context.Context) []string {
	if err := a.serving(); err != nil {
		return []string{err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := a.db.Ping(ctx); err != nil {
		a.log.WarnContext(ctx, "readiness: the database does not answer", "error", err)
		return []string{"the database does not answer"}
	}
	return nil
}

// writeAddress tells scripts and health checks where the service listens. A data
// folder that cannot be written matters only where it is needed for data.
func (a *App) writeAddress() error {
	err := os.MkdirAll(a.cfg.DataDir, 0o755) //nolint:gosec // PostgreSQL's user must be able to enter it
	if err == nil {
		err = os.WriteFile(filepath.Join(a.cfg.DataDir, AddressFile), []byte(a.server.address()+"\n"), 0o644) //nolint:gosec // no secret
	}
	if err != nil && a.cfg.DatabaseURL != "" {
		a.log.Info("the address is not written to the data folder", "error", err)
		return nil
	}
	return err
}

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
		{"write access marks", a.marks != nil, stepTimeout, func(ctx context.Context) error { return a.marks.FlushMarks(ctx) }},
		{"close the gate", a.gate != nil, stepTimeout, func(context.Context) error { a.gate.Close(); return nil }},
		{"close database connections", a.db != nil, stepTimeout, func(ctx context.Context) error { return a.db.Close(ctx) }},
		{"stop the embedded PostgreSQL", a.embedded != nil, time.Minute, func(ctx context.Context) error { return a.embedded.Stop(ctx) }},
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
	return errors.Join(failures...)
}

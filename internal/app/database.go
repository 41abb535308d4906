package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/embeddedpg"
	"github.com/stockroom/stockroom/internal/postgres"
)

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
	// Not before: the data folder is ours now, not another server's.
	if err := a.writeAddress(); err != nil {
		return err
	}
	a.db, err = postgres.Open(postgres.Config{
		DSN:            a.dsn,
		MaxConns:       int32(a.cfg.DBMaxConcurrency + backgroundConnections), //nolint:gosec // config allows 10,000 at most
		ConnectTimeout: a.connectTimeout(),
		// No request is longer in a transaction, and none of its statements is far from
		// the next.
		MaxIdleInTransaction: a.cfg.RequestTimeout + idleMargin,
		Tracer:               a.queryTracer(),
		Connections:          &a.connections,
	})
	if err != nil {
		return err
	}
	return a.whileDatabaseRuns(ctx, a.migrate)
}

// whileDatabaseRuns calls do with a context that ends with the embedded
// PostgreSQL, whose end is then the error.
func (a *App) whileDatabaseRuns(ctx context.Context, do func(context.Context) error) error {
	if a.embedded == nil {
		return do(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	defer close(stop)
	defer cancel()
	go func() {
		select {
		case <-a.embedded.Done():
			cancel()
		case <-stop:
		}
	}()
	err := do(ctx)
	select {
	case <-a.embedded.Done():
		return a.databaseGone()
	default:
		return err
	}
}

func (a *App) databaseGone() error {
	return fmt.Errorf("the embedded PostgreSQL has ended: %w", a.embedded.Err())
}

// queryTracer makes the spans of statements, or is nil where nobody wants them.
func (a *App) queryTracer() postgres.Tracer {
	if !a.telemetry.Tracing() {
		return nil
	}
	return postgres.NewTracer(a.telemetry.TracerProvider)
}

// reservedConnections are for the migrations, the notices, and a person who looks.
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
		if err == nil || !postgres.MayComeUp(err) {
			return err
		}
		wait := waits.NextBackOff()
		a.log.WarnContext(ctx, "the database cannot be reached yet", "retry_in", wait, "error", err)
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
	migrator, err := postgres.NewMigrator(ctx, a.dsn, a.connectTimeout())
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

// connectTimeout bounds the connecting to one host: with two of them, a request
// has time for the second when the first does not answer.
func (a *App) connectTimeout() time.Duration { return min(connectTimeout, a.cfg.RequestTimeout/2) }

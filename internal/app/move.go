package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/embeddedpg"
	"github.com/stockroom/stockroom/internal/legacy"
	"github.com/stockroom/stockroom/internal/notice"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/transfer"
	"github.com/stockroom/stockroom/internal/txn"
)

// Export and import work on the database itself, beside the servers that may be
// running on it: the HTTP interface gives nobody the times and counts of items, and
// takes them from nobody.

const (
	// toolConnections are for a unit, for notices where their own connection is
	// lost, and for a look after a commit in doubt.
	toolConnections = 3
	// A server that is starting or ending has its PostgreSQL to itself for a moment.
	attachTimeout = 20 * time.Second
	attachRetry   = 100 * time.Millisecond
)

// errNoData says that there is nothing to read.
var errNoData = errors.New("there is no database in the data folder")

// Export writes all items to a file, or to out where path is "-". It works on the
// embedded PostgreSQL whether a server runs it or not.
func Export(ctx context.Context, cfg config.Config, path string, log *slog.Logger, out, show io.Writer) (exported transfer.Exported, err error) {
	a := &App{cfg: onlyChecked(cfg), log: log}
	err = a.withItems(ctx, false, func(ctx context.Context, items *store.Store) (err error) {
		by := "stockroom " + buildinfo.String()
		if path == "-" {
			exported, err = transfer.Export(ctx, items, out, by, show)
		} else {
			exported, err = transfer.ExportFile(ctx, items, path, by, show)
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted: nothing is exported")
	}
	if err = errors.Join(err, a.stop()); err != nil {
		return transfer.Exported{}, fmt.Errorf("export: %w", err)
	}
	return exported, nil
}

// ImportOptions say what to import. Either Path or FromPostgres is set.
type ImportOptions struct {
	Path         string // a file that Export wrote; "-": Stdin
	FromPostgres string // connection string of another kind of store
	Existing     string // replace, keep or refuse
	DryRun       bool
	Stdin        io.Reader
	Show         io.Writer // is told how far it is
}

// IsExport tells whether a file is one that Export wrote.
func IsExport(path string) bool { return transfer.IsExport(path) }

var existing = map[string]store.Existing{"replace": store.Replace, "keep": store.Keep, "refuse": store.Refuse}

// Report says what an import did.
type Report = transfer.Report

// Import loads a file that Export wrote, or another kind of store. The report is right
// whatever the error.
func Import(ctx context.Context, cfg config.Config, o ImportOptions, log *slog.Logger) (report Report, err error) {
	defer func() { report.DryRun = o.DryRun }()
	policy, ok := existing[o.Existing]
	if !ok {
		return Report{}, fmt.Errorf("%w: --existing is replace, keep or refuse, not %q", ErrUsage, o.Existing)
	}
	options := transfer.Options{Existing: policy, DryRun: o.DryRun, Limit: int64(cfg.MaxBytes), Show: o.Show}
	// Before anything is started: a file that is no good needs no database.
	load, closeSource, err := openSource(ctx, o)
	if err != nil {
		report.Interrupted = ctx.Err() != nil
		return report, unlessStopped(ctx, err)
	}
	if o.DryRun {
		cfg = onlyChecked(cfg)
	}
	a := &App{cfg: cfg, log: log}
	err = a.withItems(ctx, !o.DryRun, func(ctx context.Context, items *store.Store) (err error) {
		report, err = load(ctx, items, options)
		return err
	})
	report.Interrupted = err != nil && ctx.Err() != nil
	return report, errors.Join(unlessStopped(ctx, err), a.stop(), closeSource())
}

type loadFunc func(context.Context, *store.Store, transfer.Options) (Report, error)

func openSource(ctx context.Context, o ImportOptions) (load loadFunc, closeSource func() error, err error) {
	if o.FromPostgres != "" {
		from, err := legacy.Open(ctx, o.FromPostgres)
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context, items *store.Store, options transfer.Options) (Report, error) {
			return transfer.Copy(ctx, from, items, options)
		}, func() error { return from.Close(ctx) }, nil
	}
	file, err := transfer.Check(ctx, o.Path, o.Stdin, o.Show)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.Path, err)
	}
	return file.Import, file.Close, nil
}

// onlyChecked is a configuration in which nobody changes the schema.
func onlyChecked(cfg config.Config) config.Config {
	if cfg.Migrate == config.MigrateAuto {
		cfg.Migrate = config.MigrateCheck
	}
	return cfg
}

// withItems calls do with the items of the configured database. With write, do may
// change them, and an embedded database is made where there is none.
func (a *App) withItems(ctx context.Context, write bool, do func(context.Context, *store.Store) error) (err error) {
	if a.cfg.DatabaseURL == "" && !write && !embeddedpg.HasData(a.cfg.DataDir) {
		return fmt.Errorf("%w %s: set STOCKROOM_DATA_DIR or DATABASE_URL as for the server", errNoData, a.cfg.DataDir)
	}
	if err := a.reachDatabase(ctx); err != nil {
		return err
	}
	a.db, err = postgres.Open(postgres.Config{
		DSN: a.dsn, MaxConns: toolConnections, ConnectTimeout: a.connectTimeout(), Connections: &a.connections,
	})
	if err != nil {
		return err
	}
	return a.whileDatabaseRuns(ctx, func(ctx context.Context) error {
		if err := a.migrateOnce(ctx); err != nil {
			return err
		}
		options := store.Options{MaxBytes: int64(a.cfg.MaxBytes)}
		if write {
			// As a server does, so that none goes on with what it has cached.
			a.notices = notice.Start(notice.Config{Database: a.db, MaxStaleness: a.cfg.CacheMaxStaleness, Log: a.log})
			if err := a.sayHello(ctx); err != nil {
				return err
			}
			options.Notices = a.notices
		}
		return do(ctx, store.New(txn.New(a.db, nil, a.log), options))
	})
}

// reachDatabase is findDatabase beside a server: its embedded PostgreSQL is used
// where one runs, and started where none does.
func (a *App) reachDatabase(ctx context.Context) error {
	deadline := time.Now().Add(attachTimeout)
	for {
		err := a.findDatabase(ctx)
		if !errors.Is(err, embeddedpg.ErrInUse) {
			return err
		}
		var attachErr error
		if a.dsn, attachErr = embeddedpg.Attach(ctx, a.cfg.DataDir); attachErr == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return attachErr
		}
		select {
		case <-time.After(attachRetry):
		case <-ctx.Done():
		}
	}
}

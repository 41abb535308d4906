package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom/db"
)

// What can stand in the way of a schema that this program can work with. Each
// error's text says what the operator should do.
var (
	// ErrDirty says that a migration failed half-way. It is never repaired
	// automatically, since only a person can tell why it failed.
	ErrDirty = errors.New("postgres: the schema is dirty")
	// ErrBehind says that migrations are missing and that we may not run them.
	ErrBehind = errors.New("postgres: the schema is behind this program")
	// ErrMigrationLocked says that another process has been migrating for too long.
	ErrMigrationLocked = errors.New("postgres: another process holds the lock of the migrations")
)

// migrationLockTimeout bounds the wait for another process that migrates the
// same database: without it golang-migrate waits for ever.
const migrationLockTimeout = 30 * time.Second

const (
	migrationsFolder = "migrations"
	lockNotAvailable = "55P03" // SQLSTATE
)

// SchemaVersion is where a database's schema stands.
type SchemaVersion struct {
	Version int  // of the last migration that ran; 0 for none
	Dirty   bool // it failed half-way
	Latest  int  // that this program knows
}

// Migrator runs the embedded migrations on one database, on a connection of its
// own. Several processes may migrate one database at once: they take turns.
type Migrator struct {
	m      *migrate.Migrate
	driver database.Driver
	latest int
	closed bool
}

// NewMigrator connects to the database of dsn. The caller must Close it.
func NewMigrator(ctx context.Context, dsn string, connectTimeout time.Duration) (*Migrator, error) {
	return newMigrator(ctx, dsn, connectTimeout, db.Migrations)
}

func newMigrator(ctx context.Context, dsn string, connectTimeout time.Duration, migrations fs.FS) (*Migrator, error) {
	latest, err := latestVersion(migrations)
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, ErrBadDSN
	}
	tune(&config.Config, connectTimeout)
	config.RuntimeParams["lock_timeout"] = strconv.FormatInt(migrationLockTimeout.Milliseconds(), 10)
	driver, err := newMigrationDriver(ctx, config)
	if err != nil {
		return nil, translateMigration(err)
	}
	source, err := iofs.New(migrations, migrationsFolder)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: read the migrations: %w", err), driver.Close())
	}
	m, err := migrate.NewWithInstance("iofs", source, "stockroom", driver)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: prepare the migrations: %w", err), driver.Close())
	}
	// PostgreSQL's own answer comes first.
	m.LockTimeout = 2 * migrationLockTimeout
	return &Migrator{m: m, driver: driver, latest: latest}, nil
}

// Version says where the schema stands.
func (m *Migrator) Version() (SchemaVersion, error) {
	if m.closed {
		return SchemaVersion{}, ErrClosed
	}
	version, dirty, err := m.driver.Version()
	if err != nil {
		return SchemaVersion{}, fmt.Errorf("postgres: read the version of the schema: %w", err)
	}
	return SchemaVersion{Version: max(version, 0), Dirty: dirty, Latest: m.latest}, nil
}

// Check returns nil where this program can work with the schema: it is not
// dirty, and as new as the program or newer, for old code runs on a new schema.
func (m *Migrator) Check() error {
	at, err := m.Version()
	switch {
	case err != nil:
		return err
	case at.Dirty:
		return dirty(at.Version)
	case at.Version < at.Latest:
		return fmt.Errorf("%w: it is at version %d, the program needs %d: run `server migrate up`", ErrBehind, at.Version, at.Latest)
	}
	return nil
}

// Up runs the migrations that are missing. A schema newer than this program is
// left as it is.
func (m *Migrator) Up() error {
	at, err := m.Version()
	switch {
	case err != nil:
		return err
	case at.Dirty:
		return dirty(at.Version)
	case at.Version >= at.Latest:
		return nil
	}
	return m.translate(m.m.Up())
}

// Down takes back the last n migrations, with the data that they hold.
func (m *Migrator) Down(n int) error {
	at, err := m.Version()
	switch {
	case err != nil:
		return err
	case at.Dirty:
		return dirty(at.Version)
	case at.Version > at.Latest:
		return fmt.Errorf("postgres: the schema is at version %d, this program knows %d: take it back with the program that made it", at.Version, at.Latest)
	}
	if n = min(n, at.Version); n <= 0 {
		return nil
	}
	return m.translate(m.m.Steps(-n))
}

// Force sets the version without running anything and clears the dirty mark: for
// a person who has looked at a failed migration. Version 0 stands for none.
func (m *Migrator) Force(version int) error {
	if m.closed {
		return ErrClosed
	}
	if version < 0 || version > m.latest {
		return fmt.Errorf("postgres: there is no version %d, only 0 … %d", version, m.latest)
	}
	if version == 0 {
		version = database.NilVersion
	}
	return m.translate(m.m.Force(version))
}

// Close closes the connection. Afterwards everything else returns ErrClosed. It may
// be called more than once.
func (m *Migrator) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	sourceErr, databaseErr := m.m.Close()
	return errors.Join(sourceErr, databaseErr)
}

func (m *Migrator) translate(err error) error {
	if err == nil || errors.Is(err, migrate.ErrNoChange) {
		return nil
	}
	if at, versionErr := m.Version(); versionErr == nil && at.Dirty {
		return fmt.Errorf("%w: %w", dirty(at.Version), translateMigration(err))
	}
	return translateMigration(err)
}

func translateMigration(err error) error {
	var pgErr *pgconn.PgError
	if errors.Is(err, migrate.ErrLockTimeout) || errors.As(err, &pgErr) && pgErr.Code == lockNotAvailable {
		return fmt.Errorf("%w: wait for it to end, or end it, then start again: %w", ErrMigrationLocked, err)
	}
	return fmt.Errorf("postgres: migrate: %w", err)
}

func dirty(version int) error {
	return fmt.Errorf("%w: the migration to version %d failed and was rolled back whole; "+
		"mend its cause (the log of the program that ran it names it), run `server migrate force %d` "+
		"(%d if it was on its way down), then `server migrate up`",
		ErrDirty, version, version-1, version+1)
}

// latestVersion returns the highest number of the migration files.
func latestVersion(migrations fs.FS) (int, error) {
	files, err := fs.Glob(migrations, path.Join(migrationsFolder, "*.up.sql"))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("postgres: no migrations: %w", errors.Join(err, fs.ErrNotExist))
	}
	latest := 0
	for _, file := range files {
		number, _, _ := strings.Cut(path.Base(file), "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			return 0, fmt.Errorf("postgres: migration %s has no number: %w", file, err)
		}
		latest = max(latest, n)
	}
	return latest, nil
}

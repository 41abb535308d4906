package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// migrationDriver is golang-migrate's way to the database. Unlike the driver that
// comes with it, it makes a migration and the note that it has run one
// transaction: else a process that is killed in between leaves a schema that is
// dirty by name only, and that a person has to mend. Here a killed migration has
// not happened, and only one that PostgreSQL refused leaves the schema dirty. All
// waiting, for the lock as well, ends with the context.
type migrationDriver struct {
	ctx  context.Context //nolint:containedctx // golang-migrate's interface has none
	conn *pgx.Conn
	lock string // key of the advisory lock, the one that golang-migrate itself takes

	next int  // the version of the migration that is about to run
	done bool // it has run and noted its version
}

// versionTable is the one that golang-migrate itself uses.
const versionTable = "schema_migrations"

// closeTimeout bounds the goodbye to the server.
const closeTimeout = 5 * time.Second

// newMigrationDriver connects, and makes the table of the version where there is none.
func newMigrationDriver(ctx context.Context, config *pgx.ConnConfig) (*migrationDriver, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	d := &migrationDriver{ctx: ctx, conn: conn}
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *migrationDriver) prepare() error {
	var name, schema string
	var exists bool
	err := d.conn.QueryRow(d.ctx, `SELECT current_database(), coalesce(current_schema(), ''), to_regclass($1) IS NOT NULL`, versionTable).
		Scan(&name, &schema, &exists)
	if err != nil {
		return err
	}
	if d.lock, err = database.GenerateAdvisoryLockId(name, schema, versionTable); err != nil || exists {
		return err
	}
	// IF NOT EXISTS alone fails where two do this at once.
	if err := d.Lock(); err != nil {
		return err
	}
	_, err = d.conn.Exec(d.ctx, `CREATE TABLE IF NOT EXISTS `+versionTable+` (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)`)
	return errors.Join(err, d.Unlock())
}

// Open is not how this driver is made.
func (d *migrationDriver) Open(string) (database.Driver, error) {
	return nil, errors.ErrUnsupported
}

// Close closes the connection.
func (d *migrationDriver) Close() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), closeTimeout)
	defer cancel()
	return d.conn.Close(ctx)
}

// Lock waits for other processes that migrate.
func (d *migrationDriver) Lock() error {
	_, err := d.conn.Exec(d.ctx, `SELECT pg_advisory_lock($1::bigint)`, d.lock)
	return err
}

// Unlock lets other processes migrate.
func (d *migrationDriver) Unlock() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), closeTimeout)
	defer cancel()
	if d.conn.IsClosed() {
		return nil // which has unlocked
	}
	_, err := d.conn.Exec(ctx, `SELECT pg_advisory_unlock($1::bigint)`, d.lock)
	return err
}

// Version returns the version that is noted; database.NilVersion for none.
func (d *migrationDriver) Version() (version int, dirty bool, err error) {
	err = d.conn.QueryRow(d.ctx, `SELECT version, dirty FROM `+versionTable+` LIMIT 1`).Scan(&version, &dirty)
	if errors.Is(err, pgx.ErrNoRows) {
		return database.NilVersion, false, nil
	}
	return version, dirty, err
}

// SetVersion notes a version, except around Run, which notes its own.
func (d *migrationDriver) SetVersion(version int, dirty bool) error {
	if dirty {
		d.next, d.done = version, false
		return nil
	}
	if d.done && version == d.next {
		return nil
	}
	return d.note(version, false)
}

// Run runs a migration and notes its version, both or neither.
func (d *migrationDriver) Run(migration io.Reader) error {
	body, err := io.ReadAll(migration)
	if err != nil {
		return fmt.Errorf("read the migration: %w", err)
	}
	err = d.transact(func(tx pgx.Tx) error {
		if _, err := tx.Exec(d.ctx, string(body)); err != nil {
			return err
		}
		return noteIn(d.ctx, tx, d.next, false)
	})
	if err == nil {
		d.done = true
		return nil
	}
	// Refused by PostgreSQL, rather than given up or cut off.
	pgErr, refused := errors.AsType[*pgconn.PgError](err)
	if refused && d.ctx.Err() == nil && pgErr.SeverityUnlocalized == "ERROR" && pgErr.Code != lockNotAvailable && !IsInfrastructure(err) {
		return errors.Join(err, d.note(d.next, true))
	}
	return err
}

// Drop is nothing that we do.
func (d *migrationDriver) Drop() error { return errors.ErrUnsupported }

func (d *migrationDriver) note(version int, dirty bool) error {
	return d.transact(func(tx pgx.Tx) error { return noteIn(d.ctx, tx, version, dirty) })
}

func (d *migrationDriver) transact(do func(pgx.Tx) error) error {
	tx, err := d.conn.Begin(d.ctx)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), closeTimeout)
		defer cancel()
		_ = tx.Rollback(ctx) // what cannot be rolled back has lost its connection, which does the same
		return err
	}
	return tx.Commit(d.ctx)
}

func noteIn(ctx context.Context, tx pgx.Tx, version int, dirty bool) error {
	if _, err := tx.Exec(ctx, `DELETE FROM `+versionTable); err != nil {
		return err
	}
	if version == database.NilVersion && !dirty {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO `+versionTable+` (version, dirty) VALUES ($1, $2)`, version, dirty)
	return err
}

package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	migratedb "github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/db"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
)

// migrator returns a migrator of the migrations; nil stands for the real ones.
func migrator(t testing.TB, dsn string, migrations fs.FS) *postgres.Migrator {
	t.Helper()
	if migrations == nil {
		migrations = db.Migrations
	}
	m, err := postgres.NewMigratorOf(t.Context(), dsn, connectTimeout, migrations)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func requireVersion(t testing.TB, m *postgres.Migrator, want postgres.SchemaVersion) {
	t.Helper()
	got, err := m.Version()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

func scan[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) (value T) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&value), sql)
	return value
}

// schema describes everything in the database that is ours, as text.
func schema(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
		SELECT format('column %s.%s #%s %s collate %s null %s default %s generated %s identity %s compression %s',
				c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), coalesce(l.collname, '-'), NOT a.attnotnull,
				coalesce(pg_get_expr(d.adbin, d.adrelid), '-'), a.attgenerated, a.attidentity, a.attcompression)
			FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
			LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
			LEFT JOIN pg_collation l ON l.oid = a.attcollation
			WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL SELECT format('relation %s kind %s options %s', relname, relkind, reloptions)
			FROM pg_class WHERE relnamespace = 'public'::regnamespace
		UNION ALL SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname = 'public'
		UNION ALL SELECT format('constraint %s on %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
			FROM pg_constraint WHERE connamespace = 'public'::regnamespace
		UNION ALL SELECT format('trigger %s on %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE NOT tgisinternal
		UNION ALL SELECT format('function %s', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
		UNION ALL SELECT format('type %s', oid::regtype) FROM pg_type
			WHERE typnamespace = 'public'::regnamespace AND typrelid = 0 AND typelem = 0
		UNION ALL SELECT format('column of view %s.%s %s', table_name, column_name, data_type)
			FROM information_schema.columns WHERE table_schema = 'public'
		ORDER BY 1`)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

// data describes what the migrations insert.
func data(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	return scan[string](t, conn, `SELECT string_agg(u::text, ' ' ORDER BY slot) FROM usage_counters u`)
}

// storage changes when a relation is made anew or rewritten.
func storage(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	return scan[string](t, conn, `SELECT string_agg(format('%s %s %s', relname, oid, relfilenode), ', ' ORDER BY relname)
		FROM pg_class WHERE relnamespace = 'public'::regnamespace`)
}

func TestUpOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	m, err := postgres.NewMigrator(t.Context(), dsn, connectTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	at, err := m.Version()
	require.NoError(t, err)
	latest := at.Latest
	require.Positive(t, latest)
	require.Equal(t, postgres.SchemaVersion{Latest: latest}, at)
	require.ErrorIs(t, m.Check(), postgres.ErrBehind)

	require.NoError(t, m.Up())
	requireVersion(t, m, postgres.SchemaVersion{Version: latest, Latest: latest})
	require.NoError(t, m.Check())
	got := schema(t, conn)
	for _, name := range []string{"relation components kind r", "relation blocks kind r", "relation entries kind r", "relation usage_counters kind r"} {
		require.Contains(t, got, name)
	}
	require.Equal(t, int64(64), scan[int64](t, conn, `SELECT count(*) FROM usage_counters`))

	// Tests run on a clone of what this makes.
	require.Equal(t, got, schema(t, pgtest.Connect(t, pgtest.New(t))))
}

func TestUpAgainChangesNothing(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	require.NoError(t, migrator(t, dsn, nil).Up())
	exec(t, conn, `UPDATE usage_counters SET entry_items = 7 WHERE slot = 3`)
	before := [3]string{schema(t, conn), data(t, conn), storage(t, conn)}

	again := migrator(t, dsn, nil)
	require.NoError(t, again.Up())
	require.NoError(t, again.Up())
	require.NoError(t, again.Check())
	after := [3]string{schema(t, conn), data(t, conn), storage(t, conn)}
	require.Equal(t, before, after)
}

func TestDownAndUpAgain(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	m := migrator(t, dsn, nil)
	empty := schema(t, conn)
	require.NoError(t, m.Up())
	full, rows := schema(t, conn), data(t, conn)
	at, err := m.Version()
	require.NoError(t, err)

	// Every step down is undone by a step up, not only all of them by all.
	schemas := []string{full}
	for version := at.Latest - 1; version >= 0; version-- {
		require.NoError(t, m.Down(1))
		requireVersion(t, m, postgres.SchemaVersion{Version: version, Latest: at.Latest})
		require.ErrorIs(t, m.Check(), postgres.ErrBehind)
		schemas = append(schemas, schema(t, conn))
		require.NotEqual(t, schemas[len(schemas)-2], schemas[len(schemas)-1], "the way down from %d does nothing", version+1)
	}
	require.Equal(t, empty, schema(t, conn), "something is left behind")
	require.NoError(t, m.Down(1), "nothing more to take back")
	for version := 1; version <= at.Latest; version++ {
		require.NoError(t, migrator(t, dsn, upTo(t, version)).Up())
		require.Equal(t, schemas[at.Latest-version], schema(t, conn), "at version %d", version)
	}
	require.Equal(t, full, schema(t, conn))
	require.Equal(t, rows, data(t, conn))

	require.NoError(t, m.Down(1000), "more than there are")
	require.Equal(t, empty, schema(t, conn))
	require.NoError(t, m.Up())
	require.Equal(t, full, schema(t, conn))
	require.NoError(t, m.Down(0))
	require.NoError(t, m.Down(-1))
	require.Equal(t, full, schema(t, conn))
}

// upTo returns the real migrations up to one of them.
func upTo(t testing.TB, version int) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	all, err := fs.ReadDir(db.Migrations, "migrations")
	require.NoError(t, err)
	for _, file := range all {
		if file.Name() < fmt.Sprintf("%04d", version+1) {
			raw, err := fs.ReadFile(db.Migrations, "migrations/"+file.Name())
			require.NoError(t, err)
			files["migrations/"+file.Name()] = &fstest.MapFile{Data: raw}
		}
	}
	require.Len(t, files, 2*version)
	return files
}

// small returns two migrations; the replacements are pairs of file and text.
func small(replacements ...string) fstest.MapFS {
	files := map[string]string{
		"0001_a.up.sql":   `CREATE TABLE a (n int);`,
		"0001_a.down.sql": `DROP TABLE a;`,
		"0002_b.up.sql":   `CREATE TABLE b (n int); INSERT INTO a VALUES (1);`,
		"0002_b.down.sql": `DELETE FROM a; DROP TABLE b;`,
	}
	for i := 0; i < len(replacements); i += 2 {
		files[replacements[i]] = replacements[i+1]
	}
	migrations := fstest.MapFS{}
	for name, text := range files {
		migrations["migrations/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return migrations
}

func TestFailedMigration(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	broken := migrator(t, dsn, small("0002_b.up.sql", `CREATE TABLE b (n int); INSERT INTO a VALUES (1); SELECT no_such_function();`))
	err := broken.Up()
	require.ErrorIs(t, err, postgres.ErrDirty)
	require.ErrorContains(t, err, "version 2")
	require.ErrorContains(t, err, "server migrate force 1", "the operator is told what to do")
	require.ErrorContains(t, err, "server migrate up")
	require.ErrorContains(t, err, "no_such_function", "and why")
	requireVersion(t, broken, postgres.SchemaVersion{Version: 2, Dirty: true, Latest: 2})
	require.True(t, scan[bool](t, conn, `SELECT to_regclass('b') IS NULL AND NOT EXISTS (SELECT FROM a)`), "it was rolled back whole")

	// Nobody goes on, though the file is mended by now.
	mended := migrator(t, dsn, small())
	for name, try := range map[string]func() error{
		"up":    mended.Up,
		"check": mended.Check,
		"down":  func() error { return mended.Down(1) },
	} {
		err := try()
		require.ErrorIs(t, err, postgres.ErrDirty, name)
		require.ErrorContains(t, err, "server migrate force 1", name)
	}
	requireVersion(t, mended, postgres.SchemaVersion{Version: 2, Dirty: true, Latest: 2})

	require.NoError(t, mended.Force(1))
	requireVersion(t, mended, postgres.SchemaVersion{Version: 1, Latest: 2})
	require.ErrorIs(t, mended.Check(), postgres.ErrBehind)
	require.NoError(t, mended.Up())
	require.NoError(t, mended.Check())
	require.Equal(t, 1, scan[int](t, conn, `SELECT n FROM a`))
	require.NoError(t, broken.Check(), "the same connection sees it too")
}

func TestFailedWayDown(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	broken := migrator(t, dsn, small("0002_b.down.sql", `DELETE FROM a; DROP TABLE no_such_table;`))
	require.NoError(t, broken.Up())
	err := broken.Down(1)
	require.ErrorIs(t, err, postgres.ErrDirty)
	require.ErrorContains(t, err, "2 if it was on its way down")
	require.Equal(t, 1, scan[int](t, conn, `SELECT n FROM a`), "it was rolled back whole")

	mended := migrator(t, dsn, small())
	require.ErrorIs(t, mended.Check(), postgres.ErrDirty)
	require.NoError(t, mended.Force(2))
	require.NoError(t, mended.Check())
	require.NoError(t, mended.Down(2))
	require.True(t, scan[bool](t, conn, `SELECT to_regclass('a') IS NULL AND to_regclass('b') IS NULL`))
}

// golang-migrate writes version -1 then, and says that there is none.
func TestFailedWayDownOfTheFirstMigration(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	broken := migrator(t, dsn, small("0001_a.down.sql", `DROP TABLE no_such_table;`))
	require.NoError(t, broken.Up())
	require.ErrorIs(t, broken.Down(2), postgres.ErrDirty)

	mended := migrator(t, dsn, small())
	err := mended.Up()
	require.ErrorIs(t, err, postgres.ErrDirty)
	require.ErrorContains(t, err, "server migrate force")
	require.ErrorIs(t, mended.Check(), postgres.ErrDirty)
	require.NoError(t, mended.Force(1))
	require.NoError(t, mended.Up())
	require.NoError(t, mended.Check())
}

func TestFirstMigrationFails(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	// The only one: golang-migrate leaves a goroutine behind with each that was to follow.
	files := small("0001_a.up.sql", `CREATE TABLE a (n int); SELECT 1/0;`)
	delete(files, "migrations/0002_b.up.sql")
	delete(files, "migrations/0002_b.down.sql")
	broken := migrator(t, dsn, files)
	err := broken.Up()
	require.ErrorIs(t, err, postgres.ErrDirty)
	require.ErrorContains(t, err, "server migrate force 0")
	mended := migrator(t, dsn, small())
	require.NoError(t, mended.Force(0))
	requireVersion(t, mended, postgres.SchemaVersion{Latest: 2})
	require.NoError(t, mended.Up())
	require.NoError(t, mended.Check())
}

func TestForceRefusesVersionsThatThereAreNot(t *testing.T) {
	t.Parallel()
	m := migrator(t, pgtest.Empty(t), small())
	require.NoError(t, m.Up())
	for _, version := range []int{-2, -1, 3, 1000} {
		require.Error(t, m.Force(version), version)
	}
	requireVersion(t, m, postgres.SchemaVersion{Version: 2, Latest: 2})
}

func TestOlderAndNewerSchemas(t *testing.T) {
	t.Parallel()
	dsn := pgtest.New(t)
	conn := pgtest.Connect(t, dsn)
	m := migrator(t, dsn, nil)
	at, err := m.Version()
	require.NoError(t, err)

	require.NoError(t, m.Down(1))
	err = m.Check()
	require.ErrorIs(t, err, postgres.ErrBehind)
	require.ErrorContains(t, err, "server migrate up")
	require.ErrorContains(t, err, fmt.Sprintf("version %d", at.Latest-1))
	require.NoError(t, m.Up())

	// Somebody newer has migrated: old code runs on the new schema.
	exec(t, conn, `UPDATE schema_migrations SET version = 9999`)
	before := schema(t, conn)
	require.NoError(t, m.Check())
	require.NoError(t, m.Up())
	requireVersion(t, m, postgres.SchemaVersion{Version: 9999, Latest: at.Latest})
	require.ErrorContains(t, m.Down(1), "with the program that made it")
	require.Equal(t, before, schema(t, conn))

	exec(t, conn, `UPDATE schema_migrations SET dirty = true`)
	require.ErrorIs(t, m.Check(), postgres.ErrDirty, "that is no reason to run on half a migration")
	require.ErrorIs(t, m.Up(), postgres.ErrDirty)
}

func TestSeveralMigratorsTakeTurns(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	var all sync.WaitGroup
	start := make(chan struct{})
	errs := make(chan error, 8)
	for range cap(errs) {
		all.Go(func() {
			<-start
			errs <- func() error {
				m, err := postgres.NewMigrator(t.Context(), dsn, connectTimeout)
				if err != nil {
					return err
				}
				defer m.Close()
				if err := m.Up(); err != nil {
					return err
				}
				return m.Check()
			}()
		})
	}
	close(start)
	all.Wait()
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
	require.Equal(t, int64(64), scan[int64](t, pgtest.Connect(t, dsn), `SELECT count(*) FROM usage_counters`))
}

// A migration that is running is no failure to whoever comes meanwhile: he waits.
func TestMigratorWaitsForOneThatIsRunning(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	const gate = 4711
	slow := small("0002_b.up.sql", fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d); CREATE TABLE b (n int);`, gate))
	first, second := migrator(t, dsn, slow), migrator(t, dsn, slow)
	exec(t, conn, `SELECT pg_advisory_lock($1)`, gate)
	errs := make(chan error, 2)
	go func() { errs <- first.Up() }()
	// Locks of other tests' databases are of the same server.
	const waiting = ` FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	await(t, conn, `SELECT count(*) = 1`+waiting)
	require.False(t, scan[bool](t, conn, `SELECT dirty FROM schema_migrations`), "should it be killed now, nothing is to be mended")

	go func() { errs <- second.Up() }()
	// It has either asked for its turn or given up.
	await(t, conn, `SELECT count(*) = 2`+waiting, errs)
	exec(t, conn, `SELECT pg_advisory_unlock($1)`, gate)
	for range cap(errs) {
		require.NoError(t, receive(t, errs))
	}
	require.NoError(t, second.Check())
}

// await returns when the query's condition holds, or when something is in one of
// the channels.
func await(t testing.TB, conn *pgx.Conn, condition string, or ...chan error) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for time.Now().Before(deadline) {
		for _, c := range or {
			if len(c) > 0 {
				return
			}
		}
		if scan[bool](t, conn, condition) {
			return
		}
		exec(t, conn, `SELECT pg_sleep(0.005)`)
	}
	require.FailNow(t, "it never came to that", condition)
}

// requireOurs waits until as many connections of ours are open.
func requireOurs(t testing.TB, conn *pgx.Conn, n int) {
	t.Helper()
	await(t, conn, fmt.Sprintf(`SELECT count(*) = %d FROM pg_stat_activity
		WHERE application_name = 'stockroom' AND datname = current_database()`, n))
}

func migrationLock(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	id, err := migratedb.GenerateAdvisoryLockId(scan[string](t, conn, `SELECT current_database()`), "public", "schema_migrations")
	require.NoError(t, err)
	return id
}

func TestLockHeldByAnotherSession(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	// The time that a server waits, made shorter on the way to the database.
	const patience = 300 * time.Millisecond
	from := fmt.Appendf(nil, "lock_timeout\x00%d\x00", postgres.MigrationLockTimeout.Milliseconds())
	var shortened atomic.Bool
	impatient := through(t, dsn, func(sent []byte) []byte {
		// The message begins with its length, so that must stay as it is.
		to := fmt.Appendf(nil, "lock_timeout\x00%0*d\x00", len(from)-len("lock_timeout\x00\x00"), patience.Milliseconds())
		if bytes.Contains(sent, from) {
			shortened.Store(true)
		}
		return bytes.Replace(sent, from, to, 1)
	})
	prepared := migrator(t, impatient, nil)
	require.True(t, shortened.Load(), "no wait for a lock is bounded")
	exec(t, conn, `SELECT pg_advisory_lock($1::bigint)`, migrationLock(t, conn))

	start := time.Now()
	err := prepared.Up()
	require.ErrorIs(t, err, postgres.ErrMigrationLocked)
	require.NotErrorIs(t, err, postgres.ErrDirty)
	looker, err := postgres.NewMigrator(t.Context(), impatient, connectTimeout)
	require.NoError(t, err, "to look needs no lock")
	require.NoError(t, looker.Close())
	require.Less(t, time.Since(start), soon)
	requireOurs(t, conn, 1)

	exec(t, conn, `SELECT pg_advisory_unlock_all()`)
	require.NoError(t, prepared.Up(), "it can go on once the other has ended")
	require.NoError(t, prepared.Check())
}

// A migrator that could not be made leaves no connection behind.
func TestMigratorThatFailsClosesItsConnection(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	// The garbage collector may close a forgotten connection, too, but it does not
	// take leave of the server.
	goodbye := make(chan struct{}, 8)
	polite := through(t, dsn, func(sent []byte) []byte {
		if bytes.HasSuffix(sent, []byte{'X', 0, 0, 0, 4}) {
			goodbye <- struct{}{}
		}
		return sent
	})
	for _, obstacle := range []string{
		`ALTER SCHEMA public RENAME TO elsewhere`,                                           // no schema to put the version into
		`ALTER SCHEMA elsewhere RENAME TO public; CREATE TYPE schema_migrations AS ENUM ()`, // in the way of the table
	} {
		exec(t, conn, obstacle)
		_, err := postgres.NewMigrator(t.Context(), polite, connectTimeout)
		require.Error(t, err)
		receive(t, goodbye)
	}
	requireOurs(t, conn, 0)
}

func TestClosedMigratorSaysSo(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	m := migrator(t, dsn, small())
	require.NoError(t, m.Close())
	require.NoError(t, m.Close(), "more than once")
	_, err := m.Version()
	require.ErrorIs(t, err, postgres.ErrClosed)
	for name, use := range map[string]func() error{
		"Check": m.Check, "Up": m.Up,
		"Down":  func() error { return m.Down(1) },
		"Force": func() error { return m.Force(1) },
	} {
		require.ErrorIs(t, use(), postgres.ErrClosed, name)
	}
	requireOurs(t, pgtest.Connect(t, dsn), 0)
}

func TestMigratorNeedsMigrations(t *testing.T) {
	t.Parallel()
	_, err := postgres.NewMigratorOf(t.Context(), "postgres://nowhere", connectTimeout, fstest.MapFS{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = postgres.NewMigratorOf(t.Context(), "postgres://nowhere", connectTimeout,
		fstest.MapFS{"migrations/first_a.up.sql": &fstest.MapFile{Data: []byte("SELECT 1")}})
	require.ErrorContains(t, err, "has no number")
}

func TestMigratorIsBoundedWhereNobodyAnswers(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	silent := listen(t, func(net.Conn) { <-hold })
	t.Cleanup(func() { close(hold) })
	start := time.Now()
	_, err := postgres.NewMigrator(t.Context(), silent.dsn("s3cret"), 100*time.Millisecond)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "s3cret")

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = postgres.NewMigrator(ctx, silent.dsn("s3cret"), time.Hour)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), soon)
}

package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
)

// A migration that was cut off in the middle, as by kill -9, has not happened,
// and the next process can go on without anybody's help.
func TestMigrationThatIsCutOff(t *testing.T) {
	t.Parallel()
	const gate = 4712
	const waiting = `SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	for name, cut := range map[string]func(conn *pgx.Conn, cancel func()){
		"the connection is lost": func(conn *pgx.Conn, _ func()) {
			exec(t, conn, `SELECT pg_terminate_backend(pid) FROM (`+waiting+`) AS sessions`)
		},
		"it is told to stop": func(_ *pgx.Conn, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Empty(t)
			conn := pgtest.Connect(t, dsn)
			exec(t, conn, `SELECT pg_advisory_lock($1)`, gate)
			slow := small("0002_b.up.sql", fmt.Sprintf(`CREATE TABLE b (n int); SELECT pg_advisory_xact_lock(%d)`, gate))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m, err := postgres.NewMigratorOf(ctx, dsn, connectTimeout, slow)
			require.NoError(t, err)
			defer func() { _ = m.Close() }() // it may have lost its connection
			up := make(chan error, 1)
			go func() { up <- m.Up() }()
			await(t, conn, `SELECT EXISTS (`+waiting+`)`)
			cut(conn, cancel)
			err = receive(t, up)
			require.Error(t, err)
			require.NotErrorIs(t, err, postgres.ErrDirty)
			await(t, conn, `SELECT NOT EXISTS (`+waiting+`)`)

			next := migrator(t, dsn, small())
			requireVersion(t, next, postgres.SchemaVersion{Version: 1, Latest: 2})
			require.True(t, scan[bool](t, conn, `SELECT to_regclass('b') IS NULL`))
			require.NoError(t, next.Up())
			require.NoError(t, next.Check())
		})
	}
}

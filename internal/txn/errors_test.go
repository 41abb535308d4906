package txn_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/txn"
)

// What SQLSTATEs mean, whether a statement or COMMIT fails with them.
func TestClassification(t *testing.T) {
	t.Parallel()
	type meaning int
	const (
		statement   meaning = iota // the statement's own affair
		unavailable                // the database cannot work
		contention                 // try again; here until it is given up
	)
	dsn := pgtest.Empty(t)
	b := setupOn(t, dsn, 1)
	b.exec(`CREATE TABLE failure (state text); INSERT INTO failure VALUES ('00000')`)
	b.onCommit(`DECLARE s text; BEGIN SELECT state INTO s FROM failure; RAISE EXCEPTION USING ERRCODE = s; END`)
	before := b.pid()
	for state, want := range map[string]meaning{
		"08000": unavailable, // connection exception
		"08006": unavailable, // connection failure
		"53000": unavailable, // insufficient resources
		"53100": unavailable, // disk full
		"53200": unavailable, // out of memory
		"53300": unavailable, // too many connections
		"57P01": unavailable, // admin shutdown
		"57P02": unavailable, // crash shutdown
		"57P03": unavailable, // cannot connect now
		"57P05": unavailable, // idle session timeout
		"58030": unavailable, // I/O error
		"58P01": unavailable, // undefined file
		"25006": unavailable, // read-only transaction: the primary has become a standby
		"XX001": unavailable, // data corrupted
		"XX002": unavailable, // index corrupted
		"40001": contention,  // serialization failure
		"40P01": contention,  // deadlock
		"40002": statement,   // integrity constraint at the end of the transaction
		"40003": statement,   // statement completion unknown
		"0A000": statement,   // feature not supported
		"21000": statement,   // cardinality violation
		"22001": statement,   // string too long
		"22021": statement,   // character not in repertoire
		"22P02": statement,   // invalid text
		"23502": statement,   // not null
		"23503": statement,   // foreign key
		"23505": statement,   // unique
		"23514": statement,   // check
		"25001": statement,   // active transaction
		"25P02": statement,   // in failed transaction
		"28000": statement,   // invalid authorization
		"3D000": statement,   // no such database
		"42501": statement,   // insufficient privilege
		"42601": statement,   // syntax
		"42P01": statement,   // no such table
		"54000": statement,   // program limit
		"55000": statement,   // not in prerequisite state
		"55P03": statement,   // lock not available, and nobody was called off
		"57014": unavailable, // query canceled, by somebody else
		"P0001": statement,   // raised
		"XX000": statement,   // internal error
	} {
		b.exec(`UPDATE failure SET state = $1`, state)
		for name, run := range map[string]func(context.Context, *txn.Unit) error{
			"statement": func(ctx context.Context, u *txn.Unit) error { return raise(ctx, u, state) },
			"commit":    func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 3) },
		} {
			if want == contention && name == "commit" {
				continue // TestConflictAtCommitIsRetried
			}
			var h hooks
			err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
				h.on(u)
				return run(ctx, u)
			})
			requireState(t, err, state)
			require.NotErrorIs(t, err, txn.ErrCommitUnknown, "%s of %s: the database has answered", state, name)
			require.NotErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			for sentinel, when := range map[error]meaning{txn.ErrUnavailable: unavailable, txn.ErrContention: contention} {
				if want == when {
					require.ErrorIs(t, err, sentinel, "%s of %s", state, name)
				} else {
					require.NotErrorIs(t, err, sentinel, "%s of %s", state, name)
				}
			}
			require.Empty(t, h.ran())
		}
	}
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid(), "an error of severity ERROR costs no connection")
}

func TestDatabaseThatCannotBeReached(t *testing.T) {
	t.Parallel()
	closed, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	shut := pgtest.Empty(t)
	config, err := pgx.ParseConfig(shut)
	require.NoError(t, err)
	_, err = pgtest.Connect(t, pgtest.Empty(t)).Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{config.Database}.Sanitize()+` ALLOW_CONNECTIONS false`)
	require.NoError(t, err)
	for name, dsn := range map[string]string{
		"nobody listens":           "postgres://user:s3cret@" + closed.Addr().String() + "/db?sslmode=disable",
		"it takes nobody any more": shut,
	} {
		db, err := postgres.Open(postgres.Config{DSN: dsn, MaxConns: 1, ConnectTimeout: time.Second})
		require.NoError(t, err)
		gate := limit.NewGate(1, 0, time.Second)
		m := txn.New(db, gate, slog.New(slog.DiscardHandler))
		for _, run := range []func(context.Context, func(context.Context, *txn.Unit) error) error{m.Do, m.DoRepeatable, m.Read, m.ReadOne} {
			err = run(t.Context(), func(context.Context, *txn.Unit) error {
				t.Error("it ran")
				return nil
			})
			require.ErrorIs(t, err, txn.ErrUnavailable, name)
			require.NotContains(t, err.Error(), "s3cret")
			require.Zero(t, gate.State().InUse)
		}
		require.NoError(t, db.Close(t.Context()))
		err = m.Do(t.Context(), func(context.Context, *txn.Unit) error { return nil })
		require.ErrorIs(t, err, txn.ErrClosed)
		require.NotErrorIs(t, err, txn.ErrUnavailable, "it was not asked")
		require.Zero(t, gate.State().InUse)
	}
}

package txn_test

import (
	"context"
	"errors"
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

// What SQLSTATEs mean, of each class that PostgreSQL has (appendix A) but 00, which
// is no error, whether a statement or COMMIT fails with them.
//
//nolint:tparallel // the classes take turns at one connection
func TestClassification(t *testing.T) {
	t.Parallel()
	type meaning int
	const (
		statement   meaning = iota // the statement's own affair
		unavailable                // the database cannot work
		full                       // likewise, but it can be read: no failure to the breaker
		contention                 // try again; here until it is given up
	)
	dsn := pgtest.Empty(t)
	b := setupOn(t, dsn, 1)
	b.exec(`CREATE TABLE failure (state text); INSERT INTO failure VALUES ('00000')`)
	b.onCommit(`DECLARE s text; BEGIN SELECT state INTO s FROM failure; RAISE EXCEPTION USING ERRCODE = s; END`)
	before := b.pid()
	for class, states := range map[string]map[string]meaning{
		"01 warning":                                     {"01000": statement},
		"02 no data":                                     {"02000": statement},
		"03 SQL statement not yet complete":              {"03000": statement},
		"08 connection exception":                        {"08000": unavailable, "08001": unavailable, "08006": unavailable, "08P01": unavailable},
		"09 triggered action exception":                  {"09000": statement},
		"0A feature not supported":                       {"0A000": statement},
		"0B invalid transaction initiation":              {"0B000": statement},
		"0F locator exception":                           {"0F000": statement},
		"0L invalid grantor":                             {"0L000": statement},
		"0P invalid role specification":                  {"0P000": statement},
		"0Z diagnostics exception":                       {"0Z002": statement},
		"10 XQuery error":                                {"10608": statement},
		"20 case not found":                              {"20000": statement},
		"21 cardinality violation":                       {"21000": statement},
		"22 data exception":                              {"22001": statement, "22021": statement, "22P02": statement},
		"23 integrity constraint violation":              {"23502": statement, "23503": statement, "23505": statement, "23514": statement},
		"24 invalid cursor state":                        {"24000": statement},
		"26 invalid SQL statement name":                  {"26000": statement},
		"27 triggered data change violation":             {"27000": statement},
		"28 invalid authorization":                       {"28000": statement, "28P01": statement},
		"2B dependent privilege descriptors still exist": {"2BP01": statement},
		"2D invalid transaction termination":             {"2D000": statement},
		"2F SQL routine exception":                       {"2F005": statement},
		"34 invalid cursor name":                         {"34000": statement},
		"38 external routine exception":                  {"38000": statement},
		"39 external routine invocation exception":       {"39000": statement},
		"3B savepoint exception":                         {"3B001": statement},
		"3D invalid catalog name":                        {"3D000": statement},
		"3F invalid schema name":                         {"3F000": statement},
		"44 WITH CHECK OPTION violation":                 {"44000": statement},
		"54 program limit exceeded":                      {"54000": statement, "54001": statement},
		"72 snapshot failure":                            {"72000": statement},
		"F0 configuration file error":                    {"F0000": statement},
		"HV foreign data wrapper error":                  {"HV000": statement},
		"P0 PL/pgSQL error":                              {"P0001": statement},
		"UE an extension's own":                          {"UE000": statement},
		"58 system error":                                {"58000": unavailable, "58030": unavailable, "58P01": unavailable},
		"25 invalid transaction state": {
			"25001": statement, "25P02": statement,
			"25006": unavailable, // read-only: the primary has become a standby
			"25P03": unavailable, // idle for too long
			"25P04": unavailable, // transaction timeout
		},
		"40 transaction rollback": {
			"40000": statement, "40002": statement, "40003": statement,
			"40001": contention, // serialization failure
			"40P01": contention, // deadlock
		},
		"42 syntax error or access rule violation": {"42501": statement, "42601": statement, "42P01": statement},
		"53 insufficient resources": {
			"53000": unavailable,
			"53100": full,
			"53200": unavailable, // out of memory
			"53300": unavailable, // too many connections
			"53400": unavailable, // configuration limit exceeded
		},
		"55 object not in prerequisite state": {
			"55000": statement,
			"55P03": contention, // lock not available, and nobody was called off
		},
		"57 operator intervention": {
			"57000": unavailable,
			"57014": unavailable, // query canceled, by somebody else
			"57P01": unavailable, // admin shutdown
			"57P02": unavailable, // crash shutdown
			"57P03": unavailable, // cannot connect now
			"57P04": unavailable, // database dropped
			"57P05": unavailable, // idle session timeout
		},
		"XX internal error": {
			"XX000": statement,
			"XX001": unavailable, // data corrupted
			"XX002": unavailable, // index corrupted
		},
	} {
		t.Run(class, func(t *testing.T) {
			for state, want := range states {
				require.Equal(t, class[:2], state[:2])
				b.exec(`UPDATE failure SET state = $1`, state)
				for name, run := range map[string]func(context.Context, *txn.Unit) error{
					"statement": func(ctx context.Context, u *txn.Unit) error { return raise(ctx, u, state) },
					"commit":    func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 3) },
				} {
					if want == contention && name == "commit" {
						continue // TestConflictAtCommitIsRetried
					}
					breaker := txn.NewBreaker(1, time.Hour, nil)
					b.Guard(breaker)
					var h hooks
					err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
						h.on(u)
						return run(ctx, u)
					})
					requireState(t, err, state)
					require.NotErrorIs(t, err, txn.ErrCommitUnknown, "%s of %s: the database has answered", state, name)
					require.NotErrorIs(t, err, context.Canceled)
					require.NotErrorIs(t, err, context.DeadlineExceeded)
					require.Equal(t, want == unavailable || want == full, errors.Is(err, txn.ErrUnavailable), "%s of %s", state, name)
					require.Equal(t, want == contention, errors.Is(err, txn.ErrContention), "%s of %s", state, name)
					require.Equal(t, want == unavailable, breaker.Open(), "%s of %s", state, name)
					require.Empty(t, h.ran())
				}
			}
		})
	}
	b.Guard(nil)
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid(), "an error of severity ERROR costs no connection")
}

func TestDatabaseThatCannotBeReached(t *testing.T) {
	t.Parallel()
	closed, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	shut := pgtest.Empty(t)
	config, err := pgx.ParseConfig(shut)
	require.NoError(t, err)
	_, err = pgtest.Connect(t, pgtest.Empty(t)).Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{config.Database}.Sanitize()+` ALLOW_CONNECTIONS false`)
	require.NoError(t, err)
	for name, dsn := range map[string]string{
		"nobody listens":           "postgres://user:s3cret@" + closed.Addr().String() + "/db?sslmode=disable",
		"nobody answers":           "postgres://user:s3cret@" + silent.Addr().String() + "/db?sslmode=disable",
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
			require.NotErrorIs(t, err, context.DeadlineExceeded, "it is not the caller's")
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

package txn_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestDoCommits(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	var h hooks
	require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		require.Equal(t, 1, b.gate.State().InUse)
		isolation, err := read[string](ctx, u, `SHOW transaction_isolation`)
		require.NoError(t, err)
		require.Equal(t, "read committed", isolation)
		// The hook looks with another connection, so the commit is behind it.
		u.AfterCommit(func() {
			require.Equal(t, 1, b.n(3))
			h.hook("first")()
		})
		u.AfterCommit(h.hook("second"))
		require.NoError(t, insert(ctx, u, 3))
		require.Equal(t, -1, b.n(3), "not before the end")
		require.Empty(t, h.ran())
		return nil
	}))
	require.Equal(t, []string{"first", "second"}, h.ran())
	require.Equal(t, 1, b.n(3))
	b.requireIdle()
}

func TestErrorRollsBack(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	mine := errors.New("mine")
	var h hooks
	var runs int
	err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		runs++
		h.on(u)
		require.NoError(t, insert(ctx, u, 3))
		return mine
	})
	require.Equal(t, mine, err, "as it was")
	require.Equal(t, 1, runs)
	require.Empty(t, h.ran())
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
}

func TestStatementErrorThatIsSwallowedDoesNotCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	var h hooks
	err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		h.on(u)
		require.NoError(t, insert(ctx, u, 3))
		require.Error(t, insert(ctx, u, 1), "there is one")
		return nil
	})
	require.ErrorIs(t, err, pgx.ErrTxCommitRollback)
	require.NotErrorIs(t, err, txn.ErrCommitUnknown)
	require.NotErrorIs(t, err, txn.ErrUnavailable)
	require.Empty(t, h.ran())
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
}

func TestPanicRollsBack(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	var h hooks
	for name, run := range b.all() {
		require.PanicsWithValue(t, "ouch", func() {
			_ = run(t.Context(), func(ctx context.Context, u *txn.Unit) error {
				h.on(u)
				_, err := u.Exec(ctx, `SELECT set_config('stockroom.left', 'behind', true)`)
				require.NoError(t, err)
				panic("ouch")
			})
		}, name)
		b.requireIdle()
	}
	require.PanicsWithValue(t, "ouch", func() {
		_ = b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
			h.on(u)
			require.NoError(t, insert(ctx, u, 3))
			panic("ouch")
		})
	})
	require.Empty(t, h.ran())
	require.Equal(t, -1, b.n(3))
	require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		require.Equal(t, before, pidOf(ctx, t, u), "the connection is clean and goes on")
		left, err := read[*string](ctx, u, `SELECT nullif(current_setting('stockroom.left', true), '')`)
		require.NoError(t, err)
		require.Nil(t, left)
		return nil
	}))
}

// A hook that panics does not take the slot or the connection with it.
func TestPanicOfAHook(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	require.PanicsWithValue(t, "ouch", func() {
		_ = b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
			u.AfterCommit(func() { panic("ouch") })
			return insert(ctx, u, 3)
		})
	})
	b.requireIdle()
	require.Equal(t, 1, b.n(3), "it was committed by then")
	require.NoError(t, b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 4) }))
}

// all returns each way to run a unit.
func (b *bundle) all() map[string]func(context.Context, func(context.Context, *txn.Unit) error) error {
	return map[string]func(context.Context, func(context.Context, *txn.Unit) error) error{
		"Do": b.Do, "DoRepeatable": b.DoRepeatable, "Read": b.Read, "ReadOne": b.ReadOne,
	}
}

func TestNestingIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t, 1) // with one slot a nested unit would wait for itself
	for outer, run := range b.all() {
		for inner, runInside := range b.all() {
			err := run(b.within(soon), func(ctx context.Context, _ *txn.Unit) error {
				err := runInside(ctx, func(context.Context, *txn.Unit) error {
					t.Errorf("%s ran in %s", inner, outer)
					return nil
				})
				require.ErrorIs(t, err, txn.ErrNested, "%s in %s", inner, outer)
				return err
			})
			require.ErrorIs(t, err, txn.ErrNested)
			b.requireIdle()
		}
	}
	// Two managers on one database make no difference.
	other := txn.New(b.db, nil, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, b.Do(b.within(soon), func(ctx context.Context, _ *txn.Unit) error {
		return other.Do(ctx, func(context.Context, *txn.Unit) error { return nil })
	}), txn.ErrNested)
}

func TestUnitAfterItsEnd(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	for name, run := range b.all() {
		for _, end := range []error{nil, errors.New("mine")} {
			var kept *txn.Unit
			check := func() {
				_, err := kept.Exec(t.Context(), `SELECT 1`)
				require.ErrorIs(t, err, txn.ErrUnitEnded, name)
				_, err = read[int](t.Context(), kept, `SELECT 1`)
				require.ErrorIs(t, err, txn.ErrUnitEnded, name)
				kept.Queue(`SELECT 1`)
				require.ErrorIs(t, kept.Flush(t.Context()), txn.ErrUnitEnded, name)
			}
			err := run(t.Context(), func(_ context.Context, u *txn.Unit) error {
				kept = u
				u.AfterCommit(check)
				return end
			})
			require.Equal(t, end, err)
			check()
		}
	}
}

func TestUnitAfterAPanic(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	for name, run := range b.all() {
		var kept *txn.Unit
		require.Panics(t, func() {
			_ = run(t.Context(), func(_ context.Context, u *txn.Unit) error {
				kept = u
				panic("ouch")
			})
		})
		_, err := kept.Exec(t.Context(), `SELECT 1`)
		require.ErrorIs(t, err, txn.ErrUnitEnded, name)
	}
}

func TestReadOneIsOneStatement(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	var h hooks
	require.NoError(t, b.ReadOne(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		require.Equal(t, 1, b.gate.State().InUse)
		n, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
		require.NoError(t, err)
		require.Zero(t, n)
		_, err = read[int](ctx, u, `SELECT 2`)
		require.ErrorIs(t, err, txn.ErrOneStatement)
		_, err = u.Exec(ctx, `SELECT 2`)
		require.ErrorIs(t, err, txn.ErrOneStatement)
		require.ErrorIs(t, u.Flush(ctx), txn.ErrOneStatement)
		return nil
	}))
	err := b.ReadOne(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		u.Queue(`SELECT 1`)
		err := u.Flush(ctx)
		require.ErrorIs(t, err, txn.ErrOneStatement, "a batch is more than one")
		return err
	})
	require.ErrorIs(t, err, txn.ErrOneStatement)
	require.Empty(t, h.ran())
	require.Equal(t, before, b.pid())
}

func TestReadIsReadOnlyAndOneSnapshot(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	require.NoError(t, b.Read(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		first, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
		require.NoError(t, err)
		b.exec(`UPDATE rows SET n = n + 1; INSERT INTO rows VALUES (9, 9)`)
		second, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
		require.NoError(t, err)
		require.Equal(t, first, second)
		all, err := read[int](ctx, u, `SELECT count(*) FROM rows`)
		require.NoError(t, err)
		require.Equal(t, 2, all)
		return nil
	}))
	require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		first, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
		require.NoError(t, err)
		b.exec(`UPDATE rows SET n = n + 1`)
		second, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
		require.NoError(t, err)
		require.Equal(t, first+1, second, "Do sees what is committed meanwhile")
		return nil
	}))
	err := b.Read(t.Context(), func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 3) })
	requireState(t, err, "25006")
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
	require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 3) }),
		"that was the transaction, not the connection")
}

func requireState(t testing.TB, err error, state string) {
	t.Helper()
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, state, pgErr.Code)
}

// Two units that both saw the row as it was before either changed it.
func TestSerializationFailureIsRetried(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	var runs atomic.Int64
	var h hooks
	seen := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	unit := func(i int) <-chan error {
		first := true
		return start(func() error {
			return b.DoRepeatable(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
				runs.Add(1)
				h.on(u)
				n, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
				if err != nil {
					return err
				}
				if first {
					first = false
					close(seen[i])
					<-seen[1-i]
				}
				_, err = u.Exec(ctx, `UPDATE rows SET n = $1 WHERE id = 1`, n+1)
				return err
			})
		})
	}
	one, two := unit(0), unit(1)
	require.NoError(t, receive(t, one))
	require.NoError(t, receive(t, two))
	require.Equal(t, 2, b.n(1), "no update is lost")
	require.Equal(t, []string{"committed", "committed"}, h.ran(), "once each")
	require.Equal(t, int64(3), runs.Load())
	require.Equal(t, 1, b.log.count())
}

func TestDeadlockIsRetried(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	var runs atomic.Int64
	var h hooks
	locked := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	unit := func(i int) <-chan error {
		first := true
		return start(func() error {
			return b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
				runs.Add(1)
				h.on(u)
				if err := add(ctx, u, 1+i); err != nil {
					return err
				}
				if first {
					first = false
					close(locked[i])
					<-locked[1-i]
				}
				return add(ctx, u, 2-i)
			})
		})
	}
	one, two := unit(0), unit(1)
	require.NoError(t, receive(t, one))
	require.NoError(t, receive(t, two))
	require.Equal(t, 2, b.n(1))
	require.Equal(t, 2, b.n(2))
	require.Equal(t, []string{"committed", "committed"}, h.ran(), "once each")
	require.Equal(t, int64(3), runs.Load())
}

// conflict fails as a serialization failure does.
func conflict(ctx context.Context, u *txn.Unit) error { return raise(ctx, u, "40001") }

func raise(ctx context.Context, u *txn.Unit, state string) error {
	_, err := u.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '`+state+`'; END $$`)
	return err
}

func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"40001", "40P01"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			var h hooks
			runs := 0
			err := b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
				runs++
				h.on(u)
				require.NoError(t, insert(ctx, u, 3))
				return raise(ctx, u, state)
			})
			require.ErrorIs(t, err, txn.ErrContention)
			require.NotErrorIs(t, err, txn.ErrUnavailable)
			require.Equal(t, 10, runs)
			require.Empty(t, h.ran())
			require.Equal(t, -1, b.n(3))
		})
	}
}

func TestReadsAreRetriedToo(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	for name, run := range b.all() {
		runs := 0
		require.NoError(t, run(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
			if runs++; runs < 3 {
				return conflict(ctx, u)
			}
			_, err := u.Exec(ctx, `SELECT 1`)
			return err
		}), name)
		require.Equal(t, 3, runs, name)
	}
}

func TestHooksOfARunThatWasRolledBackAreDropped(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	var h hooks
	runs := 0
	require.NoError(t, b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
		runs++
		u.AfterCommit(h.hook([]string{"first", "second", "third"}[runs-1]))
		if runs < 3 {
			return conflict(ctx, u)
		}
		return nil
	}))
	require.Equal(t, []string{"third"}, h.ran())
}

func TestNothingIsHeldBetweenTries(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.log.retried = func() {
		require.NoError(t, b.ReadOne(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
			_, err := u.Exec(ctx, `SELECT 1`)
			return err
		}), "somebody else has the slot and the connection meanwhile")
	}
	runs := 0
	require.NoError(t, b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
		if runs++; runs < 3 {
			return conflict(ctx, u)
		}
		return nil
	}))
	require.Equal(t, 2, b.log.count())
}

func TestCallerLeavesBetweenTries(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	b.log.retried = cancel
	runs := 0
	err := b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		runs++
		return conflict(ctx, u)
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, runs)
}

func TestCancelledStatement(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	var h hooks
	for name, run := range b.all() {
		ctx, cancel := context.WithCancel(t.Context())
		done := start(func() error {
			return run(ctx, func(ctx context.Context, u *txn.Unit) error {
				h.on(u)
				_, err := u.Exec(ctx, `SELECT pg_sleep(3600)`)
				return err
			})
		})
		b.await(`SELECT count(*) = 1 FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'active' AND query = 'SELECT pg_sleep(3600)'`)
		cancel()
		err := receive(t, done)
		require.ErrorIs(t, err, context.Canceled, name)
		require.NotErrorIs(t, err, txn.ErrUnavailable, name)
		b.requireIdle()
		require.Equal(t, before, b.pid(), "%s: the connection goes on", name)
	}
	require.Empty(t, h.ran())
}

func TestCancelledWhileWaitingForALock(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	b.exec(`BEGIN; UPDATE rows SET n = 7 WHERE id = 2`)
	ctx, cancel := context.WithCancel(t.Context())
	done := start(func() error {
		return b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
			require.NoError(t, add(ctx, u, 1))
			return add(ctx, u, 2)
		})
	})
	b.awaitBlocked(1)
	cancel()
	err := receive(t, done)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, txn.ErrUnavailable)
	require.NotErrorIs(t, err, txn.ErrContention)
	b.exec(`COMMIT`)
	require.Zero(t, b.n(1), "the rest is rolled back, and its locks are gone")
	require.Equal(t, before, b.pid())
}

func TestDeadlineOfAStatement(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	// Time enough for the insert on a busy machine.
	err := b.Do(b.within(time.Second), func(ctx context.Context, u *txn.Unit) error {
		require.NoError(t, insert(ctx, u, 3))
		_, err := u.Exec(ctx, `SELECT pg_sleep(3600)`)
		return err
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, txn.ErrUnavailable)
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
}

func TestCallerThatIsGoneBeforeItBegins(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, run := range b.all() {
		err := run(ctx, func(context.Context, *txn.Unit) error {
			t.Errorf("%s ran", name)
			return nil
		})
		require.ErrorIs(t, err, context.Canceled, name)
		require.NotErrorIs(t, err, txn.ErrUnavailable, name)
	}
}

func TestCallerThatLeavesBeforeTheCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	var h hooks
	ctx, cancel := context.WithCancel(t.Context())
	err := b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		h.on(u)
		require.NoError(t, insert(ctx, u, 3))
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, txn.ErrCommitUnknown)
	require.Empty(t, h.ran())
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
}

// From then on the commit is not called off for a caller that leaves: its outcome
// would be unknown for no good reason.
func TestCallerThatLeavesDuringTheCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.onCommit(`PERFORM pg_advisory_xact_lock(1)`)
	b.exec(`SELECT pg_advisory_lock(1)`)
	var h hooks
	ctx, cancel := context.WithCancel(t.Context())
	done := start(func() error {
		return b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
			h.on(u)
			return insert(ctx, u, 3)
		})
	})
	b.awaitBlocked(1)
	require.Equal(t, 1, b.gate.State().InUse, "the slot is held until it has ended")
	cancel()
	select { // time enough for the database to be told, if it were
	case err := <-done:
		require.FailNow(t, "the commit was called off", "%v", err)
	case <-time.After(300 * time.Millisecond):
	}
	b.exec(`SELECT pg_advisory_unlock(1)`)
	require.NoError(t, receive(t, done))
	require.Equal(t, []string{"committed"}, h.ran())
	require.Equal(t, 1, b.n(3))
}

// A commit that waits past the caller's deadline is called off, and the database
// says that it was: that is no unknown outcome.
func TestDeadlineDuringTheCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	b.onCommit(`PERFORM pg_advisory_xact_lock(1)`)
	b.exec(`SELECT pg_advisory_lock(1)`)
	var h hooks
	err := b.Do(b.within(200*time.Millisecond), func(ctx context.Context, u *txn.Unit) error {
		h.on(u)
		return insert(ctx, u, 3)
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, txn.ErrCommitUnknown)
	require.NotErrorIs(t, err, txn.ErrUnavailable)
	require.Empty(t, h.ran())
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
}

func TestConnectionLostInTheUnit(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	var h hooks
	for name, run := range b.all() {
		runs := 0
		err := run(t.Context(), func(ctx context.Context, u *txn.Unit) error {
			runs++
			h.on(u)
			_, err := u.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
			return err
		})
		require.ErrorIs(t, err, txn.ErrUnavailable, name)
		require.NotErrorIs(t, err, txn.ErrCommitUnknown, name)
		require.Equal(t, 1, runs, name)
		b.requireIdle()
	}
	require.Empty(t, h.ran())
	require.NotEqual(t, before, b.pid())
}

// The connection is lost between two statements, by somebody else's hand.
func TestConnectionLostBetweenStatements(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	for name, swallow := range map[string]bool{"the error is returned": false, "the error is swallowed": true} {
		err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
			require.NoError(t, insert(ctx, u, 3))
			b.kill(pidOf(ctx, t, u))
			err := insert(ctx, u, 4)
			require.Error(t, err)
			if swallow {
				return nil
			}
			return err
		})
		require.ErrorIs(t, err, txn.ErrUnavailable, name)
		require.NotErrorIs(t, err, txn.ErrCommitUnknown, "%s: COMMIT was never sent", name)
		require.Equal(t, -1, b.n(3))
		b.requireIdle()
	}
}

// kill ends a session and waits until it is gone.
func (b *bundle) kill(pid int) {
	b.t.Helper()
	b.exec(`SELECT pg_terminate_backend($1)`, pid)
	b.await(`SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid)
}

// What a unit's own function gets from elsewhere says nothing of the database.
func TestForeignErrorsAreLeftAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	for _, foreign := range []error{io.EOF, io.ErrUnexpectedEOF, errors.New("mine")} {
		for name, run := range b.all() {
			err := run(t.Context(), func(context.Context, *txn.Unit) error { return foreign })
			require.ErrorIs(t, err, foreign, name)
			require.NotErrorIs(t, err, txn.ErrUnavailable, name)
		}
	}
}

func TestNoSlot(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	ran := func(context.Context, *txn.Unit) error {
		t.Error("it ran")
		return nil
	}
	full := txn.New(b.db, limit.NewGate(1, 0, soon), slog.New(slog.DiscardHandler))
	require.NoError(t, full.Do(t.Context(), func(context.Context, *txn.Unit) error {
		err := full.Do(t.Context(), ran) // not nested: it is another caller's context
		require.ErrorIs(t, err, limit.ErrQueueFull)
		require.NotErrorIs(t, err, txn.ErrUnavailable)
		return nil
	}))
	require.NoError(t, b.Do(t.Context(), func(context.Context, *txn.Unit) error {
		err := b.Do(b.within(10*time.Millisecond), ran)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, txn.ErrUnavailable)
		return nil
	}))
	b.gate.Close()
	err := b.Do(t.Context(), ran)
	require.ErrorIs(t, err, limit.ErrClosed)
	require.ErrorIs(t, err, txn.ErrClosed, "whatever has been closed, it is one error to callers")
	b.gate = limit.NewGate(1, 0, soon) // for the check at the end
}

// Without a gate a unit takes no slot, only a connection.
func TestBackgroundTakesNoSlot(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	background := txn.New(b.db, nil, slog.New(slog.DiscardHandler))
	slot, ok := b.gate.TryAcquire()
	require.True(t, ok)
	require.NoError(t, background.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
		require.Equal(t, 1, b.gate.State().InUse)
		return insert(ctx, u, 3)
	}))
	slot.Release()
	require.Equal(t, 1, b.n(3))
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, 4)
	const callers, each = 16, 20
	var inside, committed atomic.Int64
	errs := make(chan error, callers)
	for range callers {
		go func() {
			for range each {
				err := b.DoRepeatable(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
					if n := inside.Add(1); n > 4 {
						t.Errorf("%d units at once", n)
					}
					defer inside.Add(-1)
					u.AfterCommit(func() { committed.Add(1) })
					return add(ctx, u, 1)
				})
				if err != nil && !errors.Is(err, txn.ErrContention) {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range callers {
		require.NoError(t, receive(t, errs))
	}
	require.Equal(t, int64(b.n(1)), committed.Load(), "a hook for each commit, none for anything else")
	require.Positive(t, committed.Load())
}

// What is queued goes with what comes next, and before COMMIT at the latest.
func TestQueue(t *testing.T) {
	t.Parallel()
	for _, together := range []bool{false, true} {
		b := setup(t, 1)
		var h hooks
		require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
			if together {
				u.CommitTogether()
			}
			h.on(u)
			u.Queue(`UPDATE rows SET n = n + 1 WHERE id = 1`)
			n, err := read[int](ctx, u, `SELECT n FROM rows WHERE id = 1`)
			require.NoError(t, err)
			require.Equal(t, 1, n, "in the order in which it was queued")
			u.Queue(`UPDATE rows SET n = n + 10 WHERE id = 1`)
			require.NoError(t, u.Flush(ctx))
			u.Queue(`UPDATE rows SET n = n + 100 WHERE id = 1`)
			return nil
		}))
		require.Equal(t, 111, b.n(1))
		require.Equal(t, []string{"committed"}, h.ran())
	}
}

// A queued statement that cannot be run fails the unit, wherever its error shows.
func TestQueuedStatementThatFails(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(context.Context, *txn.Unit) error{
		"before COMMIT":       func(context.Context, *txn.Unit) error { return nil },
		"with COMMIT":         func(_ context.Context, u *txn.Unit) error { u.CommitTogether(); return nil },
		"with a flush":        func(ctx context.Context, u *txn.Unit) error { return u.Flush(ctx) },
		"with a statement":    func(ctx context.Context, u *txn.Unit) error { return add(ctx, u, 2) },
		"though it is hidden": func(ctx context.Context, u *txn.Unit) error { _ = u.Flush(ctx); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, 1)
			pid := b.pid()
			var h hooks
			around := 0
			err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
				h.on(u)
				u.AroundCommit(func() func() { around++; return func() { around-- } })
				require.NoError(t, insert(ctx, u, 3))
				u.Queue(`UPDATE rows SET n = 1 / n WHERE id = 1`)
				return then(ctx, u)
			})
			require.Error(t, err)
			require.NotErrorIs(t, err, txn.ErrCommitUnknown)
			require.NotErrorIs(t, err, txn.ErrUnavailable)
			require.Empty(t, h.ran())
			require.Zero(t, around)
			require.Equal(t, -1, b.n(3))
			require.Equal(t, pid, b.pid(), "the connection is as good as before")
		})
	}
}

// What is queued with COMMIT can be in somebody's way as well.
func TestConflictOfAQueuedStatementIsRetried(t *testing.T) {
	t.Parallel()
	for _, together := range []bool{false, true} {
		b := setup(t, 1)
		b.exec(`CREATE SEQUENCE tries`)
		var h hooks
		require.NoError(t, b.Do(t.Context(), func(_ context.Context, u *txn.Unit) error {
			if together {
				u.CommitTogether()
			}
			h.on(u)
			u.Queue(`UPDATE rows SET n = n + 1 WHERE id = 1`)
			u.Queue(`DO $$ BEGIN IF nextval('tries') < 3 THEN RAISE EXCEPTION USING ERRCODE = '40001'; END IF; END $$`)
			return nil
		}))
		require.Equal(t, 1, b.n(1))
		require.Equal(t, 2, b.log.count())
		require.Equal(t, []string{"committed"}, h.ran())
	}
}

// Rows that nobody has read to the end are a mistake, not a commit.
func TestConnectionLeftBusy(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		require.NoError(t, insert(ctx, u, 3))
		require.PanicsWithValue(t, "ouch", func() {
			_ = u.Select(ctx, func(pgx.Rows) error { panic("ouch") }, `SELECT generate_series(1, 100000)`)
		})
		return nil
	})
	require.Error(t, err)
	require.NotErrorIs(t, err, txn.ErrCommitUnknown)
	require.Equal(t, -1, b.n(3))
	b.pid()
}

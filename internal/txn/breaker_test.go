package txn_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/txn"
)

// changes records what a breaker becomes.
type changes struct {
	mu     sync.Mutex
	states []string
}

func (c *changes) add(state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = append(c.states, state)
}

func (c *changes) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.states)
}

// lose fails as the database does that goes away.
func lose(ctx context.Context, u *txn.Unit) error {
	_, err := u.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
	return err
}

func work(context.Context, *txn.Unit) error { return nil }

func (b *bundle) mustNotRun(context.Context, *txn.Unit) error {
	b.t.Error("it ran")
	return nil
}

func TestBreakerOpensAndKeepsEverybodyOut(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	var c changes
	breaker := txn.NewBreaker(3, time.Hour, c.add)
	b.Guard(breaker)
	for range 2 {
		require.ErrorIs(t, b.Do(t.Context(), lose), txn.ErrUnavailable)
	}
	require.NoError(t, b.Do(t.Context(), work), "only failures in a row count")
	for range 3 {
		require.Equal(t, "closed", breaker.State())
		require.False(t, breaker.Open())
		err := b.Do(t.Context(), lose)
		require.ErrorIs(t, err, txn.ErrUnavailable)
		require.NotErrorIs(t, err, txn.ErrBreakerOpen)
	}
	require.True(t, breaker.Open())
	for name, run := range b.all() {
		err := run(t.Context(), b.mustNotRun)
		require.ErrorIs(t, err, txn.ErrBreakerOpen, name)
		require.ErrorIs(t, err, txn.ErrUnavailable, name)
		require.InDelta(t, time.Hour, txn.RetryAfter(fmt.Errorf("wrapped: %w", err)), float64(time.Minute), name)
		require.Zero(t, b.gate.State().InUse)
	}
	require.Equal(t, []string{"open"}, c.all())
	require.Zero(t, txn.RetryAfter(txn.ErrUnavailable))
}

func TestBreakerIsForTheDatabaseOnly(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	breaker := txn.NewBreaker(1, time.Hour, nil)
	b.Guard(breaker)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	ours := func(run func(context.Context, *txn.Unit) error) func() error {
		return func() error { return b.Do(b.within(soon), run) }
	}
	for name, try := range map[string]func() error{
		"the function's own error": ours(func(context.Context, *txn.Unit) error { return errors.New("mine") }),
		"a statement's error":      ours(func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 1) }),
		"an internal error":        ours(func(ctx context.Context, u *txn.Unit) error { return raise(ctx, u, "XX000") }),
		"contention":               ours(conflict),
		"nesting": ours(func(ctx context.Context, _ *txn.Unit) error {
			return b.Do(ctx, b.mustNotRun)
		}),
		"a caller that was gone": func() error { return b.Do(cancelled, b.mustNotRun) },
		"a caller that leaves": func() error {
			ctx, cancel := context.WithCancel(t.Context())
			return b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
				cancel()
				return insert(ctx, u, 3)
			})
		},
		"a deadline that the database heeds": func() error {
			return b.Do(b.within(time.Second), func(ctx context.Context, u *txn.Unit) error {
				_, err := u.Exec(ctx, `SELECT pg_sleep(3600)`)
				return err
			})
		},
		"a full queue": func() error {
			slot, ok := b.gate.TryAcquire()
			require.True(t, ok)
			defer slot.Release()
			return b.Do(b.within(10*time.Millisecond), b.mustNotRun)
		},
	} {
		require.Error(t, try(), name)
		require.Equal(t, "closed", breaker.State(), name)
	}
	b.gate.Close()
	require.ErrorIs(t, b.Do(t.Context(), b.mustNotRun), limit.ErrClosed)
	require.Equal(t, "closed", breaker.State())
	b.gate = limit.NewGate(1, 0, soon) // for the check at the end
}

// An operation of a group is a probe like any other, also after one that said nothing.
func TestBreakerProbesByAGroup(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	ran := 0
	group := txn.NewGroup(b.Manager, txn.GroupRules[int]{Workers: 1, Size: 1}, func(ctx context.Context, ops []*txn.Op[int]) {
		ran++
		ops[0].Err = b.Do(ctx, work)
	})
	b.Guard(txn.NewBreaker(1, time.Hour, nil))
	require.Error(t, b.Do(t.Context(), lose))
	require.ErrorIs(t, group.Do(t.Context(), 1), txn.ErrBreakerOpen)

	breaker := txn.NewBreaker(1, 20*time.Millisecond, nil)
	b.Guard(breaker)
	require.Error(t, b.Do(t.Context(), lose))
	require.Eventually(t, func() bool { return breaker.State() == "half-open" }, soon, time.Millisecond)
	require.NoError(t, b.DoRepeatable(b.within(soon), func(context.Context, *txn.Unit) error {
		require.ErrorIs(t, group.Do(t.Context(), 1), txn.ErrBreakerOpen, "one probe at a time")
		return nil
	}))
	require.Zero(t, ran, "what is refused is refused before it waits for a slot")
	require.NoError(t, group.Do(t.Context(), 1))

	require.Error(t, b.Do(t.Context(), lose))
	require.Eventually(t, func() bool { return breaker.State() == "half-open" }, soon, time.Millisecond)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, b.Do(cancelled, b.mustNotRun), context.Canceled)
	require.NoError(t, group.Do(t.Context(), 1))
	require.Equal(t, "closed", breaker.State())
}

// What fails in a transaction of its own, after the one that was common, has failed once.
func TestBreakerCountsOnceWhatAGroupTriesAlone(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	breaker := txn.NewBreaker(3, time.Hour, nil)
	b.Guard(breaker)
	begun, goOn := make(chan struct{}), make(chan struct{})
	group := txn.NewGroup(b.Manager, txn.GroupRules[int]{
		Workers: 1, Size: 2, Fits: func([]*txn.Op[int], int) bool { return true },
	}, func(ctx context.Context, ops []*txn.Op[int]) {
		if len(ops) == 1 { // which has the others wait, and go together
			close(begun)
			<-goOn
			return
		}
		for _, op := range ops {
			op.RunAlone(func() error {
				return b.Do(ctx, func(context.Context, *txn.Unit) error { return txn.ErrUnavailable })
			})
		}
	})
	first := start(func() error { return group.Do(t.Context(), 0) })
	<-begun
	ends := make(chan error, 2)
	for range 2 {
		group.Start(t.Context(), soon, 1, func(err error) { ends <- err })
	}
	close(goOn)
	require.NoError(t, receive(t, first))
	for range 2 {
		require.ErrorIs(t, receive(t, ends), txn.ErrUnavailable)
	}
	require.Equal(t, "closed", breaker.State(), "two failures of three")
}

func TestBreakerProbes(t *testing.T) {
	t.Parallel()
	b := setup(t, 2)
	var c changes
	breaker := txn.NewBreaker(1, 20*time.Millisecond, c.add)
	b.Guard(breaker)
	halfOpen := func() {
		t.Helper()
		require.Eventually(t, func() bool { return breaker.State() == "half-open" }, soon, time.Millisecond)
		require.False(t, breaker.Open())
	}
	require.Error(t, b.Do(t.Context(), lose))
	halfOpen()
	require.Error(t, b.Do(t.Context(), lose))
	require.Equal(t, []string{"open", "half-open", "open"}, c.all(), "a probe that fails opens it again")

	// A probe that says nothing leaves the question open, to the next one.
	halfOpen()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, b.Do(cancelled, b.mustNotRun), context.Canceled)
	require.Equal(t, "half-open", breaker.State())

	// Nor does one that is called off at work, although the database says that it was.
	ctx, leave := context.WithCancel(t.Context())
	probe := start(func() error {
		return b.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
			_, err := u.Exec(ctx, `SELECT pg_sleep(3600)`)
			return err
		})
	})
	b.await(`SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`)
	leave()
	err := receive(t, probe)
	require.ErrorIs(t, err, context.Canceled)
	requireState(t, err, "57014")
	require.Equal(t, []string{"open", "half-open", "open", "half-open"}, c.all())

	require.NoError(t, b.Do(b.within(soon), func(context.Context, *txn.Unit) error {
		require.ErrorIs(t, b.Do(t.Context(), b.mustNotRun), txn.ErrBreakerOpen, "one probe at a time")
		return nil
	}))
	require.Equal(t, "closed", breaker.State())
	require.NoError(t, b.Do(t.Context(), work))
}

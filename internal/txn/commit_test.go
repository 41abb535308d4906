package txn_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/txn"
	"github.com/stockroom/stockroom/test/faults"
)

// commitProxy stands between the manager and the database, and cuts the
// connection at the COMMIT of the next transaction once it is armed.
type commitProxy struct {
	dsn     string
	deliver bool // the COMMIT reaches the database, and only its answer is lost
	armed   atomic.Bool
}

func newCommitProxy(t *testing.T, dsn string, deliver bool) *commitProxy {
	t.Helper()
	config, err := pgconn.ParseConfig(dsn)
	require.NoError(t, err)
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	p := &commitProxy{deliver: deliver}
	host := standBefore(t, network, address, p.serve, func() {})
	u := url.URL{Scheme: "postgres", User: url.UserPassword(config.User, config.Password), Host: host, Path: "/" + config.Database, RawQuery: "sslmode=disable"}
	p.dsn = u.String()
	return p
}

// standBefore stands between whoever connects to the address that it returns and the
// database, for as long as the test runs: serve has both connections until it returns,
// which end makes it do.
func standBefore(t *testing.T, network, address string, serve func(client, server net.Conn), end func()) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).Dial(network, address)
			if err != nil {
				_ = client.Close()
				continue
			}
			conns.Go(func() { serve(client, server) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		end()
		conns.Wait()
	})
	return l.Addr().String()
}

func (p *commitProxy) serve(client, server net.Conn) {
	var cut atomic.Bool
	var back sync.WaitGroup
	back.Go(func() {
		defer client.Close()
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil || cut.Load() {
				return // with an answer to COMMIT, the database has committed
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			break
		}
		if faults.IsCommit(buffer[:n]) && p.armed.CompareAndSwap(true, false) {
			cut.Store(true)
			if p.deliver {
				_, _ = server.Write(buffer[:n])
				back.Wait()
			}
			break
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			break
		}
	}
	_, _ = io.WriteString(server, "X\x00\x00\x00\x04")
	_ = server.Close()
	_ = client.Close()
	back.Wait()
}

func TestConnectionLostWhileCommitting(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]struct{ delivered, together bool }{
		"the answer is lost":           {delivered: true},
		"the commit is lost":           {},
		"the answer to all is lost":    {delivered: true, together: true},
		"the commit with more is lost": {together: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			delivered, together := at.delivered, at.together
			dsn := pgtest.Empty(t)
			b := setupOn(t, dsn, 1)
			proxy := newCommitProxy(t, dsn, delivered)
			b.open(proxy.dsn)
			require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 3) }))
			require.Equal(t, 1, b.n(3), "the proxy works")

			proxy.armed.Store(true)
			var h hooks
			runs := 0
			err := b.Do(b.within(soon), func(_ context.Context, u *txn.Unit) error {
				runs++
				h.on(u)
				u.Queue(`INSERT INTO rows VALUES (4, 1)`)
				if together {
					u.CommitTogether()
				}
				return nil
			})
			require.ErrorIs(t, err, txn.ErrCommitUnknown)
			require.NotErrorIs(t, err, txn.ErrUnavailable, "that would say that nothing was committed")
			require.Equal(t, 1, runs, "it is never replayed")
			require.Empty(t, h.ran(), "nobody knows of a commit")
			b.requireIdle()
			want := -1
			if delivered {
				want = 1
			}
			require.Equal(t, want, b.n(4))
			require.NoError(t, b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error { return insert(ctx, u, 5) }))
		})
	}
}

// The database ends the session in the middle of COMMIT: what it says then is
// about the session, not about the transaction.
func TestSessionEndedWhileCommitting(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	b.onCommit(`PERFORM pg_sleep(3600)`)
	var h hooks
	done := start(func() error {
		return b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
			h.on(u)
			return insert(ctx, u, 3)
		})
	})
	b.await(`SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep' AND query = 'commit'`)
	pid := scan[int](t, b.other, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'commit'`)
	b.kill(pid)
	require.ErrorIs(t, receive(t, done), txn.ErrCommitUnknown)
	require.Empty(t, h.ran(), "nobody knows of a commit")
}

// What the database refuses at COMMIT is refused, and nobody is in doubt.
func TestCommitThatFails(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	before := b.pid()
	b.exec(`UPDATE rows SET n = -id; ALTER TABLE rows ADD CONSTRAINT one_n UNIQUE (n) DEFERRABLE INITIALLY DEFERRED`)
	var h hooks
	runs := 0
	err := b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		runs++
		h.on(u)
		require.NoError(t, insert(ctx, u, 3))
		require.NoError(t, insert(ctx, u, 4))
		return nil
	})
	requireState(t, err, "23505")
	require.NotErrorIs(t, err, txn.ErrCommitUnknown)
	require.NotErrorIs(t, err, txn.ErrUnavailable)
	require.Equal(t, 1, runs)
	require.Empty(t, h.ran())
	require.Equal(t, -1, b.n(3))
	require.Equal(t, before, b.pid())
}

func TestConflictAtCommitIsRetried(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	// A sequence does not roll back: the first commit fails, the second does not.
	b.exec(`CREATE SEQUENCE tries`)
	b.onCommit(`IF nextval('tries') = 1 THEN RAISE EXCEPTION USING ERRCODE = '40001'; END IF`)
	var h hooks
	runs := 0
	require.NoError(t, b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
		runs++
		h.on(u)
		return insert(ctx, u, 3)
	}))
	require.Equal(t, 2, runs)
	require.Equal(t, []string{"committed"}, h.ran())
	require.Equal(t, 1, b.n(3))
}

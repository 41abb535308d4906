package txn_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/txn"
	"github.com/stockroom/stockroom/test/faults"
)

// around registers an AroundCommit hook.
func (h *hooks) around(u *txn.Unit) {
	u.AroundCommit(func() func() {
		h.hook("before")()
		return h.hook("settled")
	})
}

func TestAroundCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, 1)
	var h hooks
	require.NoError(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		h.on(u)
		h.around(u)
		require.Empty(t, h.ran())
		return insert(ctx, u, 3)
	}))
	require.Equal(t, []string{"before", "settled", "committed"}, h.ran())

	h = hooks{}
	require.Error(t, b.Do(t.Context(), func(_ context.Context, u *txn.Unit) error {
		h.around(u)
		return errors.New("refused")
	}))
	require.Empty(t, h.ran(), "there is no commit")

	b.exec(`UPDATE rows SET n = -id; ALTER TABLE rows ADD CONSTRAINT one_n UNIQUE (n) DEFERRABLE INITIALLY DEFERRED`)
	require.Error(t, b.Do(t.Context(), func(ctx context.Context, u *txn.Unit) error {
		h.around(u)
		return errors.Join(insert(ctx, u, 4), insert(ctx, u, 5))
	}))
	require.Equal(t, []string{"before", "settled"}, h.ran(), "the database has answered")
}

// A COMMIT that was sent may be carried out long after the connection is gone.
func TestAroundCommitInDoubt(t *testing.T) {
	t.Parallel()
	for name, pooled := range map[string]bool{"directly": false, "behind a pooler": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Empty(t)
			b := setupOn(t, dsn, 1)
			config, err := pgconn.ParseConfig(dsn)
			require.NoError(t, err)
			network, address := pgconn.NetworkAddress(config.Host, config.Port)
			if pooled {
				network, address = "tcp", listenAsPooler(t, network, address)
			}
			proxy, err := faults.Listen(network, address)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, proxy.Close()) })
			b.open((&url.URL{
				Scheme: "postgres", User: url.UserPassword(config.User, config.Password), Path: "/" + config.Database,
				Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(proxy.Port())), RawQuery: "sslmode=disable",
			}).String())
			b.exec(`SELECT pg_advisory_lock(4711)`)
			// pgx tries to cancel what it has lost sight of.
			const wait = `PERFORM pg_advisory_xact_lock(4711);`
			b.onCommit(`BEGIN ` + wait + ` EXCEPTION WHEN query_canceled THEN ` + wait + ` END`)

			require.NoError(t, b.Do(b.within(soon), func(context.Context, *txn.Unit) error { return nil })) // connects
			require.NoError(t, proxy.Set(faults.Rule{Commit: faults.CommitUnanswered, Refuse: true}))
			settled := make(chan struct{})
			err = b.Do(b.within(soon), func(ctx context.Context, u *txn.Unit) error {
				u.AroundCommit(func() func() { return func() { close(settled) } })
				return insert(ctx, u, 3)
			})
			require.ErrorIs(t, err, txn.ErrCommitUnknown)
			b.awaitBlocked(1)
			require.NoError(t, proxy.Set(faults.Rule{}))
			b.await(`SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()
				AND pid <> pg_backend_pid() AND query LIKE '%pg_stat_activity%' AND state = 'idle'`) // it was looked for
			select {
			case <-settled:
				t.Fatal("settled while the database is at it")
			default:
			}
			require.Equal(t, -1, b.n(3))

			b.exec(`SELECT pg_advisory_unlock(4711)`)
			receive(t, settled)
			require.Equal(t, 1, b.n(3))
		})
	}
}

// listenAsPooler leads to the database as a pooler of sessions does: it tells process ids
// of its own, and keeps a session whose client has gone for the next one.
func listenAsPooler(t *testing.T, network, address string) string {
	t.Helper()
	ended := make(chan struct{})
	return standBefore(t, network, address, func(client, server net.Conn) {
		var sent sync.WaitGroup
		sent.Go(func() {
			_, _ = io.Copy(server, client)
			<-ended
			_ = server.Close()
		})
		defer sent.Wait()
		defer client.Close()
		renamed := false
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil {
				return
			}
			// BackendKeyData: its length, the process id, a key
			if at := bytes.Index(buffer[:n], []byte{'K', 0, 0, 0, 12}); at >= 0 && !renamed {
				renamed = true
				binary.BigEndian.PutUint32(buffer[at+5:], 1<<30)
			}
			_, _ = client.Write(buffer[:n]) // who has gone does not keep the session from going on
		}
	}, func() { close(ended) })
}

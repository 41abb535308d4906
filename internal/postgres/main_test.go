package postgres_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	connectTimeout = 10 * time.Second
	// soon is when a test that waits for something gives up.
	soon = 20 * time.Second
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// receive returns the next value of c, or fails where none comes.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(soon):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// listener is a server that does with each connection what serve says, and
// counts them.
type listener struct {
	net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
}

func listen(t testing.TB, serve func(net.Conn)) *listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &listener{Listener: l}
	server.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server.mu.Lock()
			server.conns = append(server.conns, conn)
			server.mu.Unlock()
			server.wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		server.mu.Lock()
		for _, conn := range server.conns {
			_ = conn.Close()
		}
		server.mu.Unlock()
		server.wg.Wait()
	})
	return server
}

func (l *listener) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

func (l *listener) dsn(password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("user", password), Host: l.Addr().String(), Path: "/db", RawQuery: "sslmode=disable"}
	return u.String()
}

// through returns a connection string that leads to dsn's server by way of a
// proxy, which changes what the client sends.
func through(t testing.TB, dsn string, change func(sent []byte) []byte) string {
	t.Helper()
	_, changed := proxy(t, dsn, change, func() {})
	return changed
}

// proxy stands before dsn's server. It calls before each time that it is about to
// pass something on.
func proxy(t testing.TB, dsn string, change func(sent []byte) []byte, before func()) (*listener, string) {
	t.Helper()
	config, err := pgconn.ParseConfig(dsn)
	require.NoError(t, err)
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	l := listen(t, func(client net.Conn) {
		server, err := new(net.Dialer).Dial(network, address)
		if err != nil {
			return
		}
		defer server.Close()
		var both sync.WaitGroup
		both.Go(func() {
			defer server.Close()
			pass(server, client, change, before)
		})
		pass(client, server, func(b []byte) []byte { return b }, before)
		_ = client.Close()
		both.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.UserPassword(config.User, config.Password), Host: l.Addr().String(), Path: "/" + config.Database, RawQuery: "sslmode=disable"}
	return l, u.String()
}

func pass(to io.Writer, from io.Reader, change func([]byte) []byte, before func()) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		before()
		if _, err := to.Write(change(buffer[:n])); err != nil {
			return
		}
	}
}

// freezer is a proxy that can stop moving bytes without closing anything, as a
// server does that is paused.
type freezer struct {
	*listener
	dsn string

	mu      sync.Mutex
	flowing chan struct{} // closed while bytes move
}

func newFreezer(t testing.TB, dsn string) *freezer {
	t.Helper()
	f := &freezer{flowing: make(chan struct{})}
	close(f.flowing)
	f.listener, f.dsn = proxy(t, dsn, func(b []byte) []byte { return b }, func() {
		f.mu.Lock()
		flowing := f.flowing
		f.mu.Unlock()
		<-flowing
	})
	t.Cleanup(f.thaw)
	return f
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flowing = make(chan struct{})
}

func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.flowing:
	default:
		close(f.flowing)
	}
}

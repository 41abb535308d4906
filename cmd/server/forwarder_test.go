package main

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// forwarder is a TCP address in front of a database: a database that can be down
// and come up, and fail.
type forwarder struct {
	t       *testing.T
	dsn     string // of the database, by this address
	network string // of the database itself
	address string
	socket  int // bound to the port, which nobody else can get, and at first not listening

	mu       sync.Mutex
	listener net.Listener // nil: connections are refused
	trouble  trouble
	accepted int
	open     map[net.Conn]struct{}
	running  sync.WaitGroup
}

// trouble is what befalls connections.
type trouble int

const (
	noTrouble      trouble = iota
	cutConnections         // they are closed as soon as they are accepted
	cutStatements          // they are closed when they are used
	frozen                 // nothing that is sent arrives, and nobody says so
)

// newForwarder returns a forwarder to the database of dsn that refuses connections.
func newForwarder(t *testing.T, dsn string) *forwarder {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	f := &forwarder{t: t, open: map[net.Conn]struct{}{}}
	f.network, f.address = "tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
	if cfg.Host[0] == '/' {
		f.network, f.address = "unix", cfg.Host+"/.s.PGSQL."+strconv.Itoa(int(cfg.Port))
	}

	syscall.ForkLock.RLock()
	f.socket, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(f.socket)
	}
	syscall.ForkLock.RUnlock()
	require.NoError(t, err)
	t.Cleanup(f.close)
	require.NoError(t, syscall.Bind(f.socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, err := syscall.Getsockname(f.socket)
	require.NoError(t, err)
	inet, ok := bound.(*syscall.SockaddrInet4)
	require.True(t, ok)

	user := url.User(cfg.User)
	if cfg.Password != "" {
		user = url.UserPassword(cfg.User, cfg.Password)
	}
	f.dsn = (&url.URL{
		Scheme: "postgres", User: user, Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(inet.Port)),
		Path: "/" + cfg.Database, RawQuery: "sslmode=disable",
	}).String()
	return f
}

// up makes it accept connections, on which trouble comes from now on: also on those
// that there are.
func (f *forwarder) up(trouble trouble) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble = trouble
	if trouble == cutConnections {
		for conn := range f.open {
			_ = conn.Close()
		}
	}
	if f.listener != nil {
		return
	}
	require.NoError(f.t, syscall.Listen(f.socket, syscall.SOMAXCONN))
	file := os.NewFile(uintptr(f.socket), "forwarder")
	listener, err := net.FileListener(file) // has a descriptor of its own
	require.NoError(f.t, errors.Join(err, file.Close()))
	f.listener = listener
	f.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.running.Go(func() { f.forward(conn) })
		}
	})
}

// connections is how many have been accepted.
func (f *forwarder) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accepted
}

func (f *forwarder) forward(client net.Conn) {
	defer client.Close()
	database, err := net.Dial(f.network, f.address)
	if err != nil {
		return
	}
	defer database.Close()
	f.mu.Lock()
	f.accepted++
	f.open[client] = struct{}{}
	cut := f.trouble == cutConnections
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.open, client)
		f.mu.Unlock()
	}()
	if cut {
		return
	}
	f.running.Go(func() {
		defer client.Close()
		_, _ = io.Copy(client, database)
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		switch {
		case err != nil || f.cuts(buffer[:n]):
			return
		case f.is(frozen):
			continue
		}
		if _, err := database.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (f *forwarder) is(trouble trouble) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble == trouble
}

// cuts tells whether what a client sends ends its connection.
func (f *forwarder) cuts(sent []byte) bool {
	// The protocol's messages that begin a statement: Query and Parse. What comes
	// before them begins with others.
	return f.is(cutStatements) && len(sent) > 0 && (sent[0] == 'Q' || sent[0] == 'P')
}

func (f *forwarder) close() {
	f.mu.Lock()
	f.trouble = cutConnections
	for conn := range f.open {
		_ = conn.Close()
	}
	if f.listener != nil {
		_ = f.listener.Close()
	} else {
		_ = syscall.Close(f.socket)
	}
	f.mu.Unlock()
	f.running.Wait()
}

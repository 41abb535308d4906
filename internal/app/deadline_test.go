package app_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/stockroom/stockroom/internal/app"
)

// TestConnOfClient: a client's connection is one as any other, its deadlines above all.
func TestConnOfClient(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (served, client net.Conn, stop func(), err error) {
		served, client, err = pipe(t)
		return served, client, func() {
			_ = served.Close()
			_ = client.Close()
		}, err
	})
}

// pipe returns the two ends of a connection.
func pipe(tb testing.TB) (served, client net.Conn, err error) {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = listener.Close() }()
	if client, err = new(net.Dialer).DialContext(tb.Context(), "tcp", listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	accepted, err := listener.Accept()
	if err != nil {
		return nil, nil, err
	}
	tcp, ok := accepted.(*net.TCPConn)
	if !ok {
		return nil, nil, errors.New("not a TCP connection")
	}
	return app.NewClientConn(tcp), client, nil
}

// TestDeadlineMovedToLater: a read or write that is under way when a deadline passes goes
// on where another one has taken its place, and ends with that.
func TestDeadlineMovedToLater(t *testing.T) {
	t.Parallel()
	const sooner, later = 20 * time.Millisecond, 200 * time.Millisecond
	for name, of := range map[string]struct {
		set func(net.Conn, time.Time) error
		run func(net.Conn) (int, error)
	}{
		"read": {net.Conn.SetReadDeadline, func(c net.Conn) (int, error) { return c.Read(make([]byte, 1)) }},
		// More than the buffers of both ends hold.
		"write": {net.Conn.SetWriteDeadline, func(c net.Conn) (int, error) { return c.Write(make([]byte, 64<<20)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			served, client, err := pipe(t)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, errors.Join(served.Close(), client.Close())) })
			begun := time.Now()
			require.NoError(t, of.set(served, begun.Add(sooner)))
			require.NoError(t, of.set(served, begun.Add(later)))
			_, err = of.run(served)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.GreaterOrEqual(t, time.Since(begun), later)

			// And back to sooner, while it is under way.
			require.NoError(t, of.set(served, time.Time{}))
			ended := make(chan error, 1)
			go func() {
				_, err := of.run(served)
				ended <- err
			}()
			require.NoError(t, of.set(served, time.Now().Add(sooner)))
			require.ErrorIs(t, <-ended, os.ErrDeadlineExceeded)
		})
	}
}

// TestWriteGoesOnAfterDeadline: what has been written when a deadline passes is not
// written again where another one has taken its place.
func TestWriteGoesOnAfterDeadline(t *testing.T) {
	t.Parallel()
	served, client, err := pipe(t)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	sent := make([]byte, 64<<20)
	for i := range sent {
		sent[i] = byte(i >> 8)
	}
	passes := time.Now().Add(20 * time.Millisecond)
	require.NoError(t, served.SetWriteDeadline(passes))
	require.NoError(t, served.SetWriteDeadline(time.Time{}))
	written := make(chan error, 1)
	go func() {
		n, err := served.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		written <- errors.Join(err, served.Close())
	}()
	_, err = io.CopyN(io.Discard, client, 1) // it is under way
	require.NoError(t, err)
	<-time.After(time.Until(passes))
	rest, err := io.ReadAll(client)
	require.NoError(t, err)
	require.NoError(t, <-written)
	require.Equal(t, sent[1:], rest)
}

// TestWokenReader: net/http wakes its own reader by a deadline in the past, and reads on
// later with the one that it has set since.
func TestWokenReader(t *testing.T) {
	t.Parallel()
	served, client, err := pipe(t)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, errors.Join(served.Close(), client.Close())) })
	one := make([]byte, 1)
	for _, before := range []time.Duration{0, 50 * time.Millisecond, time.Hour} {
		if before > 0 {
			require.NoError(t, served.SetReadDeadline(time.Now().Add(before)))
		}
		woken := make(chan error, 1)
		go func() {
			_, err := served.Read(one)
			woken <- err
		}()
		require.NoError(t, served.SetReadDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, <-woken, os.ErrDeadlineExceeded)
		require.NoError(t, served.SetReadDeadline(time.Time{}))

		begun := time.Now()
		require.NoError(t, served.SetReadDeadline(begun.Add(100*time.Millisecond)))
		_, err := served.Read(one)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begun), 100*time.Millisecond)

		require.NoError(t, served.SetReadDeadline(time.Time{}))
		_, err = client.Write([]byte("x"))
		require.NoError(t, err)
		_, err = served.Read(one)
		require.NoError(t, err)
	}
}

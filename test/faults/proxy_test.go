package faults_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/test/faults"
)

const soon = 10 * time.Second

// messages are a COMMIT as pgx sends it: by itself, and behind other statements.
var messages = map[string]string{
	"simple":   "Q\x00\x00\x00\x0bcommit\x00",
	"prepared": "...S\x00\x00\x00\x04B\x00\x00\x00\x48\x00stmtcache_9505cacb7c710ed17125fcc6cb3669e8ddca6c8cd8af6a31\x00\x00\x00\x00\x00\x00\x00E\x00\x00\x00\x09\x00\x00\x00\x00\x00",
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// database answers each byte that it gets with that byte, and says what it got.
type database struct {
	listener net.Listener
	got      chan byte
	ended    chan error // of each connection
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d := &database{listener: listener, got: make(chan byte, 1<<20), ended: make(chan error, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go d.serve(conn)
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		<-done
	})
	return d
}

func (d *database) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		b, err := reader.ReadByte()
		if err != nil {
			d.ended <- err
			return
		}
		d.got <- b
		_, _ = conn.Write([]byte{b}) // to a client that may have left
	}
}

// receive returns the next n bytes that the database got.
func (d *database) receive(t *testing.T, n int) string {
	t.Helper()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	var text strings.Builder
	for text.Len() < n {
		select {
		case b := <-d.got:
			text.WriteByte(b)
		case <-timeout.C:
			t.Fatalf("the database got %q only", text.String())
		}
	}
	return text.String()
}

// end returns how the server's side of a connection ended.
func (d *database) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-d.ended:
		return err
	case <-time.After(soon):
		t.Fatal("the server's side is still open")
		return nil
	}
}

func newProxy(t *testing.T, d *database) *faults.Proxy {
	t.Helper()
	p, err := faults.Listen("tcp", d.listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func dial(t *testing.T, p *faults.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(soon)))
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
}

func receive(t *testing.T, conn net.Conn, n int) string {
	t.Helper()
	buffer := make([]byte, n)
	_, err := io.ReadFull(conn, buffer)
	require.NoError(t, err)
	return string(buffer)
}

// silent checks that nothing, not even an end, comes for a moment.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, conn.SetDeadline(time.Now().Add(soon)))
}

func isReset(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestPassAndCut(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	conn := dial(t, p)
	send(t, conn, messages["simple"])
	require.Equal(t, messages["simple"], receive(t, conn, len(messages["simple"])))
	require.Equal(t, 1, p.Links())
	require.Equal(t, 1, p.Cut())
	isReset(t, conn)
	require.Error(t, d.end(t))
	require.Zero(t, p.Cut())
}

func TestTheEndGetsThrough(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	conn := dial(t, p)
	send(t, conn, "x")
	require.Equal(t, "x", receive(t, conn, 1))
	require.NoError(t, conn.Close())
	require.ErrorIs(t, d.end(t), io.EOF)
}

func TestRefuseAndComeBack(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	for range 3 {
		require.NoError(t, p.Set(faults.Rule{Refuse: true}))
		_, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port()))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, p.Set(faults.Rule{}))
		conn := dial(t, p)
		send(t, conn, "x")
		require.Equal(t, "x", receive(t, conn, 1))
	}
}

func TestHangKeepsEverything(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	conn := dial(t, p)
	send(t, conn, "a")
	require.Equal(t, "a", receive(t, conn, 1))
	require.NoError(t, p.Set(faults.Rule{Hang: true}))
	send(t, conn, "b")
	silent(t, conn)
	late := dial(t, p) // accepted, and then nothing
	send(t, late, "c")
	silent(t, late)
	left := dial(t, p)
	send(t, left, "d")
	require.NoError(t, left.Close())
	require.Empty(t, d.ended)

	// What was on its way gets there, from those who have left as well.
	require.NoError(t, p.Set(faults.Rule{}))
	require.Equal(t, "b", receive(t, conn, 1))
	require.Equal(t, "c", receive(t, late, 1))
	require.Error(t, d.end(t))
	require.ElementsMatch(t, []byte("abcd"), []byte(d.receive(t, 4)))
}

func TestDelayAndTrickle(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	conn := dial(t, p)
	require.NoError(t, p.Set(faults.Rule{Delay: 30 * time.Millisecond}))
	begin := time.Now()
	send(t, conn, "x")
	require.Equal(t, "x", receive(t, conn, 1))
	require.GreaterOrEqual(t, time.Since(begin), 60*time.Millisecond)

	require.NoError(t, p.Set(faults.Rule{Rate: 1000}))
	begin = time.Now()
	send(t, conn, strings.Repeat("y", 200))
	receive(t, conn, 200)
	require.GreaterOrEqual(t, time.Since(begin), 200*time.Millisecond)

	// A rule that comes to its end holds nobody up.
	require.NoError(t, p.Set(faults.Rule{Delay: time.Hour}))
	send(t, conn, "z")
	silent(t, conn)
	require.NoError(t, p.Set(faults.Rule{}))
	require.Equal(t, "z", receive(t, conn, 1))
}

func TestCutAfter(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	conn := dial(t, p)
	send(t, conn, "0123456789")
	receive(t, conn, 10)
	d.receive(t, 10)
	require.NoError(t, p.Set(faults.Rule{CutAfter: 15}))
	send(t, conn, "0123456789") // what was sent before does not count
	receive(t, conn, 10)
	send(t, conn, "abcdefghij")
	require.Equal(t, "0123456789abcde", d.receive(t, 15))
	require.Error(t, d.end(t))
	_, err := io.ReadAll(conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestCommit(t *testing.T) {
	for name, message := range messages {
		t.Run(name, func(t *testing.T) { testCommit(t, message) })
	}
}

func testCommit(t *testing.T, message string) {
	t.Helper()
	t.Run("lost", func(t *testing.T) {
		d := newDatabase(t)
		p := newProxy(t, d)
		conn := dial(t, p)
		require.NoError(t, p.Set(faults.Rule{Commit: faults.CommitLost, Every: 2}))
		send(t, conn, message)
		require.Equal(t, message, receive(t, conn, len(message)))
		send(t, conn, message)
		isReset(t, conn)
		require.Error(t, d.end(t))
		require.Equal(t, message, d.receive(t, len(message)))
		require.Empty(t, d.got)
	})
	t.Run("unanswered", func(t *testing.T) {
		d := newDatabase(t)
		p := newProxy(t, d)
		conn := dial(t, p)
		send(t, conn, "x")
		receive(t, conn, 1)
		require.NoError(t, p.Set(faults.Rule{Commit: faults.CommitUnanswered}))
		send(t, conn, message)
		isReset(t, conn)
	})
	t.Run("silent", func(t *testing.T) {
		d := newDatabase(t)
		p := newProxy(t, d)
		conn := dial(t, p)
		require.NoError(t, p.Set(faults.Rule{Commit: faults.CommitSilent}))
		send(t, conn, message)
		require.Equal(t, message, d.receive(t, len(message)))
		silent(t, conn)
		require.NoError(t, conn.Close())
		require.ErrorIs(t, d.end(t), io.EOF)
	})
	t.Run("late", func(t *testing.T) {
		d := newDatabase(t)
		p := newProxy(t, d)
		conn := dial(t, p)
		require.NoError(t, p.Set(faults.Rule{Commit: faults.CommitLate, Late: time.Hour}))
		send(t, conn, message)
		isReset(t, conn)
		require.Empty(t, d.got)
		require.NoError(t, p.Set(faults.Rule{}))
		require.Equal(t, message, d.receive(t, len(message)))
		require.Error(t, d.end(t))
	})
}

func TestStrand(t *testing.T) {
	d := newDatabase(t)
	p := newProxy(t, d)
	conn := dial(t, p)
	send(t, conn, "x")
	receive(t, conn, 1)
	require.Equal(t, 1, p.Strand())
	require.Error(t, d.end(t))
	send(t, conn, strings.Repeat("y", 1<<20))
	silent(t, conn)
	// Whoever comes now finds everything in order.
	next := dial(t, p)
	send(t, next, "z")
	require.Equal(t, "z", receive(t, next, 1))
}

func TestClose(t *testing.T) {
	d := newDatabase(t)
	p, err := faults.Listen("tcp", d.listener.Addr().String())
	require.NoError(t, err)
	conn := dial(t, p)
	require.NoError(t, p.Set(faults.Rule{Hang: true}))
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	isReset(t, conn)
	require.ErrorIs(t, p.Set(faults.Rule{}), net.ErrClosed)
}

package main

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// Those tests that say how long an end takes are not parallel to others.

func TestStartAndStop(t *testing.T) {
	dir := newDataDir(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		took := startAndStop(t, dir, sig, sig == syscall.SIGINT)
		require.Less(t, took, promptly, sig)
		t.Logf("%s: %s", sig, took)
	}
}

func startAndStop(t *testing.T, dir string, sig syscall.Signal, first bool) (took time.Duration) {
	t.Helper()
	s := start(t, dir)
	require.Equal(t, answer{http.StatusOK, nil, `{"status":"alive"}`}, s.get("/livez").bare())
	s.awaitReady()
	require.Equal(t, answer{http.StatusOK, nil, `{"status":"ready"}`}, s.get("/readyz").bare())
	if first {
		require.Equal(t, http.StatusCreated, s.put("/v1/items/kept", `{"a":1}`).status)
	}
	require.JSONEq(t, `{"a":1}`, s.get("/v1/items/kept").body)
	postgres := s.postgres()

	took = s.stop(sig)
	require.True(t, gone(t, postgres), "PostgreSQL runs on after %s", sig)
	require.NoFileExists(t, filepath.Join(dir, "postgres", "postmaster.pid"))
	require.Equal(t, s.url, "http://"+s.address())
	return took
}

// bare is the answer without its headers.
func (a answer) bare() answer { return answer{status: a.status, body: a.body} }

func TestQuietConnectionsDoNotHoldUpTheEnd(t *testing.T) {
	s := startReady(t, newDataDir(t), on(pgtest.New(t)), longGrace)
	for _, sent := range []string{"", "GET /v1/items/a HTTP/1.1\r\nHost: half of a head"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = conn.Write([]byte(sent))
		require.NoError(t, err)
	}
	// Connections are accepted in their order: after these, those above are as well.
	const idle = 5
	requests := make([]*pending, idle)
	for i := range requests {
		requests[i] = s.send(http.MethodPost, "/v1/mget", `{"keys":["a"]}`)
	}
	for _, request := range requests {
		await(t, "a request is answered", request.done)
		require.NoError(t, request.err)
		require.Equal(t, http.StatusOK, request.answer.status)
	}
	took := s.stop(syscall.SIGTERM)
	require.Less(t, took, promptly)
	t.Log(took)
}

// slowUpload is a request in flight that does not need the database: its body
// does not come. It returns when the handler waits for it.
func (s *server) slowUpload() {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(s.t, conn.SetReadDeadline(time.Now().Add(soon)))
	_, err = conn.Write([]byte("PUT /v1/items/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"))
	require.NoError(s.t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(s.t, err)
	require.Equal(s.t, "HTTP/1.1 100 Continue\r\n", line)
	_, err = conn.Write([]byte(`"a`))
	require.NoError(s.t, err)
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	s := startReady(t, newDataDir(t), longGrace)
	postgres := s.postgres()
	s.slowUpload()
	s.signal(syscall.SIGTERM)
	s.awaitRefusal()
	require.False(t, s.hasEnded())

	s.signal(syscall.SIGINT)
	code, took := s.wait(soon)
	require.Equal(t, exitFailure, code)
	require.Less(t, took, promptly)
	eventually(t, "PostgreSQL has ended", func() bool { return gone(t, postgres) })
}

func TestAnUploadThatDoesNotEndIsCut(t *testing.T) {
	t.Parallel()
	s := startReady(t, newDataDir(t), on(pgtest.New(t)), "STOCKROOM_SHUTDOWN_GRACE=200ms")
	s.slowUpload()
	s.signal(syscall.SIGTERM)
	code, took := s.wait(soon)
	require.Less(t, took, 5*time.Second)
	require.Equal(t, exitOK, code, "a caller that hangs makes no shutdown a failure")
}

func TestStoppedWhileInitialising(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		signal syscall.Signal
		code   int
	}{
		"SIGTERM": {syscall.SIGTERM, exitOK},
		"SIGKILL": {syscall.SIGKILL, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDataDir(t)
			s := start(t, dir)
			s.eventually("initdb runs", func() bool {
				folders, err := filepath.Glob(filepath.Join(dir, ".stockroom-initdb-*"))
				require.NoError(t, err)
				return len(folders) > 0
			})
			s.signal(tc.signal)
			code, took := s.wait(soon)
			require.Equal(t, tc.code, code)
			require.Less(t, took, 5*time.Second)
			require.NoDirExists(t, filepath.Join(dir, "postgres"))

			s = startReady(t, dir)
			require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)
			folders, err := filepath.Glob(filepath.Join(dir, ".stockroom-initdb-*"))
			require.NoError(t, err)
			require.Empty(t, folders)
		})
	}
}

func TestTwoServersOnOneFolder(t *testing.T) {
	t.Parallel()
	first := startReady(t, newDataDir(t))
	require.Equal(t, http.StatusCreated, first.put("/v1/items/a", "1").status)

	second := launch(t, first.dir, nil)
	code, took := second.wait(soon)
	require.Equal(t, exitFailure, code)
	require.Less(t, took, 5*time.Second)
	last := lastLine(second.out.String())
	require.Contains(t, last, "data folder in use")
	require.Contains(t, last, first.dir)
	require.Contains(t, last, "STOCKROOM_DATA_DIR")

	// The first one is none the worse for it, and is still found.
	require.Equal(t, "1", first.get("/v1/items/a").body)
	require.Equal(t, first.url, "http://"+first.address(), "server.addr is that of a server that is gone")
	health := launch(t, first.dir, nil, "healthcheck")
	code, _ = health.wait(soon)
	require.Equal(t, exitOK, code)
}

// lastLine is what a person at a terminal sees.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestAnAddressInUse(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	code, p := execute(t, []string{"STOCKROOM_ADDR=" + listener.Addr().String()})
	require.Equal(t, exitFailure, code)
	require.Contains(t, lastLine(p.out.String()), "address already in use")
}

func TestADataFolderThatCannotBeMade(t *testing.T) {
	t.Parallel()
	file := filepath.Join(filepath.Dir(newDataDir(t)), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	dir := "STOCKROOM_DATA_DIR=" + filepath.Join(file, "data")
	code, p := execute(t, []string{dir})
	require.Equal(t, exitFailure, code)
	require.Contains(t, lastLine(p.out.String()), file)

	// Where the data are elsewhere it does not matter.
	p = launch(t, newDataDir(t), []string{dir, on(pgtest.New(t))})
	eventually(t, "it is ready", func() bool { return strings.Contains(p.out.String(), `"msg":"ready"`) })
}

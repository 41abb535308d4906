package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// The tests of this package run the real binary as processes of its own: what
// they are about are signals, exit codes and files that only a process has.

const (
	// soon is when a test that waits for something gives up.
	soon = 2 * time.Minute
	// promptly is how long the end of a server that has nothing to wait for may
	// take, on a machine that is busy with other tests. What would break it takes
	// longer: the five seconds that net/http gives a connection that has sent
	// nothing, or the grace of requests in flight.
	promptly = 3 * time.Second
	// lifetime is what no process of these tests comes near.
	lifetime = 15 * time.Minute
	// longGrace is a STOCKROOM_SHUTDOWN_GRACE that no test waits out.
	longGrace = "STOCKROOM_SHUTDOWN_GRACE=1m"
)

var (
	binary  string    // the server's
	folder  string    // for it and for everything else that the tests write
	remover io.Writer // standard input of the process that removes the folder
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// These tests wait for processes, and these for timeouts, more than they
	// compute. (A -parallel of the command line wins: it is not parsed yet.)
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}

// prepare builds the server into a temporary folder.
func prepare() (err error) {
	if folder, err = os.MkdirTemp("", "stockroom-server-test-"); err != nil {
		return err
	}
	// PostgreSQL's user, which is not ours where we are root, must be able to enter.
	if err := os.Chmod(folder, 0o755); err != nil {
		return err
	}
	// The folder outlives us, since neither pgtest.Main nor a test that times out
	// returns: so it is removed by a process whose standard input ends when we do.
	cmd := exec.Command("sh", "-c", `trap '' INT TERM; cat >/dev/null; rm -rf -- "$0"`, folder)
	if remover, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	binary = filepath.Join(folder, "server")
	if out, err := exec.Command("go", "build", "-buildvcs=false", raceFlag, "-o", binary, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// output is what a process has written. It may be read while the process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// environment is that of the tests without what would configure a server, and
// with variables in its place.
func environment(dir string, variables ...string) []string {
	env := []string{
		"STOCKROOM_ADDR=127.0.0.1:0",
		"STOCKROOM_DATA_DIR=" + dir,
		// The race detector's exit would take a second of its own.
		"GORACE=atexit_sleep_ms=0",
	}
	for _, variable := range os.Environ() {
		switch name, _, _ := strings.Cut(variable, "="); {
		case name == "STOCKROOM_POSTGRES_BIN":
			env = append(env, variable)
		case name == "DATABASE_URL", name == "GORACE", strings.HasPrefix(name, "STOCKROOM_"), strings.HasPrefix(name, "OTEL_"), strings.HasPrefix(name, "PG"):
		default:
			env = append(env, variable)
		}
	}
	return append(env, variables...)
}

// newDataDir returns the path of a data folder that is not there yet.
func newDataDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp(folder, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(parent)) })
	require.NoError(t, os.Chmod(parent, 0o755))
	return filepath.Join(parent, "data")
}

// process is one that a test has started. When the test ends it is stopped as an
// operator would stop it, unless it has ended by then.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    output // of both streams
	stdout output
	ended  chan struct{}
}

// launch starts the binary on a data folder.
func launch(t *testing.T, dir string, env []string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lifetime)
	p := &process{t: t, cmd: exec.CommandContext(ctx, binary, args...), ended: make(chan struct{})}
	p.cmd.Env = environment(dir, env...)
	p.cmd.Dir = filepath.Dir(dir)
	p.cmd.Stdout = io.MultiWriter(&p.stdout, &p.out)
	p.cmd.Stderr = &p.out
	p.cmd.WaitDelay = time.Second // a child of its that held the streams would be a defect
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // the test looks at the state
		close(p.ended)
	}()
	t.Cleanup(func() {
		defer cancel()
		if !p.hasEnded() {
			p.signal(syscall.SIGTERM)
			if code, _ := p.wait(soon); code != exitOK {
				t.Errorf("the exit code at the end of the test is %d", code)
			}
		}
		if text := p.out.String(); t.Failed() {
			t.Logf("%s wrote:\n%s", strings.Join(p.cmd.Args[1:], " "), text)
		} else if strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic") {
			t.Errorf("the process wrote:\n%s", text)
		}
	})
	return p
}

// execute runs the binary to its end.
func execute(t *testing.T, env []string, args ...string) (code int, p *process) {
	t.Helper()
	p = launch(t, newDataDir(t), env, args...)
	code, _ = p.wait(soon)
	return code, p
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// signal sends a signal to this process and no other.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("send %s: %v", sig, err)
	}
}

// wait returns the exit code (-1 after a signal that the process did not handle)
// and how long that took. A process that does not end is killed and fails the test.
func (p *process) wait(limit time.Duration) (code int, took time.Duration) {
	p.t.Helper()
	begin := time.Now()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.t.Errorf("the process has not ended after %s", limit)
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
	took = time.Since(begin)
	if err := syscall.Kill(p.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		p.t.Errorf("the process is not gone: %v", err)
	}
	return p.cmd.ProcessState.ExitCode(), took
}

// server is a process that serves.
type server struct {
	*process

	dir    string // its data folder
	url    string
	client *http.Client
}

// start starts a server and returns when it listens.
func start(t *testing.T, dir string, env ...string) *server {
	t.Helper()
	t.Cleanup(func() { requireNoPostgres(t, dir) })
	transport := &http.Transport{MaxIdleConnsPerHost: 100, ExpectContinueTimeout: soon}
	t.Cleanup(transport.CloseIdleConnections)
	s := &server{process: launch(t, dir, env), dir: dir, client: &http.Client{Timeout: soon, Transport: transport}}
	s.eventually("the address is logged", func() bool {
		listening := regexp.MustCompile(`"msg":"listening","url":"([^"]+)"`).FindStringSubmatch(s.out.String())
		if listening != nil {
			s.url = listening[1]
		}
		return listening != nil
	})
	return s
}

// startReady starts a server and returns when it is ready.
func startReady(t *testing.T, dir string, env ...string) *server {
	t.Helper()
	s := start(t, dir, env...)
	s.awaitReady()
	return s
}

// on names the database for a server that is to have none of its own.
func on(dsn string) string { return "DATABASE_URL=" + dsn }

// address is what stands in server.addr; nothing while that is not there.
func (s *server) address() string {
	content, err := os.ReadFile(filepath.Join(s.dir, "server.addr"))
	if err != nil {
		require.ErrorIs(s.t, err, os.ErrNotExist)
	}
	return strings.TrimSuffix(string(content), "\n")
}

func (s *server) awaitReady() {
	s.t.Helper()
	s.eventually("the server is ready", func() bool {
		ready, err := s.try(context.Background(), http.MethodGet, "/readyz", "")
		return err == nil && ready.status == http.StatusOK
	})
}

// eventually polls until done answers true; a server that ends meanwhile fails
// the test.
func (s *server) eventually(what string, done func() bool) {
	s.t.Helper()
	eventually(s.t, what, func() bool {
		if done() {
			return true
		}
		if s.hasEnded() {
			s.t.Fatalf("the server has ended (%s); waited until %s", s.cmd.ProcessState, what)
		}
		return false
	})
}

// eventually polls until done answers true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-timeout.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// awaitRefusal returns when the server does not accept connections any more.
func (s *server) awaitRefusal() {
	s.t.Helper()
	s.eventually("the server stops accepting", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			return true
		}
		require.NoError(s.t, conn.Close())
		return false
	})
}

// stop ends the server in order, as sig asks it to, and returns how long that
// took.
func (s *server) stop(sig syscall.Signal) time.Duration {
	s.t.Helper()
	s.signal(sig)
	code, took := s.wait(soon)
	require.Equal(s.t, exitOK, code)
	return took
}

// postgres returns the pid of the server's own PostgreSQL.
func (s *server) postgres() int {
	s.t.Helper()
	pid := postmaster(s.dir)
	require.NotZero(s.t, pid)
	require.False(s.t, gone(s.t, pid), "PostgreSQL does not run")
	return pid
}

// postmaster returns the pid that PostgreSQL has written into a data folder; 0
// where there is none.
func postmaster(dir string) int {
	content, err := os.ReadFile(filepath.Join(dir, "postgres", "postmaster.pid"))
	first, _, _ := strings.Cut(string(content), "\n")
	pid, numberErr := strconv.Atoi(first)
	if err != nil || numberErr != nil {
		return 0
	}
	return pid
}

// requireNoPostgres ends a PostgreSQL that has outlived its server, which fails
// the test.
func requireNoPostgres(t *testing.T, dir string) {
	t.Helper()
	pid := postmaster(dir)
	if pid == 0 {
		return
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	for !gone(t, pid) {
		select {
		case <-ticker.C:
		case <-timeout.C:
			t.Errorf("PostgreSQL (pid %d) has outlived its server", pid)
			_ = syscall.Kill(pid, syscall.SIGQUIT) // its own data folder names it
			return
		}
	}
}

// gone tells whether there is no such process, or only what its parent has not
// collected yet.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	state, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	return err != nil || strings.HasPrefix(strings.TrimSpace(string(state)), "Z")
}

// answer is what a server answers.
type answer struct {
	status int
	header http.Header
	body   string
}

// code is the stable name of an answer that is a problem.
func (a answer) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &problem)
	return problem.Code
}

// get and put make a request that must be answered.
func (s *server) get(path string) answer { s.t.Helper(); return s.do(http.MethodGet, path, "") }

func (s *server) put(path, body string) answer {
	s.t.Helper()
	return s.do(http.MethodPut, path, body)
}

func (s *server) post(path, body string) answer {
	s.t.Helper()
	return s.do(http.MethodPost, path, body)
}

func (s *server) do(method, path, body string) answer {
	s.t.Helper()
	a, err := s.try(context.Background(), method, path, body)
	require.NoError(s.t, err)
	return a
}

// try makes a request, which a server that is killed does not answer.
func (s *server) try(ctx context.Context, method, path, body string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if httptrace.ContextClientTrace(ctx) != nil {
		r.Header.Set("Expect", "100-continue")
	}
	response, err := s.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(text)}, err
}

// pending is a request on its way.
type pending struct {
	begun  chan struct{} // closed when its handler works on it
	answer answer
	err    error
	done   chan struct{} // closed when answer and err are there
}

// send makes a request without waiting for its answer. It has a body, since it is
// by asking for that (100 Continue) that a server shows that a handler has begun.
func (s *server) send(method, path, body string) *pending {
	p := &pending{begun: make(chan struct{}), done: make(chan struct{})}
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() { close(p.begun) }})
	go func() {
		defer close(p.done)
		p.answer, p.err = s.try(ctx, method, path, body)
	}()
	s.t.Cleanup(func() { <-p.done }) // the client has a timeout
	return p
}

// await returns when the channel is closed.
func await(t *testing.T, what string, closed <-chan struct{}) {
	t.Helper()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	select {
	case <-closed:
	case <-timeout.C:
		t.Fatalf("waited in vain until %s", what)
	}
}

// Conditions for sessions: that it is the server's, and that it waits for a lock.
const (
	ours    = "application_name = 'stockroom'"
	waiting = ours + " AND wait_event_type = 'Lock'"
)

// sessions counts the sessions of which condition holds on the database of conn,
// which must not be in a transaction: what that sees would stand still.
func sessions(t *testing.T, conn *pgx.Conn, condition string) (n int) {
	t.Helper()
	err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND `+condition).Scan(&n)
	require.NoError(t, err)
	return n
}

package embeddedpg_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/internal/embeddedpg"
)

// helperEnv makes the test binary act as a server that can be killed; its value is the data folder.
const helperEnv = "EMBEDDEDPG_TEST_SERVER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		if err := helperMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// helperMain runs PostgreSQL and inserts numbers; it prints its postgres's pid, then each number once its commit is acknowledged.
// It goes on until it is killed.
func helperMain(dir string) error {
	ctx := context.Background()
	// The safe defaults, fsync included: this is what must survive.
	server, err := embeddedpg.Start(ctx, embeddedpg.Config{DataDir: dir})
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop(ctx) }()
	conn, err := pgx.Connect(ctx, server.DSN())
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS numbers (n bigint PRIMARY KEY)"); err != nil {
		return err
	}
	var n int
	if err := conn.QueryRow(ctx, "SELECT coalesce(max(n) + 1, 0) FROM numbers").Scan(&n); err != nil {
		return err
	}
	fmt.Println(server.PID())
	for ; ; n++ {
		if _, err := conn.Exec(ctx, "INSERT INTO numbers VALUES ($1)", n); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// helper is such a process.
type helper struct {
	cmd         *exec.Cmd
	out         *bufio.Reader
	postgresPID int
}

func startHelper(t *testing.T, dir string) *helper {
	t.Helper()
	h := &helper{cmd: exec.Command(os.Args[0])}
	h.cmd.Env = append(os.Environ(), helperEnv+"="+dir)
	h.cmd.Stderr = os.Stderr
	stdout, err := h.cmd.StdoutPipe()
	must(t, err)
	must(t, h.cmd.Start())
	t.Cleanup(func() {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	})
	h.out = bufio.NewReader(stdout)
	h.postgresPID = h.readNumber(t)
	return h
}

func (h *helper) readNumber(t *testing.T) int {
	t.Helper()
	line, err := h.out.ReadString('\n')
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(line))
	must(t, err)
	return n
}

// kill ends the helper with -9 and returns the numbers that it had printed and nobody had read.
func (h *helper) kill(t *testing.T) (rest []int) {
	t.Helper()
	must(t, h.cmd.Process.Signal(syscall.SIGKILL))
	text, err := io.ReadAll(h.out)
	must(t, err)
	_ = h.cmd.Wait()
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // cut by the kill
		}
		n, err := strconv.Atoi(strings.TrimSpace(line))
		must(t, err)
		rest = append(rest, n)
	}
	return rest
}

// holdShutdown stops the process without which postgres cannot end an orderly shutdown, until goOn. (Stopping the
// postmaster would not do: the kernel continues a stopped process whose parent has died.)
func (h *helper) holdShutdown(t *testing.T, dir string) (goOn func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), "postgres://postgres@/stockroom?sslmode=disable&host="+url.PathEscape(filepath.Join(dir, "run")))
	must(t, err)
	defer conn.Close(t.Context())
	var checkpointer int
	// On a busy machine it shows up only after the first connection.
	eventually(t, "the checkpointer is there", func() bool {
		err := conn.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").Scan(&checkpointer)
		if !errors.Is(err, pgx.ErrNoRows) {
			must(t, err)
		}
		return err == nil
	})
	must(t, syscall.Kill(checkpointer, syscall.SIGSTOP))
	return func() { _ = syscall.Kill(checkpointer, syscall.SIGCONT) }
}

// newDataDir returns the path of a data folder which the user that PostgreSQL runs as can reach (t.TempDir is its
// owner's only).
func newDataDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp("", "embeddedpg-test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	must(t, os.Chmod(parent, 0o755))
	return filepath.Join(parent, "data")
}

// quick gives up durability; for tests that are not about it.
func quick(dir string) embeddedpg.Config {
	return embeddedpg.Config{DataDir: dir, Settings: map[string]string{"fsync": "off"}}
}

// start starts a server which is stopped when the test ends.
func start(t *testing.T, cfg embeddedpg.Config) *embeddedpg.Server {
	t.Helper()
	server, err := embeddedpg.Start(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { stop(t, server) })
	return server
}

func stop(t *testing.T, server *embeddedpg.Server) {
	t.Helper()
	if err := server.Stop(context.Background()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func connect(t *testing.T, server *embeddedpg.Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.DSN())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, server *embeddedpg.Server, sql string) {
	t.Helper()
	_, err := connect(t, server).Exec(t.Context(), sql)
	must(t, err)
}

func query[T any](t *testing.T, server *embeddedpg.Server, sql string) T {
	t.Helper()
	rows, err := connect(t, server).Query(t.Context(), sql)
	must(t, err)
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	must(t, err)
	return value
}

// eventually polls until done answers true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(time.Minute)
	for !done() {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("timed out: %s", what)
		}
	}
}

// processGone: the process does not exist, or only as a zombie that its parent has not collected yet.
func processGone(t *testing.T, pid int) bool {
	t.Helper()
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	return err != nil || strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

// events is a logger whose messages a test can wait for.
type events chan string

func (e events) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(e, nil))
}

func (e events) Write(line []byte) (int, error) {
	var record struct{ Msg string }
	if err := json.Unmarshal(line, &record); err != nil {
		return 0, err
	}
	e <- record.Msg
	return len(line), nil
}

// await may be called by any goroutine, so it does not end the test.
func (e events) await(t *testing.T, part string) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case msg := <-e:
			if strings.Contains(msg, part) {
				return
			}
		case <-timeout:
			t.Errorf("timed out waiting for the message %q", part)
			return
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err is of the kind and that its message has all parts.
func refused(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want an error that is %q", err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the message lacks %q:\n%v", part, err)
		}
	}
}

// dropDatabase drops the database "stockroom" over a connection to another one.
func dropDatabase(t *testing.T, dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "DROP DATABASE stockroom")
	must(t, err)
}

// socketFolder is where the server's socket is.
func socketFolder(t *testing.T, server *embeddedpg.Server) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(server.DSN())
	must(t, err)
	return cfg.Host
}

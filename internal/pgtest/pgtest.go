// Package pgtest gives each test a PostgreSQL database of its own: a clone of a
// migrated template, which takes about a tenth of a second.
//
// The server is that of TEST_DATABASE_URL; else, with
// STOCKROOM_TEST_BACKEND=container, one in a container of the image
// STOCKROOM_TEST_POSTGRES_IMAGE; else the embedded one. It is started once for
// each test binary.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/testcontainers/testcontainers-go"
	tcpostgres "github.com/testcontainers/testcontainers-go/modules/postgres"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/internal/embeddedpg"
	"github.com/stockroom/stockroom/internal/postgres"
)

const (
	startTimeout   = 2 * time.Minute
	stopTimeout    = time.Minute
	connectTimeout = 10 * time.Second
	defaultImage   = "postgres:17-alpine"
	maxConnections = 200
)

// server is the PostgreSQL of this test binary.
var server struct {
	once     sync.Once
	err      error
	adminURL *url.URL
	template string
	stop     []func(context.Context) error
	// A template must have no other session while it is cloned.
	clone sync.Mutex
}

// Main runs the tests of a package that uses this one, stops the server, and
// fails where a goroutine is left behind. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: stop the server:", err)
		code = max(code, 1)
	}
	if code == 0 {
		// testcontainers keeps a connection to its engine for the whole process.
		if err := goleak.Find(goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop")); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// New returns the connection string of a new database with the whole schema,
// which is dropped when the test ends.
func New(t testing.TB) string {
	t.Helper()
	start(t)
	return create(t, " TEMPLATE "+quote(server.template))
}

// Empty returns the connection string of a new database without a schema, which
// is dropped when the test ends.
func Empty(t testing.TB) string {
	t.Helper()
	start(t)
	return create(t, " TEMPLATE template0")
}

// Connect opens a connection of the test's own, to look at what the code under
// test has done or to be in its way.
func Connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		_ = conn.Close(ctx) // the test may have killed it
	})
	return conn
}

func create(t testing.TB, template string) string {
	t.Helper()
	name := "t_" + strings.ToLower(rand.Text())
	server.clone.Lock()
	err := admin(t.Context(), "CREATE DATABASE "+quote(name)+template)
	server.clone.Unlock()
	require.NoError(t, err)
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := admin(context.Background(), "DROP DATABASE "+quote(name)+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return databaseURL(name)
}

func start(t testing.TB) {
	t.Helper()
	server.once.Do(func() { server.err = startServer() })
	require.NoError(t, server.err, "start PostgreSQL for the tests")
}

func startServer() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	dsn, err := os.Getenv("TEST_DATABASE_URL"), error(nil)
	switch {
	case dsn != "":
	case os.Getenv("STOCKROOM_TEST_BACKEND") == "container":
		dsn, err = startContainer(ctx)
	default:
		dsn, err = startEmbedded(ctx)
	}
	if err != nil {
		return err
	}
	if server.adminURL, err = url.Parse(dsn); err != nil || server.adminURL.Scheme == "" {
		return errors.New("TEST_DATABASE_URL must be a URL")
	}
	server.template = "template_" + strings.ToLower(rand.Text())
	if err := admin(ctx, "CREATE DATABASE "+quote(server.template)+" TEMPLATE template0"); err != nil {
		return err
	}
	server.stop = append(server.stop, func(ctx context.Context) error {
		return admin(ctx, "DROP DATABASE "+quote(server.template)+" WITH (FORCE)")
	})
	migrator, err := postgres.NewMigrator(ctx, databaseURL(server.template), connectTimeout)
	if err != nil {
		return err
	}
	if err := migrator.Up(); err != nil {
		return err
	}
	return migrator.Close()
}

func startEmbedded(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp(dataParent(), "stockroom-test-")
	if err != nil {
		return "", err
	}
	server.stop = append(server.stop, func(context.Context) error { return os.RemoveAll(dir) })
	if err := RemoveAtExit(dir); err != nil {
		return "", err
	}
	// PostgreSQL's user, which is not ours where we are root, must be able to enter.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		return "", err
	}
	pg, err := embeddedpg.Start(ctx, embeddedpg.Config{
		DataDir:        dir,
		BinDir:         os.Getenv("STOCKROOM_POSTGRES_BIN"),
		MaxConnections: maxConnections,
		// The data are thrown away; what the embedded server does for durability is
		// tested where it is made.
		Settings: map[string]string{"fsync": "off", "full_page_writes": "off"},
	})
	if err != nil {
		return "", err
	}
	server.stop = append(server.stop, pg.Stop)
	return pg.DSN(), nil
}

// removers are the standard inputs of the processes that RemoveAtExit has started.
var removers struct {
	sync.Mutex
	stdin []io.Closer
}

// RemoveAtExit has a folder removed when this process has ended, also by a signal or
// by the timeout of go test: by another one, whose standard input ends with this one.
func RemoveAtExit(dir string) error {
	cmd := exec.Command("sh", "-c", `trap '' INT TERM HUP; cat >/dev/null; rm -rf -- "$0"`, dir) //nolint:noctx // it outlives this process
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	removers.Lock()
	defer removers.Unlock()
	removers.stdin = append(removers.stdin, stdin)
	return cmd.Start()
}

func startContainer(ctx context.Context) (string, error) {
	image := os.Getenv("STOCKROOM_TEST_POSTGRES_IMAGE")
	if image == "" {
		image = defaultImage
	}
	container, err := tcpostgres.Run(ctx, image,
		tcpostgres.WithDatabase("stockroom"), tcpostgres.WithUsername("postgres"), tcpostgres.WithPassword("test"),
		testcontainers.WithCmdArgs("-c", fmt.Sprintf("max_connections=%d", maxConnections), "-c", "fsync=off"),
		tcpostgres.BasicWaitStrategies())
	if err != nil {
		return "", fmt.Errorf("start a container of %s: %w", image, err)
	}
	server.stop = append(server.stop, func(ctx context.Context) error { return container.Terminate(ctx) })
	return container.ConnectionString(ctx, "sslmode=disable")
}

// stop undoes what startServer did, last first.
func stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, step := range slices.Backward(server.stop) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// admin runs a statement outside of any test's database.
func admin(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func databaseURL(name string) string {
	u := *server.adminURL
	u.Path = "/" + name
	return u.String()
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/embeddedpg"
)

// maxConnections is what the tests' PostgreSQL allows: few, so that they can be
// used up.
const maxConnections = 40

// errDown says that something was asked of a PostgreSQL that does not run.
var errDown = errors.New("cluster: PostgreSQL does not run")

// Postgres is a PostgreSQL of the test's own, which can be stopped, killed and
// frozen, and started again on its data.
type Postgres struct {
	dir      string
	settings map[string]string

	mu     sync.Mutex
	server *embeddedpg.Server // nil: it does not run
	frozen []int
}

// newPostgres returns a PostgreSQL on dir, which does not run yet.
func newPostgres(dir string, settings map[string]string) *Postgres {
	all := map[string]string{
		// A small disk must do.
		"min_wal_size": "32MB", "max_wal_size": "64MB", "shared_buffers": "32MB",
		// For the failover: the standby must not fall behind what it still needs.
		"wal_keep_size": "64MB",
	}
	maps.Copy(all, settings)
	return &Postgres{dir: dir, settings: all}
}

// Start starts it, and returns when it answers.
func (p *Postgres) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return errors.New("cluster: PostgreSQL runs already")
	}
	server, err := embeddedpg.Start(ctx, embeddedpg.Config{
		DataDir: p.dir, BinDir: os.Getenv("STOCKROOM_POSTGRES_BIN"),
		MaxConnections: maxConnections, Settings: p.settings,
	})
	if err != nil {
		return err
	}
	p.server = server
	return nil
}

// running returns the server, or errDown.
func (p *Postgres) running() (*embeddedpg.Server, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil, errDown
	}
	return p.server, nil
}

// Ended tells whether it has ended by itself, or was never started.
func (p *Postgres) Ended() bool {
	server, err := p.running()
	if err != nil {
		return true
	}
	select {
	case <-server.Done():
		return true
	default:
		return false
	}
}

// Stop stops it in order, as an administrator would, ending all sessions. One
// that does not run is no error.
func (p *Postgres) Stop(ctx context.Context) error {
	if err := p.Thaw(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	err := p.server.Stop(ctx)
	p.server = nil
	return err
}

// Kill kills it with all its processes at once, as a power cut would, and returns
// when it is gone.
func (p *Postgres) Kill(ctx context.Context) error {
	server, err := p.running()
	if err != nil {
		return err
	}
	// The postmaster comes first, and so recovers nothing.
	if err := signalAll(family(server.PID()), syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-server.Done():
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.Stop(ctx)
}

// CrashBackend kills one session of the server, whereupon PostgreSQL ends all of
// them and recovers by itself.
func (p *Postgres) CrashBackend(ctx context.Context) error {
	conn, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	var pid int
	err = conn.QueryRow(ctx, `SELECT pid FROM pg_stat_activity WHERE application_name = 'stockroom'
		ORDER BY state = 'active' DESC, query_start DESC LIMIT 1`).Scan(&pid)
	closeQuietly(conn)
	if err != nil {
		return err
	}
	return signalAll([]int{pid}, syscall.SIGKILL)
}

// Freeze stops all its processes where they are.
func (p *Postgres) Freeze() error {
	server, err := p.running()
	if err != nil {
		return err
	}
	// Frozen first, the postmaster makes no more children.
	if err := signalAll([]int{server.PID()}, syscall.SIGSTOP); err != nil {
		return err
	}
	pids := family(server.PID())
	p.mu.Lock()
	p.frozen = pids
	p.mu.Unlock()
	return signalAll(pids[1:], syscall.SIGSTOP)
}

// Thaw lets its processes go on. One that is not frozen is no error.
func (p *Postgres) Thaw() error {
	p.mu.Lock()
	frozen := p.frozen
	p.frozen = nil
	p.mu.Unlock()
	return signalAll(frozen, syscall.SIGCONT)
}

// Target returns where it listens, for a proxy.
func (p *Postgres) Target() (network, address string, err error) {
	server, err := p.running()
	if err != nil {
		return "", "", err
	}
	config, err := pgx.ParseConfig(server.DSN())
	if err != nil {
		return "", "", err
	}
	if !filepath.IsAbs(config.Host) {
		return "tcp", net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))), nil
	}
	return "unix", filepath.Join(config.Host, ".s.PGSQL."+strconv.Itoa(int(config.Port))), nil
}

// Connect opens a connection past any proxy. The caller must close it.
func (p *Postgres) Connect(ctx context.Context) (*pgx.Conn, error) {
	server, err := p.running()
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(server.DSN())
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = "administrator"
	return pgx.ConnectConfig(ctx, config)
}

// Await returns when it answers and may be written to, past any proxy.
func (p *Postgres) Await(ctx context.Context) error {
	return poll(ctx, func() error {
		conn, err := p.Connect(ctx)
		if err != nil {
			return err
		}
		defer closeQuietly(conn)
		var standby bool
		if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
			return err
		}
		if standby {
			return errors.New("it is a standby")
		}
		return nil
	})
}

// Exec runs a statement past any proxy.
func (p *Postgres) Exec(ctx context.Context, sql string, args ...any) error {
	conn, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	defer closeQuietly(conn)
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// Terminate ends every session of the server, as an administrator may, and
// returns how many there were.
func (p *Postgres) Terminate(ctx context.Context) (n int, err error) {
	return p.count(ctx, `SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'stockroom') ended`)
}

// CancelAll cancels every statement of the server, as an administrator may.
func (p *Postgres) CancelAll(ctx context.Context) (n int, err error) {
	return p.count(ctx, `SELECT count(*) FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'stockroom' AND state <> 'idle') ended`)
}

func (p *Postgres) count(ctx context.Context, sql string) (n int, err error) {
	conn, err := p.Connect(ctx)
	if err != nil {
		return 0, err
	}
	defer closeQuietly(conn)
	err = conn.QueryRow(ctx, sql).Scan(&n)
	return n, err
}

// Hog takes every connection that is left and keeps it until the function that it
// returns is called.
func (p *Postgres) Hog(ctx context.Context) (free func(), err error) {
	var hogs []*pgx.Conn
	free = func() {
		for _, conn := range hogs {
			closeQuietly(conn)
		}
	}
	for range maxConnections + 1 {
		conn, err := p.Connect(ctx)
		if err != nil {
			return free, nil //nolint:nilerr // there are no more
		}
		hogs = append(hogs, conn)
	}
	free()
	return nil, errors.New("cluster: the connections have no end")
}

// basebackup returns the path of the pg_basebackup that belongs to it. Some
// PostgreSQLs come without.
func (p *Postgres) basebackup() (string, error) {
	server, err := p.running()
	if err != nil {
		return "", err
	}
	postgres, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", server.PID()))
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(postgres), "pg_basebackup")
	_, err = os.Stat(path)
	return path, err
}

// CanClone tells whether Clone is possible on this machine.
func (p *Postgres) CanClone() bool {
	_, err := p.basebackup()
	return err == nil
}

// Clone makes a standby of it on another folder, and returns when that streams and
// every commit waits for it.
func (p *Postgres) Clone(ctx context.Context, dir string) (*Postgres, error) {
	basebackup, err := p.basebackup()
	if err != nil {
		return nil, err
	}
	if err := p.copyTo(ctx, basebackup, dir); err != nil {
		return nil, err
	}
	standby := newPostgres(dir, p.settings)
	if err := standby.Start(ctx); err != nil {
		return nil, err
	}
	if err := p.awaitStandby(ctx); err != nil {
		return nil, errors.Join(err, standby.Stop(ctx))
	}
	return standby, nil
}

// copyTo runs pg_basebackup as the user that owns the data.
func (p *Postgres) copyTo(ctx context.Context, basebackup, dir string) error {
	source, target := filepath.Join(p.dir, "postgres"), filepath.Join(dir, "postgres")
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("cluster: who owns %s is not known", source)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Mkdir(target, 0o700)); err != nil { //nolint:gosec // PostgreSQL's user must be able to enter
		return err
	}
	_, socket, err := p.Target()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, basebackup, "-D", target, "-h", filepath.Dir(socket), "-p", "5432", "-U", "postgres",
		"-R", "-X", "stream", "-c", "fast", "--no-sync")
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C"}
	if os.Geteuid() == 0 {
		if err := os.Chown(target, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	return nil
}

// awaitStandby makes every commit wait for the standby, and returns when that has
// all that was committed before.
func (p *Postgres) awaitStandby(ctx context.Context) error {
	conn, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	defer closeQuietly(conn)
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := poll(ctx, func() error {
		var streaming bool
		err := conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'").Scan(&streaming)
		if err == nil && !streaming {
			err = errors.New("the standby does not stream")
		}
		return err
	}); err != nil {
		return err
	}
	// A commit that waits takes everything before it along.
	_, err = conn.Exec(ctx, "SELECT pg_current_xact_id()")
	return err
}

// Promote makes a primary of a standby, on which no commit waits for another one.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := p.Connect(ctx)
	if err != nil {
		return err
	}
	defer closeQuietly(conn)
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 30)").Scan(&done); err != nil {
		return err
	}
	if !done {
		return errors.New("cluster: the standby does not become a primary")
	}
	return nil
}

// closeTimeout bounds the farewell of an administrator's connection.
const closeTimeout = time.Second

func closeQuietly(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // the server may be gone
}

// pollEvery is how often something is looked at that gives no notice.
const pollEvery = 10 * time.Millisecond

// poll calls done until that returns nil, or ctx ends: then with its last error.
func poll(ctx context.Context, done func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := done()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

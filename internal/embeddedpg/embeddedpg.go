// Package embeddedpg runs a PostgreSQL server of Stockroom's own: a child process on a Unix socket, whose data lives
// under the server's data folder. It is what Stockroom uses when no DATABASE_URL is given.
//
// What it promises:
//
//   - Data is never deleted and never initialised again. What cannot be started as it is, is refused with a reason.
//   - One owner per data folder: a file lock is held from Start to Stop, and a second Start is refused at once.
//   - A server killed with -9 leaves no orphan (Linux: a parent-death signal; elsewhere the next Start ends it), and
//     since fsync is on, no acknowledged write is lost, not even when PostgreSQL is killed along with it.
//   - No TCP port is opened.
//
// The folder's layout:
//
//	DataDir/postgres       PostgreSQL's data directory
//	DataDir/postgres.lock  the file lock; names the owner's pid
//	DataDir/postgres.log   what postgres writes; moved to postgres.log.1 at a start when it has grown large
//	DataDir/run            the socket, mode 0700 (a private temporary folder where this path is too long for a socket)
package embeddedpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The reasons for which Start refuses. The error that wraps one of them says what the operator can do.
var (
	// ErrNoBinaries: no usable PostgreSQL was found.
	ErrNoBinaries = errors.New("no PostgreSQL binaries")
	// ErrInUse: another process owns the data folder.
	ErrInUse = errors.New("data folder in use")
	// ErrVersionMismatch: the data were written by a major version that is not at hand.
	ErrVersionMismatch = errors.New("PostgreSQL version mismatch")
	// ErrUnreachable: the user that PostgreSQL must run as cannot reach the data folder or the binaries.
	ErrUnreachable = errors.New("folder unreachable for PostgreSQL's user")
)

const (
	database  = "stockroom"
	superuser = "postgres"
	// port only names the socket file; nothing listens on it.
	port = "5432"

	// defaultStartTimeout leaves room for crash recovery: giving up on a recovery means that the next start begins it
	// anew. One that goes through max_wal_size (1 GB) takes seconds on common disks.
	defaultStartTimeout = 2 * time.Minute
	// defaultStopTimeout is the time for the checkpoint of a fast shutdown.
	defaultStopTimeout = 30 * time.Second
	// quitTimeout is one second more than the five that the postmaster gives its children after a SIGQUIT.
	quitTimeout = 6 * time.Second
	killTimeout = 5 * time.Second
	pollEvery   = 20 * time.Millisecond

	defaultMaxConnections = 50
)

// Config says where and how to run PostgreSQL. Only DataDir is required.
type Config struct {
	// DataDir is the folder that holds everything (see the package's layout). It is created when missing.
	DataDir string
	// BinDir is the folder of postgres and initdb (STOCKROOM_POSTGRES_BIN). When set it is the only one tried.
	BinDir string
	// Logger receives starts, stops and oddities. nil: none.
	Logger *slog.Logger
	// StartTimeout bounds Start (default 2m), StopTimeout the orderly part of Stop (default 30s).
	StartTimeout, StopTimeout time.Duration
	// Settings are further PostgreSQL settings. They win over this package's own.
	Settings map[string]string
	// MaxConnections is PostgreSQL's max_connections (default 50).
	MaxConnections int

	// places replaces the list of places that are searched for binaries; for tests.
	places []place
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	cfg    Config
	log    *slog.Logger
	files  layout
	lock   *folderLock
	who    identity
	bin    binaries
	socket socketDir

	proc     *process
	stopOnce sync.Once
	stopErr  error
}

// Start runs PostgreSQL on cfg.DataDir, initialising the folder when it holds no data yet, and returns when it answers
// and the database "stockroom" exists. Cancelling ctx ends the attempt and cleans up; it has no effect once Start
// has returned. Whoever gets a Server must Stop it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("embedded PostgreSQL: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config) (_ *Server, err error) {
	began := time.Now()
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout, fmt.Errorf("not ready within %s", cfg.StartTimeout))
	defer cancel()

	s := &Server{cfg: cfg, log: cfg.Logger, files: layoutOf(cfg.DataDir)}
	if err := makeDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	// The lock comes first: everything below may rely on being alone with the folder.
	if s.lock, err = acquireLock(s.files); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// ctx may be why we fail, and what was started must be ended all the same.
			_ = s.Stop(context.WithoutCancel(ctx))
		}
	}()
	if s.who, err = chooseIdentity(s.files.pgdata); err != nil {
		return nil, err
	}
	fresh, err := s.prepareData(ctx)
	if err != nil {
		return nil, err
	}
	if s.socket, err = s.makeSocketDir(ctx); err != nil {
		return nil, err
	}
	if err := s.launchUntilReady(ctx); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "embedded PostgreSQL is ready", "version", s.bin.version(), "binaries", s.bin.dir, "data", s.files.pgdata,
		"pid", s.PID(), "user", s.who.name, "new", fresh, "took", time.Since(began).Round(time.Millisecond))
	return s, nil
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.DataDir == "" {
		return cfg, errors.New("no data folder given")
	}
	// Absolute: postgres changes its working directory, and the socket's path is used by others.
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return cfg, err
	}
	cfg.DataDir = dir
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = defaultStartTimeout
	}
	if cfg.StopTimeout <= 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	if cfg.MaxConnections <= 0 {
		cfg.MaxConnections = defaultMaxConnections
	}
	return cfg, nil
}

// DSN returns the URL of the database "stockroom", for pgx and libpq.
func (s *Server) DSN() string { return s.dsn(database) }

func (s *Server) dsn(db string) string {
	// Everything that a PG* environment variable could change is said here.
	query := url.Values{"host": {s.socket.path}, "port": {port}, "sslmode": {"disable"}, "target_session_attrs": {"any"}}
	// To libpq and pgx a plus sign is a plus sign, not a space.
	encoded := strings.ReplaceAll(query.Encode(), "+", "%20")
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + db, RawQuery: encoded}).String()
}

// PID returns the process id of postgres (the postmaster), which may have ended since.
func (s *Server) PID() int { return s.proc.pid() }

// Done is closed when postgres has ended, for whatever reason.
func (s *Server) Done() <-chan struct{} { return s.proc.done }

// Err says why postgres ended, with the end of its log. It is nil while it runs and after a Stop that ended it.
func (s *Server) Err() error { return s.proc.failure() }

// Stop ends PostgreSQL and releases the data folder: SIGINT (an orderly shutdown that ends all sessions), then
// SIGQUIT, then SIGKILL, each with a bounded time; a cancelled ctx cuts the first one short. It returns nil when
// postgres is gone, however that came about: the next start recovers. Stop may be called again, and by several
// goroutines; all get the same answer.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() {
		if s.stopErr = s.stopProcess(ctx); s.stopErr == nil {
			// While a postgres that would not die holds the data, the lock stays with us as well.
			s.socket.remove()
			s.stopErr = s.lock.release()
		}
		if s.stopErr != nil {
			s.stopErr = fmt.Errorf("embedded PostgreSQL: stop: %w", s.stopErr)
		}
	})
	return s.stopErr
}

func (s *Server) stopProcess(ctx context.Context) error {
	if s.proc == nil {
		return nil
	}
	s.proc.expectEnd()
	steps := []struct {
		signal  syscall.Signal
		timeout time.Duration
	}{
		{syscall.SIGINT, s.cfg.StopTimeout},
		{syscall.SIGQUIT, min(quitTimeout, s.cfg.StopTimeout)},
		{syscall.SIGKILL, killTimeout},
	}
	hurry := ctx.Done()
	for _, step := range steps {
		s.proc.signal(step.signal)
		timer := time.NewTimer(step.timeout)
		select {
		case <-s.proc.done:
		case <-hurry:
			hurry = nil // the steps that follow keep their own, shorter bounds
		case <-timer.C:
		}
		timer.Stop()
		if s.proc.ended() {
			s.log.InfoContext(ctx, "embedded PostgreSQL has stopped", "pid", s.PID())
			return nil
		}
		s.log.WarnContext(ctx, "embedded PostgreSQL does not stop", "pid", s.PID(), "after", step.signal.String())
	}
	return fmt.Errorf("postgres (pid %d) has not ended, not even on SIGKILL", s.PID())
}

// awaitPredecessor makes sure that no postgres is alive on the data directory, and returns the process id that a
// leftover postmaster.pid names (0: none).
//
// We hold the lock, so a postgres that is alive here lost its owner: either it is just shutting down because that one
// was killed (the parent-death signal), or, where there is no such signal, it goes on without one. In both cases a
// SIGINT, the signal of an orderly shutdown, is the right thing and harmless when it is the second.
func (s *Server) awaitPredecessor(ctx context.Context) (stalePID int, err error) {
	alive := func() bool {
		stalePID = postmasterPID(s.files.pgdata)
		return stalePID > 0 && isPostgresOn(stalePID, s.files.pgdata)
	}
	if !alive() {
		return stalePID, nil
	}
	s.log.WarnContext(ctx, "a postgres of a server that has gone is still alive on the data folder; waiting for its end",
		"pid", stalePID, "data", s.files.pgdata)
	signal := func(sig syscall.Signal) {
		if err := syscall.Kill(stalePID, sig); err != nil {
			s.log.WarnContext(ctx, "it cannot be signalled", "pid", stalePID, "signal", sig.String(), "error", err)
		}
	}
	signal(syscall.SIGINT)
	quit := time.NewTimer(s.cfg.StopTimeout)
	defer quit.Stop()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for alive() {
		select {
		case <-ticker.C:
		case <-quit.C:
			signal(syscall.SIGQUIT)
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: a postgres without an owner (pid %d) holds %s and does not end; stop it, then start again: %w",
				ErrInUse, stalePID, s.files.pgdata, context.Cause(ctx))
		}
	}
	return stalePID, nil
}

// postmasterPID returns the process id in postmaster.pid, 0 when there is none to be read.
func postmasterPID(pgdata string) int {
	content, err := os.ReadFile(filepath.Join(pgdata, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid < 0 { // negative: a single-user postgres; PostgreSQL judges that itself
		return 0
	}
	return pid
}

// launchUntilReady starts postgres and waits until it answers. It tries again for one reason only: when the server
// before us was killed, what is left of it may take a moment to end, and PostgreSQL rightly refuses to start beside it.
func (s *Server) launchUntilReady(ctx context.Context) error {
	for {
		stalePID, err := s.awaitPredecessor(ctx)
		if err != nil {
			return err
		}
		if s.proc, err = s.launch(stalePID); err != nil {
			return err
		}
		err = s.awaitReady(ctx)
		if err == nil || !s.proc.ended() || !metPredecessor(s.proc.tail()) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * pollEvery):
		}
	}
}

// metPredecessor recognises PostgreSQL's two refusals: a child of a killed postmaster still has the shared memory, or a
// postmaster wrote its pid file just after we had looked.
func metPredecessor(log string) bool {
	return strings.Contains(log, "pre-existing shared memory block") || strings.Contains(log, `lock file "postmaster.pid" already exists`)
}

func (s *Server) launch(stalePID int) (*process, error) {
	var env []string
	if stalePID > 0 {
		// A leftover postmaster.pid blocks a start when another process has the pid by now. awaitPredecessor has seen
		// that it is no postgres of this folder. We do not delete the file: PostgreSQL itself discards it when it
		// names a process that cannot be a rival, and this variable (made for pg_ctl) names such a process. Its second
		// check, whether anyone is still attached to the old shared memory, stays in force that way.
		env = append(env, "PG_GRANDPARENT_PID="+strconv.Itoa(stalePID))
	}
	// A killed postgres also leaves its socket and that one's lock file, which has the same flaw. They are worth nothing
	// without the postgres that made them, in a folder that is ours alone.
	s.socket.removeSockets()
	logFile, err := openLog(s.files.log)
	if err != nil {
		return nil, err
	}
	proc, err := startProcess(s.who, s.bin.postgres(), s.arguments(), env, logFile)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.bin.postgres(), err)
	}
	return proc, nil
}

// arguments are the settings that a small server of one application needs. Nothing here weakens durability: fsync,
// synchronous_commit and full_page_writes keep their safe defaults.
func (s *Server) arguments() []string {
	settings := map[string]string{
		"listen_addresses": "", // Unix socket only
		// The setting is a list: quoted, a path may hold spaces.
		"unix_socket_directories": `"` + strings.ReplaceAll(s.socket.path, `"`, `""`) + `"`,
		"unix_socket_permissions": "0700",
		"port":                    port,
		"cluster_name":            database, // seen in ps
		"max_connections":         strconv.Itoa(s.cfg.MaxConnections),
		"shared_buffers":          sharedBuffers(os.DirFS("/")),
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		// English and on stderr: the end of the log goes into errors.
		"lc_messages":       "C",
		"logging_collector": "off",
		"log_destination":   "stderr",
		// The failed statement's text would put stored values into the log; the application reports its errors itself.
		"log_min_error_statement": "panic",
		// Short queries only: compiling them and spreading them over workers costs more than it gives, and parallel
		// workers need a /dev/shm that is larger than containers have by default.
		"jit":                              "off",
		"max_parallel_workers_per_gather":  "0",
		"max_parallel_maintenance_workers": "0",
	}
	maps.Copy(settings, s.cfg.Settings)
	args := []string{"-D", s.files.pgdata}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// awaitReady returns when a real connection to the database works; it creates the database when it is missing.
func (s *Server) awaitReady(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := s.ping(ctx)
		var answer *pgconn.PgError
		if errors.As(err, &answer) && answer.Code == "3D000" { // invalid_catalog_name: not created yet
			err = s.createDatabase(ctx)
		}
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return s.proc.failure()
		case <-ctx.Done():
			return fmt.Errorf("%w; its last answer: %w%s", context.Cause(ctx), err, s.proc.tail())
		case <-ticker.C:
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

func (s *Server) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	// template0: the locale that initdb chose, and nothing that anyone has put into template1.
	_, err = conn.Exec(ctx, "CREATE DATABASE "+database+" TEMPLATE template0 ENCODING 'UTF8'")
	return err
}

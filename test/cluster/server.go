//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/test/faults"
)

// Build builds the server into a folder, with build tags and flags such as -race,
// and returns the path of the program.
func Build(ctx context.Context, dir string, flags ...string) (string, error) {
	program := filepath.Join(dir, "server")
	args := append([]string{"build", "-buildvcs=false", "-o", program}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/stockroom/stockroom/cmd/server")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, nil
}

// Server is the service as a process of its own, always on the same port.
type Server struct {
	program string
	dir     string
	env     []string
	port    *faults.Port
	log     tail

	mu    sync.Mutex
	cmd   *exec.Cmd // nil: never started
	ended chan struct{}
}

func newServer(program, dir string, env []string) (*Server, error) {
	port, err := faults.ReservePort()
	if err != nil {
		return nil, err
	}
	return &Server{program: program, dir: dir, env: env, port: port}, nil
}

// URL returns where it listens.
func (s *Server) URL() string { return "http://" + s.port.Address() }

// Log returns the end of what it has written, and how often that was something
// that it must never write: a panic, or a data race.
func (s *Server) Log() (text string, alarms int) { return s.log.state() }

// Start starts the process. It does not wait for anything.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil && !isClosed(s.ended) {
		return errors.New("cluster: the server runs already")
	}
	cmd := exec.Command(s.program) //nolint:noctx // it is ended by Stop and Kill
	cmd.Dir = s.dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "STOCKROOM_POSTGRES_BIN=" + os.Getenv("STOCKROOM_POSTGRES_BIN"), "GORACE=atexit_sleep_ms=0",
		"STOCKROOM_ADDR=" + s.port.Address(), "STOCKROOM_DATA_DIR=" + s.dir, "STOCKROOM_LOG_LEVEL=warn",
	}, s.env...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.WaitDelay = time.Second
	// Should we be killed, it must not go on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	ended := make(chan struct{})
	started := make(chan error)
	go func() {
		// The signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // whoever wants to know looks at its state
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("cluster: start the server: %w", err)
	}
	s.cmd, s.ended = cmd, ended
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// process returns the process and what is closed when it has ended.
func (s *Server) process() (*exec.Cmd, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd, s.ended
}

// Running tells whether the process is there.
func (s *Server) Running() bool {
	cmd, ended := s.process()
	return cmd != nil && !isClosed(ended)
}

// awaitEnd returns the exit code once the process has ended: -1 for a signal.
func (s *Server) awaitEnd(ctx context.Context) (int, error) {
	cmd, ended := s.process()
	if cmd == nil {
		return 0, errors.New("cluster: the server was never started")
	}
	select {
	case <-ended:
		return cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("cluster: the server does not end: %w", ctx.Err())
	}
}

// Kill kills the process and returns when it is gone. One that has ended is no
// error.
func (s *Server) Kill(ctx context.Context) error {
	cmd, _ := s.process()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_, err := s.awaitEnd(ctx)
	return err
}

// ExitError says that the server ended as it should not have. That is the
// server's fault, not the test's.
type ExitError struct {
	Code int // -1: by a signal
	Want int
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("the server ended with exit code %d, not %d", e.Code, e.Want)
}

// Stop asks the process to end, as an operator would. An exit code other than 0 is
// an ExitError.
func (s *Server) Stop(ctx context.Context) error {
	cmd, _ := s.process()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("cluster: stop the server: %w", err)
	}
	if err := s.AwaitExit(ctx, 0); err != nil {
		return errors.Join(err, s.Kill(context.WithoutCancel(ctx)))
	}
	return nil
}

// AwaitExit returns when the process has ended. An exit code other than want is an
// ExitError.
func (s *Server) AwaitExit(ctx context.Context, want int) error {
	code, err := s.awaitEnd(ctx)
	if err == nil && code != want {
		err = &ExitError{Code: code, Want: want}
	}
	return err
}

// AwaitReady returns when the server says that it is ready.
func (s *Server) AwaitReady(ctx context.Context) error {
	return s.awaitStatus(ctx, "/readyz", http.StatusOK)
}

// AwaitAlive returns when the server answers at all.
func (s *Server) AwaitAlive(ctx context.Context) error {
	return s.awaitStatus(ctx, "/livez", http.StatusOK)
}

func (s *Server) awaitStatus(ctx context.Context, path string, status int) error {
	err := poll(ctx, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+path, nil)
		if err != nil {
			return err
		}
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != status {
			return fmt.Errorf("%s answers %s", path, response.Status)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cluster: the server does not come up: %w", err)
	}
	return nil
}

// KillEmbedded kills the PostgreSQL that the server has started, with all its
// processes.
func (s *Server) KillEmbedded() error {
	content, err := os.ReadFile(filepath.Join(s.dir, "postgres", "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return fmt.Errorf("cluster: postmaster.pid: %w", err)
	}
	return signalAll(family(pid), syscall.SIGKILL)
}

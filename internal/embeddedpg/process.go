package embeddedpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a running postgres.
type process struct {
	cmd  *exec.Cmd
	log  *logFile
	done chan struct{}

	mu       sync.Mutex
	expected bool
	err      error
}

// startProcess starts a postgres which is asked to shut down (SIGINT) when this process dies.
func startProcess(who identity, name string, args, env []string, log *logFile) (*process, error) {
	cmd := exec.Command(name, args...) //nolint:noctx // it outlives the context of its start
	cmd.Dir = "/"
	cmd.Env = append(childEnv(), env...)
	cmd.Stdout, cmd.Stderr = log.file, log.file
	cmd.SysProcAttr = childAttr(who, syscall.SIGINT)
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}

	started := make(chan error)
	go func() {
		// Linux sends the parent-death signal when the THREAD that forked ends, not the process. So the fork is made
		// on a thread that this goroutine keeps for itself until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		log.file.Close() // the child has its own copy
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		p.mu.Lock()
		if !p.expected {
			p.err = fmt.Errorf("postgres (pid %d) has ended by itself: %s%s", p.pid(), endOf(err), log.tail())
		}
		p.mu.Unlock()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func endOf(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) tail() string { return p.log.tail() }

// expectEnd says that an end from now on is not a failure.
func (p *process) expectEnd() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = true
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failure says why the process ended by itself; nil when it runs or was told to end.
func (p *process) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// signal reaches the postmaster only, which is who decides about its children. A process that has ended is no error:
// the caller waits for done anyway.
func (p *process) signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// run executes a short-lived program as who and returns what it printed, in its error too. The whole process group is
// killed when ctx ends: initdb has children of its own.
func run(ctx context.Context, who identity, dir, name string, args ...string) (string, error) {
	runtime.LockOSThread() // for the parent-death signal, see startProcess
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = childEnv()
	cmd.SysProcAttr = childAttr(who, syscall.SIGKILL)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if cause := context.Cause(ctx); cause != nil {
		return text, cause
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return text, err
}

// childEnv is all that PostgreSQL gets of our environment. PG* variables would change its settings, and credentials
// that are meant for this server are nobody else's business.
func childEnv() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

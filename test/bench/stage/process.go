//go:build linux

// Package stage runs what is measured: PostgreSQL, the service, and the yardsticks,
// each as processes of their own, on this machine and reachable from it alone.
package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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
)

const (
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
	pollEvery    = 10 * time.Millisecond
)

// Process is a program that runs until it is stopped. Should we die, so does it.
type Process struct {
	name  string
	cmd   *exec.Cmd
	log   tail
	ended chan struct{}
	// url is where it listens; "" where that is no matter.
	url string
}

// command describes a Process.
type command struct {
	name string // for messages
	path string
	args []string
	env  []string
	dir  string
	url  string
}

// start starts a process. It does not wait for anything.
func start(c command) (*Process, error) {
	cmd := exec.Command(c.path, c.args...) //nolint:noctx // it is ended by Stop
	cmd.Dir, cmd.Env = c.dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}, c.env...)
	p := &Process{name: c.name, cmd: cmd, ended: make(chan struct{}), url: c.url}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.WaitDelay = time.Second
	// A ctrl-C is for us, who then end the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The death signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // nobody asks how it ended
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return p, nil
}

// PID returns its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Address returns the host and port where it listens.
func (p *Process) Address() string { return strings.TrimPrefix(p.url, "http://") }

// URL returns where it listens.
func (p *Process) URL() string { return p.url }

// Stop ends it, in order if it can, and returns when it is gone. One that has ended
// is no error.
func (p *Process) Stop() error {
	for _, last := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, stopTimeout}, {syscall.SIGKILL, stopTimeout}} {
		if err := p.cmd.Process.Signal(last.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", p.name, err)
		}
		select {
		case <-p.ended:
			return nil
		case <-time.After(last.wait):
		}
	}
	return fmt.Errorf("%s does not end", p.name)
}

// ready returns the process, or, where it has not come up, ends it.
func (p *Process) ready(err error) (*Process, error) {
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// await returns when a GET of path is answered with 200.
func (p *Process) await(ctx context.Context, path string) error {
	return p.poll(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, http.NoBody)
		if err != nil {
			return err
		}
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", path, response.Status)
		}
		return nil
	})
}

// awaitPort returns when somebody listens on address.
func (p *Process) awaitPort(ctx context.Context, address string) error {
	return p.poll(ctx, func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// poll calls done until that returns nil, or there is no hope that it will.
func (p *Process) poll(ctx context.Context, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
			continue
		case <-p.ended:
		case <-ctx.Done():
		}
		return fmt.Errorf("%s does not come up: %w; it wrote: %s", p.name, err, p.log.text())
	}
}

// freeAddress returns an address of this machine alone that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// clockTicks is the unit of the times in /proc; Linux has had no other for long.
const clockTicks = 100

// CPU returns the time that a process and those children of its that run, or that
// it has waited for, have spent computing.
func CPU(pid int) (time.Duration, error) {
	var sum time.Duration
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	found := false
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// "pid (name) state ppid …"; a name may hold anything, so count from its end.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 15 {
			continue
		}
		own := filepath.Base(filepath.Dir(path)) == strconv.Itoa(pid)
		if !own && fields[1] != strconv.Itoa(pid) {
			continue
		}
		found = found || own
		times := fields[11:13] // utime, stime
		if own {
			times = fields[11:15] // and those of the children that have ended
		}
		for _, field := range times {
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			sum += time.Duration(ticks) * time.Second / clockTicks
		}
	}
	if !found {
		return 0, fmt.Errorf("process %d does not run", pid)
	}
	return sum, nil
}

// RSS returns the memory of a process that is in RAM now.
func RSS(pid int) (bytes int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}

// maxTail bounds what is kept of a log.
const maxTail = 8 << 10

// tail keeps the end of what a process writes.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

// Write implements io.Writer. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}

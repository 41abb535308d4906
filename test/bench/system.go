//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/test/bench/load"
	"github.com/stockroom/stockroom/test/bench/stage"
)

// measured is one measurement.
type measured struct {
	load.Result
	// CPU time for each request: of the server, of PostgreSQL where it is not the
	// server, and of the client.
	server, postgres, client time.Duration
}

// system is what answers requests.
type system interface {
	measure(ctx context.Context, op operation, connections int, duration time.Duration) (measured, error)
}

// harness is what all measurements share.
type harness struct {
	options  options
	dir      string
	commit   string // that is measured
	program  string // the service's
	postgres *stage.Postgres
	data     *dataset
	files    requestFiles
	out      io.Writer

	redis   *stage.Redis   // nil: not started
	pglite  *stage.Process // likewise
	without map[string]string
}

// database is that of everything but the scale.
const database = "bench"

// account runs a measurement with the CPU time of servers and of PostgreSQL.
func (b *harness) account(servers []int, do func() (*load.Result, *os.ProcessState, error)) (measured, error) {
	cpu := func() (own, postgres time.Duration, err error) {
		for _, pid := range servers {
			one, err := stage.CPU(pid)
			if err != nil {
				return 0, 0, err
			}
			own += one
		}
		postgres, err = stage.CPU(b.postgres.PID())
		return own, postgres, err
	}
	serverBefore, postgresBefore, err := cpu()
	if err != nil {
		return measured{}, err
	}
	result, client, err := do()
	if err != nil {
		return measured{}, err
	}
	serverAfter, postgresAfter, err := cpu()
	if err != nil {
		return measured{}, err
	}
	m := measured{Result: *result}
	if n := time.Duration(result.Sent); n > 0 { //nolint:gosec // far below
		m.server = (serverAfter - serverBefore) / n
		m.postgres = (postgresAfter - postgresBefore) / n
		m.client = (client.UserTime() + client.SystemTime()) / n
	}
	return m, nil
}

// httpSystem is a server that speaks HTTP.
type httpSystem struct {
	b       *harness
	process *stage.Process
	pids    []int  // of those that do the work
	dialect string // names the files of its requests
	// requests makes those of an operation.
	requests func(op operation) [][]byte
	prime    bool // before measuring reads, ask for everything once
}

var rightStatuses = []int{http.StatusOK, http.StatusCreated}

func (s *httpSystem) measure(ctx context.Context, op operation, connections int, duration time.Duration) (measured, error) {
	path, err := s.b.files.file(s.dialect+" "+string(op), func() [][]byte { return s.requests(op) })
	if err != nil {
		return measured{}, err
	}
	spec := load.Spec{
		Address: s.process.Address(), Requests: path, Connections: connections,
		Prime:  s.prime && (op == opGet || op == opMget),
		Warmup: warmup, Duration: duration, Statuses: rightStatuses,
	}
	return s.b.account(s.pids, func() (*load.Result, *os.ProcessState, error) { return client(ctx, spec) })
}

// client runs a load.Spec in a process of its own.
func client(ctx context.Context, spec load.Spec) (*load.Result, *os.ProcessState, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	in, err := json.Marshal(spec)
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self, "load")
	cmd.Stdin = bytes.NewReader(in)
	var problems strings.Builder
	cmd.Stderr = &problems
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("the client: %w: %s", err, problems.String())
	}
	result := new(load.Result)
	if err := json.Unmarshal(out, result); err != nil {
		return nil, nil, fmt.Errorf("the client: %w", err)
	}
	return result, cmd.ProcessState, nil
}

// seed stores everything, batch by batch.
func (s *httpSystem) seed(ctx context.Context) error {
	path, err := s.b.files.file(s.dialect+" "+string(opMset), func() [][]byte { return s.requests(opMset) })
	if err != nil {
		return err
	}
	result, err := load.Run(ctx, load.Spec{
		Address: s.process.Address(), Requests: path, Connections: 1, Prime: true, Statuses: rightStatuses,
	})
	if err == nil && result.Errors > 0 {
		err = fmt.Errorf("%d errors, the first: %s", result.Errors, result.FirstError)
	}
	return err
}

// verify holds that it answers the bytes that everybody else does.
func (s *httpSystem) verify(ctx context.Context, op operation) error {
	for _, i := range []int{0, 1, items - 1} {
		path, want := "/v1/items/"+keyOf(i), s.b.data.body(i)
		if s.dialect == dialectWebdis {
			path = "/GET/" + keyOf(i) + ".txt"
		}
		method, body := http.MethodGet, []byte(nil)
		if op == opMget {
			method, path, body, want = http.MethodPost, "/v1/mget", mgetBody(batchKeys(i%batches)), s.b.data.mgetAnswer(i%batches)
		}
		got, err := fetch(ctx, method, s.process.URL()+path, body)
		if err != nil {
			return err
		}
		if !bytes.Equal(want, got) {
			return fmt.Errorf("%s %s answers %.100q, not %.100q", method, path, got, want)
		}
	}
	return nil
}

func fetch(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body)) //nolint:gosec // a server of ours
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request) //nolint:gosec // a server of ours
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// The dialects of requests.
const (
	dialectOwn    = "own"
	dialectWebdis = "webdis"
)

// The systems, by the names under which the page knows them.
const (
	sysCached   = "Stockroom"
	sysUncached = "Stockroom, no cache"
	sysLogging  = "Stockroom, each request logged"
	sysChi      = "bare chi"
	sysPgbench  = "pgbench"
	sysWebdis   = "webdis + redis"
	sysPGlite   = "Node + PGlite"
)

// start starts a system for one part and returns what ends it.
func (b *harness) start(ctx context.Context, name string) (system, func() error, error) {
	nothing := func() error { return nil }
	switch name {
	case sysCached, sysUncached, sysLogging:
		s, err := b.startService(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		return s, s.process.Stop, nil
	case sysChi:
		p, err := stage.StartSelf(ctx, b.workingDir(), "chi", "-registry", b.options.registry)
		if err != nil {
			return nil, nil, err
		}
		return &httpSystem{b: b, process: p, pids: []int{p.PID()}, dialect: dialectOwn, requests: b.data.ownRequests}, p.Stop, nil
	case sysPgbench:
		// PostgreSQL's npm packages come without.
		if _, err := b.postgres.Program("pgbench"); err != nil {
			return nil, nil, fmt.Errorf("pgbench: %w", stage.ErrMissing)
		}
		return &pgbench{b: b}, nothing, nil
	case sysWebdis:
		s, err := b.startRedis(ctx)
		return s, nothing, err
	case sysPGlite:
		s, err := b.startPGlite(ctx)
		return s, nothing, err
	}
	return nil, nil, fmt.Errorf("there is no system %q", name)
}

// workingDir is that of the repository: where the registry's folder is to be found.
func (b *harness) workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return b.dir
	}
	return dir
}

func (b *harness) startService(ctx context.Context, name string) (*httpSystem, error) {
	var env []string
	switch name {
	case sysUncached:
		env = []string{"STOCKROOM_CACHE_BYTES=0"}
	case sysLogging:
		env = []string{"STOCKROOM_LOG_LEVEL=info"}
	}
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return nil, err
	}
	p, err := stage.StartServer(ctx, b.program, dir, b.postgres.DSN(database), env...)
	if err != nil {
		return nil, err
	}
	return &httpSystem{
		b: b, process: p, pids: []int{p.PID()}, dialect: dialectOwn, requests: b.data.ownRequests, prime: name != sysUncached,
	}, nil
}

// startRedis starts redis once for all parts, and fills it.
func (b *harness) startRedis(ctx context.Context) (*httpSystem, error) {
	first := b.redis == nil
	if first {
		redis, err := stage.StartRedis(ctx, filepath.Join(b.dir, "redis"))
		if err != nil {
			return nil, err
		}
		b.redis = redis
	}
	s := &httpSystem{
		b: b, process: b.redis.Webdis, pids: []int{b.redis.Webdis.PID(), b.redis.Server.PID()},
		dialect: dialectWebdis, requests: b.data.webdisRequests,
	}
	if first {
		if err := s.seed(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// startPGlite starts the Node server once for all parts, and fills it.
func (b *harness) startPGlite(ctx context.Context) (*httpSystem, error) {
	first := b.pglite == nil
	if first {
		p, err := stage.StartPGlite(ctx, filepath.Join(b.dir, "pglite"))
		if err != nil {
			return nil, err
		}
		b.pglite = p
	}
	s := &httpSystem{b: b, process: b.pglite, pids: []int{b.pglite.PID()}, dialect: dialectOwn, requests: b.data.ownRequests}
	if first {
		if err := s.seed(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// stop ends what runs through all parts.
func (b *harness) stop(ctx context.Context) error {
	var failures []error
	if b.redis != nil {
		failures = append(failures, b.redis.Stop())
	}
	if b.pglite != nil {
		failures = append(failures, b.pglite.Stop())
	}
	if b.postgres != nil {
		failures = append(failures, b.postgres.Stop(ctx))
	}
	return errors.Join(failures...)
}

//go:build linux

package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildServer builds the service into a folder as `make build` does, and returns the
// path of the program.
func BuildServer(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "server")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", program,
		"github.com/stockroom/stockroom/cmd/server")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, nil
}

// StartServer starts the service on a database, with further variables of its own,
// and returns when it is ready.
func StartServer(ctx context.Context, program, dir, dsn string, env ...string) (*Process, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p, err := start(command{
		name: "the service", path: program, dir: dir, url: "http://" + address,
		env: append([]string{
			"DATABASE_URL=" + dsn, "STOCKROOM_ADDR=" + address, "STOCKROOM_DATA_DIR=" + dir,
			// No yardstick writes a line for each request.
			"STOCKROOM_LOG_LEVEL=warn",
		}, env...),
	})
	if err != nil {
		return nil, err
	}
	return p.ready(p.await(ctx, "/readyz"))
}

// StartSelf starts a subcommand of this program that listens on -address, and
// returns when it does.
func StartSelf(ctx context.Context, dir, name string, args ...string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p, err := start(command{
		name: name, path: self, dir: dir, url: "http://" + address,
		args: append([]string{name, "-address", address}, args...),
	})
	if err != nil {
		return nil, err
	}
	return p.ready(p.awaitPort(ctx, address))
}

// ErrMissing says that a yardstick is not installed here.
var ErrMissing = errors.New("not installed")

// Redis is redis-server with webdis in front of it.
type Redis struct {
	Server, Webdis *Process
}

// StartRedis starts both, with every write synced to the disk before it is answered,
// as PostgreSQL does it. Where they are not installed, the error is ErrMissing.
func StartRedis(ctx context.Context, dir string) (_ *Redis, err error) {
	server, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server: %w", ErrMissing)
	}
	webdis, err := exec.LookPath("webdis")
	if err != nil {
		return nil, fmt.Errorf("webdis: %w", ErrMissing)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	redisAddress, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, redisPort, _ := strings.Cut(redisAddress, ":")
	r := new(Redis)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Stop())
		}
	}()
	r.Server, err = start(command{name: "redis-server", path: server, dir: dir, args: []string{
		"--bind", "127.0.0.1", "--port", redisPort, "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always",
	}})
	if err != nil {
		return nil, err
	}
	if err := r.Server.awaitPort(ctx, redisAddress); err != nil {
		return nil, err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	config := filepath.Join(dir, "webdis.json")
	content := fmt.Sprintf(`{"redis_host": "127.0.0.1", "redis_port": %s, "http_host": "127.0.0.1", "http_port": %s,
		"threads": 2, "pool_size": 20, "daemonize": false, "database": 0, "verbosity": 0, "logfile": %q}`,
		redisPort, port, filepath.Join(dir, "webdis.log"))
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return nil, err
	}
	r.Webdis, err = start(command{name: "webdis", path: webdis, dir: dir, args: []string{config}, url: "http://" + address})
	if err != nil {
		return nil, err
	}
	if err := r.Webdis.await(ctx, "/PING"); err != nil {
		return nil, err
	}
	return r, nil
}

// Stop ends both.
func (r *Redis) Stop() error {
	var failures []error
	for _, p := range []*Process{r.Webdis, r.Server} {
		if p != nil {
			failures = append(failures, p.Stop())
		}
	}
	return errors.Join(failures...)
}

// pgliteFolder is where the Node server stands, from the repository's root.
const pgliteFolder = "test/bench/pglite"

// StartPGlite starts the Node server over PGlite, whose packages it installs where
// they are not there. Without Node the error is ErrMissing.
func StartPGlite(ctx context.Context, dir string) (*Process, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("node: %w", ErrMissing)
	}
	if _, err := os.Stat(filepath.Join(pgliteFolder, "node_modules")); errors.Is(err, fs.ErrNotExist) {
		npm, err := exec.LookPath("npm")
		if err != nil {
			return nil, fmt.Errorf("npm: %w", ErrMissing)
		}
		cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		cmd.Dir = pgliteFolder
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("npm ci in %s: %w\n%s", pgliteFolder, err, out)
		}
	}
	program, err := filepath.Abs(filepath.Join(pgliteFolder, "server.js"))
	if err != nil {
		return nil, err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p, err := start(command{
		name: "the PGlite server", path: node, dir: dir, url: "http://" + address, args: []string{program, port, filepath.Join(dir, "data")},
	})
	if err != nil {
		return nil, err
	}
	return p.ready(p.await(ctx, "/livez"))
}

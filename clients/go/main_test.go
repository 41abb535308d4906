package stockroom_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	stockroom "github.com/stockroom/stockroom/clients/go"
)

// Where the tests' server is, and the keys that it knows: one may do everything, the
// other only read.
var server struct{ url, key, readOnly string }

// patience bounds the wait for the server to be built, to start and to stop.
const patience = 5 * time.Minute

// TestMain runs the tests on a server of the repository around this module, on a
// PostgreSQL of its own.
func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	folder, err := os.MkdirTemp("", "stockroom-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	// PostgreSQL does not run as root; the user that it runs as then must get there.
	if err := os.Chmod(folder, 0o755); err != nil {
		return 0, err
	}
	binary := filepath.Join(folder, "server")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", binary, "./cmd/server")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the server: %w\n%s", err, out)
	}
	keys := filepath.Join(folder, "keys")
	if server.key, err = keygen(ctx, binary, keys, "test", "read,write,admin"); err != nil {
		return 0, err
	}
	if server.readOnly, err = keygen(ctx, binary, keys, "reader", "read"); err != nil {
		return 0, err
	}

	logFile, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = logFile.Close() }()
	data := filepath.Join(folder, "data")
	process := exec.CommandContext(ctx, binary)
	process.Env = append(os.Environ(), "DATABASE_URL=", "STOCKROOM_ADDR=127.0.0.1:0", "STOCKROOM_DATA_DIR="+data, "STOCKROOM_API_KEYS_FILE="+keys)
	process.Stdout, process.Stderr = logFile, logFile
	if err := process.Start(); err != nil {
		return 0, err
	}
	defer func() {
		stopErr := errors.Join(process.Process.Signal(syscall.SIGTERM), process.Wait())
		if stopErr != nil || err != nil {
			log, _ := os.ReadFile(logFile.Name())
			err = errors.Join(err, stopErr, fmt.Errorf("the server's log:\n%s", log))
		}
	}()
	if err := awaitReady(ctx, filepath.Join(data, "server.addr")); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

var generatedKey = regexp.MustCompile(`(?s)client\): (\S+)\n[^:]*: +(\S+)\n`)

// keygen makes an API key and appends its line to the file of keys.
func keygen(ctx context.Context, binary, file, id, scopes string) (string, error) {
	out, err := exec.CommandContext(ctx, binary, "keygen", id, scopes).Output()
	if err != nil {
		return "", fmt.Errorf("keygen: %w", err)
	}
	parts := generatedKey.FindSubmatch(out)
	if parts == nil {
		return "", fmt.Errorf("keygen said %q", out)
	}
	lines, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(lines, "%s\n", parts[2])
	return string(parts[1]), errors.Join(err, lines.Close())
}

// awaitReady sets the server's address, and that for the README's example, when the
// server is ready.
func awaitReady(ctx context.Context, addressFile string) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w", ctx.Err())
		}
		address, err := os.ReadFile(addressFile)
		if err != nil || !strings.HasSuffix(string(address), "\n") {
			continue
		}
		server.url = "http://" + strings.TrimSpace(string(address))
		client, err := stockroom.New(server.url)
		if err != nil {
			return err
		}
		if client.Ready(ctx) == nil {
			return errors.Join(os.Setenv("STOCKROOM_URL", server.url), os.Setenv("STOCKROOM_API_KEY", server.key))
		}
	}
}

// connect returns a client of the server, and what the test stores goes with it.
func connect(t *testing.T, options ...stockroom.Option) *stockroom.Client {
	t.Helper()
	client, err := stockroom.New(server.url+"/", append([]stockroom.Option{stockroom.WithAPIKey(server.key)}, options...)...)
	ok(t, err)
	return client
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, want, got T) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

// fails requires an error of a kind.
func fails(t *testing.T, err, kind error) {
	t.Helper()
	_ = refusal(t, err, kind)
}

// refusal requires an error of a kind, and returns it.
func refusal(t *testing.T, err, kind error) *stockroom.Error {
	t.Helper()
	var refused *stockroom.Error
	if !errors.Is(err, kind) || !errors.As(err, &refused) {
		t.Fatalf("the error is %v, not %v", err, kind)
	}
	return refused
}

// roundTripper answers requests without a network, and so within a bubble of time.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// Package shadcn runs the shadcn CLI, of the version that package.json pins, against a
// server: both are the real programs. The CLI can reach nothing but that server.
package shadcn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/auth"
	"github.com/stockroom/stockroom/internal/pgtest"
)

const (
	// soon is when a test that waits for something gives up.
	soon = 2 * time.Minute
	// lifetime is what no process of these tests comes near.
	lifetime = 15 * time.Minute
	// framework is the one that the registry is imported as.
	framework = "react"
	// namespace is what projects call it; the examples of this repository call each other so.
	namespace = "@stockroom"
)

// skipNode is the variable that leaves out what needs Node.js.
const skipNode = "SKIP_NODE"

var binaries string // folder of the binaries

func TestMain(m *testing.M) { pgtest.Main(m) }

// prepare installs the CLI, where that has not been done, and builds the binaries, once.
var prepare = sync.OnceValue(func() (err error) {
	if err := install(); err != nil {
		return fmt.Errorf("%w\n(%s=1 leaves out what needs Node.js)", err, skipNode)
	}
	if binaries, err = os.MkdirTemp("", "stockroom-shadcn-test-"); err != nil {
		return err
	}
	// pgtest.Main does not return.
	if err := pgtest.RemoveAtExit(binaries); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binaries, "../../cmd/server", "../../cmd/import").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	// Items name packages of npm, with versions that may be anything. That the CLI asks
	// for them is enough here.
	return os.WriteFile(filepath.Join(binaries, "npm"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" >>npm.log\n"), 0o755)
})

// install installs what package-lock.json pins, unless it is there.
func install() error {
	installed, err := os.Stat(filepath.Join("node_modules", ".package-lock.json"))
	wanted, wantedErr := os.Stat("package-lock.json")
	if wantedErr != nil {
		return wantedErr
	}
	if err == nil && !installed.ModTime().Before(wanted.ModTime()) {
		return nil
	}
	out, err := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund").CombinedOutput()
	if err != nil {
		return fmt.Errorf("npm ci in test/shadcn: %w\n%s", err, out)
	}
	now := time.Now()
	return os.Chtimes(filepath.Join("node_modules", ".package-lock.json"), now, now)
}

// needsNode skips a test where Node.js is not wanted, or time is short, and makes ready
// for it elsewhere.
func needsNode(t *testing.T) {
	t.Helper()
	if os.Getenv(skipNode) == "1" {
		t.Skip(skipNode + "=1: the shadcn CLI is not run")
	}
	if testing.Short() {
		t.Skip("-short: the shadcn CLI is not run")
	}
	require.NoError(t, prepare())
}

// output is what a process has written. It may be read while the process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// environment is that of the tests without what would configure a server, the CLI or
// npm, and with variables in its place.
func environment(variables ...string) []string {
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		upper := strings.ToUpper(name)
		configures := name == "DATABASE_URL" || name == "REGISTRY_URL" || name == "NODE_OPTIONS" || strings.HasSuffix(upper, "_PROXY")
		for _, prefix := range []string{"STOCKROOM_", "OTEL_", "PG", "NPM_", "SHADCN_"} {
			configures = configures || strings.HasPrefix(upper, prefix)
		}
		if !configures {
			env = append(env, variable)
		}
	}
	return append(env, variables...)
}

// server is a running server. It is stopped when the test ends.
type server struct {
	t   *testing.T
	url string
}

// serve starts a server on a database and returns when it is ready.
func serve(t *testing.T, variables ...string) *server {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), lifetime)
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "server"))
	cmd.Env = environment(append([]string{"STOCKROOM_ADDR=127.0.0.1:0", "STOCKROOM_DATA_DIR=" + dir, "STOCKROOM_LOG_LEVEL=warn"}, variables...)...)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the test looks at what it answers
		close(ended)
	}()
	t.Cleanup(func() {
		defer cancel()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("stop the server: %v", err)
		}
		<-ended
		if t.Failed() && out.String() != "" {
			t.Logf("the server wrote:\n%s", out.String())
		}
	})
	s := &server{t: t}
	require.Eventually(t, func() bool {
		address, err := os.ReadFile(filepath.Join(dir, "server.addr"))
		if err != nil || !bytes.HasSuffix(address, []byte("\n")) {
			return false
		}
		s.url = "http://" + strings.TrimSpace(string(address))
		response, err := http.Get(s.url + "/readyz")
		return err == nil && response.Body.Close() == nil && response.StatusCode == http.StatusOK
	}, soon, 5*time.Millisecond, "the server is not ready")
	return s
}

// stock is a database with a registry in it, behind two servers.
type stock struct {
	open    *server           // takes requests of everybody
	guarded *server           // wants an API key
	tokens  map[string]string // by the scope that they give
	folder  string
	items   map[string]*registryItem
}

// registryItem is what the tests look at in an item.
type registryItem struct {
	Name, Type                         string
	Dependencies, RegistryDependencies []string
	Files                              []registryFile
	text                               string
}

type registryFile struct{ Path, Content, Type, Target string }

// examples is the registry of this repository, and realRegistry a large one, which is not
// a part of it.
func examples(*testing.T) string { return filepath.Join("..", "..", "examples", "registry") }

// bareExamples are the examples as if they were to depend on each other by name alone.
func bareExamples(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	paths, err := filepath.Glob(filepath.Join(examples(t), "*.json"))
	require.NoError(t, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		text = bytes.ReplaceAll(text, []byte(`"`+namespace+`/`), []byte(`"`))
		require.NoError(t, os.WriteFile(filepath.Join(folder, filepath.Base(path)), text, 0o600))
	}
	return folder
}

func realRegistry(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("STOCKROOM_REGISTRY_DIR")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "registry", "new-york")
		if _, err := os.Stat(folder); err != nil {
			t.Skipf("no registry to serve: set STOCKROOM_REGISTRY_DIR to a folder of registry items (%v)", err)
		}
	}
	return folder
}

// fill imports the items of a folder into a new database.
func fill(t *testing.T, folder string) *stock {
	t.Helper()
	database := "DATABASE_URL=" + pgtest.New(t)
	s := &stock{tokens: map[string]string{}, folder: folder, items: map[string]*registryItem{}}
	var lines []byte
	for _, scope := range []auth.Scopes{auth.Read, auth.Write} {
		token, line, err := auth.Generate("test-"+scope.String(), scope)
		require.NoError(t, err)
		s.tokens[scope.String()] = token
		lines = append(lines, line+"\n"...)
	}
	keys := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(keys, lines, 0o600))
	s.open = serve(t, database)
	s.guarded = serve(t, database, "STOCKROOM_API_KEYS_FILE="+keys)

	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "import"), "--server", s.open.url, "--framework", framework, folder)
	cmd.Env = environment()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		item := &registryItem{text: string(text)}
		require.NoError(t, json.Unmarshal(text, item), path)
		s.items[item.Name] = item
	}
	require.NotEmpty(t, s.items)
	return s
}

// project is a folder in which a user of the CLI works.
type project struct {
	t   *testing.T
	dir string
	env []string
}

// tokenVariable is where the projects' components.json has the API key from.
const tokenVariable = "REGISTRY_TOKEN"

// newProject makes a project for Next.js that knows registries, with variables in its
// environment. Whatever the CLI wants from elsewhere fails the test.
func newProject(t *testing.T, registries map[string]any, variables ...string) *project {
	t.Helper()
	dir := t.TempDir()
	if registries == nil {
		registries = map[string]any{}
	}
	config, err := json.Marshal(map[string]any{
		"$schema": "https://ui.shadcn.com/schema.json", "style": "new-york", "rsc": true, "tsx": true,
		// A base colour would have to be fetched.
		"tailwind":    map[string]any{"config": "", "css": "app/globals.css", "baseColor": "", "cssVariables": true},
		"iconLibrary": "lucide",
		"aliases": map[string]string{
			"components": "@/components", "utils": "@/lib/utils", "ui": "@/components/ui", "lib": "@/lib", "hooks": "@/hooks",
		},
		"registries": registries,
	})
	require.NoError(t, err)
	for name, text := range map[string]string{
		"components.json": string(config),
		"package.json":    `{"name":"project","private":true,"dependencies":{"next":"15.0.0","tailwindcss":"^4.0.0"}}`,
		"tsconfig.json":   `{"compilerOptions":{"baseUrl":".","paths":{"@/*":["./*"]}}}`,
		"next.config.js":  "module.exports = {}\n",
		"app/globals.css": "@import \"tailwindcss\";\n",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	env := environment(append([]string{
		"PATH=" + binaries + string(os.PathListSeparator) + os.Getenv("PATH"), // npm is ours
		"HOME=" + t.TempDir(), "CI=1", "NO_COLOR=1",
		"NO_PROXY=127.0.0.1",
	}, variables...)...)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
		env = append(env, name+"="+elsewhere(t))
	}
	return &project{t, dir, env}
}

// elsewhere returns the URL of a proxy that fails the test that asks it for anything.
func elsewhere(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var asked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		if n := asked.Load(); n > 0 {
			t.Errorf("the CLI wanted something from elsewhere, %d times", n)
		}
	})
	return "http://" + listener.Addr().String()
}

// command is the CLI in the project.
func (p *project) command(ctx context.Context, args ...string) *exec.Cmd {
	p.t.Helper()
	script, err := filepath.Abs(filepath.Join("node_modules", "shadcn", "dist", "index.js"))
	require.NoError(p.t, err)
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

// run runs the CLI, which must succeed, and returns what it wrote to its standard output.
func (p *project) run(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), lifetime)
	defer cancel()
	cmd := p.command(ctx, args...)
	// A file, for the CLI ends before it has written much to a pipe.
	path := filepath.Join(p.t.TempDir(), "stdout")
	stdout, err := os.Create(path)
	require.NoError(p.t, err)
	defer stdout.Close()
	var stderr output
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	runErr := cmd.Run()
	text, err := os.ReadFile(path)
	require.NoError(p.t, err)
	require.NoError(p.t, runErr, "%s\n%s%s", strings.Join(args, " "), text, stderr.String())
	return string(text)
}

// fails runs the CLI, which must fail, and returns what it shows its user.
func (p *project) fails(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), lifetime)
	defer cancel()
	out, err := p.command(ctx, args...).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(p.t, err, &exit, "%s\n%s", strings.Join(args, " "), out)
	require.Equal(p.t, 1, exit.ExitCode(), "%s", out)
	return string(out)
}

// registryOf is how a project's components.json names a server's registry.
func registryOf(s *server, query string, headers map[string]string) map[string]any {
	registry := map[string]any{"url": s.url + "/r/" + framework + "/{name}.json" + query}
	if headers != nil {
		registry["headers"] = headers
	}
	return registry
}

// bearer is the header with the API key that stands in the environment.
var bearer = map[string]string{"Authorization": "Bearer ${" + tokenVariable + "}"}

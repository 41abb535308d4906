package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// The tests of this file run the importer against a server, both of them the real
// binaries.

const (
	// soon is when a test that waits for something gives up: an import of 192 MiB under the
	// race detector, too, on a machine that does much else.
	soon = 2 * time.Minute
	// lifetime is what no process of these tests comes near.
	lifetime = 15 * time.Minute
)

var (
	binaries string    // folder of the binaries, and of everything else that the tests write
	remover  io.Writer // standard input of the process that removes the folder
)

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	pgtest.Main(m)
}

func build() (err error) {
	if binaries, err = os.MkdirTemp("", "stockroom-import-test-"); err != nil {
		return err
	}
	// PostgreSQL's user, which is not ours where we are root, must be able to enter.
	if err := os.Chmod(binaries, 0o755); err != nil {
		return err
	}
	// The folder outlives us, since neither pgtest.Main nor a test that times out
	// returns: so it is removed by a process whose standard input ends when we do.
	cmd := exec.Command("sh", "-c", `trap '' INT TERM; cat >/dev/null; rm -rf -- "$0"`, binaries)
	if remover, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binaries, ".", "../server").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
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

// process is one that a test has started, and that is killed when the test ends.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	ended          chan struct{}
}

// launch starts a binary with the environment of the tests, without what would
// configure it, and with variables in its place.
func launch(t *testing.T, variables []string, name string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lifetime)
	p := &process{t: t, cmd: exec.CommandContext(ctx, filepath.Join(binaries, name), args...), ended: make(chan struct{})}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		ours := name == "DATABASE_URL" || strings.HasPrefix(name, "STOCKROOM_") || strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "PG")
		if !ours || name == "STOCKROOM_POSTGRES_BIN" {
			p.cmd.Env = append(p.cmd.Env, variable)
		}
	}
	p.cmd.Env = append(p.cmd.Env, variables...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = time.Second
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait() // the test looks at the state
		close(p.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-p.ended
		if t.Failed() {
			t.Logf("%s wrote:\n%s%s", name, p.stdout.String(), p.stderr.String())
		}
	})
	return p
}

// wait returns the exit code (-1 after a signal that the process did not handle).
// A process that does not end is killed and fails the test.
func (p *process) wait() int {
	p.t.Helper()
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.t.Errorf("the process has not ended after %s", soon)
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
	return p.cmd.ProcessState.ExitCode()
}

// signal sends a signal to this process and no other.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("send %s: %v", sig, err)
	}
}

// eventually polls until done answers true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-timeout.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// server is a running server. It is stopped in order when the test ends.
type server struct {
	*process

	t      *testing.T // the test, or its part, that makes the requests
	dir    string
	url    string
	client *http.Client
}

// serve starts a server on a data folder and returns when it is ready.
func serve(t *testing.T, dir string, variables ...string) *server {
	t.Helper()
	written := filepath.Join(dir, "server.addr")
	if err := os.Remove(written); err != nil { // a server before it may have left it
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	variables = append([]string{"STOCKROOM_ADDR=127.0.0.1:0", "STOCKROOM_DATA_DIR=" + dir}, variables...)
	s := &server{process: launch(t, variables, "server"), t: t, dir: dir, client: &http.Client{Timeout: soon, Transport: transport}}
	t.Cleanup(func() {
		s.signal(syscall.SIGTERM)
		s.wait()
	})
	eventually(t, "the server is ready", func() bool {
		select {
		case <-s.ended:
			t.Fatal("the server has ended")
		default:
		}
		address, err := os.ReadFile(written)
		if err != nil || !bytes.HasSuffix(address, []byte("\n")) {
			return false
		}
		s.url = "http://" + strings.TrimSpace(string(address))
		response, err := s.client.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	return s
}

// in is the server for a part of the test.
func (s *server) in(t *testing.T) *server {
	t.Helper()
	part := *s
	part.t = t
	return &part
}

// newDataDir returns the path of a data folder that is not there yet.
func newDataDir(t *testing.T) string {
	t.Helper()
	parent, err := os.MkdirTemp(binaries, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(parent)) })
	require.NoError(t, os.Chmod(parent, 0o755))
	return filepath.Join(parent, "data")
}

func (s *server) do(method, path, body string) (status int, answer string) {
	s.t.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	response, err := s.client.Do(r)
	require.NoError(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response.StatusCode, string(text)
}

func (s *server) get(path string) string {
	s.t.Helper()
	status, body := s.do(http.MethodGet, path, "")
	require.Equal(s.t, http.StatusOK, status, "%s: %s", path, body)
	return body
}

func (s *server) put(path, body string) {
	s.t.Helper()
	status, answer := s.do(http.MethodPut, path, body)
	require.Contains(s.t, []int{http.StatusOK, http.StatusCreated}, status, "%s: %s", path, answer)
}

// begin starts the import of a path as a framework.
func (s *server) begin(framework, path string, args ...string) *process {
	s.t.Helper()
	args = append([]string{"--server", s.url, "--framework", framework, path}, args...)
	return launch(s.t, nil, "import", args...)
}

// imports runs the import of a path as a framework to its end, which is that of
// the exit code, and returns what was written to both streams.
func (s *server) imports(code int, framework, path string, args ...string) (stdout, stderr string) {
	s.t.Helper()
	p := s.begin(framework, path, args...)
	require.Equal(s.t, code, p.wait(), p.stderr.String())
	return p.stdout.String(), p.stderr.String()
}

// version is what changes when an item is written.
type version struct{ ETag, UpdatedAt string }

// versions returns those of all items of a framework, by their names.
func (s *server) versions(framework string) map[string]version {
	s.t.Helper()
	all := map[string]version{}
	for _, kind := range []string{"components", "blocks"} {
		var list struct {
			Items []struct {
				Name string
				version
			}
			NextCursor string
		}
		body := s.get("/v1/" + kind + "/" + framework + "?limit=1000")
		require.NoError(s.t, json.Unmarshal([]byte(body), &list))
		require.Empty(s.t, list.NextCursor)
		for _, item := range list.Items {
			require.NotEmpty(s.t, item.ETag)
			require.NotEmpty(s.t, item.UpdatedAt)
			all[item.Name] = item.version
		}
	}
	return all
}

// names are the items of a framework.
func (s *server) names(framework string) []string {
	s.t.Helper()
	return slices.Sorted(maps.Keys(s.versions(framework)))
}

// files returns the items in a folder by their names, which the files have too.
func files(t *testing.T, folder string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	all := map[string]string{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		all[strings.TrimSuffix(filepath.Base(path), ".json")] = string(content)
	}
	require.NotEmpty(t, all)
	return all
}

// write makes a folder of files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	return folder
}

// made is a registry item that a test has made up.
func made(name, itemType, code string) string {
	return fmt.Sprintf(`{"name":%q,"type":%q,"files":[{"path":"%s.tsx","content":%q,"type":%q}]}`, name, itemType, name, code, itemType)
}

// many are n components, in files whose order is that of their names.
func many(t *testing.T, n int) (folder string, names []string) {
	t.Helper()
	files := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("item-%04d", i)
		names = append(names, name)
		files[name+".json"] = made(name, "registry:ui", strings.Repeat(name, 100))
	}
	return write(t, files), names
}

func summary(imported, unchanged, failed int) string {
	return fmt.Sprintf("imported %d, unchanged %d, failed %d\n", imported, unchanged, failed)
}

func TestImport(t *testing.T) {
	t.Parallel()
	s := serve(t, newDataDir(t), "DATABASE_URL="+pgtest.New(t))
	// Each has a framework of its own.
	t.Run("examples", func(t *testing.T) {
		t.Parallel()
		s.in(t).importTwice("examples", examples)
	})
	t.Run("real registry", func(t *testing.T) {
		t.Parallel()
		folder := os.Getenv("STOCKROOM_REGISTRY_DIR")
		if folder == "" {
			folder = filepath.Join("..", "..", "..", "shared", "registry", "new-york")
			if _, err := os.Stat(folder); err != nil {
				t.Skipf("no registry to import: set STOCKROOM_REGISTRY_DIR to a folder of registry items (%v)", err)
			}
		}
		s.in(t).importTwice("new-york", folder)
	})
	t.Run("what differs", func(t *testing.T) {
		t.Parallel()
		s.in(t).importWhatDiffers()
	})
	t.Run("demos", func(t *testing.T) {
		t.Parallel()
		s.in(t).importDemos()
	})
	t.Run("bad files", func(t *testing.T) {
		t.Parallel()
		s.in(t).importBadFiles()
	})
}

// importTwice imports a folder, looks at what came of it, and imports it again.
func (s *server) importTwice(framework, folder string) {
	t := s.t
	t.Helper()
	items := files(t, folder)
	stdout, _ := s.imports(exitOK, framework, folder)
	require.Equal(t, summary(len(items), 0, 0), stdout)
	for name, file := range items {
		require.JSONEq(t, file, s.get("/r/"+framework+"/"+url.PathEscape(name)+".json"), name)
	}
	before := s.versions(framework)
	require.Len(t, before, len(items))

	stdout, _ = s.imports(exitOK, framework, folder)
	require.Equal(t, summary(0, len(items), 0), stdout)
	require.Equal(t, before, s.versions(framework), "an item was written again")
}

func (s *server) importWhatDiffers() {
	t := s.t
	t.Helper()
	items := files(t, examples)
	stdout, _ := s.imports(exitOK, "differs", examples, "--dry-run")
	require.Contains(t, stdout, fmt.Sprintf("would import %d, unchanged 0, failed 0\n", len(items)))
	require.Empty(t, s.names("differs"))

	s.imports(exitOK, "differs", examples)
	const changed = "status-badge"
	s.put("/v1/components/differs/"+changed, `{"sourceCode":"changed"}`)
	before := s.versions("differs")
	stdout, _ = s.imports(exitOK, "differs", examples, "--dry-run")
	require.Contains(t, stdout, "would replace component:differs:"+changed+" ")
	require.Contains(t, stdout, fmt.Sprintf("would import 1, unchanged %d, failed 0\n", len(items)-1))
	require.Equal(t, before, s.versions("differs"))

	stdout, _ = s.imports(exitOK, "differs", examples)
	require.Equal(t, summary(1, len(items)-1, 0), stdout)
	after := s.versions("differs")
	require.NotEqual(t, before[changed], after[changed])
	delete(before, changed)
	delete(after, changed)
	require.Equal(t, before, after)
	require.JSONEq(t, items[changed], s.get("/r/differs/"+changed+".json"))
}

func (s *server) importDemos() {
	t := s.t
	t.Helper()
	demoOf := func(name string) any {
		t.Helper()
		var component struct{ DemoCode any }
		require.NoError(t, json.Unmarshal([]byte(s.get("/v1/components/demos/"+name)), &component))
		return component.DemoCode
	}
	code := func(name, text string) map[string]string {
		return map[string]string{name + ".json": made(name, "registry:ui", text)}
	}
	demo := func(name, text string) map[string]string {
		return map[string]string{name + "-demo.json": made(name+"-demo", "registry:example", text)}
	}

	// One put by hand survives.
	s.put("/v1/components/demos/hand", `{"sourceCode":"old","demoCode":"by hand"}`)
	s.imports(exitOK, "demos", write(t, code("hand", "new")))
	require.Equal(t, "by hand", demoOf("hand"))
	require.Contains(t, s.get("/v1/components/demos/hand"), `"sourceCode":"new"`)

	// An example alone fills that of the component, on the server for long.
	s.imports(exitOK, "demos", write(t, code("first", "1")))
	require.Nil(t, demoOf("first"))
	s.imports(exitOK, "demos", write(t, demo("first", "its demo")))
	require.Equal(t, "its demo", demoOf("first"))
	stdout, _ := s.imports(exitOK, "demos", write(t, demo("first", "its demo")))
	require.Equal(t, summary(0, 1, 0), stdout)
	s.imports(exitOK, "demos", write(t, demo("first", "its new demo")))
	require.Equal(t, "its new demo", demoOf("first"))

	// A component that comes after its example gets it.
	s.imports(exitOK, "demos", write(t, demo("second", "was there before")))
	s.imports(exitOK, "demos", write(t, code("second", "2")))
	require.Equal(t, "was there before", demoOf("second"))

	// Both at once, in whatever requests.
	both := code("third", "3")
	maps.Copy(both, demo("third", "came along"))
	stdout, _ = s.imports(exitOK, "demos", write(t, both), "--batch", "1")
	require.Equal(t, summary(2, 0, 0), stdout)
	require.Equal(t, "came along", demoOf("third"))
	stdout, _ = s.imports(exitOK, "demos", write(t, both))
	require.Equal(t, summary(0, 2, 0), stdout)
}

func (s *server) importBadFiles() {
	t := s.t
	t.Helper()
	s.put("/v1/components/bad/taken", `{"sourceCode":"was here"}`)
	folder := write(t, map[string]string{
		"good.json":       made("good", "registry:ui", "1"),
		"good-block.json": made("good-block", "registry:block", "2"),
		"cut.json":        `{"name":"cut","type":"reg`,
		"nameless.json":   `{"type":"registry:ui"}`,
		"one.json":        made("twice", "registry:ui", "1"),
		"two.json":        made("twice", "registry:hook", "2"),
		"taken.json":      made("taken", "registry:block", "3"),
		// The string that PostgreSQL cannot hold, as JSON writes it.
		"nul.json":         strings.ReplaceAll(made("nul", "registry:ui", "?"), "?", `\u0000`),
		"index.json":       `[]`,
		"not-an-item.html": "<html>",
	})
	stdout, stderr := s.imports(exitFailed, "bad", folder)
	require.Equal(t, summary(2, 0, 6), stdout)
	for file, reason := range map[string]string{
		"cut.json": "malformed_json", "nameless.json": "missing_field", "nul.json": "invalid_string",
		"one.json": "two.json", "two.json": "one.json", "taken.json": "component:bad:taken",
	} {
		require.Regexp(t, `(?m)^failed \S*/`+file+`: .*`+reason, stderr)
	}
	require.Regexp(t, `(?m)^skipped \S*/index\.json: `, stderr)
	require.Equal(t, []string{"good", "good-block", "taken"}, s.names("bad"))
	require.JSONEq(t, `{"sourceCode":"was here"}`, s.get("/v1/components/bad/taken"))
}

func TestImportIntoAServerOfSmallBatches(t *testing.T) {
	t.Parallel()
	s := serve(t, newDataDir(t), "DATABASE_URL="+pgtest.New(t), "STOCKROOM_MAX_BATCH=20")
	folder, names := many(t, 150)
	stdout, _ := s.imports(exitOK, "react", folder, "--batch", "100")
	require.Equal(t, summary(len(names), 0, 0), stdout)
	require.Equal(t, names, s.names("react"))
}

// holdUp makes an import wait when it comes to the item, until goOn. It returns
// what to wait for: that an import has come that far.
func (s *server) holdUp(dsn, name string) (waits func() bool, goOn func()) {
	s.t.Helper()
	s.put("/v1/components/react/"+name, `{"sourceCode":"another"}`)
	tx, err := pgtest.Connect(s.t, dsn).Begin(s.t.Context())
	require.NoError(s.t, err)
	_, err = tx.Exec(s.t.Context(), "SELECT FROM components WHERE name = $1 FOR UPDATE", name)
	require.NoError(s.t, err)
	conn := pgtest.Connect(s.t, dsn)
	waits = func() bool {
		var waiting bool
		err := conn.QueryRow(s.t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted))`).Scan(&waiting)
		require.NoError(s.t, err)
		return waiting
	}
	return waits, func() { require.NoError(s.t, tx.Rollback(s.t.Context())) }
}

func TestImportIntoAServerThatIsKilled(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	s := serve(t, dir) // its own PostgreSQL: this is about all that a server is
	const batch, whole = 5, 20
	folder, names := many(t, 2*whole*batch)
	inTheMiddle := whole*batch + batch/2
	waits, _ := s.holdUp("postgres://postgres@/stockroom?sslmode=disable&host="+url.QueryEscape(filepath.Join(dir, "run")), names[inTheMiddle])
	p := s.begin("react", folder, "--batch", strconv.Itoa(batch), "--parallel", "1")
	eventually(t, "the import has come half-way", waits)
	s.signal(syscall.SIGKILL)
	require.Equal(t, -1, s.wait())
	require.Equal(t, exitFailed, p.wait())
	require.Contains(t, p.stdout.String(), "imported "+strconv.Itoa(whole*batch)+", ")
	require.Contains(t, p.stderr.String(), "connection refused")

	// Its PostgreSQL ends as well; the next server waits for that.
	s = serve(t, dir, "STOCKROOM_ADDR="+strings.TrimPrefix(s.url, "http://"))
	require.Equal(t, append(slices.Clone(names[:whole*batch]), names[inTheMiddle]), s.names("react"), "all of the batches that were acknowledged, and none in part")
	require.Contains(t, s.get("/v1/components/react/"+names[inTheMiddle]), "another")
	stdout, _ := s.imports(exitOK, "react", folder)
	require.Equal(t, summary(whole*batch, whole*batch, 0), stdout)
	require.Equal(t, names, s.names("react"))
	require.NotContains(t, s.get("/v1/components/react/"+names[inTheMiddle]), "another")
}

func TestImportThatIsInterrupted(t *testing.T) {
	t.Parallel()
	dsn := pgtest.New(t)
	s := serve(t, newDataDir(t), "DATABASE_URL="+dsn)
	folder, names := many(t, 40)
	const done = 25
	waits, goOn := s.holdUp(dsn, names[done])
	p := s.begin("react", folder, "--batch", "1", "--parallel", "1")
	eventually(t, "the import has come to the item", waits)
	p.signal(syscall.SIGINT)
	require.Equal(t, exitInterrupted, p.wait())
	require.Contains(t, p.stdout.String(), summary(done, 0, 0))
	require.Contains(t, p.stderr.String(), fmt.Sprintf("interrupted: %d ", len(names)-done))
	require.NotContains(t, p.stderr.String(), "failed")
	eventually(t, "the server drops the request that nobody waits for", func() bool { return !waits() })
	goOn()

	stdout, _ := s.imports(exitOK, "react", folder)
	require.Equal(t, summary(len(names)-done, done, 0), stdout)
	require.Equal(t, names, s.names("react"))
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// The tests of this file move items with the real binaries, beside real servers.

// exports runs `server export` to its end and returns what it wrote to stdout.
func exports(t *testing.T, code int, file string, variables ...string) (stdout, stderr string) {
	t.Helper()
	p := launch(t, variables, "server", "export", file)
	require.Equal(t, code, p.wait(), p.stderr.String())
	return p.stdout.String(), p.stderr.String()
}

// moves runs `import` to its end.
func moves(t *testing.T, code int, variables []string, args ...string) (stdout, stderr string) {
	t.Helper()
	p := launch(t, variables, "import", args...)
	require.Equal(t, code, p.wait(), p.stderr.String())
	return p.stdout.String(), p.stderr.String()
}

func moved(imported, unchanged, kept, expired, failed int) string {
	return fmt.Sprintf("imported %d, unchanged %d, kept %d, expired %d, failed %d\n", imported, unchanged, kept, expired, failed)
}

// items are the lines of a backup that are items.
func items(t *testing.T, backup string) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(backup, "\n"), "\n")
	require.GreaterOrEqual(t, len(lines), 2)
	return lines[1 : len(lines)-1]
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// stop ends the server in order.
func (s *server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	require.Zero(s.t, s.wait())
}

// A backup of the embedded database is made while its server runs, and when none
// does; and it is restored likewise.
func TestBackupOfTheEmbeddedDatabase(t *testing.T) {
	t.Parallel()
	from, to := newDataDir(t), newDataDir(t)
	exports(t, 1, "-", "STOCKROOM_DATA_DIR="+from)
	_, err := os.Stat(from)
	require.ErrorIs(t, err, os.ErrNotExist, "looking for a database has made one")

	s := serve(t, from)
	s.imports(exitOK, "examples", examples)
	s.put("/v1/items/team:colour?ttl=3600", `"teal"`)
	s.put("/v1/items/team:number", `1.50`)
	file := filepath.Join(t.TempDir(), "backup.ndjson")
	_, stderr := exports(t, 0, file, "STOCKROOM_DATA_DIR="+from)
	require.Contains(t, stderr, "exported 9 items: 5 components, 2 blocks, 2 entries\n")
	running := items(t, read(t, file))
	before := s.get("/v1/items/team:colour/metadata")
	s.stop()
	stdout, _ := exports(t, 0, "-", "STOCKROOM_DATA_DIR="+from)
	require.Equal(t, running, items(t, stdout))

	// Into a folder in which there is nothing yet, without a server.
	stdout, _ = moves(t, exitOK, []string{"STOCKROOM_DATA_DIR=" + to}, file)
	require.Equal(t, moved(9, 0, 0, 0, 0), stdout)
	// What is read is no change before the end, however long that takes: it is not written.
	restored := serve(t, to, "STOCKROOM_ACCESS_FLUSH_INTERVAL=1h")
	require.Equal(t, withoutRemaining(t, before), withoutRemaining(t, restored.get("/v1/items/team:colour/metadata")))
	require.Equal(t, `1.50`, restored.get("/v1/items/team:number"))
	for name, item := range files(t, examples) {
		require.JSONEq(t, item, restored.get("/r/examples/"+name+".json"))
	}

	// And while a server runs, which has cached what gives way, and what is not there.
	restored.put("/v1/items/team:number", `2`)
	require.Equal(t, `2`, restored.get("/v1/items/team:number"))
	status, _ := restored.do(http.MethodDelete, "/v1/items/team:colour", "")
	require.Equal(t, http.StatusNoContent, status)
	p := launch(t, []string{"STOCKROOM_DATA_DIR=" + to}, "import", "-")
	require.Equal(t, exitFailed, p.wait(), "standard input is empty")
	stdout, _ = moves(t, exitOK, []string{"STOCKROOM_DATA_DIR=" + to}, file, "--dry-run", "--existing=keep")
	require.Contains(t, stdout, "would import 1, unchanged 7, kept 1")
	stdout, _ = moves(t, exitOK, []string{"STOCKROOM_DATA_DIR=" + to}, file)
	require.Equal(t, moved(2, 7, 0, 0, 0), stdout)
	eventually(t, "the server has heard of the import", func() bool {
		_, number := restored.do(http.MethodGet, "/v1/items/team:number", "")
		_, colour := restored.do(http.MethodGet, "/v1/items/team:colour", "")
		return number == `1.50` && colour == `"teal"`
	})
}

func withoutRemaining(t *testing.T, metadata string) map[string]any {
	t.Helper()
	var members map[string]any
	require.NoError(t, json.Unmarshal([]byte(metadata), &members))
	require.Contains(t, members, "ttlRemainingSeconds")
	delete(members, "ttlRemainingSeconds")
	return members
}

// On a database that servers share, an import is seen by them as soon as one of
// their own writes, however long they would keep what they have cached.
func TestImportTellsRunningServers(t *testing.T) {
	t.Parallel()
	dsn := "DATABASE_URL=" + pgtest.New(t)
	s := serve(t, newDataDir(t), dsn, "STOCKROOM_CACHE_MAX_STALENESS=1h", "STOCKROOM_LOG_LEVEL=warn")
	many := make(map[string]int)
	for i := range 1000 {
		many[fmt.Sprintf("a%d", i)] = i
	}
	body, err := json.Marshal(map[string]any{"entries": many})
	require.NoError(t, err)
	status, answer := s.do(http.MethodPost, "/v1/mset", string(body))
	require.Equal(t, http.StatusOK, status, answer)
	s.put("/v1/items/z", `"old"`)
	file := filepath.Join(t.TempDir(), "backup")
	exports(t, 0, file, dsn)
	s.put("/v1/items/z", `"new"`)
	for i := range 1000 {
		many[fmt.Sprintf("a%d", i)] = -i
	}
	body, err = json.Marshal(map[string]any{"entries": many})
	require.NoError(t, err)
	status, answer = s.do(http.MethodPost, "/v1/mset", string(body))
	require.Equal(t, http.StatusOK, status, answer)
	// The last of the items to be written is read again and again meanwhile: so it is
	// in the cache when the import, of which the server knows by then, replaces it.
	p := launch(t, []string{dsn}, "import", file)
	for ended := false; !ended; {
		require.Contains(t, []string{`"old"`, `"new"`}, s.get("/v1/items/z"))
		select {
		case <-p.ended:
			ended = true
		default:
		}
	}
	require.Zero(t, p.wait())
	require.Equal(t, moved(1001, 0, 0, 0, 0), p.stdout.String())
	eventually(t, "the server has heard of the import", func() bool { return s.get("/v1/items/z") == `"old"` })
}

func TestImportSaysThatThereIsNoRoom(t *testing.T) {
	t.Parallel()
	from, to := "DATABASE_URL="+pgtest.New(t), "DATABASE_URL="+pgtest.New(t)
	s := serve(t, newDataDir(t), from)
	s.put("/v1/components/react/large", `{"sourceCode":"x","fileSize":2048}`)
	file := filepath.Join(t.TempDir(), "backup")
	exports(t, 0, file, from)
	_, stderr := moves(t, exitFailed, []string{to, "STOCKROOM_MAX_BYTES=1KiB"}, file)
	require.Contains(t, stderr, "charged 2048 bytes, and the limit is 1024: set STOCKROOM_MAX_BYTES higher, for this command and for the servers")
	moves(t, exitOK, []string{to, "STOCKROOM_MAX_BYTES=2KiB"}, file)

	// A file that was cut off is refused before anything is looked at.
	require.NoError(t, os.Truncate(file, int64(len(read(t, file))-100)))
	_, stderr = moves(t, exitFailed, []string{"DATABASE_URL=postgres://127.0.0.1:1/nowhere"}, file)
	require.Contains(t, stderr, "line 3: the file is cut off")
}

// An export and an import of more than they may keep in memory.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it moves 192 MiB")
	}
	if runtime.GOOS != "linux" {
		t.Skip("it reads /proc")
	}
	const number, size = 48, 4 << 20
	from, to := pgtest.New(t), pgtest.New(t)
	conn := pgtest.Connect(t, from)
	_, err := conn.Exec(t.Context(), `INSERT INTO entries (key, value, bytes, etag, created_at, updated_at, cached_at, accessed_at)
		SELECT 'e' || n, v, octet_length(v), rtrim(translate(encode(substring(sha256(convert_to(v, 'UTF8')) FOR 16), 'base64'), '+/', '-_'), '='), now(), now(), now(), now()
		FROM (SELECT n, '"' || repeat(chr(64 + n), $2::integer - 2) || '"' AS v FROM generate_series(1, $1::integer) n) AS made`, number, size)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `UPDATE usage_counters SET entry_items = $1, entry_bytes = $2 WHERE slot = 0`, number, number*size)
	require.NoError(t, err)

	file := filepath.Join(t.TempDir(), "backup")
	const most = 128 << 10 // KiB, of which the programs themselves are some 30 MiB
	p := launch(t, []string{"DATABASE_URL=" + from}, "server", "export", file)
	require.Less(t, p.peakKiB(), most)
	require.Zero(t, p.wait())
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Greater(t, info.Size(), int64(number*size))
	p = launch(t, []string{"DATABASE_URL=" + to}, "import", file)
	require.Less(t, p.peakKiB(), most)
	require.Zero(t, p.wait())
	require.Equal(t, moved(number, 0, 0, 0, 0), p.stdout.String())
}

// peakKiB is the most memory that the process has had, up to its end.
func (p *process) peakKiB() (most int) {
	p.t.Helper()
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	eventually(p.t, "the process has ended", func() bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if found := peak.FindSubmatch(status); found != nil {
			n, err := strconv.Atoi(string(found[1]))
			require.NoError(p.t, err)
			most = max(most, n)
		}
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	require.Positive(p.t, most)
	return most
}

// pgliteFolder is where PGlite and its server are pinned, and the store to copy.
const pgliteFolder = "../../test/pglite"

// fillers are what test/pglite/fill.js does, for a PostgreSQL.
const fillers = `SET TimeZone = 'UTC';
INSERT INTO components (framework, name, source_code, demo_code, metadata, dependencies, registry_dependencies,
	github_sha, file_size, last_modified, cached_at, accessed_at, access_count, ttl_override) VALUES
	('react', 'button', 'export const Button = 1; // “é” 𝄞', '<Button />', '{"title": "Button", "order": 1.5}', ARRAY['radix-ui', 'a, b'], ARRAY['utils'],
		'0123456789abcdef0123456789abcdef01234567', 2048, '2025-12-31 23:59:59', '2026-01-02 03:04:05.678', '2026-02-03 04:05:06.789', 42, NULL),
	('vue', 'bare', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-02 03:04:05.678', '2026-02-03 04:05:06.789', 1, NULL),
	('react', 'fleeting', 'x', NULL, NULL, '{}', NULL, '', NULL, NULL, now(), '2026-02-03 04:05:06.789', 3, 86400),
	('react', 'expired', 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-02 03:04:05.678', '2026-02-03 04:05:06.789', 3, 60),
	('react', 'bad-sha', 'x', NULL, NULL, NULL, NULL, 'main', NULL, NULL, now(), now(), 1, NULL),
	('react', 'negative', 'x', NULL, NULL, NULL, NULL, NULL, -1, NULL, now(), now(), 1, NULL),
	('react', 'a:colon', 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, now(), now(), 1, NULL),
	('react', 'list', 'x', NULL, '["no object"]', NULL, NULL, NULL, NULL, NULL, now(), now(), 1, NULL);
INSERT INTO components (framework, name, source_code, cached_at, accessed_at, access_count)
	SELECT 'many', 'c' || lpad(n::text, 6, '0'), repeat('source ' || n, 100), '2026-01-02 03:04:05.678', '2026-02-03 04:05:06.789'::timestamp + n * interval '1 second', n
	FROM generate_series(1, 1000) n;
INSERT INTO blocks (framework, name, category, type, description, files, structure, dependencies, components_used, total_size, file_count, cached_at, accessed_at, access_count) VALUES
	('react', 'dashboard', 'dashboards', 'complex', 'A dashboard', '{"page.tsx": {"content": "page"}, "app.tsx": {"content": "app!"}}', '{"root": ["page.tsx"]}',
		ARRAY['recharts'], ARRAY['button', 'card'], 4096, 2, '2026-01-02 03:04:05.678', '2026-02-03 04:05:06.789', 7),
	('react', 'odd', NULL, 'enormous', NULL, '[]', NULL, NULL, NULL, NULL, 0, now(), now(), 1);`

func TestCopyFromPostgres(t *testing.T) {
	t.Parallel()
	from := pgtest.Empty(t)
	conn := pgtest.Connect(t, from)
	for _, sql := range []string{read(t, filepath.Join(pgliteFolder, "schema.sql")), fillers} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	copies(t, from)
}

func TestCopyFromPGlite(t *testing.T) {
	t.Parallel()
	if os.Getenv("SKIP_NODE") == "1" {
		t.Skip("SKIP_NODE=1: a PGlite needs Node.js")
	}
	installPGlite(t)
	folder := filepath.Join(t.TempDir(), "old store")
	node(t, "fill.js", folder, "1000")
	copies(t, servePGlite(t, folder))
}

// copies imports the store that fill.js and fillers describe beside a running server.
func copies(t *testing.T, from string) {
	t.Helper()
	into := []string{"DATABASE_URL=" + pgtest.New(t)}
	s := serve(t, newDataDir(t), into...)
	stdout, _ := moves(t, exitFailed, into, "--from-postgres", from, "--dry-run")
	require.Equal(t, "would import 1004, unchanged 0, kept 0, expired 1, failed 5\n", stdout)
	require.Equal(t, `{"frameworks":[]}`, s.get("/v1/frameworks"))

	stdout, stderr := moves(t, exitFailed, into, "--from-postgres", from)
	require.Equal(t, moved(1004, 0, 0, 1, 5), stdout)
	for _, line := range []string{
		"note: columns of blocks that are not copied: file_count\n",
		"failed component:react:bad-sha: invalid_value at /githubSha: must be 40 hexadecimal digits\n",
		"failed component:react:negative: invalid_value at /fileSize: must be in 0 … 9007199254740991\n",
		"failed component:react:a:colon: invalid_key (key component:react:a:colon): ",
		"failed component:react:list: wrong_type at /metadata: must be an object\n",
		"failed block:react:odd: invalid_value at /type: must be \"simple\" or \"complex\"\n",
	} {
		require.Contains(t, stderr, line)
	}
	require.Equal(t, 5, strings.Count(stderr, "failed "))

	require.JSONEq(t, `{"framework":"react","name":"button","sourceCode":"export const Button = 1; // “é” 𝄞","demoCode":"<Button />",
		"metadata":{"title":"Button","order":1.5},"dependencies":["radix-ui","a, b"],"registryDependencies":["utils"],
		"githubSha":"0123456789abcdef0123456789abcdef01234567","fileSize":2048,"lastModified":"2025-12-31T23:59:59Z"}`, s.get("/v1/components/react/button"))
	require.JSONEq(t, `{"framework":"react","name":"fleeting","sourceCode":"x","dependencies":[]}`, s.get("/v1/components/react/fleeting"))
	require.JSONEq(t, `{"framework":"vue","name":"bare","sourceCode":""}`, s.get("/v1/components/vue/bare"))
	require.JSONEq(t, `{"framework":"react","name":"dashboard","category":"dashboards","type":"complex","description":"A dashboard",
		"files":{"page.tsx":{"content":"page"},"app.tsx":{"content":"app!"}},"structure":{"root":["page.tsx"]},"dependencies":["recharts"],
		"componentsUsed":["button","card"],"totalSize":4096}`, s.get("/v1/blocks/react/dashboard"))
	status, _ := s.do(http.MethodGet, "/v1/components/react/expired", "")
	require.Equal(t, http.StatusNotFound, status)

	// No request has read this one: its times and its count are those of the old store.
	require.Subset(t, withoutRemaining(t, s.get("/v1/items/component:many:c000777/metadata")), map[string]any{
		"createdAt": "2026-01-02T03:04:05.678Z", "updatedAt": "2026-01-02T03:04:05.678Z", "accessedAt": "2026-02-03T04:18:03.789Z",
		"accessCount": 777.0, "ttlSeconds": 0.0, "sizeBytes": 1000.0,
	})
	fleeting := withoutRemaining(t, s.get("/v1/items/component:react:fleeting/metadata"))
	require.Subset(t, fleeting, map[string]any{"ttlSeconds": 86400.0})
	require.Equal(t, `{"frameworks":[{"framework":"many","components":1000,"blocks":0,"sizeBytes":`+strconv.Itoa(sourceBytes(1000))+
		`},{"framework":"react","components":2,"blocks":1,"sizeBytes":6145},{"framework":"vue","components":1,"blocks":0,"sizeBytes":0}]}`, s.get("/v1/frameworks"))

	// Again: what has been read meanwhile is as the old store has it, the rest stays.
	stdout, _ = moves(t, exitFailed, into, "--from-postgres", from, "--existing=refuse")
	require.Equal(t, moved(0, 1004, 0, 1, 5), stdout)
}

// sourceBytes is what the sources of c000001 to n are charged.
func sourceBytes(n int) (sum int) {
	for i := 1; i <= n; i++ {
		sum += 100 * len("source "+strconv.Itoa(i))
	}
	return sum
}

// installPGlite installs the packages that test/pglite pins, where they are not yet.
func installPGlite(t *testing.T) {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		_, err := exec.LookPath(program)
		require.NoError(t, err, "a PGlite needs Node.js; without it, set SKIP_NODE=1")
	}
	// npm writes this file last.
	if _, err := os.Stat(filepath.Join(pgliteFolder, "node_modules", ".package-lock.json")); err == nil {
		return
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = pgliteFolder
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// node runs a program of test/pglite to its end.
func node(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", args...)
	cmd.Dir = pgliteFolder
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// servePGlite serves a folder as its owner would, and returns where, without a word
// about TLS: a server of one connection at a time, which has none.
func servePGlite(t *testing.T, folder string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "node", filepath.Join("node_modules", "@electric-sql", "pglite-socket", "dist", "scripts", "server.js"),
		"--db="+folder, "--host=127.0.0.1", "--port=0")
	cmd.Dir = pgliteFolder
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Log(out.String())
		}
	})
	listening := regexp.MustCompile(`listening on .*"port":(\d+)`)
	var port []byte
	eventually(t, "the PGlite listens", func() bool {
		if found := listening.FindSubmatch([]byte(out.String())); found != nil {
			port = bytes.Clone(found[1])
		}
		return port != nil
	})
	return "postgres://postgres@127.0.0.1:" + string(port) + "/postgres"
}

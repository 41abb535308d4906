package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// notReady checks that the server says that it is not ready, and why, while it is
// alive, and that it turns requests for data away with the code.
func (s *server) notReady(code string) {
	s.t.Helper()
	require.Equal(s.t, http.StatusOK, s.get("/livez").status)
	ready := s.get("/readyz")
	require.Equal(s.t, http.StatusServiceUnavailable, ready.status)
	var body struct {
		Status  string
		Reasons []string
	}
	require.NoError(s.t, json.Unmarshal([]byte(ready.body), &body))
	require.Equal(s.t, "not_ready", body.Status)
	require.NotEmpty(s.t, body.Reasons)
	for _, reason := range body.Reasons {
		require.NotContains(s.t, reason, "127.0.0.1", "nothing internal leaks")
	}
	for _, refused := range []answer{
		s.get("/v1/items/absent"),
		s.put("/v1/items/a", "1"),
		s.post("/v1/mget", `{"keys":["absent"]}`),
		s.get("/r/react/absent.json"),
	} {
		require.Equal(s.t, http.StatusServiceUnavailable, refused.status)
		require.Equal(s.t, code, refused.code(), refused.body)
		after, err := strconv.Atoi(refused.header.Get("Retry-After"))
		require.NoError(s.t, err)
		require.Positive(s.t, after)
	}
}

func TestDatabaseThatComesUpLate(t *testing.T) {
	t.Parallel()
	database := newForwarder(t, pgtest.Empty(t))
	s := start(t, newDataDir(t), on(database.dsn), "STOCKROOM_BREAKER_TIMEOUT=100ms")
	s.eventually("it has tried more than once", func() bool { return strings.Count(s.out.String(), "cannot be reached yet") > 1 })
	s.notReady("starting")

	// It is up, and yet no good: what connects is cut off at once, or at the first
	// statement.
	for _, trouble := range []trouble{cutConnections, cutStatements} {
		before := database.connections()
		database.up(trouble)
		s.eventually("it goes on trying", func() bool { return database.connections() > before+1 })
		s.notReady("starting")
	}

	database.up(noTrouble)
	s.awaitReady()
	require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)

	// A failure later on is no reason to end either.
	database.up(cutConnections)
	s.eventually("it sees that", func() bool { return s.get("/readyz").status != http.StatusOK })
	s.notReady("unavailable")
	database.up(noTrouble)
	s.awaitReady()
	s.eventually("it works again", func() bool { return s.put("/v1/items/a", "2").status == http.StatusOK })
	require.Equal(t, "2", s.get("/v1/items/a").body)
}

func TestStoppedBeforeTheDatabaseIsUp(t *testing.T) {
	t.Run("refuses", func(t *testing.T) {
		s := start(t, newDataDir(t), on(newForwarder(t, pgtest.Empty(t)).dsn), longGrace)
		s.eventually("it has tried", func() bool { return strings.Contains(s.out.String(), "cannot be reached yet") })
		require.Less(t, s.stop(syscall.SIGINT), promptly)
	})
	t.Run("hangs", func(t *testing.T) {
		database := newForwarder(t, pgtest.Empty(t))
		database.up(frozen)
		s := start(t, newDataDir(t), on(database.dsn), longGrace)
		s.eventually("it has connected", func() bool { return database.connections() > 0 })
		s.notReady("starting")
		require.Less(t, s.stop(syscall.SIGTERM), promptly)
	})
}

// A database that has frozen closes no connection: nothing but a timeout tells.
func TestDatabaseThatFreezes(t *testing.T) {
	t.Parallel()
	database := newForwarder(t, pgtest.New(t))
	database.up(noTrouble)
	s := startReady(t, newDataDir(t), on(database.dsn), "STOCKROOM_REQUEST_TIMEOUT=2s", "STOCKROOM_BREAKER_TIMEOUT=100ms",
		"STOCKROOM_ACCESS_FLUSH_INTERVAL=1h")
	require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)
	database.up(frozen)
	begin := time.Now()
	require.Equal(t, http.StatusServiceUnavailable, s.put("/v1/items/a", "2").status)
	require.Equal(t, http.StatusServiceUnavailable, s.get("/readyz").status)
	require.Equal(t, http.StatusOK, s.get("/livez").status)
	require.Less(t, time.Since(begin), 20*time.Second)

	database.up(noTrouble)
	s.awaitReady()
	s.eventually("it works again", func() bool { return s.put("/v1/items/a", "3").status == http.StatusOK })

	// It cannot write the last accesses or say goodbye, and says so, but it goes.
	require.Equal(t, "3", s.get("/v1/items/a").body)
	database.up(frozen)
	s.signal(syscall.SIGTERM)
	code, took := s.wait(soon)
	t.Logf("stopped after %s", took)
	require.Less(t, took, 20*time.Second)
	require.Equal(t, exitFailure, code)
	require.Contains(t, s.out.String(), "the accesses to 1 items are not written")
}

func TestPasswordIsWrittenNowhere(t *testing.T) {
	t.Parallel()
	const password = "s3cr3tpw"
	for name, dsn := range map[string]string{
		"URL":            "postgres://u:s3cr3tpw@127.0.0.1:1/x",
		"query":          "postgres://u@127.0.0.1:1/x?password=s3cr3tpw",
		"keywords":       "host=127.0.0.1 port=1 user=u dbname=x password=s3cr3tpw",
		"several hosts":  "postgres://u:s3cr3tpw@127.0.0.1:1,127.0.0.1:2/x",
		"no such host":   "postgres://u:s3cr3tpw@nowhere.invalid/x",
		"no such socket": "postgres://u:s3cr3tpw@/x?host=/nonexistent",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := []string{on(dsn), "STOCKROOM_LOG_LEVEL=debug"}
			s := start(t, newDataDir(t), env...)
			s.eventually("it has tried more than once", func() bool { return strings.Count(s.out.String(), "cannot be reached yet") > 1 })
			for _, path := range []string{"/readyz", "/v1/items/a", "/metrics"} {
				require.NotContains(t, s.get(path).body, password)
			}
			s.stop(syscall.SIGTERM)
			require.NotContains(t, s.out.String(), password)

			code, p := execute(t, env, "migrate", "version")
			require.Equal(t, exitFailure, code)
			require.NotContains(t, p.out.String(), password)
		})
	}
	for name, dsn := range map[string]string{
		"bad port":     "postgres://u:s3cr3tpw@127.0.0.1:port/x",
		"bad URL":      "postgres://u:s3cr3tpw%zz@127.0.0.1/x",
		"bad setting":  "postgres://u:s3cr3tpw@127.0.0.1/x?sslmode=s3cr3tpw",
		"bad keywords": "host=127.0.0.1 password='s3cr3tpw",
		"no DSN":       "s3cr3tpw",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, p := execute(t, []string{on(dsn), "STOCKROOM_LOG_LEVEL=debug"})
			require.Equal(t, exitUsage, code)
			require.Contains(t, p.out.String(), "DATABASE_URL")
			require.NotContains(t, p.out.String(), password)
		})
	}
}

func TestDatabaseThatRefusesUs(t *testing.T) {
	t.Parallel()
	// To wait would be no use: no database of that name will appear by itself.
	database := newForwarder(t, pgtest.Empty(t))
	database.up(noTrouble)
	dsn := strings.Replace(database.dsn, "/t_", "/none_", 1)
	code, p := execute(t, []string{on(dsn)})
	require.Equal(t, exitFailure, code)
	require.Contains(t, lastLine(p.out.String()), "does not exist")
}

func TestSchemaThatMustNotBeTouched(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	code, p := execute(t, []string{on(dsn), "STOCKROOM_MIGRATE=check"})
	require.Equal(t, exitFailure, code)
	require.Contains(t, lastLine(p.out.String()), "`server migrate up`")
	conn := pgtest.Connect(t, dsn)
	var tables int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE tablename = 'entries'").Scan(&tables))
	require.Zero(t, tables)

	code, p = execute(t, []string{on(dsn)}, "migrate", "up")
	require.Equal(t, exitOK, code, p.out.String())
	s := startReady(t, newDataDir(t), on(dsn), "STOCKROOM_MIGRATE=check")
	require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)
}

// migrate runs `server migrate` and returns what it says.
func migrate(t *testing.T, dsn string, args ...string) string {
	t.Helper()
	code, p := execute(t, []string{on(dsn)}, append([]string{"migrate"}, args...)...)
	require.Equal(t, exitOK, code, p.out.String())
	return strings.TrimSpace(p.stdout.String())
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	migrate := func(args ...string) string { t.Helper(); return migrate(t, dsn, args...) }
	require.Regexp(t, `^schema version 0 of [1-9]\d*$`, migrate("version"))
	latest := strings.TrimPrefix(migrate("version"), "schema version 0 of ")
	n, err := strconv.Atoi(latest)
	require.NoError(t, err)
	at := func(version int) string { return "schema version " + strconv.Itoa(version) + " of " + latest }

	require.Equal(t, at(n), migrate("up"))
	require.Equal(t, at(n), migrate("up"), "nothing to do is no failure")
	require.Equal(t, at(n-1), migrate("down"))
	require.Equal(t, at(n-3), migrate("down", "2"))
	require.Equal(t, at(n-3), migrate("down", "0"))
	require.Equal(t, at(n), migrate("up"))
	require.Equal(t, at(0), migrate("down", "1000"))
	var tables []string
	require.NoError(t, conn.QueryRow(t.Context(),
		"SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'").Scan(&tables))
	require.Empty(t, tables, "left behind")
	require.Equal(t, at(0), migrate("down"))
	require.Equal(t, at(n), migrate("up"))

	// A migration that has failed: what the server then says is the way out.
	require.Equal(t, at(n-1), migrate("down"))
	_, err = conn.Exec(t.Context(), "UPDATE schema_migrations SET version = $1, dirty = true", n)
	require.NoError(t, err)
	require.Equal(t, at(n)+", dirty", migrate("version"))
	for _, args := range [][]string{nil, {"migrate", "up"}, {"migrate", "down"}} {
		code, p := execute(t, []string{on(dsn)}, args...)
		require.Equal(t, exitFailure, code)
		require.Contains(t, lastLine(p.out.String()), "`server migrate force "+strconv.Itoa(n-1)+"`")
		require.Contains(t, lastLine(p.out.String()), "`server migrate up`")
	}
	require.Equal(t, at(n-1), migrate("force", strconv.Itoa(n-1)))
	require.Equal(t, at(n), migrate("up"))
	startReady(t, newDataDir(t), on(dsn), "STOCKROOM_MIGRATE=check")

	code, p := execute(t, []string{on(dsn)}, "migrate", "force", strconv.Itoa(n+1))
	require.Equal(t, exitFailure, code)
	require.Contains(t, lastLine(p.out.String()), "no version "+strconv.Itoa(n+1))
}

func TestMigrateTheEmbeddedDatabase(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	p := launch(t, dir, nil, "migrate", "up")
	code, _ := p.wait(soon)
	require.Equal(t, exitOK, code)
	require.NoFileExists(t, dir+"/postgres/postmaster.pid", "PostgreSQL runs on")
	startReady(t, dir, "STOCKROOM_MIGRATE=check")
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	database := newForwarder(t, pgtest.New(t))
	s := start(t, newDataDir(t), on(database.dsn))
	check := func(env ...string) (int, string) {
		t.Helper()
		p := launch(t, s.dir, env, "healthcheck")
		code, _ := p.wait(soon)
		return code, lastLine(p.out.String())
	}
	address := "STOCKROOM_ADDR=" + strings.TrimPrefix(s.url, "http://")
	s.eventually("the address is written", func() bool { return s.url == "http://"+s.address() })
	// Port 0, as the server has it, and the port that this came to be.
	for _, env := range [][]string{nil, {address}} {
		code, said := check(env...)
		require.Equal(t, exitFailure, code)
		require.Contains(t, said, "not ready")
	}
	database.up(noTrouble)
	s.awaitReady()
	for _, env := range [][]string{nil, {address}} {
		code, said := check(env...)
		require.Equal(t, exitOK, code, said)
		require.Empty(t, said)
	}
	s.stop(syscall.SIGTERM)
	for _, env := range [][]string{nil, {address}} {
		code, said := check(env...)
		require.Equal(t, exitFailure, code)
		require.Contains(t, said, "refused")
	}
	code, p := execute(t, nil, "healthcheck")
	require.Equal(t, exitFailure, code)
	require.Contains(t, p.out.String(), "server.addr")
}

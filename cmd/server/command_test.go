package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/pgtest"
)

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}} {
		// Help is for those whose configuration is wrong, too.
		code, p := execute(t, []string{"STOCKROOM_MAX_BYTES=much"}, args...)
		require.Equal(t, exitOK, code)
		help := p.stdout.String()
		require.Equal(t, p.out.String(), help, "help is no error")
		for _, variable := range config.Variables() {
			require.Contains(t, help, "\n"+variable.Name+" ")
			require.Contains(t, help, variable.Description)
			if variable.Default != "" {
				require.Regexp(t, `(?m)^`+variable.Name+` .*\(default `+regexp.QuoteMeta(variable.Default)+`\)$`, help)
			}
		}
		for _, command := range []string{"migrate up", "migrate down", "migrate version", "migrate force", "healthcheck", "keygen"} {
			require.Contains(t, help, "server "+command)
		}
	}
	for _, args := range [][]string{{"--version"}, {"version"}} {
		code, p := execute(t, nil, args...)
		require.Equal(t, exitOK, code)
		require.Regexp(t, `^stockroom \S.*\n$`, p.stdout.String())
		require.Equal(t, p.out.String(), p.stdout.String())
	}
}

func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	for _, args := range []string{
		"serve", "--port 8080", "migrate", "migrate sideways", "migrate up 1", "migrate down -1", "migrate down x", "migrate down 1 2",
		"migrate force", "migrate force -1", "migrate version now", "healthcheck now", "keygen", "keygen ci", "keygen ci read write", "--help me",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			p := launch(t, dir, nil, strings.Fields(args)...)
			code, _ := p.wait(soon)
			require.Equal(t, exitUsage, code)
			require.Empty(t, p.stdout.String())
			require.Contains(t, p.out.String(), `"`+args+`"`)
			require.Contains(t, p.out.String(), "usage:")
			require.NoDirExists(t, dir, "a slip of the pen starts no database")
		})
	}
}

func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	// Nobody should need six attempts for six mistakes.
	p := launch(t, dir, []string{
		"STOCKROOM_ADDR=nowhere", "STOCKROOM_MIGRATE=perhaps", "STOCKROOM_MAX_BYTES=-1", "STOCKROOM_DB_MAX_CONCURRENCY=0",
		"STOCKROOM_REQUEST_TIMEOUT=30", "STOCKROOM_TLS_CERT_FILE=" + filepath.Join(dir, "none.pem"), "STOCKROOM_LOG_LEVEL=loud",
		"STOCKROOM_ADDRESS=127.0.0.1:1",
	})
	code, _ := p.wait(soon)
	require.Equal(t, exitUsage, code)
	for _, want := range []string{
		`STOCKROOM_ADDR="nowhere": expected host:port`,
		`STOCKROOM_MIGRATE="perhaps": expected auto, check or off`,
		`STOCKROOM_MAX_BYTES="-1": expected a size`,
		`STOCKROOM_DB_MAX_CONCURRENCY="0": expected a whole number`,
		`STOCKROOM_REQUEST_TIMEOUT="30": expected a duration`,
		"STOCKROOM_TLS_CERT_FILE=",
		`STOCKROOM_LOG_LEVEL="loud": expected debug, info, warn or error`,
		`"STOCKROOM_ADDRESS" is not a variable of Stockroom`,
	} {
		require.Contains(t, p.out.String(), want)
	}
	require.NoDirExists(t, dir)

	code, p = execute(t, []string{"STOCKROOM_ADDR=0.0.0.0:0"})
	require.Equal(t, exitUsage, code, "open to everybody")
	require.Contains(t, p.out.String(), "STOCKROOM_ALLOW_INSECURE")
}

func TestKeygen(t *testing.T) {
	t.Parallel()
	// It needs no configuration, and makes no use of any.
	code, p := execute(t, []string{"STOCKROOM_MAX_BYTES=much"}, "keygen", "ci", "read,write")
	require.Equal(t, exitOK, code, p.out.String())
	token := regexp.MustCompile(`sr_ci_[0-9A-Za-z]{43}`).FindString(p.stdout.String())
	line := regexp.MustCompile(`ci:[0-9a-f]{64}:read,write`).FindString(p.stdout.String())
	require.NotEmpty(t, token)
	require.NotEmpty(t, line)
	for _, args := range [][]string{{"keygen", "ci", "everything"}, {"keygen", "c i", "read"}, {"keygen", "ci", ""}} {
		code, p := execute(t, nil, args...)
		require.Equal(t, exitUsage, code)
		require.Empty(t, p.stdout.String())
		require.Contains(t, p.out.String(), "keygen")
	}

	// The key works on a server that has its line, and another does from when the
	// file is read again.
	file := filepath.Join(filepath.Dir(newDataDir(t)), "keys")
	require.NoError(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
	s := startReady(t, newDataDir(t), on(pgtest.New(t)), "STOCKROOM_API_KEYS_FILE="+file)
	require.Equal(t, http.StatusUnauthorized, s.get("/v1/items/a").status)
	s.client.Transport = bearer{token, s.client.Transport}
	require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)
	require.Equal(t, http.StatusForbidden, s.do(http.MethodDelete, "/v1/items", "").status)

	_, p = execute(t, nil, "keygen", "root", "admin")
	require.NoError(t, os.WriteFile(file, []byte(regexp.MustCompile(`root:[0-9a-f]{64}:admin`).FindString(p.stdout.String())+"\n"), 0o600))
	s.signal(syscall.SIGHUP)
	s.eventually("the file is read again", func() bool { return s.get("/v1/items/a").status == http.StatusUnauthorized })
	s.client.Transport = bearer{regexp.MustCompile(`sr_root_\w{43}`).FindString(p.stdout.String()), s.client.Transport}
	require.Equal(t, http.StatusOK, s.do(http.MethodDelete, "/v1/items", "").status)

	// A file that has become unreadable shuts nobody out, and ends nothing.
	require.NoError(t, os.WriteFile(file, []byte("nonsense\n"), 0o600))
	s.signal(syscall.SIGHUP)
	s.eventually("the file is refused", func() bool { return strings.Contains(s.out.String(), `"level":"ERROR"`) })
	require.Equal(t, http.StatusNotFound, s.get("/v1/items/a").status)
	require.NotContains(t, s.out.String(), token)
}

// bearer sends a key with each request.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const examples = "../../examples/registry"

// answering is a server that has nothing, takes everything and wants a key.
func answering(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer key" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"items":{},"missing":[],"stored":0}`))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestRun(t *testing.T) {
	t.Parallel()
	bad := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bad, "bad.json"), []byte("{}"), 0o600))
	// An export of nothing; the hash is that of its first line.
	backup := filepath.Join(bad, "backup")
	first := `{"format":"stockroom-export","version":1,"exportedAt":"2026-01-31T12:00:00Z","by":"a test"}` + "\n"
	last := fmt.Sprintf(`{"end":true,"blocks":0,"components":0,"entries":0,"sha256":"%x"}`+"\n", sha256.Sum256([]byte(first)))
	require.NoError(t, os.WriteFile(backup, []byte(first+last), 0o600))
	server := answering(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx            context.Context
		args           []string
		key            string
		code           int
		stdout, stderr string
	}{
		"all well":       {args: []string{"--server", server, "--framework", "react", examples}, key: "key", code: 0, stdout: "imported 7, unchanged 0, failed 0\n"},
		"flags behind":   {args: []string{examples, "-server", server, "--dry-run", "--api-key=key"}, code: 0, stdout: "would import 7, unchanged 0, failed 0\n"},
		"failed file":    {args: []string{"--server", server, bad}, key: "key", code: 1, stdout: "imported 0, unchanged 0, failed 1\n", stderr: "bad.json: missing_field"},
		"wrong key":      {args: []string{"--server", server, examples}, key: "other", code: 1, stdout: "imported 0, unchanged 0, failed 7\n", stderr: "the server answers 401"},
		"interrupted":    {ctx: cancelled, args: []string{"--server", server, examples}, key: "key", code: 130, stdout: "imported 0, unchanged 0, failed 0\n", stderr: "interrupted: 7"},
		"called off":     {ctx: cancelled, args: []string{"-"}, code: 130, stdout: "imported 0, ", stderr: "the same command goes on from there"},
		"nothing to ask": {args: []string{"--dry-run", backup}, code: 1, stdout: "would import 0, ", stderr: "there is no database in the data folder"},
		"help":           {args: []string{"--help"}, code: 0, stdout: "Usage: import [flags] FOLDER|FILE"},
		"version":        {args: []string{"--version"}, code: 0, stdout: "import "},
		"no folder":      {code: 2, stderr: "not 0"},
		"two folders":    {args: []string{examples, bad}, code: 2, stderr: "not 2"},
		"no such folder": {args: []string{filepath.Join(bad, "none")}, code: 2, stderr: "no such file"},
		"unknown flag":   {args: []string{"--nope", examples}, code: 2, stderr: "flag provided but not defined"},
		"bad batch":      {args: []string{"--batch", "0", examples}, code: 2, stderr: "at least 1 item"},
		"bad server":     {args: []string{"--server", "nowhere", examples}, code: 2, stderr: "must look like http://host:port"},
		"bad number":     {args: []string{"--parallel", "x", examples}, code: 2, stderr: "invalid value"},
		"two sources":    {args: []string{"--from-postgres", "postgres://127.0.0.1/x", examples}, code: 2, stderr: "not both"},
		"server's flag":  {args: []string{"--server", server, "backup.ndjson"}, code: 2, stderr: "--server is for registry items"},
		"backup's flag":  {args: []string{"--existing", "keep", examples}, code: 2, stderr: "--existing is for a backup"},
		"bad policy":     {args: []string{"--existing", "merge", "backup.ndjson"}, code: 2, stderr: `replace, keep or refuse, not "merge"`},
		"bad DSN":        {args: []string{"--from-postgres", "secret"}, code: 1, stdout: "imported 0, ", stderr: "the connection string is neither"},
		"no backup":      {args: []string{filepath.Join(bad, "none.ndjson")}, code: 1, stdout: "imported 0, ", stderr: "no such file"},
		"empty backup":   {args: []string{"-"}, code: 1, stdout: "imported 0, ", stderr: "this is no file of `server export`: line 1"},
		"bad timeout":    {args: []string{"--timeout", "0s", examples}, code: 2, stderr: "the timeout must be positive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := tc.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			env := map[string]string{"STOCKROOM_API_KEY": tc.key, "STOCKROOM_DATA_DIR": filepath.Join(bad, "data")}
			var stdout, stderr bytes.Buffer
			require.Equal(t, tc.code, run(ctx, tc.args, env, strings.NewReader(""), &stdout, &stderr), stderr.String())
			require.Contains(t, stdout.String(), tc.stdout)
			require.Contains(t, stderr.String(), tc.stderr)
			if tc.stderr == "" {
				require.Empty(t, stderr.String())
			}
			if tc.stdout == "" {
				require.Empty(t, stdout.String())
			}
		})
	}
}

package embeddedpg_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/embeddedpg"
)

// The PostgreSQL that a process runs is found by another one from the folder alone,
// wherever its socket is, and for as long as it runs.
func TestAttach(t *testing.T) {
	for name, dir := range map[string]string{
		"short": newDataDir(t),
		"long":  filepath.Join(newDataDir(t), strings.Repeat("long/", 20), "data"),
	} {
		t.Run(name, func(t *testing.T) {
			if embeddedpg.HasData(dir) {
				t.Error("there are no data yet")
			}
			if dsn, err := embeddedpg.Attach(t.Context(), dir); err == nil {
				t.Errorf("it attaches to %s", dsn)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("to look has made the folder")
			}
			server := start(t, quick(dir))
			if !embeddedpg.HasData(dir) {
				t.Error("there are data now")
			}
			dsn, err := embeddedpg.Attach(t.Context(), dir)
			must(t, err)
			conn, err := pgx.Connect(t.Context(), dsn)
			must(t, err)
			defer conn.Close(t.Context())
			var pid int
			must(t, conn.QueryRow(t.Context(), `SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)::integer`).Scan(&pid))
			if pid != server.PID() {
				t.Errorf("it attaches to the postgres with pid %d, not %d", pid, server.PID())
			}
			stop(t, server)
			if _, err := embeddedpg.Attach(t.Context(), dir); err == nil {
				t.Error("it attaches to nothing")
			}
		})
	}
}

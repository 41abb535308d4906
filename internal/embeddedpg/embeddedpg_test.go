package embeddedpg_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stockroom/stockroom/internal/embeddedpg"
)

func TestColdAndWarmStart(t *testing.T) {
	dir := newDataDir(t)
	// Safe settings here: they are what is checked.
	server := start(t, embeddedpg.Config{DataDir: dir, MaxConnections: 33})
	for sql, want := range map[string]string{
		"SELECT current_database()": "stockroom",
		"SELECT current_user":       "postgres",
		"SHOW server_encoding":      "UTF8",
		"SHOW max_connections":      "33",
		"SHOW listen_addresses":     "",
		"SHOW fsync":                "on",
		"SHOW synchronous_commit":   "on",
		"SHOW full_page_writes":     "on",
		"SHOW data_checksums":       "on",
		"SHOW TimeZone":             "UTC",
		"SELECT lower('ÄÖ')":        "äö",
		"SELECT string_agg(x, '' ORDER BY x) FROM (VALUES ('a'), ('B'), ('ä')) AS t(x)": "Baä",
	} {
		if got := query[string](t, server, sql); got != want {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
	if runtime.GOOS == "linux" {
		if got := query[string](t, server, "SELECT datcollate FROM pg_database WHERE datname = current_database()"); got != "C.UTF-8" {
			t.Errorf("the database's locale is %q", got)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "run"))
	must(t, err)
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("the socket's folder has mode %o", got)
	}
	execute(t, server, "CREATE TABLE kept AS SELECT 42 AS n")
	stop(t, server)

	began := time.Now()
	server = start(t, embeddedpg.Config{DataDir: dir})
	t.Logf("warm start: %s", time.Since(began).Round(time.Millisecond))
	if got := query[int](t, server, "SELECT n FROM kept"); got != 42 {
		t.Errorf("got %d", got)
	}
}

func TestDatabaseIsCreatedWhenMissing(t *testing.T) {
	dir := newDataDir(t)
	server := start(t, quick(dir))
	// As if the first start had been killed between initdb and CREATE DATABASE.
	other := strings.Replace(server.DSN(), "/stockroom?", "/postgres?", 1)
	dropDatabase(t, other)
	stop(t, server)
	server = start(t, quick(dir))
	if got := query[string](t, server, "SELECT current_database()"); got != "stockroom" {
		t.Errorf("got %q", got)
	}
}

func TestSecondServerIsRefusedAtOnce(t *testing.T) {
	dir := newDataDir(t)
	first := start(t, quick(dir))
	began := time.Now()
	_, err := embeddedpg.Start(t.Context(), quick(dir))
	refused(t, err, embeddedpg.ErrInUse, dir, strconv.Itoa(os.Getpid()), "STOCKROOM_DATA_DIR")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the refusal took %s", took)
	}
	// The first one is none the worse for it.
	if got := query[int](t, first, "SELECT 1"); got != 1 {
		t.Errorf("got %d", got)
	}
	stop(t, first)
	start(t, quick(dir))
}

func TestSecondServerOfAnotherProcessIsRefused(t *testing.T) {
	dir := newDataDir(t)
	first := startHelper(t, dir)
	_, err := embeddedpg.Start(t.Context(), quick(dir))
	refused(t, err, embeddedpg.ErrInUse, dir, fmt.Sprintf("pid %d;", first.cmd.Process.Pid))
}

func TestNoTCPPort(t *testing.T) {
	// Two at the same time: they could not share one port.
	one, two := start(t, quick(newDataDir(t))), start(t, quick(newDataDir(t)))
	for _, server := range []*embeddedpg.Server{one, two} {
		if got := query[string](t, server, "SHOW listen_addresses"); got != "" {
			t.Errorf("listen_addresses: %q", got)
		}
		if runtime.GOOS == "linux" {
			if ports := listeningTCP(t, server.PID()); len(ports) > 0 {
				t.Errorf("postgres listens on %v", ports)
			}
		}
	}
}

// listeningTCP returns the local addresses on which the process listens, as /proc has them.
func listeningTCP(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	own := map[string]bool{}
	fds := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(fds)
	must(t, err)
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(fds, entry.Name())); err == nil {
			own[target] = true
		}
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6
		}
		const listen = "0A"
		for line := range strings.Lines(string(content)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == listen && own["socket:["+f[9]+"]"] {
				addresses = append(addresses, f[1])
			}
		}
	}
	return addresses
}

func TestStopIsIdempotent(t *testing.T) {
	server := start(t, quick(newDataDir(t)))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { stop(t, server) })
	}
	wg.Wait()
	stop(t, server)
	select {
	case <-server.Done():
	default:
		t.Error("Done is not closed after Stop")
	}
	if err := server.Err(); err != nil {
		t.Errorf("Err after a Stop: %v", err)
	}
	if !processGone(t, server.PID()) {
		t.Error("postgres is alive after Stop")
	}
}

func TestStopKillsWhatDoesNotStop(t *testing.T) {
	dir := newDataDir(t)
	cfg := quick(dir)
	cfg.StopTimeout = 100 * time.Millisecond
	server := start(t, cfg)
	must(t, syscall.Kill(server.PID(), syscall.SIGSTOP)) // a stopped process heeds neither INT nor QUIT
	stop(t, server)
	if !processGone(t, server.PID()) {
		t.Error("postgres is alive after Stop")
	}
	start(t, quick(dir))
}

func TestStopWithACancelledContextStopsAllTheSame(t *testing.T) {
	server := start(t, quick(newDataDir(t)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, server.Stop(ctx))
	if !processGone(t, server.PID()) {
		t.Error("postgres is alive after Stop")
	}
}

func TestPostgresKilledAlone(t *testing.T) {
	dir := newDataDir(t)
	server := start(t, embeddedpg.Config{DataDir: dir})
	execute(t, server, "CREATE TABLE kept AS SELECT 42 AS n")
	must(t, syscall.Kill(server.PID(), syscall.SIGKILL))
	<-server.Done()
	if err := server.Err(); err == nil || !strings.Contains(err.Error(), "killed") || !strings.Contains(err.Error(), "ready to accept connections") {
		t.Errorf("want why it ended and the end of the log, got: %v", err)
	}
	stop(t, server)

	server = start(t, embeddedpg.Config{DataDir: dir})
	if got := query[int](t, server, "SELECT n FROM kept"); got != 42 {
		t.Errorf("got %d", got)
	}
}

func TestServerKilledLeavesNoOrphan(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the parent-death signal is Linux's")
	}
	dir := newDataDir(t)
	h := startHelper(t, dir)
	last := h.readNumber(t)
	h.kill(t)
	eventually(t, "postgres ends after its server was killed", func() bool { return processGone(t, h.postgresPID) })

	server := start(t, embeddedpg.Config{DataDir: dir})
	if got := query[int](t, server, "SELECT max(n) FROM numbers"); got < last {
		t.Errorf("the last acknowledged was %d, back is %d", last, got)
	}
}

func TestStartWaitsForThePostgresOfAKilledServer(t *testing.T) {
	dir := newDataDir(t)
	h := startHelper(t, dir)
	last := h.readNumber(t)
	goOn := h.holdShutdown(t, dir)
	h.kill(t)

	messages := make(events, 100)
	continued := make(chan struct{})
	go func() {
		defer close(continued)
		messages.await(t, "still alive on the data folder")
		goOn()
	}()
	server := start(t, embeddedpg.Config{DataDir: dir, Logger: messages.logger()})
	<-continued
	if !processGone(t, h.postgresPID) {
		t.Error("two postgres on one folder")
	}
	if got := query[int](t, server, "SELECT max(n) FROM numbers"); got < last {
		t.Errorf("the last acknowledged was %d, back is %d", last, got)
	}
}

func TestStartGivesUpOnAPostgresThatDoesNotEnd(t *testing.T) {
	dir := newDataDir(t)
	h := startHelper(t, dir)
	h.holdShutdown(t, dir)
	h.kill(t)
	_, err := embeddedpg.Start(t.Context(), embeddedpg.Config{DataDir: dir, StartTimeout: 3 * time.Second})
	refused(t, err, embeddedpg.ErrInUse, fmt.Sprintf("pid %d", h.postgresPID), "not ready within 3s")

	// With more time it insists (SIGQUIT), and PostgreSQL kills the child that holds it up.
	start(t, embeddedpg.Config{DataDir: dir, StopTimeout: 100 * time.Millisecond})
	if !processGone(t, h.postgresPID) {
		t.Error("two postgres on one folder")
	}
}

func TestBothKilledLosesNoAcknowledgedWrite(t *testing.T) {
	dir := newDataDir(t)
	h := startHelper(t, dir)
	var acknowledged []int
	for len(acknowledged) < 300 {
		acknowledged = append(acknowledged, h.readNumber(t))
	}
	must(t, syscall.Kill(h.postgresPID, syscall.SIGKILL))
	acknowledged = append(acknowledged, h.kill(t)...)

	server := start(t, embeddedpg.Config{DataDir: dir})
	rows, err := connect(t, server).Query(t.Context(), "SELECT n FROM numbers")
	must(t, err)
	back := map[int]bool{}
	for rows.Next() {
		var n int
		must(t, rows.Scan(&n))
		back[n] = true
	}
	must(t, rows.Err())
	for _, n := range acknowledged {
		if !back[n] {
			t.Errorf("%d was acknowledged and is lost", n)
		}
	}
	t.Logf("%d acknowledged, %d back", len(acknowledged), len(back))
}

// The pid in a leftover pid file may be someone else's by now: after a reboot, or in a new container.
func TestStalePidFileOfAnotherProcess(t *testing.T) {
	for name, postmasterPIDIsThere := range map[string]bool{"all that a crash leaves": true, "postmaster.pid removed by hand": false} {
		t.Run(name, func(t *testing.T) {
			dir := newDataDir(t)
			server := start(t, quick(dir))
			execute(t, server, "CREATE TABLE kept AS SELECT 42 AS n")
			must(t, syscall.Kill(server.PID(), syscall.SIGKILL))
			<-server.Done()
			stop(t, server)

			// It must be a process of PostgreSQL's own user that is not its parent: others PostgreSQL tolerates.
			other := exec.Command("sleep", "600")
			if owner := ownerOf(t, filepath.Join(dir, "postgres")); os.Geteuid() == 0 {
				other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
			}
			must(t, other.Start())
			t.Cleanup(func() {
				_ = other.Process.Kill()
				_ = other.Wait()
			})
			replacePID(t, filepath.Join(dir, "run", ".s.PGSQL.5432.lock"), other.Process.Pid)
			if pidFile := filepath.Join(dir, "postgres", "postmaster.pid"); postmasterPIDIsThere {
				replacePID(t, pidFile, other.Process.Pid)
			} else {
				must(t, os.Remove(pidFile))
			}

			server = start(t, quick(dir))
			if got := query[int](t, server, "SELECT n FROM kept"); got != 42 {
				t.Errorf("got %d", got)
			}
			if processGone(t, other.Process.Pid) {
				t.Error("an innocent process was ended")
			}
		})
	}
}

// replacePID puts another pid into a pid file, whose owner and mode stay.
func replacePID(t *testing.T, path string, pid int) {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	_, rest, _ := strings.Cut(string(content), "\n")
	must(t, os.WriteFile(path, fmt.Appendf(nil, "%d\n%s", pid, rest), 0o600))
}

func TestFailureShowsTheEndOfTheLog(t *testing.T) {
	cfg := quick(newDataDir(t))
	cfg.Settings["shared_buffers"] = "nonsense"
	_, err := embeddedpg.Start(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "shared_buffers"`) {
		t.Fatalf("got %v", err)
	}
	// The folder is free again.
	delete(cfg.Settings, "shared_buffers")
	start(t, cfg)
}

func TestCancelledWhileInitialising(t *testing.T) {
	dir := newDataDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages := make(events, 100)
	go func() {
		messages.await(t, "initialising")
		cancel()
	}()
	cfg := quick(dir)
	cfg.Logger = messages.logger()
	_, err := embeddedpg.Start(ctx, cfg)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if names := list(t, dir); strings.Contains(names, "initdb") || strings.Contains(names, "postgres/") {
		t.Errorf("left behind: %s", names)
	}
	start(t, quick(dir))
}

func TestLeftoversOfAKilledInitdbAreRemovedAndNothingElse(t *testing.T) {
	dir := newDataDir(t)
	for _, name := range []string{".stockroom-initdb-123", ".stockroom-initdb-mine", "other"} {
		must(t, os.MkdirAll(filepath.Join(dir, name, "base"), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, ".stockroom-initdb-456"), nil, 0o600)) // a file is none of ours
	start(t, quick(dir))
	if got, want := list(t, dir), ".stockroom-initdb-456 .stockroom-initdb-mine/ other/ postgres/ postgres.lock postgres.log run/"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAFolderThatIsNoDataDirectoryIsLeftAlone(t *testing.T) {
	dir := newDataDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "postgres"), 0o755))
	precious := filepath.Join(dir, "postgres", "precious")
	must(t, os.WriteFile(precious, []byte("x"), 0o600))
	_, err := embeddedpg.Start(t.Context(), quick(dir))
	if err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Fatalf("got %v", err)
	}
	_, err = os.Stat(precious)
	must(t, err)
}

func TestALinkToAMissingVolumeIsLeftAlone(t *testing.T) {
	dir := newDataDir(t)
	must(t, os.MkdirAll(dir, 0o755))
	link := filepath.Join(dir, "postgres")
	must(t, os.Symlink(filepath.Join(dir, "not-mounted"), link))
	_, err := embeddedpg.Start(t.Context(), quick(dir))
	if err == nil || !strings.Contains(err.Error(), "leads to no data") {
		t.Fatalf("got %v", err)
	}
	_, err = os.Readlink(link)
	must(t, err)
}

func TestAnEmptyFolderIsTaken(t *testing.T) {
	dir := newDataDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "postgres"), 0o755))
	start(t, quick(dir))
}

func TestALongPathHasItsSocketElsewhere(t *testing.T) {
	dir := filepath.Join(newDataDir(t), strings.Repeat("long-name-", 8), strings.Repeat("x", 40))
	server := start(t, quick(dir))
	socket := socketFolder(t, server)
	if strings.HasPrefix(socket, dir) {
		t.Fatalf("the socket is in %s", socket)
	}
	info, err := os.Stat(socket)
	must(t, err)
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("the socket's folder has mode %o", got)
	}
	stop(t, server)
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there after Stop: %v", socket, err)
	}

	// A killed server cannot remove it; the next one does.
	h := startHelper(t, dir)
	lock, err := os.ReadFile(filepath.Join(dir, "postgres.lock"))
	must(t, err)
	former := strings.Fields(string(lock))[1]
	must(t, syscall.Kill(h.postgresPID, syscall.SIGKILL))
	h.kill(t)
	_, err = os.Stat(former)
	must(t, err)
	start(t, quick(dir))
	if _, err := os.Stat(former); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there after the next start: %v", former, err)
	}
}

func TestAPathWithOddCharacters(t *testing.T) {
	start(t, quick(filepath.Join(newDataDir(t), `a b,c"d'é%20&?`)))
}

func TestTheLogIsMovedAsideWhenLarge(t *testing.T) {
	dir := newDataDir(t)
	must(t, os.MkdirAll(dir, 0o755))
	log := filepath.Join(dir, "postgres.log")
	must(t, os.WriteFile(log, make([]byte, embeddedpg.MaxLogBytes+1), 0o600))
	start(t, quick(dir))
	old, err := os.Stat(log + ".1")
	must(t, err)
	fresh, err := os.Stat(log)
	must(t, err)
	if old.Size() != embeddedpg.MaxLogBytes+1 || fresh.Size() > embeddedpg.MaxLogBytes {
		t.Errorf("sizes %d and %d", old.Size(), fresh.Size())
	}
}

func TestRootsOwnFolderIsRefusedWithTheObstacle(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's server runs PostgreSQL as another user")
	}
	parent := filepath.Dir(newDataDir(t))
	must(t, os.Chmod(parent, 0o700))
	_, err := embeddedpg.Start(t.Context(), quick(filepath.Join(parent, "data")))
	refused(t, err, embeddedpg.ErrUnreachable, parent+" (drwx------)", "STOCKROOM_DATA_DIR", "/var/lib/stockroom")
}

func TestPostgresDoesNotRunAsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("we are not root")
	}
	dir := newDataDir(t)
	server := start(t, quick(dir))
	// Of the process and of its data.
	for _, path := range []string{filepath.Join(dir, "postgres"), filepath.Join(dir, "run")} {
		if ownerOf(t, path).Uid == 0 {
			t.Errorf("%s belongs to root", path)
		}
	}
	if runtime.GOOS == "linux" {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.PID()))
		must(t, err)
		if strings.Contains(string(status), "Uid:\t0") || strings.Contains(string(status), "Gid:\t0") {
			t.Errorf("postgres runs as root:\n%s", status)
		}
	}
}

// list names what is in a folder, in order; folders with a slash.
func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() {
			name += "/"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func ownerOf(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("%T", info.Sys())
	}
	return stat
}

package embeddedpg

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxSocketPath is the size of sun_path, less the closing NUL.
const maxSocketPath = 107

// childAttr: an own process group, so that a Ctrl-C in the terminal reaches this server only, which then stops its
// PostgreSQL in order; and a signal to the child when its parent dies without doing so.
func childAttr(who identity, deathSignal syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: deathSignal, Credential: who.credential()}
}

// isPostgresOn tells whether pid is a live postgres whose data directory is pgdata. A process id alone says nothing:
// after a reboot or in a new container it may belong to anyone.
func isPostgresOn(pid int, pgdata string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if comm, err := os.ReadFile(filepath.Join(proc, "comm")); err != nil || strings.TrimSpace(string(comm)) != "postgres" {
		return false
	}
	// A postmaster works in its data directory. A zombie has no working directory any more.
	cwd, err := os.Stat(filepath.Join(proc, "cwd"))
	if err == nil {
		data, err := os.Stat(pgdata)
		return err == nil && os.SameFile(cwd, data)
	}
	if !os.IsPermission(err) {
		return false
	}
	// A container's root may not look at another user's working directory, but everyone may read the command line,
	// and ours names the data directory. Should that miss a live one: PostgreSQL still refuses to start beside it.
	args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	return err == nil && slices.ContainsFunc(bytes.Split(args, []byte{0}), func(arg []byte) bool { return string(arg) == pgdata })
}

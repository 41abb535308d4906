//go:build unix && !linux

package embeddedpg

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// maxSocketPath is the size of sun_path on the BSDs and macOS, less the closing NUL.
const maxSocketPath = 103

// childAttr: an own process group, so that a Ctrl-C in the terminal reaches this server only. There is no
// parent-death signal here: a postgres whose server was killed lives on until the next Start, which ends it.
func childAttr(who identity, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: who.credential()}
}

// isPostgresOn tells whether pid is a live postgres whose data directory is pgdata, by its command line: ours names it.
func isPostgresOn(pid int, pgdata string) bool {
	//nolint:noctx // ps answers at once
	out, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "postgres -D "+pgdata+" ")
}

package embeddedpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// identity is the user that PostgreSQL runs as. It refuses to run as root, so a server of root's needs another one.
type identity struct {
	name     string
	uid, gid uint32
	// switched: it is not the user of this process.
	switched bool
}

// chooseIdentity answers: ourselves, unless we are root. Then the owner of the data that exist (PostgreSQL insists on
// owning them), else the user postgres, else nobody.
func chooseIdentity(pgdata string) (identity, error) {
	if os.Geteuid() != 0 {
		//nolint:gosec // ids are 32 bits wide and not negative on a Unix system
		return identity{name: strconv.Itoa(os.Geteuid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	if info, err := os.Stat(pgdata); err == nil && holdsData(pgdata) {
		uid, gid := ownerOf(info)
		if uid == 0 {
			return identity{}, fmt.Errorf("%w: %s belongs to root, and PostgreSQL neither runs as root nor uses another user's data; "+
				"give it to the user that shall run it, for example: chown -R postgres %s", ErrUnreachable, pgdata, pgdata)
		}
		name := strconv.Itoa(int(uid))
		if known, err := user.LookupId(name); err == nil {
			name = known.Username
		}
		return identity{name: name, uid: uid, gid: gid, switched: true}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		known, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(known.Uid, 10, 32)
		if err != nil || uid == 0 {
			continue
		}
		gid, err := strconv.ParseUint(known.Gid, 10, 32)
		if err != nil {
			continue
		}
		return identity{name: name, uid: uint32(uid), gid: uint32(gid), switched: true}, nil
	}
	return identity{}, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody; " +
		"run the server as another user")
}

// credential is for a child process; without supplementary groups: root's are not for PostgreSQL.
func (who identity) credential() *syscall.Credential {
	if !who.switched {
		return nil
	}
	return &syscall.Credential{Uid: who.uid, Gid: who.gid}
}

// own gives a path that this process has created to the user.
func (who identity) own(path string) error {
	if !who.switched {
		return nil
	}
	return os.Lchown(path, int(who.uid), int(who.gid))
}

// canEnter finds out by trying, since mode bits are not the whole truth (access lists, security modules): a program
// which the user may run is started in dir. The remedy is for the message.
func (who identity) canEnter(ctx context.Context, bin binaries, dir, remedy string) error {
	if !who.switched {
		return nil
	}
	_, err := run(ctx, who, dir, bin.postgres(), "--version")
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: user %s cannot reach %s%s; %s", ErrUnreachable, who.name, dir, who.obstacle(dir), remedy)
	}
	return err
}

// obstacle names the first folder on the way to path, or path itself, which the user may not search (or, for a file,
// execute) by its mode bits. Empty: the modes do not show it.
func (who identity) obstacle(path string) string {
	blocked := ""
	for p := path; ; p = filepath.Dir(p) {
		if info, err := os.Stat(p); err == nil && !who.mayExecute(info) {
			blocked = fmt.Sprintf(": %s (%s) does not let it pass", p, info.Mode())
		}
		if p == filepath.Dir(p) {
			return blocked
		}
	}
}

func (who identity) mayExecute(info fs.FileInfo) bool {
	switch uid, gid := ownerOf(info); {
	case uid == who.uid:
		return info.Mode()&0o100 != 0
	case gid == who.gid:
		return info.Mode()&0o010 != 0
	}
	return info.Mode()&0o001 != 0
}

func ownerOf(info fs.FileInfo) (uid, gid uint32) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok { // never so on a Unix system; then it is nobody's that we know
		return math.MaxUint32, math.MaxUint32
	}
	return stat.Uid, stat.Gid
}

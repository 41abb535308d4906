package embeddedpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// layout names the files under the data folder.
type layout struct{ dataDir, pgdata, lock, log, run string }

func layoutOf(dataDir string) layout {
	in := func(name string) string { return filepath.Join(dataDir, name) }
	return layout{dataDir: dataDir, pgdata: in("postgres"), lock: in("postgres.lock"), log: in("postgres.log"), run: in("run")}
}

// makeDataDir creates the folder and the parents that are missing. What root creates can be passed through by everyone,
// whatever the umask, since PostgreSQL then runs as another user. The data themselves are for that user only.
func makeDataDir(dir string) error {
	err := os.Mkdir(dir, 0o755) //nolint:gosec // see above
	switch {
	case err == nil && os.Geteuid() == 0:
		return os.Chmod(dir, 0o755) //nolint:gosec // see above
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDataDir(filepath.Dir(dir)); err != nil {
			return err
		}
		return makeDataDir(dir)
	}
	if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

// folderLock is the ownership of a data folder: a lock on an open file, which the kernel releases when its owner dies,
// however that happens. The file itself stays: removing it would let two processes lock two files of one name.
type folderLock struct{ file *os.File }

// acquireLock takes the lock or says at once who has it.
func acquireLock(files layout) (*folderLock, error) {
	file, err := os.OpenFile(files.lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", files.lock, err)
		}
		owner, _ := readLock(file)
		return nil, fmt.Errorf("%w: %s belongs to the running server with pid %s; stop that one, or give this one a STOCKROOM_DATA_DIR of its own",
			ErrInUse, files.dataDir, owner)
	}
	lock := &folderLock{file: file}
	// A server that was killed could not remove its private socket folder: the lock file tells where it was.
	if _, former := readLock(file); former != "" {
		socketDir{path: former, private: true}.remove()
	}
	if err := lock.write(""); err != nil {
		file.Close()
		return nil, err
	}
	return lock, nil
}

func readLock(file *os.File) (pid, privateSocketDir string) {
	content, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<16))
	if err != nil || len(content) == 0 {
		return "unknown", ""
	}
	pid, rest, _ := strings.Cut(string(content), "\n")
	privateSocketDir, _, _ = strings.Cut(rest, "\n")
	return pid, privateSocketDir
}

func (l *folderLock) write(privateSocketDir string) error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"+privateSocketDir+"\n"), 0)
	return err
}

func (l *folderLock) release() error {
	return errors.Join(l.file.Truncate(0), l.file.Close())
}

// holdsData tells whether dir is a PostgreSQL data directory.
func holdsData(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "PG_VERSION"))
	return err == nil
}

// prepareData finds the binaries that fit the data directory, and initialises it if, and only if, there is nothing in it.
func (s *Server) prepareData(ctx context.Context) (fresh bool, err error) {
	entries, err := os.ReadDir(s.files.pgdata)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	fresh = len(entries) == 0
	if info, err := os.Lstat(s.files.pgdata); fresh && err == nil && !info.IsDir() {
		// A link into a volume that is not mounted: an empty store in its place would look like lost data.
		return false, fmt.Errorf("%s is a link that leads to no data (%s); nothing was changed", s.files.pgdata, info.Mode())
	}
	want := 0
	if !fresh {
		content, err := os.ReadFile(filepath.Join(s.files.pgdata, "PG_VERSION"))
		if err != nil {
			return false, fmt.Errorf("%s is not empty, yet no PostgreSQL data directory that can be read (%w); nothing was changed", s.files.pgdata, err)
		}
		if want, err = strconv.Atoi(strings.TrimSpace(string(content))); err != nil {
			return false, fmt.Errorf("%s: PG_VERSION says %q; nothing was changed", s.files.pgdata, content)
		}
	}
	if s.bin, err = findBinaries(ctx, s.cfg, s.who, want); err != nil {
		return false, err
	}
	if err := s.who.canEnter(ctx, s.bin, s.files.dataDir, "let it through, or set STOCKROOM_DATA_DIR to a folder that it can reach, such as /var/lib/stockroom"); err != nil {
		return false, err
	}
	s.removeLeftovers(ctx)
	if !fresh {
		return false, nil
	}
	return true, s.initialise(ctx)
}

// leftover is what initialise calls its temporary folders.
var leftover = regexp.MustCompile(`^\.stockroom-initdb-[0-9]+$`)

// initialise runs initdb in a temporary folder beside the data directory and renames that: a data directory is there
// completely or not at all, at whatever moment this process or initdb is killed.
func (s *Server) initialise(ctx context.Context) (err error) {
	s.log.InfoContext(ctx, "embedded PostgreSQL: initialising the data folder", "version", s.bin.version(), "data", s.files.pgdata)
	tmp, err := os.MkdirTemp(s.files.dataDir, ".stockroom-initdb-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	if err := s.who.own(tmp); err != nil {
		return err
	}
	out, err := run(ctx, s.who, "/", s.bin.initdb(), s.initdbArguments(tmp, "C.UTF-8")...)
	if err != nil && strings.Contains(out, "invalid locale") { // macOS and others have no C.UTF-8
		_, err = run(ctx, s.who, "/", s.bin.initdb(), s.initdbArguments(tmp, "C")...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.bin.initdb(), err)
	}
	// Not os.Rename, which refuses an existing folder: the system call replaces an empty one, and nothing but that.
	if err := syscall.Rename(tmp, s.files.pgdata); err != nil {
		return &os.LinkError{Op: "rename", Old: tmp, New: s.files.pgdata, Err: err}
	}
	// initdb has synced what it wrote; the new name is ours to sync.
	dir, err := os.Open(s.files.dataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (s *Server) initdbArguments(dir, locale string) []string {
	args := []string{
		"-D", dir, "-U", superuser, "-E", "UTF8", "--locale=" + locale, "--data-checksums", "--no-instructions",
		// Who reaches the socket in its 0700 folder is this user or root; nobody else gets as far as a password. Should
		// someone make it listen on TCP one day: that door is shut.
		"--auth-local=trust", "--auth-host=reject",
	}
	if s.bin.major >= 17 {
		// PostgreSQL's own C.UTF-8 is the same on every system and in every version of the C library.
		args = append(args, "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
	}
	if s.cfg.Settings["fsync"] == "off" { // whoever gives up durability (a test) need not wait for it here
		args = append(args, "--no-sync")
	}
	return args
}

// removeLeftovers removes the folders of an initdb that was killed: by the lock nobody else can be at work on them, by
// their name and owner they are ours, and they have never been a data directory.
func (s *Server) removeLeftovers(ctx context.Context) {
	entries, err := os.ReadDir(s.files.dataDir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || !leftover.MatchString(entry.Name()) {
			continue
		}
		if owner, _ := ownerOf(info); owner != s.who.uid && int(owner) != os.Geteuid() {
			continue
		}
		path := filepath.Join(s.files.dataDir, entry.Name())
		s.log.WarnContext(ctx, "removing what an interrupted initdb has left", "folder", path)
		if err := os.RemoveAll(path); err != nil {
			s.log.WarnContext(ctx, "it cannot be removed; that does no harm", "folder", path, "error", err)
		}
	}
}

const socketFile = ".s.PGSQL." + port

// privateSocketPrefix begins the name of a socket folder outside the data folder.
const privateSocketPrefix = "stockroom-pg-"

// socketDir is the folder of the Unix socket.
type socketDir struct {
	path    string
	private bool // made for this run, to be removed after it
}

// fits: a socket's path has a short bound, and to clients a comma separates hosts.
func (d socketDir) fits() bool {
	return len(filepath.Join(d.path, socketFile)) <= maxSocketPath && !strings.Contains(d.path, ",")
}

// makeSocketDir: under the data folder, or, where that path is none for a socket, in a temporary folder.
func (s *Server) makeSocketDir(ctx context.Context) (socketDir, error) {
	d := socketDir{path: s.files.run}
	if d.fits() {
		if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return d, err
		}
		if info, err := os.Lstat(d.path); err != nil || !info.IsDir() {
			return d, fmt.Errorf("%s is not a folder", d.path)
		}
		//nolint:gosec // a folder that cannot be entered is no use; 0700 is what it must be
		return d, errors.Join(os.Chmod(d.path, 0o700), s.who.own(d.path))
	}
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		path, err := os.MkdirTemp(parent, privateSocketPrefix+"*") // mode 0700
		if err != nil {
			return d, err
		}
		d = socketDir{path: path, private: true}
		err = errors.Join(s.who.own(path), s.who.canEnter(ctx, s.bin, path, "set TMPDIR to a folder that it can reach"))
		if err == nil && d.fits() {
			return d, s.lock.write(path)
		}
		d.remove()
		if err != nil && !errors.Is(err, ErrUnreachable) {
			return d, err
		}
	}
	return socketDir{}, fmt.Errorf("no folder for a Unix socket: %s makes a path of more than %d bytes or has a comma, and no temporary folder will do; "+
		"choose a shorter STOCKROOM_DATA_DIR or TMPDIR", s.files.run, maxSocketPath)
}

func (d socketDir) removeSockets() {
	_ = os.Remove(filepath.Join(d.path, socketFile))
	_ = os.Remove(filepath.Join(d.path, socketFile+".lock"))
}

// remove removes a private folder; by its name, and never more than the files that PostgreSQL puts there.
func (d socketDir) remove() {
	if d.private && strings.HasPrefix(filepath.Base(d.path), privateSocketPrefix) {
		d.removeSockets()
		_ = os.Remove(d.path)
	}
}

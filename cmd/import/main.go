// Command import loads items into Stockroom: a folder of registry items into a
// running server, or a backup or another kind of store into its database.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/stockroom/stockroom/internal/app"
	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/importer"
)

// Exit codes. That of an import that was interrupted is what a shell makes of SIGINT.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

const usage = `Usage: import [flags] FOLDER|FILE
       import [flags] BACKUP.ndjson
       import [flags] --from-postgres DSN

The first form loads registry items into a running Stockroom server: one file, or
all *.json of a folder and the folders in it, but for hidden ones. Items that the
server has already are left alone. A catalogue (registry.json, index.json) is no
item and is skipped.

The second loads what server export wrote (-: from standard input), the third the
tables components and blocks of a store that Stockroom takes the place of, in a
PostgreSQL or a PGlite folder served by pglite-server. Both keep times and counts,
and so write to the database itself, whether servers run on it or not: set
DATABASE_URL or STOCKROOM_DATA_DIR, and STOCKROOM_MAX_BYTES, as for the server.
They evict nothing: where the items have no room, the import ends and says so. It
can be run again at any time, and goes on where it ended.

The exit code is 0 if all went well, 1 if something failed (the rest is imported,
unless a line says otherwise), 2 if the command makes no sense, and 130 if it was
interrupted.

Flags:
`

// Flags that are of one form of the command alone.
var (
	serverFlags   = []string{"server", "framework", "api-key", "batch", "parallel", "timeout"}
	databaseFlags = []string{"from-postgres", "existing"}
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], environ(os.Environ()), os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, env map[string]string, stdin io.Reader, stdout, stderr io.Writer) int {
	options := importer.Options{Progress: stderr}
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // we print what it has to say, where it belongs
	flags.StringVar(&options.Server, "server", "http://127.0.0.1:8080", "`URL` of the server")
	flags.StringVar(&options.Framework, "framework", "react", "framework of the items")
	flags.StringVar(&options.APIKey, "api-key", "", "API `key` with the scopes read and write (default $STOCKROOM_API_KEY)")
	flags.BoolVar(&options.DryRun, "dry-run", false, "compare and say what would happen, but write nothing")
	flags.IntVar(&options.Batch, "batch", importer.DefaultBatch, "items in a request, at most")
	flags.IntVar(&options.Parallel, "parallel", importer.DefaultParallel, "requests under way at a time, at most")
	flags.DurationVar(&options.Timeout, "timeout", importer.DefaultTimeout, "time that one request may take")
	database := app.ImportOptions{Stdin: stdin, Show: stderr}
	flags.StringVar(&database.FromPostgres, "from-postgres", "", "connection string (`DSN`) of the store to copy; its password can come from PGPASSWORD")
	flags.StringVar(&database.Existing, "existing", "replace", "an item of a backup or store whose key is taken by another: `replace`, keep or refuse")
	version := flags.Bool("version", false, "print the version and exit")

	paths, err := parse(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return exitOK
	case err != nil:
		return refuse(stderr, err)
	case *version:
		fmt.Fprintln(stdout, "import", buildinfo.String())
		return exitOK
	case database.FromPostgres != "" && len(paths) > 0:
		return refuse(stderr, errors.New("name a store or a file to import, not both"))
	case database.FromPostgres == "" && len(paths) != 1:
		return refuse(stderr, fmt.Errorf("name one folder or file to import, not %d", len(paths)))
	}
	if len(paths) == 1 {
		options.Path, database.Path = paths[0], paths[0]
	}
	if database.FromPostgres != "" || database.Path == "-" || strings.HasSuffix(database.Path, ".ndjson") || app.IsExport(database.Path) {
		if name := given(flags, serverFlags); name != "" {
			return refuse(stderr, fmt.Errorf("--%s is for registry items, not for a backup or a store", name))
		}
		database.DryRun = options.DryRun
		return loadDatabase(ctx, env, database, stdout, stderr)
	}
	if name := given(flags, databaseFlags); name != "" {
		return refuse(stderr, fmt.Errorf("--%s is for a backup or a store, not for registry items", name))
	}
	if options.APIKey == "" {
		options.APIKey = env["STOCKROOM_API_KEY"]
	}

	report, err := importer.Run(ctx, options)
	if err != nil {
		return refuse(stderr, err)
	}
	err = report.Print(stdout, stderr)
	switch {
	case report.Interrupted > 0:
		return exitInterrupted
	case err != nil || len(report.Failures) > 0:
		return exitFailed
	}
	return exitOK
}

// loadDatabase loads a backup or another kind of store.
func loadDatabase(ctx context.Context, env map[string]string, options app.ImportOptions, stdout, stderr io.Writer) int {
	cfg, err := config.Load(env)
	for _, warning := range cfg.Warnings {
		fmt.Fprintln(stderr, "warning: "+warning)
	}
	if err = errors.Join(err, app.CheckConfig(cfg)); err != nil {
		fmt.Fprintln(stderr, "The configuration is wrong:\n"+err.Error())
		return exitUsage
	}
	report, err := app.Import(ctx, cfg, options, app.NewToolLogger(stderr, cfg))
	if errors.Is(err, app.ErrUsage) {
		return refuse(stderr, err)
	}
	if err != nil {
		fmt.Fprintf(stderr, "import: %v\n", err)
	}
	if report.Interrupted {
		fmt.Fprintln(stderr, "interrupted: what is imported stays; the same command goes on from there")
	}
	printed := report.Print(stdout)
	switch {
	case report.Interrupted:
		return exitInterrupted
	case err != nil || printed != nil || report.Failed > 0:
		return exitFailed
	}
	return exitOK
}

// given returns the first of the names that was given as a flag, or "".
func given(flags *flag.FlagSet, names []string) (name string) {
	flags.Visit(func(f *flag.Flag) {
		if name == "" && slices.Contains(names, f.Name) {
			name = f.Name
		}
	})
	return name
}

func environ(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, pair := range list {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}

// parse parses flags wherever they stand and returns the other arguments.
func parse(flags *flag.FlagSet, args []string) ([]string, error) {
	var others []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return others, nil
		}
		others = append(others, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

func refuse(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "import: %v\nTry import --help.\n", err)
	return exitUsage
}

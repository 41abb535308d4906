// Command import loads a folder of registry items into a running Stockroom server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/stockroom/stockroom/internal/buildinfo"
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

Loads registry items into a running Stockroom server: one file, or all *.json of
a folder and the folders in it, but for hidden ones. Items that the server has
already are left alone. A catalogue (registry.json, index.json) is no item and is
skipped. The exit code is 0 if all went well, 1 if a file failed (the others are
imported), 2 if the command makes no sense, and 130 if it was interrupted.

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
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
	case len(paths) != 1:
		return refuse(stderr, fmt.Errorf("name one folder or file to import, not %d", len(paths)))
	}
	options.Path = paths[0]
	if options.APIKey == "" {
		options.APIKey = getenv("STOCKROOM_API_KEY")
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

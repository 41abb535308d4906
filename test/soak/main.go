//go:build linux

// Command soak runs the service on a real PostgreSQL for a while, lets everything
// happen to them that can go wrong, and reports whether the service has kept its
// promises (see package chaos). It exits with 1 where it has not.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/test/chaos"
	"github.com/stockroom/stockroom/test/cluster"
)

// Exit codes.
const (
	exitOK       = 0
	exitViolated = 1
	exitFailure  = 2 // it could not go on to the end
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options are those of the command line.
type options struct {
	config chaos.Config
	tags   string
	race   bool
	kind   string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var faults string
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&o.config.Duration, "duration", 2*time.Minute, "how long, the last round not counted")
	flags.Uint64Var(&o.config.Seed, "seed", uint64(time.Now().UnixNano())%1e6, "of the schedule of faults and of what the clients ask for")
	flags.IntVar(&o.config.Clients, "clients", 8, "clients at once")
	flags.DurationVar(&o.config.Every, "every", 15*time.Millisecond, "how often each of them asks")
	flags.DurationVar(&o.config.RequestTimeout, "request-timeout", 2*time.Second, "the server's")
	flags.DurationVar(&o.config.BreakerTimeout, "breaker-timeout", time.Second, "the server's")
	flags.StringVar(&faults, "faults", "", "names of the faults, separated by commas; all of them if empty")
	flags.StringVar(&o.kind, "database", "both", "external, embedded, or both in turn")
	flags.StringVar(&o.tags, "tags", "", "build tags for the server")
	flags.BoolVar(&o.race, "race", false, "build the server with the race detector")
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: soak [flags]\n\nexternal faults: %s\nembedded faults: %s\n\n",
			strings.Join(chaos.Faults(false), ", "), strings.Join(chaos.Faults(true), ", "))
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if faults != "" {
		o.config.Faults = strings.Split(faults, ",")
	}
	if o.kind != "both" && o.kind != "external" && o.kind != "embedded" || flags.NArg() > 0 {
		flags.Usage()
		return o, flag.ErrHelp
	}
	if o.kind == "both" && faults != "" {
		o.kind = "external"
	}
	o.config.Durable = true
	o.config.Log = stderr
	return o, nil
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if err != nil {
		return exitFailure
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := soak(ctx, o)
	if report != nil {
		report.Print(stdout)
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "soak:", err)
		return exitFailure
	case !report.Sound():
		return exitViolated
	}
	return exitOK
}

// embeddedShare is the part of the time that the embedded database gets: fewer
// things can happen to it.
const embeddedShare = 5

func soak(ctx context.Context, o options) (_ *chaos.Report, err error) {
	dir, err := os.MkdirTemp("", "stockroom-soak-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the program is run by others, too
		return nil, err
	}
	build := []string{"-tags=" + o.tags}
	if o.race {
		build = append(build, "-race")
	}
	if o.config.Program, err = cluster.Build(ctx, dir, build...); err != nil {
		return nil, err
	}
	fmt.Fprintf(o.config.Log, "seed %d\n", o.config.Seed)
	if o.kind != "both" {
		o.config.Embedded = o.kind == "embedded"
		return chaos.Run(ctx, o.config)
	}
	whole := o.config.Duration
	o.config.Duration = whole - whole/embeddedShare
	report, err := chaos.Run(ctx, o.config)
	if err != nil {
		return report, err
	}
	o.config.Embedded, o.config.Duration = true, whole/embeddedShare
	other, err := chaos.Run(ctx, o.config)
	if other != nil {
		report.Add(other)
	}
	return report, err
}

// Command server runs Stockroom. `server --help` says how.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/stockroom/stockroom/internal/app"
	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/config"
)

const usage = `Stockroom stores a team's UI components and blocks in PostgreSQL and serves them over HTTP.

usage:
  server                     run the service
  server migrate up          run the migrations that are missing
  server migrate down [N]    take back the last N migrations (default 1), with the data that they hold
  server migrate version     say where the schema stands
  server migrate force N     set the version without running anything, after a failed migration
  server export FILE         write all items to a file (-: standard output), also while servers run; import FILE reads it
  server keygen ID SCOPES    make an API key; SCOPES is a list such as read,write,admin
  server healthcheck         exit with 0 if the service on STOCKROOM_ADDR is ready
  server --help | --version

The configuration is the environment:
`

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	os.Exit(run(os.Args[1:], environ(os.Environ()), os.Stdout, os.Stderr))
}

// run is main without the process around it: it returns the exit code.
func run(args []string, env map[string]string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-h" || args[0] == "help"):
		fmt.Fprint(stdout, usage+"\n"+config.HelpText())
		return exitOK
	case len(args) == 1 && (args[0] == "--version" || args[0] == "version"):
		fmt.Fprintln(stdout, "stockroom "+buildinfo.String())
		return exitOK
	}
	if len(args) == 3 && args[0] == "keygen" { // needs no configuration
		if err := app.Keygen(args[1], args[2], stdout); err != nil {
			fmt.Fprintln(stderr, err.Error())
			return exitUsage
		}
		return exitOK
	}
	cfg, err := config.Load(env)
	for _, warning := range cfg.Warnings {
		fmt.Fprintln(stderr, "warning: "+warning)
	}
	if err = errors.Join(err, app.CheckConfig(cfg)); err != nil {
		fmt.Fprintln(stderr, "The configuration is wrong:\n"+err.Error())
		return exitUsage
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	switch {
	case len(args) == 0:
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
		getenv := func(name string) string { return env[name] }
		err = app.Run(ctx, cfg, app.Signals{Reload: reload}, getenv, app.NewLogger(stderr, cfg))
		if err != nil {
			// The log has the details; a person at a terminal wants one line.
			fmt.Fprintln(stderr, "stockroom: "+err.Error())
		}
	case args[0] == "migrate":
		err = app.Migrate(ctx, cfg, args[1:], app.NewLogger(stderr, cfg), stdout)
	case len(args) == 2 && args[0] == "export":
		err = export(ctx, cfg, args[1], stdout, stderr)
	case len(args) == 1 && args[0] == "healthcheck":
		err = app.Healthcheck(ctx, cfg)
	default:
		err = app.ErrUsage
	}
	switch {
	case errors.Is(err, app.ErrUsage):
		fmt.Fprintf(stderr, "server: I do not know %q\n\n%s", strings.Join(args, " "), usage[:strings.LastIndex(usage, "\n\n")+1])
		return exitUsage
	case err != nil && len(args) > 0:
		fmt.Fprintln(stderr, err.Error())
		return exitFailure
	case err != nil:
		return exitFailure
	}
	return exitOK
}

// export writes a backup. What it has to say goes to stderr: stdout may be where the
// backup goes.
func export(ctx context.Context, cfg config.Config, path string, stdout, stderr io.Writer) error {
	exported, err := app.Export(ctx, cfg, path, app.NewToolLogger(stderr, cfg), stdout, stderr)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stderr, "exported %d items: %d components, %d blocks, %d entries\n",
		exported.Total(), exported.Components, exported.Blocks, exported.Entries)
	return err
}

// interruptible returns a context that ends at the first SIGINT or SIGTERM; the
// second ends the process at once.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
			return
		}
		<-signals
		os.Exit(exitFailure)
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

func environ(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, pair := range list {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	return env
}

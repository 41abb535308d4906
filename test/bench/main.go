//go:build linux

// Command bench measures the service against its yardsticks, on one machine and in
// turn, prints the ratios beside their targets, and writes them to
// docs/benchmarks.md. That page says what is measured and how.
//
// It runs itself anew for the client (bench load) and for the yardstick that is a
// bare handler (bench chi), so that these are processes of their own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stockroom/stockroom/test/bench/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted"), err)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "load":
			return runLoad(ctx, os.Stdin, os.Stdout)
		case "chi":
			return runChi(ctx, args[1:])
		}
	}
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	return bench(ctx, o, os.Stdout)
}

// runLoad is the client: it takes a load.Spec and gives a load.Result.
func runLoad(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec load.Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return err
	}
	result, err := load.Run(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// options are those of the command line.
type options struct {
	rounds   int
	duration time.Duration // of each measurement
	only     []string      // names of parts; empty: all
	registry string        // folder; empty: generate
	scale    []int
	node     bool
	memory   time.Duration // 0: not measured
	doc      string        // path; empty: none is written
}

const warmup = time.Second

// defaultRegistry is where a registry lies that all who work on this share.
const defaultRegistry = "../shared/registry"

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var seconds int
	var only, scale string
	flags.IntVar(&o.rounds, "rounds", 4, "measurements of each, of which the median counts")
	flags.IntVar(&seconds, "seconds", 4, "length of each measurement")
	flags.StringVar(&only, "only", "", "parts to run, separated by commas, of "+strings.Join(partNames(), ", ")+"; all but memory if empty")
	flags.StringVar(&o.registry, "registry", "", "folder of registry items to store; "+defaultRegistry+" if that is there, else made up")
	flags.StringVar(&scale, "scale", "1000,100000,1000000", "numbers of items in the table of scale")
	flags.BoolVar(&o.node, "node", true, "measure the Node server over PGlite, too")
	flags.DurationVar(&o.memory, "memory", 0, "how long to load the service to see whether its memory grows; 0: not at all")
	flags.StringVar(&o.doc, "doc", "docs/benchmarks.md", "page to write what was measured as a whole to; empty: none")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.rounds < 1 || seconds < 1 || o.memory < 0 {
		flags.Usage()
		return o, errors.New("these arguments make no sense")
	}
	o.duration = time.Duration(seconds) * time.Second
	if only != "" {
		o.only = strings.Split(only, ",")
		for _, name := range o.only {
			if !slices.Contains(partNames(), name) {
				return o, fmt.Errorf("there is no part %q", name)
			}
		}
	}
	for text := range strings.SplitSeq(scale, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < batchSize {
			return o, fmt.Errorf("-scale %s: numbers of items, at least %d", scale, batchSize)
		}
		o.scale = append(o.scale, n)
	}
	if o.registry == "" {
		if _, err := os.Stat(defaultRegistry); !errors.Is(err, fs.ErrNotExist) {
			o.registry = defaultRegistry
		}
	}
	return o, nil
}

// runs tells whether a part is to be run.
func (o *options) runs(part string) bool {
	if part == partMemory {
		return o.memory > 0
	}
	return len(o.only) == 0 || slices.Contains(o.only, part)
}

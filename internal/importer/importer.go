// Package importer loads a folder of registry items into a running server: it
// compares what it finds with what the server has and writes what differs, in
// batches, several at a time.
package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/progress"
)

// What an import does where it is not told otherwise.
const (
	DefaultBatch    = 100
	DefaultParallel = 4
	DefaultTimeout  = time.Minute
)

const (
	// batchBytes bounds the body of a request well below what a server takes.
	batchBytes = 2 << 20
	// linesEvery is how many files lie between two lines of progress.
	linesEvery = 100
)

// Options say what to import, and where to.
type Options struct {
	Server    string        // base URL of the server
	APIKey    string        // sent as a bearer token; empty for none
	Framework string        // framework of the items
	Path      string        // a folder of items or one item's file
	DryRun    bool          // compare, but write nothing
	Batch     int           // items in a request, at most
	Parallel  int           // requests under way, at most
	Timeout   time.Duration // of one request
	Progress  io.Writer     // told how far it is: a bar on a terminal, lines elsewhere
}

func (o Options) check() error {
	server, err := url.Parse(o.Server)
	switch {
	case err != nil:
		return fmt.Errorf("the server's URL cannot be read: %w", err)
	case server.Scheme != "http" && server.Scheme != "https", server.Host == "":
		return fmt.Errorf("the server's URL must look like http://host:port, not %q", o.Server)
	case server.RawQuery != "" || server.Fragment != "":
		return fmt.Errorf("the server's URL has a query or a fragment: %q", o.Server)
	case o.Batch < 1:
		return errors.New("a batch has at least 1 item")
	case o.Parallel < 1:
		return errors.New("at least 1 request is under way")
	case o.Timeout <= 0:
		return errors.New("the timeout must be positive")
	}
	return item.CheckFramework(o.Framework)
}

// Run imports what the options name and reports on every file. An error means
// that the options make no sense or that there is nothing to import; what goes
// wrong with single files is in the report. When ctx ends, Run stops and the
// report counts the files that it did not get to.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	found, err := load(o.Framework, o.Path)
	if err != nil {
		return Report{}, err
	}
	r := &run{
		client:   newClient(o),
		dryRun:   o.DryRun,
		report:   Report{DryRun: o.DryRun, Skipped: found.skipped, Failures: found.failures},
		progress: progress.Start(o.Progress, progress.Options{Doing: "importing", Unit: "files", Total: len(found.entries), Every: linesEvery}),
	}
	defer r.client.close()
	defer r.progress.Close()

	var group errgroup.Group
	group.SetLimit(o.Parallel)
	for _, batch := range batches(found.entries, o.Batch, batchBytes) {
		group.Go(func() error {
			r.process(ctx, batch)
			return nil // what failed is in the report, and the others go on
		})
	}
	if err := group.Wait(); err != nil {
		return Report{}, err
	}
	r.report.sort()
	return r.report, nil
}

// run is one import under way.
type run struct {
	client *client
	dryRun bool

	mu       sync.Mutex // guards what follows
	report   Report
	progress progress.Progress
}

// process compares a batch with what the server has and writes what differs.
func (r *run) process(ctx context.Context, batch []*entry) {
	if ctx.Err() != nil {
		r.failed(ctx, batch, ctx.Err())
		return
	}
	standing, err := r.client.mget(ctx, keysOf(batch))
	if err != nil {
		r.failed(ctx, batch, err)
		return
	}
	var toStore, toPublish []*entry
	for _, e := range batch {
		verdict, err := e.compare(standing)
		switch {
		case err != nil:
			r.failed(ctx, []*entry{e}, err)
		case verdict == unchanged:
			r.unchanged()
		case r.dryRun:
			r.planned(e, standing)
		case verdict == publish:
			toPublish = append(toPublish, e)
		default:
			toStore = append(toStore, e)
		}
	}
	r.store(ctx, toStore)
	for _, e := range toPublish {
		if err := r.client.publish(ctx, e.value.Key, e.body); err != nil {
			r.failed(ctx, []*entry{e}, err)
		} else {
			r.imported(e)
		}
	}
}

// store writes entries as one batch. Those that the server refuses fail, and
// the rest is sent again without them; a batch that is too large is sent in halves.
func (r *run) store(ctx context.Context, entries []*entry) {
	if len(entries) == 0 {
		return
	}
	err := r.client.mset(ctx, entries)
	if err == nil {
		r.imported(entries...)
		return
	}
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		r.failed(ctx, entries, err)
		return
	}
	var rest []*entry
	for _, e := range entries {
		if why := refused.of(e.value.Key); why != nil {
			r.failed(ctx, []*entry{e}, why)
		} else {
			rest = append(rest, e)
		}
	}
	switch {
	case len(rest) < len(entries):
		r.store(ctx, rest)
	case refused.tooLarge() && len(entries) > 1:
		half := len(entries) / 2
		r.store(ctx, entries[:half])
		r.store(ctx, entries[half:])
	default:
		r.failed(ctx, entries, err)
	}
}

func (r *run) imported(entries ...*entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Imported += len(entries)
	r.progress.Add(len(entries))
}

func (r *run) unchanged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Unchanged++
	r.progress.Add(1)
}

func (r *run) planned(e *entry, standing values) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Imported++
	r.report.Planned = append(r.report.Planned, e.plan(standing))
	r.progress.Add(1)
}

// failed says why entries were not imported. Where ctx has ended, that is why,
// whatever the error.
func (r *run) failed(ctx context.Context, entries []*entry, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil {
		r.report.Interrupted += len(entries)
		return
	}
	for _, e := range entries {
		r.report.Failures = append(r.report.Failures, Failure{Path: e.path, Reason: err})
	}
	r.progress.Add(len(entries))
}

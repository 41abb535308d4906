package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/progress"
	"github.com/stockroom/stockroom/internal/store"
)

// A transaction has so many items and bytes at most: few enough that writers beside
// it do not wait for long, and that a small one need not hold the size lock alone.
const (
	batchItems = 500
	batchBytes = 1 << 20
)

// Options say how to load.
type Options struct {
	Existing store.Existing
	DryRun   bool
	Limit    int64     // of the store, in bytes charged; 0: none
	Show     io.Writer // is told how far it is, and of each item that is left out
}

// Report says what was loaded. In a dry run that is what would have been.
type Report struct {
	DryRun      bool
	Imported    int
	Unchanged   int
	Kept        int // whose places others have, which were kept
	Expired     int
	Failed      int
	Interrupted bool // what was loaded stays, and a second run goes on from there
}

// Print writes the report in a line.
func (r Report) Print(w io.Writer) error {
	imported := "imported"
	if r.DryRun {
		imported = "would import"
	}
	_, err := fmt.Fprintf(w, "%s %d, unchanged %d, kept %d, expired %d, failed %d\n", imported, r.Imported, r.Unchanged, r.Kept, r.Expired, r.Failed)
	return err
}

// loader stores what it is given in batches.
type loader struct {
	store    *store.Store
	options  Options
	progress progress.Progress
	report   Report
	planned  int64 // what a dry run would have added, in bytes charged

	batch []item.Record
	keys  map[item.Key]struct{} // of batch
	bytes int64                 // of batch
}

func newLoader(s *store.Store, o Options, total int) *loader {
	return &loader{
		store: s, options: o, report: Report{DryRun: o.DryRun}, keys: map[item.Key]struct{}{},
		progress: progress.Start(o.Show, progress.Options{Doing: "importing", Unit: "items", Total: total, Every: linesEvery}),
	}
}

// add stores a record, now or with those that follow.
func (l *loader) add(ctx context.Context, r item.Record) error {
	size := max(r.Value.Bytes, int64(len(r.Value.JSON())))
	_, twice := l.keys[r.Value.Key]
	if twice || len(l.batch) == batchItems || len(l.batch) > 0 && l.bytes+size > batchBytes {
		if err := l.flush(ctx); err != nil {
			return err
		}
	}
	l.batch = append(l.batch, r)
	l.keys[r.Value.Key] = struct{}{}
	l.bytes += size
	return nil
}

// flush stores the batch.
func (l *loader) flush(ctx context.Context) error {
	if len(l.batch) == 0 {
		return nil
	}
	done, err := l.store.Restore(ctx, l.batch, store.RestoreRules{
		Existing: l.options.Existing, DryRun: l.options.DryRun, Planned: l.planned,
	})
	if err != nil {
		return err
	}
	l.report.Imported += done.Stored
	l.report.Unchanged += done.Unchanged
	l.report.Kept += done.Kept
	l.report.Expired += done.Expired
	if l.options.DryRun {
		l.planned += done.Added
	}
	l.progress.Add(len(l.batch))
	l.batch, l.bytes = l.batch[:0], 0
	clear(l.keys)
	return nil
}

// fail reports an item that is left out.
func (l *loader) fail(name string, reason error) {
	l.report.Failed++
	l.progress.Say(fmt.Sprintf("failed %s: %v", name, reason))
	l.progress.Add(1)
}

// end makes the report and says what can be done about err, with which the loading
// has ended.
func (l *loader) end(ctx context.Context, err error) (Report, error) {
	l.progress.Close()
	switch {
	case err == nil:
		return l.report, nil
	case ctx.Err() != nil:
		l.report.Interrupted = true
		return l.report, ctx.Err()
	case errors.Is(err, store.ErrNoRoom):
		err = fmt.Errorf("%w: set STOCKROOM_MAX_BYTES higher, for this command and for the servers", err)
	case errors.Is(err, store.ErrTaken):
		err = fmt.Errorf("%w; --existing says what to do about that", err)
	}
	if l.report.Imported > 0 && !l.options.DryRun {
		err = fmt.Errorf("%w (%d items are imported and stay; the same command goes on from there)", err, l.report.Imported)
	}
	return l.report, err
}

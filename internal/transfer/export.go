package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/progress"
	"github.com/stockroom/stockroom/internal/store"
)

// linesEvery is how many items lie between two lines of progress.
const linesEvery = 10_000

// Exported is what an export has written.
type Exported struct{ Blocks, Components, Entries int64 }

// Total is how many items that are.
func (e Exported) Total() int64 { return e.Blocks + e.Components + e.Entries }

// ExportFile writes all items of a store to a file, of one snapshot. The file is
// there whole, on the disk, or not at all: until then one that was there before stays.
func ExportFile(ctx context.Context, s *store.Store, path, by string, show io.Writer) (exported Exported, err error) {
	// A link is followed: what it leads to is replaced, not the link.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return Exported{}, fmt.Errorf("%s is no file that could be replaced; - writes to standard output", path)
	}
	// Readable for nobody else: what a store keeps is not everybody's.
	next, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return Exported{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(next.Close()), os.Remove(next.Name()))
		}
	}()
	if exported, err = Export(ctx, s, next, by, show); err != nil {
		return Exported{}, err
	}
	if err := errors.Join(next.Sync(), next.Close()); err != nil {
		return Exported{}, err
	}
	if err := os.Rename(next.Name(), path); err != nil {
		return Exported{}, err
	}
	return exported, syncFolder(filepath.Dir(path))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// syncFolder makes a name in a folder outlive a crash.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// Export writes all items of a store to w, of one snapshot.
func Export(ctx context.Context, s *store.Store, w io.Writer, by string, show io.Writer) (Exported, error) {
	out := newWriter(w)
	var shown progress.Progress
	defer func() {
		if shown != nil {
			shown.Close()
		}
	}()
	err := s.ReadAll(ctx,
		func(usage item.Usage) error {
			shown = progress.Start(show, progress.Options{Doing: "exporting", Unit: "items", Total: int(usage.Items.Total()), Every: linesEvery})
			return out.begin(time.Now(), by)
		},
		func(record item.Record) error {
			shown.Add(1)
			if err := ctx.Err(); err != nil { // what has come in already is not all
				return err
			}
			return out.item(record)
		})
	if err == nil {
		err = out.end()
	}
	if err != nil {
		return Exported{}, err
	}
	return Exported(out.counts), nil
}

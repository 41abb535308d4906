package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/legacy"
	"github.com/stockroom/stockroom/internal/progress"
	"github.com/stockroom/stockroom/internal/store"
)

// maxHeader is more than a first line has.
const maxHeader = 4 << 10

// IsExport tells whether a file begins as an export file does. What cannot be read
// does not.
func IsExport(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	line, err := bufio.NewReaderSize(file, maxHeader).ReadSlice('\n')
	if err != nil {
		return false
	}
	_, ok := parseHeader(line)
	return ok
}

// Checked is an export file in which everything is as it should be.
type Checked struct {
	file  io.ReadSeekCloser
	spool string // the file that is removed with it
	items int64
	bytes int64 // charged
}

// Check opens an export file, or standard input where path is "-", and reads it to
// its end, before anything is done with it: a file that was cut off or changed is
// found out while it has done no harm. The caller must Close what it gets.
func Check(ctx context.Context, path string, stdin io.Reader, show io.Writer) (_ *Checked, err error) {
	c := new(Checked)
	if path == "-" {
		err = c.keep(ctx, stdin) // it can be read only once
	} else {
		c.file, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	shown := progress.Start(show, progress.Options{Doing: "checking", Unit: "items", Total: -1, Every: linesEvery})
	defer shown.Close()
	err = newReader(c.file).read(func(r item.Record) error {
		c.items++
		c.bytes += r.Value.Bytes
		shown.Add(1)
		return ctx.Err()
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// keep writes what comes in to a temporary file.
func (c *Checked) keep(ctx context.Context, in io.Reader) error {
	file, err := os.CreateTemp("", "stockroom-import-*")
	if err != nil {
		return err
	}
	c.file, c.spool = file, file.Name()
	if _, err = io.Copy(file, readerOf(ctx, in)); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// readerOf ends in's with ctx, as far as in answers.
func readerOf(ctx context.Context, in io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return in.Read(p)
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// Close closes the file.
func (c *Checked) Close() error {
	err := c.file.Close()
	if c.spool != "" {
		err = errors.Join(err, os.Remove(c.spool))
	}
	return err
}

// Import loads the file into a store. An error says what has ended it; the report is
// right all the same.
func (c *Checked) Import(ctx context.Context, s *store.Store, o Options) (Report, error) {
	if o.Limit > 0 && c.bytes > o.Limit && o.Existing != store.Keep {
		// Not even an empty store would hold them.
		return Report{}, fmt.Errorf("%w: the items of the file are charged %d bytes, and the limit is %d: set STOCKROOM_MAX_BYTES higher, for this command and for the servers",
			store.ErrNoRoom, c.bytes, o.Limit)
	}
	if _, err := c.file.Seek(0, io.SeekStart); err != nil {
		return Report{}, err
	}
	l := newLoader(s, o, int(c.items))
	err := newReader(c.file).read(func(r item.Record) error { return l.add(ctx, r) })
	if err == nil {
		err = l.flush(ctx)
	}
	return l.end(ctx, err)
}

// Copy loads the components and blocks of another kind of store. Rows that break a
// rule are left out, each with a line that says why.
func Copy(ctx context.Context, from *legacy.Store, s *store.Store, o Options) (Report, error) {
	total, err := from.Count(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("count the rows to copy: %w", err)
	}
	l := newLoader(s, o, total)
	for _, note := range from.Notes() {
		l.progress.Say("note: " + note)
	}
	err = from.Each(ctx, func(row legacy.Row) error {
		if row.Fault == nil {
			return l.add(ctx, row.Record)
		}
		l.fail(row.Name, row.Fault)
		return nil
	})
	if err == nil {
		err = l.flush(ctx)
	}
	return l.end(ctx, err)
}

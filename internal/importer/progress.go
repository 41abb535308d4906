package importer

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress is told of files that are done with.
type progress interface {
	add(files int)
	close()
}

// newProgress shows progress on w: a bar where that is a terminal, lines
// elsewhere, and nothing where w is nil.
func newProgress(w io.Writer, total int) progress {
	if w == nil {
		w = io.Discard
	}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return bar{progressbar.NewOptions(total,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription("importing"),
			progressbar.OptionShowCount(),
			progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(redrawEvery),
			progressbar.OptionClearOnFinish(),
		)}
	}
	return &lines{w: w, total: total}
}

const redrawEvery = 100 * time.Millisecond

type bar struct{ *progressbar.ProgressBar }

// A bar that cannot be drawn is no reason to stop.
func (b bar) add(files int) { _ = b.Add(files) }

// An import that was interrupted leaves its bar where it stands.
func (b bar) close() { _ = b.Exit() }

// linesEvery is how many files lie between two lines.
const linesEvery = 100

// lines writes a line now and then, so that a log is not flooded.
type lines struct {
	w                    io.Writer
	total, done, written int
}

func (l *lines) add(files int) {
	l.done += files
	if l.done-l.written >= linesEvery {
		l.written = l.done
		fmt.Fprintf(l.w, "%d of %d files\n", l.done, l.total)
	}
}

func (l *lines) close() {}

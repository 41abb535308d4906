// Package progress shows how far a command at a terminal has got.
package progress

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Options say what is shown.
type Options struct {
	Doing string // such as "importing"
	Unit  string // what is counted, such as "files"
	Total int    // how many there are; negative: nobody knows
	Every int    // how many lie between two lines, where there is no terminal
}

// Progress is told of what is done with. It is for one goroutine.
type Progress interface {
	Add(n int)
	Say(line string) // writes a line of its own
	Close()
}

// Start shows progress on w: a bar where that is a terminal, lines elsewhere, and
// nothing where w is nil.
func Start(w io.Writer, o Options) Progress {
	if w == nil {
		w = io.Discard
	}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return bar{w, progressbar.NewOptions(o.Total,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(o.Doing),
			progressbar.OptionShowCount(),
			progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(redrawEvery),
			progressbar.OptionClearOnFinish(),
		)}
	}
	return &lines{w: w, options: o}
}

const redrawEvery = 100 * time.Millisecond

type bar struct {
	w io.Writer
	*progressbar.ProgressBar
}

// A bar that cannot be drawn is no reason to stop.
func (b bar) Add(n int) { _ = b.ProgressBar.Add(n) }

func (b bar) Say(line string) {
	_ = b.Clear()
	fmt.Fprintln(b.w, line)
}

// What was interrupted leaves its bar where it stands.
func (b bar) Close() { _ = b.Exit() }

// lines writes a line now and then, so that a log is not flooded.
type lines struct {
	w             io.Writer
	options       Options
	done, written int
}

func (l *lines) Add(n int) {
	l.done += n
	if l.done-l.written < l.options.Every {
		return
	}
	l.written = l.done
	if l.options.Total < 0 {
		fmt.Fprintf(l.w, "%s: %d %s\n", l.options.Doing, l.done, l.options.Unit)
		return
	}
	fmt.Fprintf(l.w, "%d of %d %s\n", l.done, l.options.Total, l.options.Unit)
}

func (l *lines) Say(line string) { fmt.Fprintln(l.w, line) }

func (l *lines) Close() {}

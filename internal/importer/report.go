package importer

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Report says what an import did, file by file where that matters. In a dry run
// Imported counts what would have been written.
type Report struct {
	DryRun      bool
	Imported    int
	Unchanged   int
	Interrupted int       // files that it did not get to, or not to the end of
	Failures    []Failure // in the order of their paths
	Skipped     []string  // catalogues, which are no items
	Planned     []string  // what a dry run would have done
}

// Failure is a file that was not imported, and why.
type Failure struct {
	Path   string
	Reason error
}

func (r *Report) sort() {
	slices.SortFunc(r.Failures, func(a, b Failure) int { return cmp.Compare(a.Path, b.Path) })
	slices.Sort(r.Planned)
}

// Print writes the summary to stdout, in one line behind what a dry run would
// have done, and what did not go well to stderr.
func (r *Report) Print(stdout, stderr io.Writer) error {
	var out, diagnostics strings.Builder
	for _, path := range r.Skipped {
		fmt.Fprintf(&diagnostics, "skipped %s: it is a catalogue, not an item\n", path)
	}
	for _, failure := range r.Failures {
		fmt.Fprintf(&diagnostics, "failed %s: %v\n", failure.Path, failure.Reason)
	}
	if r.Interrupted > 0 {
		fmt.Fprintf(&diagnostics, "interrupted: %d not imported, or not known to be\n", r.Interrupted)
	}
	for _, plan := range r.Planned {
		fmt.Fprintln(&out, plan)
	}
	imported := "imported"
	if r.DryRun {
		imported = "would import"
	}
	fmt.Fprintf(&out, "%s %d, unchanged %d, failed %d\n", imported, r.Imported, r.Unchanged, len(r.Failures))
	if _, err := io.WriteString(stderr, diagnostics.String()); err != nil {
		return err
	}
	_, err := io.WriteString(stdout, out.String())
	return err
}

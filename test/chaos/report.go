//go:build linux

package chaos

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what has happened.
type Report struct {
	Seed       uint64
	Took       time.Duration
	Rounds     int
	Requests   int
	Answers    map[string]int      // by status and code
	Writes     int                 // that were acknowledged
	Stale      int                 // answers that were marked as stale
	Objects    int                 // whose histories were judged
	Operations int                 // in them
	Recoveries map[string]Recovery // by fault
	Slowest    time.Duration
	Limit      time.Duration  // for an answer
	Counts     map[string]int // of violations, by kind
	Violations []Violation    // the first of them
}

// Recovery is how the service recovered from a fault.
type Recovery struct {
	Times   int // that it happened
	Slowest time.Duration
	Limit   time.Duration
}

func (r Recovery) plus(other Recovery) Recovery {
	return Recovery{Times: r.Times + other.Times, Slowest: max(r.Slowest, other.Slowest), Limit: max(r.Limit, other.Limit)}
}

func (r *run) report() *Report {
	t := r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	return &Report{
		Seed: r.config.Seed, Took: time.Since(r.started), Rounds: r.rounds, Requests: t.requests, Answers: t.answers,
		Writes: t.acknowledged, Stale: t.stale, Objects: t.objects, Operations: t.operations, Recoveries: t.recoveries,
		Slowest: t.slowest, Limit: r.config.RequestTimeout + grace,
		Counts: t.counts, Violations: t.violations,
	}
}

// Sound tells whether the service has kept every promise.
func (r *Report) Sound() bool { return len(r.Counts) == 0 }

// Add takes another report into this one.
func (r *Report) Add(other *Report) {
	r.Took += other.Took
	r.Rounds += other.Rounds
	r.Requests += other.Requests
	r.Writes += other.Writes
	r.Stale += other.Stale
	r.Objects += other.Objects
	r.Operations += other.Operations
	r.Slowest = max(r.Slowest, other.Slowest)
	for _, counts := range [][2]map[string]int{{r.Answers, other.Answers}, {r.Counts, other.Counts}} {
		for name, n := range counts[1] {
			counts[0][name] += n
		}
	}
	for name, recovery := range other.Recoveries {
		r.Recoveries[name] = r.Recoveries[name].plus(recovery)
	}
	r.Violations = append(r.Violations, other.Violations...)
}

// Print writes the report as tables of Markdown, and what was violated behind them.
func (r *Report) Print(w io.Writer) {
	row := func(name string, value any) { fmt.Fprintf(w, "| %s | %v |\n", name, value) }
	fmt.Fprintln(w, "| | |\n|---|---:|")
	row("seed", r.Seed)
	row("duration", r.Took.Round(time.Second))
	row("rounds, one fault each", r.Rounds)
	row("requests", r.Requests)
	for _, name := range byCount(r.Answers) {
		row("answered: "+name, r.Answers[name])
	}
	row("of them marked stale", r.Stale)
	row("acknowledged writes", r.Writes)
	row("slowest request", fmt.Sprintf("%v (limit %v)", r.Slowest.Round(time.Millisecond), r.Limit))
	row("histories judged", fmt.Sprintf("%d, of %d operations", r.Objects, r.Operations))
	row("lost writes", r.Counts[lost])
	row("torn batches", r.Counts[torn])
	row("linearizable", r.linearizable())
	for _, kind := range byCount(r.Counts) {
		if kind != lost && kind != torn && kind != notLinearizable {
			row(kind, r.Counts[kind])
		}
	}
	fmt.Fprint(w, "\n| fault | times | slowest recovery | limit |\n|---|---:|---:|---:|\n")
	for _, name := range slices.Sorted(maps.Keys(r.Recoveries)) {
		recovery := r.Recoveries[name]
		fmt.Fprintf(w, "| %s | %d | %v | %v |\n", name, recovery.Times, recovery.Slowest.Round(time.Millisecond), recovery.Limit)
	}
	for _, v := range r.Violations {
		fmt.Fprintf(w, "\nviolation: %v\n", v)
	}
}

func (r *Report) linearizable() string {
	switch {
	case r.Counts[notLinearizable] > 0:
		return fmt.Sprintf("no (%d keys)", r.Counts[notLinearizable])
	case r.Counts[undecided] > 0:
		return "undecided"
	}
	return "yes"
}

// byCount returns the names, the most frequent first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(a, b))
	})
}

// summary says in a line how things are.
func (t *tally) summary() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	parts := []string{fmt.Sprintf("%d requests", t.requests), fmt.Sprintf("%d writes acknowledged", t.acknowledged)}
	for _, kind := range byCount(t.counts) {
		parts = append(parts, fmt.Sprintf("%d %s", t.counts[kind], kind))
	}
	return strings.Join(parts, ", ")
}

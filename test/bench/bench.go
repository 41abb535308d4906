//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stockroom/stockroom/test/bench/report"
	"github.com/stockroom/stockroom/test/bench/stage"
)

// findings are what the parts gave; nil where one was not run.
type findings struct {
	parts       map[string]outcome
	scale       scaleOutcome
	allocations *allocations
}

// bench runs what is asked for, prints what came out, and writes the page.
func bench(ctx context.Context, o options, out io.Writer) (err error) {
	b, err := newHarness(ctx, o, out)
	if b != nil {
		defer func() { err = errors.Join(err, b.close(context.WithoutCancel(ctx))) }()
	}
	if err != nil {
		return err
	}
	found, err := b.runAll(ctx)
	if err != nil {
		return err
	}
	if err := b.publish(b.sections(ctx, found)); err != nil || !o.runs(partMemory) {
		return err
	}
	// This takes long. Whoever ends it early keeps the rest.
	memory, err := b.runMemory(ctx)
	if err != nil {
		return err
	}
	return b.publish(map[string]string{sectionMemory: b.memorySection(memory)})
}

// publish prints sections and writes them to the page.
func (b *harness) publish(sections map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		fmt.Fprintf(b.out, "\n%s\n", sections[name])
	}
	if len(b.options.only) > 0 {
		delete(sections, sectionResults) // a part does not take the place of the whole
	}
	if b.options.doc == "" || len(sections) == 0 {
		return nil
	}
	return writeSections(b.options.doc, sections, b.out)
}

func newHarness(ctx context.Context, o options, out io.Writer) (*harness, error) {
	dir, err := os.MkdirTemp("", "stockroom-bench-")
	if err != nil {
		return nil, err
	}
	b := &harness{
		options: o, dir: dir, out: out, commit: commit(ctx), without: make(map[string]string),
		files: requestFiles{dir: dir, made: make(map[string]string)},
	}
	if !o.node {
		b.without[sysPGlite] = "not asked for"
	}
	// PostgreSQL's user, which is not ours where we are root, must be able to enter.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		return b, err
	}
	if b.data, err = newDataset(&o); err != nil {
		return b, err
	}
	if b.program, err = stage.BuildServer(ctx, dir); err != nil {
		return b, err
	}
	if b.postgres, err = stage.StartPostgres(ctx, filepath.Join(dir, "postgres")); err != nil {
		return b, err
	}
	if err := b.postgres.Create(ctx, database); err != nil {
		return b, err
	}
	// The service makes the schema, and stores what all read.
	s, err := b.startService(ctx, sysCached)
	if err != nil {
		return b, err
	}
	err = s.seed(ctx)
	if err == nil {
		err = b.postgres.AwaitDocuments(ctx, database)
	}
	if err := errors.Join(err, s.process.Stop()); err != nil {
		return b, err
	}
	// Without statistics PostgreSQL plans the SELECT of many keys badly, until it
	// happens to gather some.
	return b, b.postgres.Settle(ctx, database)
}

func (b *harness) close(ctx context.Context) error {
	return errors.Join(b.stop(ctx), os.RemoveAll(b.dir)) //nolint:gosec // a temporary folder of ours
}

// runAll runs all parts but memory.
func (b *harness) runAll(ctx context.Context) (*findings, error) {
	found := &findings{parts: make(map[string]outcome)}
	var err error
	if b.options.runs(partAllocations) {
		if found.allocations, err = runAllocations(ctx); err != nil {
			return nil, err
		}
	}
	for i := range parts {
		p := &parts[i]
		if !b.options.runs(p.name) {
			continue
		}
		if found.parts[p.name], err = b.run(ctx, p); err != nil {
			return nil, err
		}
	}
	if b.options.runs(partScale) {
		if found.scale, err = b.runScale(ctx); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// The sections of the page.
const (
	sectionResults = "results"
	sectionScale   = "scale"
	sectionMemory  = "memory"
)

// sections are the parts of the page that something was measured for.
func (b *harness) sections(ctx context.Context, found *findings) map[string]string {
	sections := make(map[string]string)
	var checks []report.Check
	var rows [][]string
	for i := range parts {
		o, ok := found.parts[parts[i].name]
		if !ok {
			continue
		}
		checks = append(checks, parts[i].checks(o)...)
		rows = append(rows, parts[i].rows(o)...)
	}
	if found.scale != nil {
		check := found.scale.check(b.options.scale)
		checks = append(checks, check)
		sections[sectionScale] = found.scale.table(b.options.scale)
	}
	if found.allocations != nil {
		checks = append(checks, found.allocations.check())
	}
	if len(checks) > 0 {
		sections[sectionResults] = strings.Join([]string{
			b.machine(ctx), report.Checks(checks),
			report.Table([]string{
				"operation", "system", "requests/s:", "p50 ms:", "p99 ms:", "server µs:", "PostgreSQL µs:", "client µs:", "errors:",
			}, rows),
		}, "\n")
	}
	return sections
}

func (b *harness) memorySection(m *memoryOutcome) string {
	return report.Checks([]report.Check{m.check()}) + fmt.Sprintf("\n%.1f MiB, then %.1f MiB, under %s requests a second at commit %s.\n",
		m.early/(1<<20), m.late/(1<<20), report.Number(float64(m.requests)/m.whole.Seconds()), b.commit)
}

// writeSections puts sections into the page.
func writeSections(path string, sections map[string]string, out io.Writer) error {
	content, err := os.ReadFile(path) //nolint:gosec // the page that whoever runs this names
	if err != nil {
		return err
	}
	page := string(content)
	for name, text := range sections {
		if page, err = report.Replace(page, name, text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		fmt.Fprintf(out, "%s: section %q written\n", path, name)
	}
	return os.WriteFile(path, []byte(page), 0o644) //nolint:gosec // a page for everybody
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/stockroom/stockroom/test/bench/report"
	"github.com/stockroom/stockroom/test/bench/stage"
)

// part is one operation of several systems, which take turns.
type part struct {
	name        string
	op          operation
	connections int
	systems     []string
	targets     []target
}

// target is what one system must reach compared with another.
type target struct {
	ours, yardstick string
	throughput      float64 // at least; 0: none
	p99             float64 // at most; 0: none
}

// parts in the order in which they are run: reads first, since pgbench then writes
// other values than the yardsticks of the reads answer.
var parts = []part{
	{
		name: "get32", op: opGet, connections: 32,
		systems: []string{sysCached, sysChi, sysWebdis, sysUncached, sysLogging, sysPGlite},
		targets: []target{
			{ours: sysCached, yardstick: sysChi, throughput: 0.90, p99: 1.3},
			{ours: sysCached, yardstick: sysWebdis, throughput: 1.00},
			{ours: sysUncached, yardstick: sysChi, throughput: 0.40},
			{ours: sysCached, yardstick: sysPGlite, throughput: 50},
		},
	},
	{
		name: "get128", op: opGet, connections: 128,
		systems: []string{sysCached, sysChi, sysUncached},
		targets: []target{
			{ours: sysCached, yardstick: sysChi, throughput: 0.90, p99: 1.3},
			{ours: sysUncached, yardstick: sysChi, throughput: 0.50},
		},
	},
	{
		name: "mget", op: opMget, connections: 8,
		systems: []string{sysCached, sysChi, sysUncached, sysPgbench},
		targets: []target{
			{ours: sysCached, yardstick: sysChi, throughput: 0.45},
			{ours: sysUncached, yardstick: sysPgbench, throughput: 0.75},
		},
	},
	{
		name: "put16", op: opPut, connections: 16,
		systems: []string{sysCached, sysPgbench, sysPGlite},
		targets: []target{
			{ours: sysCached, yardstick: sysPgbench, throughput: 0.95},
			{ours: sysCached, yardstick: sysPGlite, throughput: 12},
		},
	},
	{
		name: "put64", op: opPut, connections: 64,
		systems: []string{sysCached, sysPgbench, sysWebdis},
		targets: []target{
			{ours: sysCached, yardstick: sysPgbench, throughput: 1.30},
			{ours: sysCached, yardstick: sysWebdis, throughput: 0.65, p99: 1},
		},
	},
	{
		name: "mset", op: opMset, connections: 8,
		systems: []string{sysCached, sysPgbench, sysWebdis, sysPGlite},
		targets: []target{
			{ours: sysCached, yardstick: sysPgbench, throughput: 0.65},
			{ours: sysCached, yardstick: sysWebdis, throughput: 1.25},
			{ours: sysCached, yardstick: sysPGlite, throughput: 20},
		},
	},
}

// The parts that are measured in other ways.
const (
	partScale       = "scale"
	partAllocations = "allocations"
	partMemory      = "memory"
)

func partNames() []string {
	names := make([]string, 0, len(parts)+3)
	for i := range parts {
		names = append(names, parts[i].name)
	}
	return append(names, partScale, partAllocations, partMemory)
}

func (p *part) writes() bool { return p.op == opPut || p.op == opMset }

func (p *part) title() string { return fmt.Sprintf("%s, %d connections", p.op, p.connections) }

// outcome is what the rounds of a part gave, by system.
type outcome map[string][]measured

func (o outcome) throughputs(system string) []float64 {
	return column(o[system], func(m *measured) float64 { return m.PerSecond })
}

func (o outcome) p99s(system string) []float64 {
	return column(o[system], func(m *measured) float64 { return m.P99.Seconds() })
}

// column returns one number of each round.
func column(rounds []measured, number func(*measured) float64) []float64 {
	numbers := make([]float64, len(rounds))
	for i := range rounds {
		numbers[i] = number(&rounds[i])
	}
	return numbers
}

// median returns the median of one duration of each round.
func median(rounds []measured, of func(*measured) time.Duration) time.Duration {
	m := report.Median(column(rounds, func(m *measured) float64 { return float64(of(m)) }))
	if math.IsNaN(m) {
		return 0
	}
	return time.Duration(m)
}

// errors counts those of all rounds.
func (o outcome) errors(system string) (n uint64) {
	for i := range o[system] {
		n += o[system][i].Errors
	}
	return n
}

// running are the systems of a part.
type running struct {
	names   []string
	systems map[string]system
	stops   []func() error
}

// stop ends those that no other part needs.
func (r *running) stop() error {
	failures := make([]error, len(r.stops))
	for i, stop := range r.stops {
		failures[i] = stop()
	}
	return errors.Join(failures...)
}

// startAll starts the systems of a part and holds that they answer the same. Those
// that are not installed are left out. What it returns must be stopped, even with an
// error.
func (b *harness) startAll(ctx context.Context, p *part) (*running, error) {
	r := &running{systems: make(map[string]system)}
	for _, name := range p.systems {
		if b.without[name] != "" {
			continue
		}
		s, stop, err := b.start(ctx, name)
		if errors.Is(err, stage.ErrMissing) {
			b.without[name] = err.Error()
			fmt.Fprintf(b.out, "%s is left out: %v (apt-get install webdis redis-server nodejs npm postgresql)\n", name, err)
			continue
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		r.names = append(r.names, name)
		r.systems[name] = s
		r.stops = append(r.stops, stop)
		// What PGlite keeps as JSON comes back with its own order of members.
		if h, ok := s.(*httpSystem); ok && !p.writes() && name != sysPGlite {
			if err := h.verify(ctx, p.op); err != nil {
				return r, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return r, nil
}

// run measures a part.
func (b *harness) run(ctx context.Context, p *part) (_ outcome, err error) {
	r, err := b.startAll(ctx, p)
	defer func() { err = errors.Join(err, r.stop()) }()
	if err != nil {
		return nil, err
	}
	result := make(outcome)
	for round := range b.options.rounds {
		order := slices.Clone(r.names)
		if round%2 == 1 {
			slices.Reverse(order) // nobody is always behind the same one
		}
		for _, name := range order {
			if p.writes() {
				if err := b.postgres.Settle(ctx, database); err != nil {
					return nil, err
				}
			}
			m, err := r.systems[name].measure(ctx, p.op, p.connections, b.options.duration)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", p.title(), name, err)
			}
			fmt.Fprintf(b.out, "%-28s %-32s %9s/s  p50 %7s ms  p99 %7s ms%s\n", p.title(), name,
				report.Number(m.PerSecond), report.Milliseconds(m.P50), report.Milliseconds(m.P99), complaint(&m))
			result[name] = append(result[name], m)
		}
	}
	if p.writes() {
		return result, b.postgres.Recount(ctx, database)
	}
	return result, nil
}

func complaint(m *measured) string {
	if m.Errors == 0 {
		return ""
	}
	return fmt.Sprintf("  %d errors, the first: %.200s", m.Errors, m.FirstError)
}

// checks holds what a part gave against its targets.
func (p *part) checks(o outcome) []report.Check {
	var checks []report.Check
	for _, t := range p.targets {
		what := p.title()
		if p.op == opGet || p.op == opMget {
			if t.ours == sysUncached {
				what += ", uncached"
			} else {
				what += ", cached"
			}
		}
		spoilt := ""
		for _, name := range []string{t.ours, t.yardstick} {
			if n := o.errors(name); n > 0 {
				spoilt = fmt.Sprintf("%d errors of %s", n, name)
			}
		}
		checks = append(checks, report.Check{
			Operation: what, Yardstick: t.yardstick, Spoilt: spoilt,
			Value: report.Ratio(o.throughputs(t.ours), o.throughputs(t.yardstick)), Bound: t.throughput,
		})
		if t.p99 > 0 {
			checks = append(checks, report.Check{
				Operation: what + ": p99", Yardstick: t.yardstick, Spoilt: spoilt,
				Value: report.Ratio(o.p99s(t.ours), o.p99s(t.yardstick)), Bound: t.p99, AtMost: true,
			})
		}
	}
	return checks
}

// rows are the absolute numbers of a part.
func (p *part) rows(o outcome) [][]string {
	var rows [][]string
	for _, name := range p.systems {
		rounds := o[name]
		if len(rounds) == 0 {
			continue
		}
		micros := func(of func(*measured) time.Duration) string {
			return report.Number(float64(median(rounds, of)) / 1e3)
		}
		rows = append(rows, []string{
			p.title(), name,
			report.Number(report.Median(o.throughputs(name))),
			report.Milliseconds(median(rounds, func(m *measured) time.Duration { return m.P50 })),
			report.Milliseconds(median(rounds, func(m *measured) time.Duration { return m.P99 })),
			micros(func(m *measured) time.Duration { return m.server }),
			micros(func(m *measured) time.Duration { return m.postgres }),
			micros(func(m *measured) time.Duration { return m.client }),
			strconv.FormatUint(o.errors(name), 10),
		})
	}
	return rows
}

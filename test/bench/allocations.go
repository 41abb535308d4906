//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"os/exec"
	"regexp"
	"strconv"

	"github.com/stockroom/stockroom/test/bench/report"
)

// allocationsTarget is how many allocations a cached GET may make beyond those of
// the bare handler.
const allocationsTarget = 5

// allocations of one cached GET, through the whole handler.
type allocations struct{ ours, chi float64 }

func (a *allocations) check() report.Check {
	return report.Check{
		Operation: "cached GET: allocations", Yardstick: fmt.Sprintf("bare chi, beyond its own %.0f", a.chi),
		Value: a.ours - a.chi, Bound: allocationsTarget, AtMost: true,
	}
}

// runAllocations asks the micro-benchmarks of internal/http.
func runAllocations(ctx context.Context) (*allocations, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=^BenchmarkGet(Cached|BareChi)$", "-benchmem", "-benchtime=20000x",
		"github.com/stockroom/stockroom/internal/http")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench: %w\n%s", err, out)
	}
	return &allocations{ours: allocsOf(string(out), "GetCached"), chi: allocsOf(string(out), "GetBareChi")}, nil
}

// allocsOf finds the allocations of a benchmark in the output of go test; NaN where
// they are not there.
func allocsOf(output, name string) float64 {
	line := regexp.MustCompile(`(?m)^Benchmark` + name + `(?:-\d+)?\s.*\s(\d+) allocs/op$`).FindStringSubmatch(output)
	if line == nil {
		return math.NaN()
	}
	n, err := strconv.ParseFloat(line[1], 64)
	if err != nil {
		return math.NaN()
	}
	return n
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/stockroom/stockroom/test/bench/load"
	"github.com/stockroom/stockroom/test/bench/report"
	"github.com/stockroom/stockroom/test/bench/stage"
)

// memoryTarget is how much more memory the service may take at the end of a long
// load than at a tenth of it.
const memoryTarget = 1.05

// memoryLoad is what the service has to do all at once meanwhile.
var memoryLoad = []struct {
	op          operation
	connections int
}{{opGet, 32}, {opPut, 16}, {opMset, 4}, {opMget, 4}}

// memoryOutcome is what the service took of the memory.
type memoryOutcome struct {
	after, whole time.Duration
	early, late  float64 // bytes
	requests     uint64
	errors       uint64
	firstError   string
}

func (o *memoryOutcome) check() report.Check {
	c := report.Check{
		Operation: "memory after " + minutes(o.whole) + " of full load", Yardstick: "after " + minutes(o.after),
		Value: o.late / o.early, Bound: memoryTarget, AtMost: true,
	}
	if o.errors > 0 {
		c.Spoilt = fmt.Sprintf("%d errors, the first: %s", o.errors, o.firstError)
	}
	return c
}

func minutes(d time.Duration) string {
	if d < time.Minute {
		return d.String()
	}
	return fmt.Sprintf("%g min", d.Minutes())
}

// runMemory loads the service with everything at once and looks at its memory.
func (b *harness) runMemory(ctx context.Context) (_ *memoryOutcome, err error) {
	s, err := b.startService(ctx, sysCached)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.process.Stop()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	o := &memoryOutcome{whole: b.options.memory, after: b.options.memory / 10}
	var all sync.WaitGroup
	specs := make([]load.Spec, len(memoryLoad))
	for i, part := range memoryLoad {
		path, err := s.b.files.file(s.dialect+" "+string(part.op), func() [][]byte { return s.requests(part.op) })
		if err != nil {
			return nil, err
		}
		specs[i] = load.Spec{
			Address: s.process.Address(), Requests: path, Connections: part.connections, Duration: o.whole, Statuses: rightStatuses,
		}
	}
	results := make([]*load.Result, len(specs))
	failures := make([]error, len(specs)+1)
	for i, spec := range specs {
		all.Go(func() {
			results[i], _, failures[i] = client(ctx, spec)
			if failures[i] != nil {
				cancel()
			}
		})
	}
	failures[len(specs)] = o.watch(ctx, s.process.PID())
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	for _, result := range results {
		o.requests += result.Requests
		o.errors += result.Errors
		if o.firstError == "" {
			o.firstError = result.FirstError
		}
	}
	return o, b.postgres.Recount(ctx, database)
}

// watch looks at the memory all the time. What it takes at a moment is the median over
// a fiftieth of the whole time before it: garbage comes and goes.
func (o *memoryOutcome) watch(ctx context.Context, pid int) error {
	const looks = 1000
	ticker := time.NewTicker(o.whole / looks)
	defer ticker.Stop()
	var seen []float64
	for range looks - looks/100 { // the load ends a little before we look the last time
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		bytes, err := stage.RSS(pid)
		if errors.Is(err, os.ErrNotExist) {
			return errors.New("the service has ended")
		}
		if err != nil {
			return err
		}
		seen = append(seen, float64(bytes))
	}
	const window = looks / 50
	o.early = report.Median(seen[looks/10-window : looks/10])
	o.late = report.Median(seen[len(seen)-window:])
	return nil
}

//go:build linux

// Package chaos lets faults happen to a real service on a real PostgreSQL, while
// clients go on asking, and holds every answer against what the service promises:
//
//   - nothing that it acknowledged is lost, and what it refused is not done;
//   - a batch is there whole or not at all, to every reader;
//   - each key is linearizable, whichever way it is read, as long as the service
//     does not mark an answer as stale;
//   - every answer comes within its deadline, and is one that the contract has;
//   - when the fault is over, the service is well again by itself within a bounded
//     time.
//
// It goes in rounds. In each, clients work on keys of the round's own, one fault
// happens, the service recovers, the clients come to their end, and what they were
// answered is judged.
package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stockroom/stockroom/test/cluster"
	"github.com/stockroom/stockroom/test/history"
)

// Config says what is to be done.
type Config struct {
	// Program is the server's.
	Program string
	// Seed decides which fault happens when and for how long, and what each client
	// asks for, though not how their requests interleave.
	Seed uint64
	// Duration is how long to go on with new rounds; 0: one round for each fault.
	Duration time.Duration
	// Embedded leaves the database to the server.
	Embedded bool
	// Faults are the names of those that happen (see Faults); none: all.
	Faults []string
	// UntilViolated ends with the first round in which a promise was broken.
	UntilViolated bool
	// Clients is how many there are, and Every how often each of them asks.
	Clients int
	Every   time.Duration
	// RequestTimeout and BreakerTimeout are the server's.
	RequestTimeout, BreakerTimeout time.Duration
	// Durable keeps PostgreSQL's fsync on.
	Durable bool
	// Log gets a line for each round; nil: none.
	Log io.Writer
}

const (
	// grace is what an answer may take beyond the request's deadline, and recovery
	// beyond the time for which the circuit breaker stays open.
	grace = time.Second
	// giveUp is when a client gives up, measured from the deadline.
	giveUp = 10 * time.Second
	// diskBytes is the size of the database's disk.
	diskBytes = 512 << 20
	// faultTimeout bounds a fault with everything that it takes to end it.
	faultTimeout = 2 * time.Minute
	// recoveryTimeout is when a service counts as broken for good.
	recoveryTimeout = time.Minute
	// checkTimeout bounds the judging of one object.
	checkTimeout = 20 * time.Second
	// maxLedger bounds what is looked at again in the end.
	maxLedger = 200_000
)

// run is one cluster with what has happened to it.
type run struct {
	config  Config
	cluster *cluster.Cluster
	tally   *tally
	random  *rand.Rand
	started time.Time
	rounds  int
	ledger  []entry
}

// entry is what a key held when its round was over.
type entry struct {
	member

	value int64
}

// Run does what config says and reports. The error says why it could not go on to
// the end: because something of the test's own failed, or because the service did
// not come up again. Then the report, if there is one, ends there.
func Run(ctx context.Context, config Config) (report *Report, err error) {
	faults, err := chosen(config.Faults, config.Embedded)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{}
	if !config.Durable {
		settings = map[string]string{"fsync": "off", "full_page_writes": "off"}
	}
	c, err := cluster.New(ctx, cluster.Options{
		Program: config.Program, Embedded: config.Embedded, Settings: settings, DiskBytes: diskBytes,
		RequestTimeout: config.RequestTimeout, BreakerTimeout: config.BreakerTimeout,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close(context.WithoutCancel(ctx))) }()
	r := &run{
		config: config, cluster: c, tally: newTally(), started: time.Now(),
		random: rand.New(rand.NewPCG(config.Seed, 0)), //nolint:gosec // a seeded schedule
	}
	if err := r.startServer(ctx); err != nil {
		return nil, r.withLog(err)
	}
	if err := r.all(ctx, faults); err != nil {
		return r.report(), r.withLog(err)
	}
	return r.report(), nil
}

func (r *run) startServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return errors.Join(r.cluster.Server.Start(), r.cluster.Server.AwaitReady(ctx))
}

// withLog adds the end of the server's log to an error.
func (r *run) withLog(err error) error {
	text, _ := r.cluster.Server.Log()
	return fmt.Errorf("%w\nthe server wrote:\n%s", err, lastLines(text))
}

// lastLines is as much of the end of a log as people read.
func lastLines(text string) string {
	const most = 2000
	return text[max(len(text)-most, 0):]
}

// all runs the rounds: every fault once, in an order that chance decides, and again
// as long as there is time.
func (r *run) all(ctx context.Context, faults []fault) error {
	faults = slices.DeleteFunc(faults, func(f fault) bool { return !f.possible(r.cluster) })
	if len(faults) == 0 {
		return errors.New("none of these faults is possible on this machine")
	}
	for {
		for _, i := range r.random.Perm(len(faults)) {
			if err := r.round(ctx, faults[i]); err != nil {
				return fmt.Errorf("round %d (%s): %w", r.rounds, faults[i].name, err)
			}
			if r.config.Duration > 0 && time.Since(r.started) >= r.config.Duration || r.config.UntilViolated && r.tally.broken() {
				return r.finish(ctx)
			}
		}
		if r.config.Duration == 0 {
			return r.finish(ctx)
		}
	}
}

// round lets one fault happen under load.
func (r *run) round(ctx context.Context, f fault) error {
	r.rounds++
	limit := r.config.RequestTimeout + grace
	transport := newTransport(r.cluster.Server.URL(), r.started, r.config.RequestTimeout+giveUp)
	defer transport.close()
	w := newWorkload(r.rounds, f.name, transport, r.tally, limit)

	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range r.config.Clients {
		clients.Go(func() { w.run(ctx, i, r.config.Seed, r.config.Every, stop) })
	}
	took, err := r.weather(ctx, f, w)
	close(stop)
	clients.Wait()
	if err != nil {
		return err
	}
	r.tally.recovered(f.name, took, r.bound(f))
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.readAll(ctx, w); err != nil {
		return err
	}
	r.judge(ctx, w)
	if r.config.Log != nil {
		fmt.Fprintf(r.config.Log, "%6.1fs round %d: %s; recovered in %v; %s\n",
			time.Since(r.started).Seconds(), r.rounds, f.name, took.Round(time.Millisecond), r.tally.summary())
	}
	return nil
}

// weather lets the fault happen to the clients, and returns how long the service
// took to be well again after it.
func (r *run) weather(ctx context.Context, f fault, w *workload) (took time.Duration, err error) {
	const calm = 300 * time.Millisecond // before and after
	if err := wait(ctx, calm); err != nil {
		return 0, err
	}
	stormy, cancel := context.WithTimeout(ctx, faultTimeout)
	defer cancel()
	err = f.run(stormy, &scene{Cluster: r.cluster, random: r.random, timeout: r.config.RequestTimeout})
	if exit, ok := errors.AsType[*cluster.ExitError](err); ok {
		text, _ := r.cluster.Server.Log()
		w.violatedf(badExit, "%v; before, it wrote:\n%s", exit, lastLines(text))
	} else if err != nil {
		return 0, err
	}
	over := time.Now()
	if err := r.recover(ctx, w); err != nil {
		return 0, err
	}
	took = time.Since(over)
	bound := r.bound(f)
	if took > bound {
		w.violatedf(lateRecovery, "%v after the fault was over", took.Round(time.Millisecond))
	}
	// One request that goes well is not all of them.
	if err := wait(ctx, max(time.Until(over.Add(bound)), 0)); err != nil {
		return 0, err
	}
	w.fair.Store(int64(w.transport.now()))
	return took, errors.Join(wait(ctx, calm), r.cluster.Bury())
}

// bound is how long recovery from a fault may take.
func (r *run) bound(f fault) time.Duration {
	return r.config.BreakerTimeout + grace + time.Duration(f.slack*float64(r.config.RequestTimeout))
}

// recover returns when a write and a read go well.
func (r *run) recover(ctx context.Context, w *workload) error {
	ctx, cancel := context.WithTimeout(ctx, recoveryTimeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	probe := member{key: fmt.Sprintf("soak:probe-%d", w.round), kind: "entry"}
	for n := int64(1); ; n++ {
		a := w.transport.do(ctx, http.MethodPut, itemPath(probe.key), probe.body(n))
		w.judge("PUT "+probe.key, a, http.StatusCreated, http.StatusOK)
		if a.err == nil && a.status < http.StatusBadRequest {
			a = w.transport.get(ctx, probe.key, false)
			w.judge("GET "+probe.key, a, http.StatusOK)
			if a.err == nil && a.status == http.StatusOK && !a.isStale() {
				return nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("the service does not recover: %w; its last answer: %s", ctx.Err(), a.name())
		}
	}
}

// settle returns when nothing of the clients' can happen any more: no session of
// the server's has anything left to do.
func (r *run) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recoveryTimeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		busy, err := r.cluster.Busy(ctx)
		if err != nil {
			return err
		}
		if busy == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%d sessions are still at work: %w", busy, ctx.Err())
		}
	}
}

// readAll reads every key of a round once more, past the cache, through it, and
// together with its group, and takes what it holds into the ledger.
func (r *run) readAll(ctx context.Context, w *workload) error {
	c := &client{workload: w, number: r.config.Clients, etags: map[string]known{}}
	final := func(object string, a answer, value int64) {
		c.recorder.Add(history.Op{Client: c.number, Object: object, Kind: history.Read, Value: value, Call: a.call, Return: a.end, Answer: a.name(), Final: true})
	}
	for _, g := range w.groupsSeen {
		a := w.transport.mget(ctx, g.members)
		if values := c.recordMany(a, g.members); values != nil {
			if slices.Min(values) != slices.Max(values) {
				w.violatedf(torn, "%s in the end: %v", g.name, values)
			}
			final(g.name, a, values[0])
		}
	}
	for _, m := range w.seen {
		for _, fresh := range []bool{false, true} {
			a, err := c.readSurely(ctx, m, fresh)
			if err != nil {
				return err
			}
			value := history.None
			if a.status == http.StatusOK {
				if value, err = m.parse(a.body); err != nil {
					w.violatedf(corrupt, "%v", err)
					continue
				}
			}
			final(m.key, a, value)
			if fresh && len(r.ledger) < maxLedger {
				r.ledger = append(r.ledger, entry{m, value})
			}
		}
	}
	return nil
}

// readSurely reads a key again and again until it is answered.
func (c *client) readSurely(ctx context.Context, m member, fresh bool) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, recoveryTimeout)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		a := c.transport.get(ctx, m.key, fresh)
		if c.judge("GET "+m.key, a, http.StatusOK, http.StatusNotFound) {
			return a, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return a, fmt.Errorf("the last read of %s: %w: %s", m.key, ctx.Err(), a.name())
		}
	}
}

// judge judges the histories of a round, and the counters.
func (r *run) judge(ctx context.Context, w *workload) {
	objects := w.recorder.Objects()
	work := make(chan string)
	var judges sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		judges.Go(func() {
			for object := range work {
				ops := w.recorder.Ops(object)
				r.tally.judged(len(ops))
				w.condemn(object, ops, history.Check(ops, checkTimeout))
			}
		})
	}
	for _, object := range objects {
		work <- object
	}
	close(work)
	judges.Wait()
	switch wrong, err := r.cluster.Miscount(ctx); {
	case err != nil:
		w.violatedf(miscounted, "cannot be found out: %v", err)
	case wrong != "":
		w.violatedf(miscounted, "%s", wrong)
	}
	if text, alarms := r.cluster.Server.Log(); alarms > 0 {
		w.violatedf(alarm, "%d in the server's log, which ends so:\n%s", alarms, lastLines(text))
	}
}

// condemn makes violations of a verdict.
func (w *workload) condemn(object string, ops []history.Op, v history.Verdict) {
	for _, op := range v.Lost {
		w.violatedf(lost, "%s: %v", object, op)
	}
	for _, op := range v.Phantom {
		w.violatedf(phantom, "%s: %v", object, op)
	}
	if v.NotLinearizable {
		w.violatedf(notLinearizable, "%s:%s", object, describe(ops))
	}
	if v.Undecided {
		w.violatedf(undecided, "%s: %d operations, %d of unknown outcome", object, len(ops), w.recorder.Unknown(object))
	}
}

// describe shows a history as far as people can read it: around the shortest
// beginning of it that is not linearizable.
func describe(ops []history.Op) string {
	const most = 25
	slices.SortStableFunc(ops, func(a, b history.Op) int { return int(a.Return - b.Return) })
	low, high := 0, len(ops)
	for low < high {
		middle := (low + high) / 2
		if history.Explainable(ops, middle+1, checkTimeout) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	var b strings.Builder
	for _, op := range ops[max(low-most, 0):min(low+1, len(ops))] {
		if op.Outcome != history.Refused {
			fmt.Fprintf(&b, "\n    %v", op)
		}
	}
	return b.String()
}

// backgroundTimeout is when what the server does by the clock counts as at a
// standstill.
const backgroundTimeout = 30 * time.Second

// checkBackground finds out whether the server still does what it does by the
// clock, after all that has happened: whether it writes down that a key was read.
func (r *run) checkBackground(ctx context.Context, w *workload) {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	probe := member{key: "soak:background", kind: "entry"}
	w.judge("PUT "+probe.key, w.transport.do(ctx, http.MethodPut, itemPath(probe.key), probe.body(1)), http.StatusCreated, http.StatusOK)
	w.judge("GET "+probe.key, w.transport.get(ctx, probe.key, false), http.StatusOK)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		a := w.transport.do(ctx, http.MethodGet, itemPath(probe.key)+"/metadata", "")
		var metadata struct {
			AccessCount int `json:"accessCount"`
		}
		if json.Unmarshal(a.body, &metadata) == nil && metadata.AccessCount > 1 {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			w.violatedf(standstill, "an access is not written down within %v", backgroundTimeout)
			return
		}
	}
}

// finish kills the server, and looks once more at everything that the rounds left.
func (r *run) finish(ctx context.Context) error {
	const batch = 200
	w := newWorkload(r.rounds, "the end", newTransport(r.cluster.Server.URL(), r.started, r.config.RequestTimeout+giveUp), r.tally, r.config.RequestTimeout+grace)
	defer w.transport.close()
	ctx, cancel := context.WithTimeout(ctx, faultTimeout)
	defer cancel()
	r.checkBackground(ctx, w)
	if err := r.cluster.Server.Kill(ctx); err != nil {
		return err
	}
	if err := r.startServer(ctx); err != nil {
		return err
	}
	for part := range slices.Chunk(r.ledger, batch) {
		members := make([]member, len(part))
		for i, e := range part {
			members[i] = e.member
		}
		a := w.transport.mget(ctx, members)
		if !w.judge("mget", a, http.StatusOK) {
			return fmt.Errorf("the last look: %s %s", a.name(), a.excerpt())
		}
		values, err := parseMget(members, a.body)
		if err != nil {
			w.violatedf(corrupt, "%v", err)
			continue
		}
		for i, e := range part {
			if values[i] != e.value {
				w.violatedf(lost, "%s held %d when its round was over, and holds %d in the end", e.key, e.value, values[i])
			}
		}
	}
	if err := r.cluster.Server.Stop(ctx); err != nil {
		w.violatedf(badExit, "%v", err)
	}
	return nil
}

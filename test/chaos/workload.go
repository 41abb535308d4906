//go:build linux

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stockroom/stockroom/test/history"
)

const (
	registers = 5 // keys that are written one by one
	groups    = 2
	// maxUnknown is how many writes of unknown outcome one object may have before
	// another takes its place: judging takes time that grows with them.
	maxUnknown = 6
	// maxOperations bounds the history of a round.
	maxOperations = 500_000
)

// workload is what the clients of one round do. Each round has keys of its own.
type workload struct {
	round     int
	fault     string
	transport *transport
	recorder  *history.Recorder
	tally     *tally
	limit     time.Duration // for an answer

	values atomic.Int64 // the last one that was written
	fair   atomic.Int64 // from when on, by the histories' clock, all must go well; 0: not yet

	mu         sync.Mutex
	generation map[string]int // of each slot
	seen       map[string]member
	groupsSeen map[string]group
}

func newWorkload(round int, fault string, transport *transport, tally *tally, limit time.Duration) *workload {
	return &workload{
		round: round, fault: fault, transport: transport, tally: tally, limit: limit,
		recorder: history.NewRecorder(maxOperations), generation: map[string]int{}, seen: map[string]member{}, groupsSeen: map[string]group{},
	}
}

// name returns the name of a slot's object of now: a new one where the old one
// has too many writes of unknown outcome.
func (w *workload) name(slot string, object func(name string) string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		name := fmt.Sprintf("r%d-%s-%d", w.round, slot, w.generation[slot])
		if w.recorder.Unknown(object(name)) < maxUnknown {
			return name
		}
		w.generation[slot]++
	}
}

func (w *workload) register(i int) member {
	kind := []string{"entry", "component", "block"}[i%3]
	slot := fmt.Sprintf("key%d", i)
	key := keyOf(kind, w.name(slot, func(name string) string { return keyOf(kind, name) }))
	m := member{key: key, kind: kind}
	w.mu.Lock()
	w.seen[key] = m
	w.mu.Unlock()
	return m
}

func (w *workload) group(i int) group {
	g := newGroup(w.name(fmt.Sprintf("group%d", i), func(name string) string { return name }))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.groupsSeen[g.name] = g
	for _, m := range g.members {
		w.seen[m.key] = m
	}
	return g
}

// client is one of those that ask, one thing after the other.
type client struct {
	*workload

	number int
	random *rand.Rand
	etags  map[string]known // by key: what it knows to have stood there
}

type known struct {
	value int64
	etag  string
}

// run asks every so often until stop is closed.
func (w *workload) run(ctx context.Context, number int, seed uint64, every time.Duration, stop <-chan struct{}) {
	c := &client{
		workload: w, number: number, etags: map[string]known{},
		random: rand.New(rand.NewPCG(seed, uint64(w.round)<<16|uint64(number))), //nolint:gosec // a seeded workload, and small numbers
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.act(ctx)
	}
}

// act makes one request. Every other client reads only: a fault that holds up all
// who write must not leave nobody to look.
func (c *client) act(ctx context.Context) {
	reads := c.number%2 == 1
	if c.random.IntN(10) < 6 {
		c.actOnKey(ctx, reads)
	} else {
		c.actOnGroup(ctx, reads)
	}
}

func (c *client) actOnKey(ctx context.Context, reads bool) {
	m := c.register(c.random.IntN(registers))
	n := c.random.IntN(20)
	if reads {
		n /= 2
	}
	switch {
	case n < 6:
		c.read(ctx, m, false)
	case n < 8:
		c.read(ctx, m, true)
	case n < 10:
		c.readMany(ctx)
	case n < 15:
		c.put(ctx, m, history.Write)
	case n < 16:
		c.put(ctx, m, history.Create)
	case n < 18:
		c.put(ctx, m, history.Swap)
	default:
		c.remove(ctx, m)
	}
}

func (c *client) actOnGroup(ctx context.Context, reads bool) {
	g := c.group(c.random.IntN(groups))
	n := c.random.IntN(20)
	if reads {
		n /= 2
	}
	switch {
	case n < 4:
		c.read(ctx, g.members[c.random.IntN(len(g.members))], false)
	case n < 5:
		c.read(ctx, g.members[c.random.IntN(len(g.members))], true)
	case n < 10:
		c.readGroup(ctx, g)
	case n < 19:
		c.writeGroup(ctx, g)
	default:
		c.removeGroup(ctx, g)
	}
}

func (w *workload) violatedf(kind, format string, args ...any) {
	w.tally.violated(Violation{Kind: kind, Round: w.round, Fault: w.fault, Detail: fmt.Sprintf(format, args...)})
}

// judge counts an answer and holds it against what is promised of every answer.
// It returns whether it is one of the statuses that tell the outcome.
func (w *workload) judge(what string, a answer, statuses ...int) bool {
	w.tally.answered(a)
	if took := a.end - a.call; took > w.limit {
		w.violatedf(slow, "%s took %v: %s", what, took.Round(time.Millisecond), a.name())
	}
	good := a.err == nil && slices.Contains(statuses, a.status)
	if !a.documented(statuses...) {
		w.violatedf(undocumented, "%s: %d %q: %s", what, a.status, a.code, a.excerpt())
	}
	if fair := w.fair.Load(); !good && fair > 0 && int64(a.call) >= fair {
		w.violatedf(fairWeatherError, "%s at %v: %s: %s", what, a.call, a.name(), a.excerpt())
	}
	return good && !a.isStale()
}

// record adds an operation to the history, with the times and the outcome of its
// answer where that does not tell what the operation has done.
func (c *client) record(a answer, told bool, op history.Op) {
	op.Client, op.Call, op.Return, op.Answer = c.number, a.call, a.end, a.name()
	if !told {
		op.Outcome = a.outcome()
	}
	if !c.recorder.Add(op) {
		c.violatedf(undecided, "the history of a round is too long")
	}
}

func (c *client) read(ctx context.Context, m member, fresh bool) {
	a := c.transport.get(ctx, m.key, fresh)
	told := c.judge("GET "+m.key, a, http.StatusOK, http.StatusNotFound)
	value := history.None
	if told && a.status == http.StatusOK {
		var err error
		if value, err = m.parse(a.body); err != nil {
			c.violatedf(corrupt, "%v", err)
			return
		}
		c.etags[m.key] = known{value, a.header.Get("ETag")}
	}
	c.record(a, told, history.Op{Object: m.key, Kind: history.Read, Value: value})
}

// put writes a new value: in any case, where there is none, or over one that the
// client knows.
func (c *client) put(ctx context.Context, m member, kind history.Kind) {
	value := c.values.Add(1)
	op := history.Op{Object: m.key, Kind: kind, Value: value}
	var header []string
	switch kind {
	case history.Create:
		header = []string{"If-None-Match", "*"}
	case history.Swap:
		before, ok := c.etags[m.key]
		if !ok {
			return
		}
		op.Expect, header = before.value, []string{"If-Match", before.etag}
	case history.Read, history.Write, history.Delete:
	}
	a := c.transport.do(ctx, http.MethodPut, itemPath(m.key), m.body(value), header...)
	statuses := []int{http.StatusCreated, http.StatusOK}
	if kind != history.Write {
		statuses = append(statuses, http.StatusPreconditionFailed)
	}
	told := c.judge("PUT "+m.key, a, statuses...)
	if told {
		switch a.status {
		case http.StatusCreated:
			op.Before = history.Absent
		case http.StatusOK:
			op.Before = history.Present
		case http.StatusPreconditionFailed:
			op.Before = history.Present
			if kind == history.Swap {
				op.Before = history.Other
			}
		}
		if a.status != http.StatusPreconditionFailed {
			c.tally.acknowledge()
			c.etags[m.key] = known{value, a.header.Get("ETag")}
		}
	}
	c.record(a, told, op)
}

func (c *client) remove(ctx context.Context, m member) {
	a := c.transport.do(ctx, http.MethodDelete, itemPath(m.key), "")
	told := c.judge("DELETE "+m.key, a, http.StatusNoContent, http.StatusNotFound)
	op := history.Op{Object: m.key, Kind: history.Delete, Before: history.Present}
	if told {
		c.tally.acknowledge()
		if a.status == http.StatusNotFound {
			op.Before = history.Absent
		}
	}
	c.record(a, told, op)
}

// readMany reads some registers from one snapshot.
func (c *client) readMany(ctx context.Context) {
	const most = 3
	var members []member
	first := c.random.IntN(registers)
	for i := range most {
		members = append(members, c.register((first+i)%registers))
	}
	a := c.transport.mget(ctx, members)
	c.recordMany(a, members)
}

// recordMany records what an mget says of each member, and returns the values; nil
// where it says nothing.
func (c *client) recordMany(a answer, members []member) []int64 {
	told := c.judge("mget", a, http.StatusOK)
	values := make([]int64, len(members))
	if told {
		var err error
		if values, err = parseMget(members, a.body); err != nil {
			c.violatedf(corrupt, "%v", err)
			return nil
		}
	}
	for i, m := range members {
		c.record(a, told, history.Op{Object: m.key, Kind: history.Read, Value: values[i]})
	}
	if !told {
		return nil
	}
	return values
}

// recordGroup records a write of a group, for itself and for each member.
func (c *client) recordGroup(a answer, told bool, g group, op history.Op) {
	for _, m := range g.members {
		op.Object = m.key
		c.record(a, told, op)
	}
	op.Object = g.name
	c.record(a, told, op)
}

func (c *client) writeGroup(ctx context.Context, g group) {
	value := c.values.Add(1)
	a := c.transport.do(ctx, http.MethodPost, "/v1/mset", g.mset(value))
	told := c.judge("mset "+g.name, a, http.StatusOK)
	if told {
		c.tally.acknowledge()
	}
	c.recordGroup(a, told, g, history.Op{Kind: history.Write, Value: value})
}

func (c *client) readGroup(ctx context.Context, g group) {
	a := c.transport.mget(ctx, g.members)
	values := c.recordMany(a, g.members)
	if values == nil {
		return
	}
	for i, value := range values {
		if value != values[0] {
			c.violatedf(torn, "%s: %s is of batch %d and %s of batch %d", g.name, g.members[0].key, values[0], g.members[i].key, value)
			return
		}
	}
	c.record(a, true, history.Op{Object: g.name, Kind: history.Read, Value: values[0]})
}

func (c *client) removeGroup(ctx context.Context, g group) {
	a := c.transport.do(ctx, http.MethodPost, "/v1/mdelete", keysRequest(g.members))
	told := c.judge("mdelete "+g.name, a, http.StatusOK)
	op := history.Op{Kind: history.Delete}
	if told {
		c.tally.acknowledge()
		switch string(a.body) {
		case `{"deleted":0}`:
			op.Before = history.Absent
		case fmt.Sprintf(`{"deleted":%d}`, len(g.members)):
			op.Before = history.Present
		default:
			c.violatedf(torn, "mdelete %s: %s", g.name, a.body)
			told = false
		}
	}
	c.recordGroup(a, told, g, op)
}

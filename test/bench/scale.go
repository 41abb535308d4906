//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stockroom/stockroom/test/bench/report"
	"github.com/stockroom/stockroom/test/bench/stage"
)

// scaleTarget is what must be left of the throughput with the fewest items at any
// number of them.
const scaleTarget = 0.80

// scaleRequests is how many different requests there are at most.
const scaleRequests = 20_000

// scaleOperation is one row of the table of scale.
type scaleOperation struct {
	name        operation
	connections int
	// full: the store's limit is its size, so that each new item evicts one.
	full bool
	// requests makes them for a store of n items.
	requests func(s *scaleStore) [][]byte
}

var scaleOperations = []scaleOperation{
	{name: "GET, uncached", connections: 32, requests: func(s *scaleStore) [][]byte {
		return each(scaleRequests, func(int) []byte { return request("GET", "/v1/items/"+s.key(s.any()), nil) })
	}},
	{name: "list of 50", connections: 8, requests: func(*scaleStore) [][]byte {
		return each(stage.ScaleFrameworks, func(i int) []byte { return request("GET", fmt.Sprintf("/v1/components/f%d?limit=50", i), nil) })
	}},
	{name: "keys by prefix, 100", connections: 8, requests: func(s *scaleStore) [][]byte {
		return each(scaleRequests, func(int) []byte {
			key := s.key(s.any())
			return request("GET", "/v1/items?limit=100&pattern="+key[:len(key)-3]+"*", nil)
		})
	}},
	{name: "mget of 100, uncached", connections: 8, requests: func(s *scaleStore) [][]byte {
		return each(200, func(int) []byte { return request("POST", "/v1/mget", mgetBody(s.batch())) })
	}},
	{name: "PUT", connections: 16, requests: func(s *scaleStore) [][]byte {
		return each(scaleRequests, func(int) []byte { return request("PUT", "/v1/items/"+s.key(s.any()), s.body()) })
	}},
	{name: "mset of 100", connections: 8, requests: func(s *scaleStore) [][]byte {
		return each(200, func(int) []byte {
			out := appendItems([]byte(`{"entries":`), s.batch(), func(int) []byte { return s.body() })
			return request("POST", "/v1/mset", append(out, '}'))
		})
	}},
	{name: "PUT of a new item, evicting", connections: 16, full: true, requests: func(s *scaleStore) [][]byte {
		return each(scaleRequests, func(i int) []byte {
			return request("PUT", fmt.Sprintf("/v1/items/component:new:%d", i), s.body())
		})
	}},
}

// scaleStore is a service over a database of its own, of so many items.
type scaleStore struct {
	b        *harness
	n        int
	database string
	dir      string
	server   *stage.Process
	full     bool // its limit is its size
	random   *rand.Rand
}

func (s *scaleStore) any() int { return s.random.IntN(s.n) }

func (s *scaleStore) key(i int) string {
	return fmt.Sprintf("component:f%d:%d", i%stage.ScaleFrameworks, stage.ScaleFirstName+i)
}

// batch returns keys of different items, by chance.
func (s *scaleStore) batch() []string {
	step := s.n / batchSize
	at := s.random.IntN(step)
	keys := make([]string, batchSize)
	for i := range keys {
		keys[i] = s.key(at + i*step)
	}
	return keys
}

// body is a value like those that fill the store.
func (s *scaleStore) body() []byte {
	body := []byte(`{"sourceCode":"`)
	body = append(body, strings.Repeat(`export const Item = () => <li className=\"flex items-center\" />\n`, 6)...)
	for range 8 {
		body = strconv.AppendUint(body, s.random.Uint64(), 16)
	}
	return append(body, `"}`...)
}

// openScale makes and fills a database. Its service does not run yet.
func (b *harness) openScale(ctx context.Context, n int) (*scaleStore, error) {
	s := &scaleStore{
		b: b, n: n, database: fmt.Sprintf("scale%d", n),
		random: rand.New(rand.NewPCG(uint64(n), 3)), //nolint:gosec // the same at each run, on purpose
	}
	var err error
	if s.dir, err = os.MkdirTemp(b.dir, "server-"); err != nil {
		return nil, err
	}
	if err := b.postgres.Create(ctx, s.database); err != nil {
		return nil, err
	}
	// The service makes the schema.
	if err := s.start(ctx, false); err != nil {
		return nil, err
	}
	if err := s.stop(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := b.postgres.Fill(ctx, s.database, n); err != nil {
		return nil, err
	}
	fmt.Fprintf(b.out, "%s items filled in within %s\n", report.Number(float64(n)), time.Since(began).Round(time.Millisecond))
	return s, nil
}

func (s *scaleStore) start(ctx context.Context, full bool) error {
	limit := "0"
	if full {
		var err error
		if limit, err = s.b.postgres.Text(ctx, s.database, "SELECT sum(component_bytes)::text FROM usage_counters"); err != nil {
			return err
		}
	}
	server, err := stage.StartServer(ctx, s.b.program, s.dir, s.b.postgres.DSN(s.database), "STOCKROOM_CACHE_BYTES=0", "STOCKROOM_MAX_BYTES="+limit)
	if err != nil {
		return err
	}
	s.server, s.full = server, full
	return nil
}

func (s *scaleStore) stop() error {
	if s.server == nil {
		return nil
	}
	server := s.server
	s.server = nil
	return server.Stop()
}

// measure runs an operation.
func (s *scaleStore) measure(ctx context.Context, op *scaleOperation) (measured, error) {
	if s.server == nil || s.full != op.full {
		if err := s.stop(); err != nil {
			return measured{}, err
		}
		if err := s.start(ctx, op.full); err != nil {
			return measured{}, err
		}
	}
	if err := s.b.postgres.Exec(ctx, s.database, "CHECKPOINT"); err != nil {
		return measured{}, err
	}
	h := &httpSystem{
		b: s.b, process: s.server, pids: []int{s.server.PID()}, dialect: s.database,
		requests: func(operation) [][]byte { return op.requests(s) },
	}
	return h.measure(ctx, op.name, op.connections, s.b.options.duration)
}

// scaleOutcome is what the rounds gave, by operation and number of items.
type scaleOutcome map[operation]map[int][]measured

// runScale measures every operation at every number of items, which take turns.
func (b *harness) runScale(ctx context.Context) (_ scaleOutcome, err error) {
	var stores []*scaleStore
	defer func() {
		for _, s := range stores {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, n := range b.options.scale {
		s, err := b.openScale(ctx, n)
		if err != nil {
			return nil, err
		}
		stores = append(stores, s)
	}
	result := make(scaleOutcome)
	for i := range scaleOperations {
		op := &scaleOperations[i]
		result[op.name] = make(map[int][]measured)
		for round := range b.options.rounds {
			order := slices.Clone(stores)
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, s := range order {
				m, err := s.measure(ctx, op)
				if err != nil {
					return nil, fmt.Errorf("%s at %d items: %w", op.name, s.n, err)
				}
				fmt.Fprintf(b.out, "%-28s %9s items %9s/s  p50 %7s ms  p99 %7s ms%s\n", op.name, report.Number(float64(s.n)),
					report.Number(m.PerSecond), report.Milliseconds(m.P50), report.Milliseconds(m.P99), complaint(&m))
				result[op.name][s.n] = append(result[op.name][s.n], m)
			}
		}
	}
	return result, nil
}

func throughput(m *measured) float64 { return m.PerSecond }

// check holds the worst operation at the most items against the fewest.
func (o scaleOutcome) check(sizes []int) report.Check {
	few, many := slices.Min(sizes), slices.Max(sizes)
	c := report.Check{
		Operation: "any operation, " + report.Number(float64(many)) + " items", Yardstick: "the same at " + report.Number(float64(few)),
		Value: math.NaN(), Bound: scaleTarget,
	}
	for i := range scaleOperations {
		name := scaleOperations[i].name
		ratio := report.Ratio(column(o[name][many], throughput), column(o[name][few], throughput))
		if math.IsNaN(c.Value) || ratio < c.Value {
			c.Value = ratio
			c.Yardstick = fmt.Sprintf("the same at %s (the worst: %s)", report.Number(float64(few)), name)
		}
		for _, m := range append(slices.Clone(o[name][few]), o[name][many]...) {
			if m.Errors > 0 {
				c.Spoilt = "errors of " + string(name)
			}
		}
	}
	return c
}

// table is throughput and latency by operation and number of items.
func (o scaleOutcome) table(sizes []int) string {
	header := []string{"operation", "connections:"}
	for _, n := range sizes {
		header = append(header, report.Number(float64(n))+" items:", "p50 ms:", "p99 ms:")
	}
	header = append(header, "last ÷ first:")
	var rows [][]string
	for i := range scaleOperations {
		op := &scaleOperations[i]
		row := []string{string(op.name), strconv.Itoa(op.connections)}
		for _, n := range sizes {
			rounds := o[op.name][n]
			row = append(row, report.Number(report.Median(column(rounds, throughput)))+"/s",
				report.Milliseconds(median(rounds, func(m *measured) time.Duration { return m.P50 })),
				report.Milliseconds(median(rounds, func(m *measured) time.Duration { return m.P99 })))
		}
		first, last := o[op.name][sizes[0]], o[op.name][sizes[len(sizes)-1]]
		rows = append(rows, append(row, report.Number(report.Ratio(column(last, throughput), column(first, throughput)))))
	}
	return report.Table(header, rows)
}

// Package load is the client that the benchmarks measure with. It is a process of
// its own and as lean as it can be, since it shares the machine with what it
// measures: the requests are there, byte by byte, before it begins, and it
// understands no more of the responses than it must to count them.
package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/stockroom/stockroom/test/bench/hist"
)

// Spec says what to ask for, and how.
type Spec struct {
	Address     string        `json:"address"`     // host:port
	Requests    string        `json:"requests"`    // a file that WriteRequests has written
	Connections int           `json:"connections"` // each has one request in flight, always
	Prime       bool          `json:"prime"`       // send each request once before anything else
	Warmup      time.Duration `json:"warmup"`      // not measured
	Duration    time.Duration `json:"duration"`
	Statuses    []int         `json:"statuses"` // that are right; any other is an error
}

// Result is what was measured.
type Result struct {
	Requests  uint64        `json:"requests"`  // answered rightly within Duration
	PerSecond float64       `json:"perSecond"` // of those
	P50       time.Duration `json:"p50"`       // of those
	P99       time.Duration `json:"p99"`       // of those
	Max       time.Duration `json:"max"`       // of those
	Bytes     uint64        `json:"bytes"`     // of the bodies of those
	Errors    uint64        `json:"errors"`    // answers with another status, and connections lost, at any time
	// Sent is all that was answered, before Duration too: what the work of the
	// server is to be divided by.
	Sent       uint64 `json:"sent"`
	FirstError string `json:"firstError"`
}

// WriteRequests writes requests, which are whole HTTP requests, for Run.
func WriteRequests(path string, requests [][]byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(file, 1<<20)
	for _, request := range requests {
		_ = binary.Write(w, binary.LittleEndian, uint32(len(request))) //nolint:gosec // no request has 4 GB
		_, _ = w.Write(request)                                        // Flush returns the error
	}
	return errors.Join(w.Flush(), file.Close())
}

// lengthBytes is the size of the number in front of each request.
const lengthBytes = 4

// readRequests reads what WriteRequests has written.
func readRequests(path string) ([][]byte, error) {
	all, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var requests [][]byte
	for len(all) > 0 {
		if len(all) < lengthBytes {
			return nil, fmt.Errorf("load: %s ends within a length", path)
		}
		n := int(binary.LittleEndian.Uint32(all))
		if all = all[lengthBytes:]; len(all) < n {
			return nil, fmt.Errorf("load: %s ends within a request", path)
		}
		requests = append(requests, all[:n:n])
		all = all[n:]
	}
	if len(requests) == 0 {
		return nil, fmt.Errorf("load: %s holds no requests", path)
	}
	return requests, nil
}

// grace is how long an answer may take beyond the end.
const grace = 30 * time.Second

// maxReconnects is how many connections a client may lose before it gives up:
// what answers so badly need not be measured.
const maxReconnects = 20

// Run sends the requests of spec, in random order, over all its connections at
// once, and returns what came back. Wrong answers are counted, not returned as an
// error.
func Run(ctx context.Context, spec Spec) (*Result, error) {
	requests, err := readRequests(spec.Requests)
	if err != nil {
		return nil, err
	}
	clients := make([]*client, spec.Connections)
	for i := range clients {
		clients[i] = &client{
			spec: &spec, requests: requests,
			random: rand.New(rand.NewPCG(uint64(i), 0x5eed)), //nolint:gosec // spreads load, keeps no secret
		}
	}
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	if spec.Prime {
		err := together(clients, func(i int, c *client) error {
			c.patience = grace * time.Duration(len(requests)/len(clients)+1)
			defer c.close() // with its deadline, which is another from now on
			for at := i; at < len(requests); at += len(clients) {
				if err := c.do(ctx, requests[at]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, c := range clients {
		c.patience = spec.Warmup + spec.Duration + grace
	}
	start := time.Now().Add(spec.Warmup)
	end := start.Add(spec.Duration)
	err = together(clients, func(_ int, c *client) error { return c.run(ctx, start, end) })
	return summary(clients, spec.Duration), err
}

// together runs f for each client at once and returns the first error.
func together(clients []*client, f func(i int, c *client) error) error {
	var all sync.WaitGroup
	failures := make([]error, len(clients))
	for i, c := range clients {
		all.Go(func() { failures[i] = f(i, c) })
	}
	all.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

func summary(clients []*client, duration time.Duration) *Result {
	var whole hist.Histogram
	result := new(Result)
	for _, c := range clients {
		whole.Add(&c.latencies)
		result.Bytes += c.bytes
		result.Errors += c.errors
		result.Sent += c.sent
		if result.FirstError == "" {
			result.FirstError = c.firstError
		}
	}
	result.Requests = whole.Count()
	result.PerSecond = float64(whole.Count()) / duration.Seconds()
	result.P50, result.P99, result.Max = whole.Quantile(0.5), whole.Quantile(0.99), whole.Max()
	return result
}

// client is one connection.
type client struct {
	spec     *Spec
	requests [][]byte
	random   *rand.Rand
	conn     net.Conn // nil: lost, or not there yet
	patience time.Duration
	reader   *responseReader

	latencies  hist.Histogram
	bytes      uint64
	sent       uint64
	errors     uint64
	firstError string
	reconnects int
}

// run asks until end, and measures what is answered from start on.
func (c *client) run(ctx context.Context, start, end time.Time) error {
	c.bytes = 0 // of what came before
	for ctx.Err() == nil {
		began := time.Now()
		if began.After(end) {
			return nil
		}
		before, wrong := c.bytes, c.errors
		if err := c.do(ctx, c.requests[c.random.IntN(len(c.requests))]); err != nil {
			return err
		}
		done := time.Now()
		if done.Before(start) || done.After(end) || c.errors > wrong {
			c.bytes = before
			continue
		}
		c.latencies.Record(done.Sub(began))
	}
	return ctx.Err()
}

// do sends a request and reads the answer. What is wrong with it is counted; an
// error means that there is no use in going on.
func (c *client) do(ctx context.Context, request []byte) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	got, err := c.exchange(request)
	if err != nil {
		c.fail(err.Error())
		c.close()
		if c.reconnects++; c.reconnects > maxReconnects {
			return fmt.Errorf("load: connections are lost again and again: %w", err)
		}
		return nil
	}
	c.sent++
	c.bytes += uint64(got.length) //nolint:gosec // not negative
	if !slices.Contains(c.spec.Statuses, got.status) {
		c.fail(fmt.Sprintf("status %d: %.300s", got.status, got.body))
	}
	return nil
}

func (c *client) exchange(request []byte) (response, error) {
	if _, err := c.conn.Write(request); err != nil {
		return response{}, err
	}
	return c.reader.next()
}

func (c *client) fail(what string) {
	c.errors++
	if c.firstError == "" {
		c.firstError = what
	}
}

func (c *client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", c.spec.Address)
	if err != nil {
		return err
	}
	// One deadline for everything: setting one for each answer would cost.
	if err := conn.SetDeadline(time.Now().Add(c.patience)); err != nil {
		return errors.Join(err, conn.Close())
	}
	c.conn, c.reader = conn, newResponseReader(conn)
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing more is expected of it
		c.conn = nil
	}
}
